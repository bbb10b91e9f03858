package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
)

// answers asks a store everything: contents, a relation, a list.
func answers(t testing.TB, s *store.Store, bare, base, tip string) string {
	t.Helper()
	ctx := context.Background()
	relation, err := s.Relation(ctx, hash(t, base), hash(t, tip))
	if err != nil {
		t.Fatal(err)
	}
	list, more, err := s.Between(ctx, hash(t, base), hash(t, tip), 3)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintln(&b, relation, list, more)
	err = s.View(ctx, []gitops.Hash{hash(t, tip)}, 1, func() error {
		b.WriteString("tip\n")
		for line := range strings.Lines(lab.RunGit(t, bare, "rev-list", "--objects", "--no-walk", tip)) {
			typ, content, err := s.Object(hash(t, strings.Fields(line)[0]))
			if err != nil {
				b.Reset()
				fmt.Fprintln(&b, relation, list, more)
				return err
			}
			fmt.Fprintf(&b, "%s %x\n", typ, content)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestDamage flips a byte in, cuts or removes each file of the copy, at places
// spread over all of it, and asks again: same answers.
func TestDamage(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	var commits []string
	for i := range 6 {
		commits = append(commits, p.Commit(lab.Commit{Files: map[string]string{
			fmt.Sprint("d/f", i%3): strings.Repeat(fmt.Sprintln("line", i), 40) + strings.Repeat("same\n", 200),
			"top":                  fmt.Sprint(i),
		}}))
	}
	p.Push()
	base, tip := commits[1], commits[5]

	pristine := t.TempDir()
	s := openStore(t, pristine, p.remote(t))
	if err := s.Fetch(context.Background(), []gitops.Hash{hash(t, commits[2])}, 2); err != nil {
		t.Fatal(err)
	}
	want := answers(t, s, p.bare(), base, tip)
	if !strings.HasPrefix(want, "ahead") {
		t.Fatal(want)
	}
	s.Close()

	var files []string
	err := filepath.WalkDir(pristine, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && entry.Name() != "lock" {
			files = append(files, path)
		}
		return err
	})
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	remote := p.remote(t)
	tried := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		relative, err := filepath.Rel(pristine, file)
		if err != nil {
			t.Fatal(err)
		}
		try := func(what string, damage func(path string) error) {
			t.Helper()
			tried++
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(pristine)); err != nil {
				t.Fatal(err)
			}
			if err := damage(filepath.Join(dir, relative)); err != nil {
				t.Fatal(err)
			}
			s := openStore(t, dir, remote)
			defer s.Close()
			if got := answers(t, s, p.bare(), base, tip); got != want {
				t.Errorf("%s, %s: got\n%s\nwant\n%s", relative, what, got, want)
			}
		}
		write := func(content []byte) func(string) error {
			return func(path string) error { return os.WriteFile(path, content, 0o600) }
		}
		step := max(1, len(content)/11)
		for at := 0; at < len(content); at += step {
			flipped := append([]byte(nil), content...)
			flipped[at] ^= 1 << (at % 8)
			try(fmt.Sprintf("byte %d flipped", at), write(flipped))
		}
		for _, length := range []int{0, 1, len(content) / 2, len(content) - 1} {
			try(fmt.Sprintf("cut to %d bytes", length), write(content[:length]))
		}
		try("too long", write(append(append([]byte(nil), content...), 'x')))
		try("removed", os.Remove)
		try("a directory", func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.MkdirAll(filepath.Join(path, "x"), 0o700)
		})
	}
	t.Logf("%d kinds of damage to %d files", tried, len(files))
}

// TestDamageWhileOpen: the copy is spoilt under a store that is at work.
func TestDamageWhileOpen(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t)
	tip := p.Commit(lab.Commit{Files: map[string]string{"a": strings.Repeat("a\n", 5000)}})
	p.Push()
	dir := t.TempDir()
	s := openStore(t, dir, p.remote(t))
	if err := s.Fetch(ctx, []gitops.Hash{hash(t, tip)}, 1); err != nil {
		t.Fatal(err)
	}
	packs, err := filepath.Glob(filepath.Join(dir, "0/objects/pack/*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatal(packs, err)
	}
	if err := os.Truncate(packs[0], 30); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(hash(t, tip)); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a damaged copy reads %v", err)
	}
	reads := 0
	err = s.View(ctx, []gitops.Hash{hash(t, tip)}, 1, func() error {
		reads++
		_, err := s.Commit(hash(t, tip))
		return err
	})
	if err != nil || reads != 2 {
		t.Errorf("%d reads, %v", reads, err)
	}
}

