package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
)

// leaves lists the blobs of a commit by real git: name → content's size.
func leaves(t testing.TB, bare, commit string) map[gitops.Hash]string {
	t.Helper()
	blobs := map[gitops.Hash]string{}
	for line := range strings.Lines(lab.RunGit(t, bare, "ls-tree", "-r", "-l", commit)) {
		f := strings.Fields(line)
		blobs[hash(t, f[2])] = f[3]
	}
	return blobs
}

func TestBlobs(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t)
	var tip string
	for round := range 3 {
		files := map[string]string{}
		for i := round; i < 700; i += round + 1 {
			files[fmt.Sprintf("d%d/f%d", i%7, i)] = strings.Repeat(fmt.Sprintln("file", i, "round", round), i%40+1)
		}
		tip = p.Commit(lab.Commit{Files: files})
	}
	p.Push()
	lab.RunGit(t, p.bare(), "repack", "-adfq", "--depth=50", "--window=50")
	dir := t.TempDir()
	s := openStore(t, dir, p.remote(t))
	if err := s.Fetch(ctx, []gitops.Hash{hash(t, tip)}, 0); err != nil {
		t.Fatal(err)
	}
	want := leaves(t, p.bare(), tip)
	var names []gitops.Hash
	for h := range want {
		names = append(names, h)
	}
	got := map[gitops.Hash]string{}
	err := s.Blobs(ctx, names, func(h gitops.Hash, content []byte) error {
		if _, err := s.Commit(hash(t, tip)); err != nil { // the store may be used meanwhile
			return err
		}
		got[h] = fmt.Sprint(len(content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %d blobs, want %d", len(got), len(want))
	}

	stop := errors.New("enough")
	if err := s.Blobs(ctx, names, func(gitops.Hash, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of visit: %v", err)
	}
	if err := s.Blobs(ctx, append(names, gitops.Hash{1}), func(gitops.Hash, []byte) error { return nil }); !errors.Is(err, store.ErrMissing) {
		t.Errorf("a missing blob: %v", err)
	}
	if err := s.Blobs(ctx, []gitops.Hash{hash(t, tip)}, func(gitops.Hash, []byte) error { return nil }); !errors.Is(err, store.ErrType) {
		t.Errorf("a commit as a blob: %v", err)
	}

	// Damage in the middle of one pack.
	packs, err := filepath.Glob(filepath.Join(dir, "0/objects/pack/*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	content, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := len(content) / 3; i < len(content)/2; i++ {
		content[i] ^= 0xff
	}
	if err := os.WriteFile(packs[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Blobs(ctx, names, func(gitops.Hash, []byte) error { return nil }); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("damage: %v", err)
	}
}

// TestConcurrent: fetches, reads, resets, all at once; View mends what the
// resets break.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	var commits []string
	for i := range 6 {
		commits = append(commits, p.Commit(lab.Commit{Files: map[string]string{fmt.Sprint("f", i): strings.Repeat(fmt.Sprint(i), 100)}}))
	}
	p.Push()
	s := openStore(t, t.TempDir(), p.remote(t))
	var group sync.WaitGroup
	for i, commit := range commits {
		tip := hash(t, commit)
		group.Go(func() {
			for round := range 4 {
				if i == 0 && round == 2 {
					if err := s.Reset(); err != nil {
						t.Error(err)
					}
				}
				err := s.View(context.Background(), []gitops.Hash{tip}, 1, func() error {
					c, err := s.Commit(tip)
					if err != nil {
						return err
					}
					entries, err := s.Tree(c.Tree)
					if err != nil {
						return err
					}
					var names []gitops.Hash
					for _, e := range entries {
						names = append(names, e.Hash)
					}
					return s.Blobs(context.Background(), names, func(gitops.Hash, []byte) error { return nil })
				})
				if err != nil {
					t.Error(err)
				}
				if relation, err := s.Relation(context.Background(), hash(t, commits[0]), tip); err != nil || i > 0 && relation != gitops.Ahead {
					t.Error(relation, err)
				}
			}
		})
	}
	group.Wait()
}

// TestIdle: a store that nobody uses holds no file but its lock.
func TestIdle(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	tip := hash(t, p.Commit(lab.Commit{Files: map[string]string{"a": "1"}}))
	p.Push()
	dir := t.TempDir()
	s := openStore(t, dir, p.remote(t))
	if err := s.Fetch(context.Background(), []gitops.Hash{tip}, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(tip); err != nil {
		t.Error(err)
	}
	if n := openFiles(t, dir); n != 2 {
		t.Errorf("%d files open while in use", n)
	}
	s.Rest()
	if n := openFiles(t, dir); n != 1 {
		t.Errorf("%d files open when idle", n)
	}
	if _, err := s.Commit(tip); err != nil {
		t.Error(err)
	}
	s.Close()
	if n := openFiles(t, dir); n != 0 {
		t.Errorf("%d files open when closed", n)
	}
}

// openFiles counts this process's open files below dir.
func openFiles(t testing.TB, dir string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		if target, err := os.Readlink(f); err == nil && strings.HasPrefix(target, dir) {
			n++
		}
	}
	return n
}
