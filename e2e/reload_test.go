package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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

// TestReloadWhileTheDiskIsFull: a config that there is no room for is put to work
// when there is, although nothing has touched it since.
func TestReloadWhileTheDiskIsFull(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory})
	cache := filepath.Join(w.Dir, "cache")
	if err := os.Mkdir(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	mount := func(flags uintptr, options string) {
		t.Helper()
		if err := unix.Mount("tmpfs", cache, "tmpfs", flags, options); err != nil {
			t.Fatalf("mount tmpfs: %v", err)
		}
	}
	mount(0, "size=1g,nr_inodes=100000")
	t.Cleanup(func() {
		if err := unix.Unmount(cache, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := w.Daemon(t, nil)
	promotes(t, w, d, w.App.Head())
	// Not one file more may be made, and none is about to go and leave its room.
	full := 0
	d.Wait("it rests on a full disk", patience, func() bool {
		var room unix.Statfs_t
		if err := unix.Statfs(cache, &room); err != nil {
			t.Fatal(err)
		}
		if room.Ffree == 0 {
			full++
			return full == 50
		}
		full = 0
		// It fails where a file was made meanwhile: then the next look counts that, too.
		_ = unix.Mount("tmpfs", cache, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=1g,nr_inodes=%d", room.Files-room.Ffree))
		return false
	})
	edit(t, w, "interval: 1s", "interval: 2s")
	d.Wait("it says that there is no room", patience, func() bool {
		return strings.Contains(d.Logs(), "the one before it stays in force") && strings.Contains(d.Logs(), "no space left on device")
	})
	mount(unix.MS_REMOUNT, "size=1g,nr_inodes=100000")
	d.Wait("it follows the config", patience, func() bool { return strings.Contains(d.Logs(), "the config changed") })
	promotes(t, w, d, paint(w, "shade-1"))
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
