package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRemoveTree removes what a build might leave, and nothing beside it.
func TestRemoveTree(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	keep := filepath.Join(outside, "keep")
	write(t, keep)
	top := filepath.Join(t.TempDir(), "top")
	for _, dir := range []string{"", "a", "a/b", "a/b/c", ".removed-1", ".removed-2/x", "wide"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3000 {
		write(t, filepath.Join(top, "wide", fmt.Sprint(i)))
	}
	for link, target := range map[string]string{"link": outside, "a/b/link": keep, "a/up": "../..", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(top, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(keep, filepath.Join(top, "a/hard")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(top, "a/fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(top, "a/b/su"))
	if err := os.Chmod(filepath.Join(top, "a/b/su"), 0o777|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"a/b/c", "a/b"} {
		if err := os.Chmod(filepath.Join(top, dir), 0); err != nil {
			t.Fatal(err)
		}
	}
	nest(t, top, 3000)

	if _, err := treeSize(top); !errors.Is(err, errTooDeep) {
		t.Errorf("measuring it: got %v, want %v", err, errTooDeep)
	}
	if err := removeTree(top); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(top); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
	if err := removeTree(top); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}

	// A link in the place of the tree is the link.
	if err := os.Symlink(outside, top); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(top); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(keep); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
}

// nest makes directories in one another, deeper than a path can name.
func nest(t *testing.T, top string, depth int) {
	t.Helper()
	dir, err := openDir(unix.AT_FDCWD, top)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := unix.Mkdirat(int(dir.Fd()), "deep", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := openDir(int(dir.Fd()), "deep")
		if err != nil {
			t.Fatal(err)
		}
		dir.Close()
		dir = next
	}
	dir.Close()
}

func TestTreeSize(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	if err := os.WriteFile(filepath.Join(top, "big"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(top, "big"), filepath.Join(top, "again")); err != nil {
		t.Fatal(err)
	}
	sparse, err := os.Create(filepath.Join(top, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	if err := sparse.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/usr", filepath.Join(top, "usr")); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		write(t, filepath.Join(top, fmt.Sprint(i)))
	}
	got, err := treeSize(top)
	if err != nil {
		t.Fatal(err)
	}
	// The big file once, and a block for each of the others.
	if want := int64(1<<20 + 12*4096); got < want || got > want+8192 {
		t.Errorf("got %d, want about %d", got, want)
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestGiveTree(t *testing.T) {
	t.Parallel()
	outside, top := t.TempDir(), t.TempDir()
	write(t, filepath.Join(outside, "keep"))
	if err := os.Mkdir(filepath.Join(top, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(top, "a", "file"))
	for link, target := range map[string]string{"link": outside, "a/link": filepath.Join(outside, "keep")} {
		if err := os.Symlink(target, filepath.Join(top, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := giveTree(top, 4711); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]uint32{
		top: 4711, filepath.Join(top, "a"): 4711, filepath.Join(top, "a", "file"): 4711, filepath.Join(top, "link"): 4711, filepath.Join(top, "a", "link"): 4711,
		outside: 0, filepath.Join(outside, "keep"): 0,
	} {
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			t.Fatal(err)
		}
		if stat.Uid != want || stat.Gid != want {
			t.Errorf("%s belongs to %d:%d, want %d", path, stat.Uid, stat.Gid, want)
		}
	}
}
