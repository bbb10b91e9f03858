package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"towpath.dev/towpath/e2e/lab"
)

// TestHangupIsNoEnd: SIGHUP, by which many daemons are told to read their
// config, does not end one that reads it anyway.
func TestHangupIsNoEnd(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory})
	d := w.Daemon(t, nil)
	promotes(t, w, d, w.App.Head())
	for n := range 2 {
		if err := d.Process.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		d.Wait("it says that it need not be told", patience, func() bool { return strings.Count(d.Logs(), "SIGHUP") > n })
	}
	promotes(t, w, d, paint(w, "blue"))
	if code := d.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
}

// stubborn is a world whose container runtime minds no signal, and a daemon that
// waits for it.
func stubborn(t *testing.T, env ...string) *lab.Daemon {
	t.Helper()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory, Config: func(w *lab.World, config string) string {
		runtime := filepath.Join(w.Dir, "runtime")
		lab.WriteProgram(t, runtime, []byte("#!/bin/sh\ntrap '' TERM\necho $$ > "+w.Dir+"/runtime.pid\nwhile [ -e "+w.Dir+"/runtime ]; do sleep 0.2; done\n"))
		t.Cleanup(func() { _ = os.Remove(runtime) }) // by which it ends
		return strings.Replace(config, "type: sandbox\n", "type: sandbox\n  sandbox: {runtime: "+runtime+"}\n", 1)
	}})
	d := w.Daemon(t, env)
	d.Wait("the runtime runs", patience, func() bool { return lab.Exists(filepath.Join(w.Dir, "runtime.pid")) })
	return d
}

// TestASecondSignalEndsAtOnce: while a container runtime that minds no signal
// keeps the daemon from ending well, a second SIGTERM ends it without delay.
func TestASecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	d := stubborn(t)
	began := time.Now()
	if err := d.Process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// The second must not come before the first is taken, which nothing tells.
	impatient := time.NewTicker(time.Second)
	defer impatient.Stop()
	for d.Process.Process.Signal(syscall.SIGTERM) == nil && time.Since(began) < patience {
		<-impatient.C
	}
	// By itself it would end with 1, when its time is up.
	if code := d.Stop(); code != -1 {
		t.Errorf("the daemon ended with %d after %s, want an end by the signal\n%s", code, time.Since(began), d.Logs())
	}
}

// TestTheEndTakesTenSeconds: neither a container runtime that minds no signal nor
// a collector that never answers, nor both, keep the daemon for longer.
func TestTheEndTakesTenSeconds(t *testing.T) {
	t.Parallel()
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deaf.Close() })
	d := stubborn(t, "OTEL_EXPORTER_OTLP_ENDPOINT=http://"+deaf.Addr().String())
	began := time.Now()
	if code := d.Stop(); code != 1 {
		t.Errorf("the daemon ended with %d, want 1\n%s", code, d.Logs())
	}
	// By the daemon's own clock, which a busy machine reads late.
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s\n%s", took, d.Logs())
	}
}

// TestAnIdleDaemonIsSmall: what the keys and the first build took is given back
// by the time that there is nothing to do.
func TestAnIdleDaemonIsSmall(t *testing.T) {
	t.Parallel()
	const most = 96 << 10 // KiB
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory})
	d := w.Daemon(t, nil)
	promotes(t, w, d, w.App.Head())
	resident := 0
	defer func() { t.Logf("%d KiB resident", resident) }()
	d.Wait("it gives memory back", patience, func() bool {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(d.Pid()) + "/status")
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(status), "VmRSS:")
		if resident, err = strconv.Atoi(strings.Fields(rest)[0]); err != nil {
			t.Fatal(err)
		}
		return resident < most
	})
}
