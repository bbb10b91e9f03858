package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// TestReloadClosesWhatItLeaves: a config that changes often does not leave a
// repository open for each of its versions: copies of one are few, and a daemon
// that holds them all could open no more.
func TestReloadClosesWhatItLeaves(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory})
	d := w.Daemon(t, nil)
	promotes(t, w, d, w.App.Head())
	last := "interval: 1s"
	for n := range 3 {
		next := fmt.Sprintf("interval: %dms", 1001+n)
		edit(t, w, last, next)
		d.Wait("it reads the config", patience, func() bool { return strings.Count(d.Logs(), "the config changed") == n+1 })
		promotes(t, w, d, paint(w, fmt.Sprint("shade-", n)))
		d.Wait("it closes what the config names no more", patience, func() bool { return len(openCopies(t, w, d)) == 2 })
		last = next
	}
	if code := d.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d\n%s", code, d.Logs())
	}
	intact(t, w)
}

// openCopies lists the copies of repositories that a daemon has open: it holds
// the lock of each.
func openCopies(t *testing.T, w *lab.World, d *lab.Daemon) (locks []string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", d.Pid())
	open, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range open {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && filepath.Base(to) == "lock" && strings.HasPrefix(to, w.Dir) {
			locks = append(locks, to)
		}
	}
	return locks
}
