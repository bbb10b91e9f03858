package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/lab"
)

// TestWhatCannotBeClearedIsTold: what a killed build left and nothing can remove,
// here since something is mounted in it, is named with the reason when Towpath
// starts and where a build fails by it. Once that is mended, all goes on.
func TestWhatCannotBeClearedIsTold(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory})
	left := filepath.Join(w.Dir, "cache", "builds", "builds", "0")
	stuck := filepath.Join(left, "box", "root", "mnt")
	if err := os.MkdirAll(stuck, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", stuck, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountBelow(t, w.Dir) })
	lab.WriteFile(t, left+".lock", nil)
	done := w.Run("run", "--once")
	if done.Code != 1 {
		t.Errorf("it ends with %d", done.Code)
	}
	for _, want := range []string{
		`level=WARN msg="what an earlier build left was not cleared"`, // when it starts
		"podinfo → production: failed: build: clear what an earlier build left: remove below " + left + ":",
	} {
		found := false
		for line := range strings.Lines(done.Err) {
			if strings.Contains(line, want) && strings.Contains(line, left) && strings.Contains(line, "device or resource busy") {
				found = true
			}
		}
		if !found {
			t.Errorf("no line holds %q, the place and the reason:\n%s", want, done.Err)
		}
	}
	unmountBelow(t, w.Dir)
	w.MustRun("run", "--once")
	if lab.Exists(left) {
		t.Errorf("%s is still there", left)
	}
	if _, source := w.Ledger("podinfo"); source != w.App.Head() {
		t.Errorf("the ledger names %q", source)
	}
}

// unmountBelow takes away what is mounted below a directory, wherever what it was
// mounted on was moved to.
func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, dir+"/") {
			if err := unix.Unmount(at, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
}
