package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/lab"
)

// TestUnusedCopiesAreRemoved: what a changed config leaves in the cache goes when
// nobody has used it for days. What another process has open stays however old it
// is, and so does what a command with another config may ask for again.
func TestUnusedCopiesAreRemoved(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory})
	w.MustRun("run", "--once")
	cache := filepath.Join(w.Dir, "cache")
	copies := func() []string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(cache, "*", "*", "0"))
		if err != nil {
			t.Fatal(err)
		}
		var dirs []string
		for _, dir := range found {
			if kind := filepath.Base(filepath.Dir(filepath.Dir(dir))); kind == "targets" || kind == "sources" {
				dirs = append(dirs, dir)
			}
		}
		return dirs
	}
	before := copies()
	if len(before) != 2 {
		t.Fatalf("in the cache are %q", before)
	}
	// Another URL for the same repository, and another author of its bumps.
	edit(t, w, "name: Towpath,", "name: Towpath II,")
	edit(t, w, "url: "+w.Git.RepoURL("apps/podinfo.git"), "url: "+strings.TrimSuffix(w.Git.RepoURL("apps/podinfo.git"), ".git"))
	busy, recent := filepath.Join(cache, "targets", "other-0123456789ab", "0"), filepath.Join(cache, "sources", "0123456789ab", "0")
	for _, dir := range []string{busy, recent} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		lab.WriteFile(t, filepath.Join(dir, "lock"), nil)
	}
	lock, err := os.Open(filepath.Join(busy, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(before, busy) {
		for _, path := range []string{filepath.Join(dir, "state"), filepath.Join(dir, "lock"), dir} {
			if err := os.Chtimes(path, time.Time{}, time.Now().Add(-10*24*time.Hour)); err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
		}
	}
	for _, command := range [][]string{{"plan"}, {"status"}, {"run", "--once", "--image", "podinfo"}} {
		w.MustRun(command...)
		for _, dir := range before {
			if !lab.Exists(dir) {
				t.Fatalf("towpath %s removed %s", strings.Join(command, " "), dir)
			}
		}
	}
	w.MustRun("run", "--once")
	for _, dir := range before {
		if lab.Exists(filepath.Dir(dir)) {
			t.Errorf("%s is left", dir)
		}
	}
	if left := copies(); len(left) != 4 || !lab.Exists(busy) || !lab.Exists(recent) {
		t.Errorf("left are %q", left)
	}
	if _, source := w.Ledger("podinfo"); source != w.App.Head() {
		t.Errorf("the ledger names %q", source)
	}
}
