package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a server that runs beside the tests. It ends with the process that
// started it at the latest, however that ends.
type Process struct {
	Name string // of its program
	Log  string // the file that takes what it prints

	cmd  *exec.Cmd
	done chan struct{}
}

// StartProcess starts a command that prints to a file.
func StartProcess(cmd *exec.Cmd, log string) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return startProcess(cmd, log, func() error { return nil })
}

// startProcess starts a command from a thread that first runs enter, is nobody
// else's and ends with the command.
func startProcess(cmd *exec.Cmd, log string, enter func() error) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true // a terminal's ^C is for the tests; they say when servers end

	p := &Process{Name: filepath.Base(cmd.Args[0]), Log: log, cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go onThread(func() {
		defer close(p.done)
		err := enter()
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			// The kernel sends Pdeathsig when the thread ends that started
			// the process: this one stays.
			_ = cmd.Wait()
		}
	})
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	return p, nil
}

// onThread runs a function on a thread that ends with it, and that is not the
// process's first: that one cannot end, and what /proc/self tells is of it.
func onThread(run func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		run()
		return
	}
	other := make(chan struct{})
	go func() {
		defer close(other)
		runtime.LockOSThread()
		run()
	}()
	<-other
	runtime.UnlockOSThread()
}

// Pid is its process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when it has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends it a signal; that it has ended already is no error.
func (p *Process) Signal(signal syscall.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// Stop ends it: SIGTERM, and SIGKILL when the grace has passed.
func (p *Process) Stop(grace time.Duration) {
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
		_ = p.Signal(syscall.SIGKILL)
		<-p.done
	}
}

// Ready waits until a condition holds. The error has the condition's last one
// and the end of the log.
func (p *Process) Ready(ctx context.Context, holds func(context.Context) error) error {
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		err := holds(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-look.C:
		case <-p.done:
			return fmt.Errorf("%s ended: %v\n%s", p.Name, p.cmd.ProcessState, p.Tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.Name, err, p.Tail())
		}
	}
}

// Tail is the end of what it printed.
func (p *Process) Tail() string {
	content, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(tail(content)))
}

// RemoveAtEnd removes a directory when this process has ended, however it ends,
// and what it started has let go of the directory.
func RemoveAtEnd(dir string) error {
	return AtEnd(nil, `until rm -rf "$0"; do sleep 0.1; done`, dir)
}

// AtEnd runs a shell script when this process has ended, however it ends. A
// file is held open until the script has ended, and with it a lock.
func AtEnd(held *os.File, script string, args ...string) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	// This process alone holds the other end, and never closes it.
	ours := os.NewFile(uintptr(pipe[0]), "pipe")
	defer ours.Close()
	cmd := exec.Command("sh", append([]string{"-c", "read -r _ <&3; " + script}, args...)...)
	cmd.ExtraFiles = []*os.File{ours}
	if held != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, held)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}
