package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/lab"
)

// damages are what may become of a file of the cache between two runs.
var damages = map[string]func([]byte) []byte{
	"emptied":   func([]byte) []byte { return nil },
	"truncated": func(content []byte) []byte { return content[:len(content)/2] },
	"its first byte flipped": func(content []byte) []byte {
		return flipped(content, 0)
	},
	"a byte in its middle flipped": func(content []byte) []byte {
		return flipped(content, len(content)/2)
	},
	"its last byte flipped": func(content []byte) []byte {
		return flipped(content, len(content)-1)
	},
}

func flipped(content []byte, at int) []byte {
	content = bytes.Clone(content)
	content[at] ^= 0x10
	return content
}

// TestADamagedCacheChangesNoDecision damages each file of a warm cache in each
// way, one at a time: what towpath would do is what it would do without a
// cache. Then every file at once, and it promotes as ever.
func TestADamagedCacheChangesNoDecision(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary})
	cache, kept := filepath.Join(w.Dir, "cache"), filepath.Join(w.Dir, "kept")
	change := func(colour string) {
		w.App.Commit(lab.Commit{Message: "In " + colour, Files: map[string]string{"colour": colour + "\n"}})
		w.App.Push("HEAD:master")
		w.Fleet.Git("pull", "--quiet", "--rebase", "origin", "main")
		w.Fleet.Commit(lab.Commit{Files: map[string]string{"README.md": colour}})
		w.Fleet.Push("HEAD:main")
	}
	// Some history, so that caches have packs of several fetches and of ours.
	for _, colour := range []string{"shade-a", "shade-b"} {
		w.MustRun("run", "--once")
		change(colour)
	}
	if err := os.Rename(cache, kept); err != nil {
		t.Fatal(err)
	}
	want := w.MustRun("plan")
	if !strings.Contains(want, "would commit") {
		t.Fatalf("the plan says:\n%s", want)
	}

	n := 0
	for _, path := range filesOf(t, kept) {
		if strings.HasPrefix(path, filepath.Join(kept, "builds")) {
			continue // of no use to plan
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(content) == 0 {
			continue
		}
		for how, damage := range damages {
			if how == "emptied" {
				continue // every file at once, below
			}
			n++
			restore(t, kept, cache)
			broken := filepath.Join(cache, strings.TrimPrefix(path, kept))
			lab.WriteFile(t, broken, damage(content))
			if got := w.Run("plan"); got.Code != 0 || got.Out != want {
				t.Errorf("with %s %s the plan is (code %d):\n%s%swant:\n%s", strings.TrimPrefix(path, kept), how, got.Code, got.Out, got.Err, want)
			}
		}
	}
	t.Logf("%d damages", n)
	if n < 20 {
		t.Errorf("only %d damages were tried", n)
	}

	for how, damage := range damages {
		before := bumps(t, w)
		for _, path := range filesOf(t, cache) {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(content) > 0 {
				lab.WriteFile(t, path, damage(content))
			}
		}
		if got := w.Run("run", "--once"); got.Code != 0 {
			t.Fatalf("with every file %s run ended with %d\n%s%s", how, got.Code, got.Out, got.Err)
		}
		promotedOnce(t, w, before, w.App.Head())
		change("shade-" + fmt.Sprint(len(before)))
	}
	w.MustRun("run", "--once")
	intact(t, w)
}

func filesOf(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func restore(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"sources", "targets", "outcomes.jsonl"} {
		if out, err := exec.Command("cp", "-a", filepath.Join(from, dir), to).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v\n%s", err, out)
		}
	}
}

