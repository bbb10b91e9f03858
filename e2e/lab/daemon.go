package lab

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Daemon is a `towpath run` at work.
type Daemon struct {
	Process *exec.Cmd

	t    testing.TB
	logs transcript
	done chan struct{}
}

// endPatience is how long a daemon may take to end, which takes it ten seconds on an
// idle machine.
const endPatience = 40 * time.Second

// Daemon starts `towpath run` with more arguments; it ends with the test at the
// latest. An environment adds to the daemon's ("NAME=value").
func (w *World) Daemon(t testing.TB, env []string, args ...string) *Daemon {
	t.Helper()
	d := &Daemon{t: t, done: make(chan struct{})}
	d.Process = w.Command(context.Background(), append([]string{"run"}, args...)...)
	d.Process.Env = append(d.Process.Env, env...)
	d.Process.Stdout, d.Process.Stderr = &d.logs, &d.logs
	if err := d.Process.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = d.Process.Wait() // Stop looks at how it ended
		close(d.done)
	}()
	t.Cleanup(func() {
		_ = d.Process.Process.Signal(syscall.SIGTERM)
		select {
		case <-d.done:
		case <-time.After(endPatience):
			_ = d.Process.Process.Kill()
			<-d.done
		}
	})
	return d
}

// Stop sends SIGTERM, waits, and returns the exit code: -1 where it had to be
// killed or was.
func (d *Daemon) Stop() int {
	d.t.Helper()
	if err := d.Process.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		d.t.Logf("SIGTERM: %v", err)
	}
	select {
	case <-d.done:
	case <-time.After(endPatience):
		d.t.Errorf("the daemon did not end within %s of SIGTERM", endPatience)
		_ = d.Process.Process.Kill()
		<-d.done
	}
	return d.Process.ProcessState.ExitCode()
}

// Pid is the daemon's process id.
func (d *Daemon) Pid() int { return d.Process.Process.Pid }

// Logs is everything that it has printed so far.
func (d *Daemon) Logs() string { return d.logs.String() }

// Wait waits until a condition holds, and fails the test with the daemon's log
// where it does not within the limit, or the daemon ends first.
func (d *Daemon) Wait(what string, limit time.Duration, holds func() bool) {
	d.t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !holds() {
		select {
		case <-look.C:
			continue
		case <-deadline.C:
			d.t.Fatalf("not within %s: %s\n%s", limit, what, d.Logs())
		case <-d.done:
			d.t.Fatalf("the daemon ended while the test waited for: %s\n%s", what, d.Logs())
		}
	}
}

// transcript gathers what several writers print.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}
