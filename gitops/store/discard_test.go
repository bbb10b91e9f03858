package store_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
)

// age makes everything below a directory as old as that.
func age(t *testing.T, dir string, by time.Duration) {
	t.Helper()
	when := time.Now().Add(-by)
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, when, when)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDiscard: a copy that is open is never removed, nor is one that was used
// lately; the others are, and what is asked of them later is fetched again.
func TestDiscard(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	tip := p.Commit(lab.Commit{Files: map[string]string{"a": "1\n"}})
	p.Push("HEAD:main")
	dir := filepath.Join(t.TempDir(), "app")
	fill := func() *store.Store {
		t.Helper()
		s := openStore(t, dir, p.remote(t))
		if err := s.Fetch(t.Context(), []gitops.Hash{hash(t, tip)}, 1); err != nil {
			t.Fatal(err)
		}
		return s
	}
	discards := func(since time.Duration, want int) {
		t.Helper()
		// What another test starts at this moment has the locks of this process until
		// it runs a program of its own.
		for deadline := time.Now().Add(2 * time.Minute); ; {
			got, err := store.Discard(dir, time.Now().Add(-since))
			if err == nil && got == want {
				return
			}
			if err != nil || got > want || time.Now().After(deadline) {
				t.Fatalf("%d discarded, %v; want %d", got, err, want)
			}
		}
	}
	open, other := fill(), fill()
	age(t, dir, 48*time.Hour)
	discards(time.Hour, 0)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	discards(time.Hour, 0) // it was in use until just now
	age(t, dir, 48*time.Hour)
	discards(72*time.Hour, 0)
	discards(time.Hour, 1)
	if lab.Exists(filepath.Join(dir, "1")) || !open.Has(hash(t, tip)) {
		t.Error("the wrong one")
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	age(t, dir, 48*time.Hour)
	discards(time.Hour, 1)
	if lab.Exists(dir) {
		t.Error("the directory is left")
	}
	discards(time.Hour, 0)
	compare(t, fill(), p.Work.Dir, tip)
}

// TestDiscardWhileOthersOpen: whoever opens a copy at the moment at which it is
// discarded gets one, alone.
func TestDiscardWhileOthersOpen(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "app")
	var opening, discarding sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		discarding.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := store.Discard(dir, time.Now().Add(time.Hour)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 4 {
		opening.Go(func() {
			for range 5000 {
				own, lock, err := store.Claim(dir)
				if err != nil {
					t.Error(err)
					return
				}
				mine := filepath.Join(own, "state")
				if f, err := os.OpenFile(mine, os.O_CREATE|os.O_EXCL, 0o600); err != nil {
					t.Errorf("somebody else has it, too, or has taken it away: %v", err)
				} else {
					f.Close()
				}
				if err := os.Remove(mine); err != nil {
					t.Errorf("it was taken away: %v", err)
				}
				lock.Close()
				if t.Failed() {
					return
				}
			}
		})
	}
	opening.Wait()
	close(stop)
	discarding.Wait()
}