// TestAFullDiskIsNobodysFault runs with caches that are too small in several
// places: the run fails and says why, the commit is not blamed, and with more
// room the next run promotes it.
func TestAFullDiskIsNobodysFault(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary})
	cache := filepath.Join(w.Dir, "cache")
	if err := os.Mkdir(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	size := func(flags uintptr, size string) {
		t.Helper()
		if err := unix.Mount("tmpfs", cache, "tmpfs", flags, "size="+size); err != nil {
			t.Fatalf("mount tmpfs: %v", err)
		}
	}
	size(0, "16k")
	t.Cleanup(func() {
		if err := unix.Unmount(cache, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	failed := 0
	for i, room := range []string{"16k", "256k", "40m", "62m"} {
		w.App.Commit(lab.Commit{Files: map[string]string{"colour": fmt.Sprintf("shade-%d\n", i)}})
		w.App.Push("HEAD:master")
		before := bumps(t, w)
		size(unix.MS_REMOUNT, room)
		small := w.Run("run", "--once")
		t.Logf("%s: %d %s", room, small.Code, small.Err)
		if small.Code != 0 {
			failed++
			if !strings.Contains(small.Err, "no space left") && !strings.Contains(small.Err, "full") || !strings.Contains(small.Err, "towpath: hint: make room") {
				t.Errorf("with %s the reason is:\n%s", room, small.Err)
			}
			if strings.Contains(small.Err, "faulty") {
				t.Errorf("with %s the commit is blamed:\n%s", room, small.Err)
			}
		}
		size(unix.MS_REMOUNT, "1g")
		w.MustRun("run", "--once")
		promotedOnce(t, w, before, w.App.Head())
		for _, path := range []string{"builds", "sources", "targets"} {
			if err := os.RemoveAll(filepath.Join(cache, path)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if failed < 3 {
		t.Errorf("only %d of the caches were too small", failed)
	}
	intact(t, w)
}

// TestTheCacheMayGoUnderADaemon deletes, damages and chokes the cache while the
// daemon runs: each time it promotes the next commit, once, without a restart.
func TestTheCacheMayGoUnderADaemon(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary})
	cache := filepath.Join(w.Dir, "cache")
	if err := os.Mkdir(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", cache, "tmpfs", 0, "size=1g"); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(cache, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	daemon := w.Daemon(t, nil, "--log-level", "debug")
	promoted := func() bool { _, source := w.Ledger("podinfo"); return source == w.App.Head() }
	empty := func(dir string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	resize := func(size string) {
		if err := unix.Mount("tmpfs", cache, "tmpfs", unix.MS_REMOUNT, "size="+size); err != nil {
			t.Fatalf("remount: %v", err)
		}
	}
	spoil := func(damage func([]byte) []byte) {
		for _, path := range filesOf(t, cache) {
			content, err := os.ReadFile(path)
			if err != nil || len(content) == 0 {
				continue
			}
			lab.WriteFile(t, path, damage(content))
		}
	}
	trials := []struct {
		name      string
		strike    func()
		afterPush func() // once the commit is there
	}{
		{name: "everything deleted", strike: func() { empty(cache) }},
		{name: "the copies' content deleted", strike: func() { empty(filepath.Join(cache, "targets")); empty(filepath.Join(cache, "sources")) }},
		{name: "every file emptied", strike: func() { spoil(damages["emptied"]) }},
		{name: "every file truncated", strike: func() { spoil(damages["truncated"]) }},
		{name: "a byte of every file flipped", strike: func() { spoil(damages["a byte in its middle flipped"]) }},
		{name: "the disk full for a while", strike: func() { empty(cache); resize("256k") }, afterPush: func() {
			daemon.Wait("the full disk to be noticed", patience, func() bool { return strings.Contains(daemon.Logs(), "no space left") })
			resize("1g")
		}},
	}
	daemon.Wait("the first promotion", patience, promoted)
	for i, trial := range trials {
		before := bumps(t, w)
		trial.strike()
		w.App.Commit(lab.Commit{Message: "With " + trial.name, Files: map[string]string{"colour": fmt.Sprintf("shade-%d\n", i)}})
		w.App.Push("HEAD:master")
		w.Fleet.Git("pull", "--quiet", "--rebase", "origin", "main")
		w.Fleet.Commit(lab.Commit{Files: map[string]string{"README.md": trial.name}})
		w.Fleet.Push("HEAD:main")
		if trial.afterPush != nil {
			trial.afterPush()
		}
		began := time.Now()
		daemon.Wait("a promotion with "+trial.name, patience, promoted)
		t.Logf("%s: promoted after %s", trial.name, time.Since(began).Round(time.Millisecond))
		promotedOnce(t, w, before, w.App.Head())
	}
	if code := daemon.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
	intact(t, w)
}
