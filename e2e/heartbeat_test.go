package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

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
	d.Wait("a heartbeat", 20*time.Second, beats)
	if err := os.RemoveAll(filepath.Dir(file)); err != nil {
		t.Fatal(err)
	}
	if beats() {
		t.Fatal("a daemon that does not beat passes for well")
	}
	d.Wait("a heartbeat after the cache was deleted", 20*time.Second, beats)
	if code := d.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
}
