package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// TestHeartbeat: what the probe of a Deployment runs sees that the daemon is
// well, with nothing that listens, and finds the cache again that was deleted.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory})
	d := w.Daemon(t, []string{"TOWPATH_SUSPEND=true"}) // no build is needed to be well
	file := filepath.Join(w.Dir, "cache", "heartbeat")
	beats := func() bool { return exec.Command(binary, "heartbeat", file).Run() == nil }
	d.Wait("a heartbeat", patience, beats)
	// Else it might beat just now.
	if err := d.Process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	d.Wait("it is stopped", patience, func() bool { return stopped(t, d.Pid()) })
	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	if beats() {
		t.Error("a daemon that does not beat passes for well")
	}
	if err := d.Process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	d.Wait("a heartbeat after the cache was deleted", patience, beats)
	if code := d.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
}

// stopped tells whether every thread of a process has stopped, see proc(5).
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	for _, thread := range threads {
		if stat, err := os.ReadFile(thread); err == nil && !strings.Contains(string(stat), ") T ") {
			return false
		}
	}
	return true
}