// TestTwoCopies: two processes with one cache directory both work.
func TestTwoCopies(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t)
	tip := hash(t, p.Commit(lab.Commit{Files: map[string]string{"a": "1"}}))
	p.Push()
	dir := t.TempDir()
	one, two := openStore(t, dir, p.remote(t)), openStore(t, dir, p.remote(t))
	for _, s := range []*store.Store{one, two} {
		if err := s.Fetch(ctx, []gitops.Hash{tip}, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := one.Reset(); err != nil {
		t.Fatal(err)
	}
	if one.Has(tip) || !two.Has(tip) {
		t.Error("one copy's reset touched the other, or did nothing")
	}
	// Git or an executor may be started in this very moment.
	inherited, err := two.Inherit()
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(inherited)
	if err := two.Close(); err != nil {
		t.Error(err)
	}
	three := openStore(t, dir, p.remote(t))
	if !three.Has(tip) {
		t.Error("a copy that was let go is not taken up again")
	}
}

// TestKilled leaves what a process that dies at each step of storing a pack
// leaves, and opens again.
func TestKilled(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t)
	first := hash(t, p.Commit(lab.Commit{Files: map[string]string{"a": "1"}}))
	second := hash(t, p.Commit(lab.Commit{Files: map[string]string{"a": "2"}}))
	p.Push()
	dir := t.TempDir()
	s := openStore(t, dir, p.remote(t))
	if err := s.Fetch(ctx, []gitops.Hash{first}, 1); err != nil {
		t.Fatal(err)
	}
	s.Close()
	before, err := os.ReadFile(filepath.Join(dir, "0/state"))
	if err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, p.remote(t))
	if err := s.Fetch(ctx, []gitops.Hash{second}, 1); err != nil {
		t.Fatal(err)
	}
	s.Close()

	// The second pack is in its place, the state was not written.
	lab.WriteFile(t, filepath.Join(dir, "0/state"), before)
	lab.WriteFile(t, filepath.Join(dir, "0/state.tmp"), []byte("half"))
	lab.WriteFile(t, filepath.Join(dir, "0/tmp/pack-1"), []byte("PACK"))
	s = openStore(t, dir, p.remote(t))
	if !s.Has(first) || s.Has(second) {
		t.Error("what the state does not name counts")
	}
	for pattern, want := range map[string]int{"0/objects/pack/*": 2, "0/tmp/*": 0} {
		if left, _ := filepath.Glob(filepath.Join(dir, pattern)); len(left) != want {
			t.Errorf("left: %v", left)
		}
	}
	if err := s.Fetch(ctx, []gitops.Hash{second}, 1); err != nil || !s.Has(second) {
		t.Error("the next fetch does not bring it", err)
	}
	fsck(t, dir)
}

// TestTheDirectoryMayGo deletes the copy under an open store, in whole and in
// part: it begins anew. Where another store has taken the place meanwhile, each
// has a copy of its own.
func TestTheDirectoryMayGo(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	ctx := context.Background()
	next := func(i int) gitops.Hash {
		tip := p.Commit(lab.Commit{Files: map[string]string{"file": fmt.Sprint(i)}})
		p.Push()
		return hash(t, tip)
	}
	for name, gone := range map[string]string{"all": "", "its copy": "0", "its packs": "0/objects", "where it receives": "0/tmp", "the lock": "0/lock"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir, p.remote(t))
			if err := s.Fetch(ctx, []gitops.Hash{next(1)}, 0); err != nil {
				t.Fatal(err)
			}
			s.Rest()
			if err := os.RemoveAll(filepath.Join(dir, gone)); err != nil {
				t.Fatal(err)
			}
			tip := next(2)
			if err := s.Fetch(ctx, []gitops.Hash{tip}, 0); err != nil {
				t.Fatalf("after the deletion: %v", err)
			}
			compare(t, s, p.bare(), tip.String())

			if err := os.RemoveAll(filepath.Join(dir, gone)); err != nil {
				t.Fatal(err)
			}
			other := openStore(t, dir, p.remote(t))
			tip = next(3)
			for range 2 {
				for _, s := range []*store.Store{s, other} {
					if err := s.View(ctx, []gitops.Hash{tip}, 0, func() error {
						_, err := s.Commit(tip)
						return err
					}); err != nil {
						t.Fatalf("two stores: %v", err)
					}
				}
			}
			compare(t, s, p.bare(), tip.String())
			compare(t, other, p.bare(), tip.String())
		})
	}
}
