package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
	"towpath.dev/towpath/gitops/wire"
)

// place is one repository on a real server, the developer's work tree of it,
// and ways to it.
type place struct {
	*lab.Git
	*lab.Work
	url string
}

func newPlace(t testing.TB, options ...lab.GitOptions) *place {
	t.Helper()
	server := lab.NewGit(t, options...)
	url := server.Create("app.git")
	return &place{server, lab.NewWork(t, url), url}
}

func (p *place) bare() string { return p.Git.Dir("app.git") }

func (p *place) remote(t testing.TB) *wire.Remote {
	t.Helper()
	remote, err := wire.New(wire.Options{URL: p.url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remote.Close() })
	return remote
}

func openStore(t testing.TB, dir string, remote *wire.Remote) *store.Store {
	t.Helper()
	s, err := store.Open(dir, remote)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func hash(t testing.TB, s string) gitops.Hash {
	t.Helper()
	h, err := gitops.ParseHash(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// gitView makes a copy that real git can read, and returns its directory.
func gitView(t testing.TB, dir string) string {
	t.Helper()
	own := filepath.Join(dir, "0")
	view := t.TempDir()
	lab.RunGit(t, "", "init", "--quiet", "--bare", view)
	state, err := os.ReadFile(filepath.Join(own, "state"))
	if err != nil {
		t.Fatal(err)
	}
	var shallow, refs strings.Builder
	for line := range strings.Lines(string(state)) {
		if h, ok := strings.CutPrefix(line, "shallow "); ok {
			shallow.WriteString(h)
		}
		if h, ok := strings.CutPrefix(line, "tip "); ok {
			fmt.Fprintf(&refs, "%s refs/heads/%s\n", strings.TrimSpace(h), strings.TrimSpace(h))
		}
	}
	if shallow.Len() > 0 {
		lab.WriteFile(t, filepath.Join(view, "shallow"), []byte(shallow.String()))
	}
	lab.WriteFile(t, filepath.Join(view, "packed-refs"), []byte(refs.String()))
	lab.WriteFile(t, filepath.Join(view, "objects/info/alternates"), []byte(filepath.Join(own, "objects")+"\n"))
	return view
}

// fsck asks real git whether the copy is whole.
func fsck(t testing.TB, dir string) {
	t.Helper()
	view := gitView(t, dir)
	lab.RunGit(t, view, "fsck", "--full", "--strict")
}

// compare checks every object that git knows in the server's repository and
// that the store holds, and returns how many those are.
func compare(t testing.TB, s *store.Store, bare, revision string) int {
	t.Helper()
	n := 0
	for line := range strings.Lines(lab.RunGit(t, bare, "rev-list", "--objects", "--no-walk", revision)) {
		name := strings.Fields(line)[0]
		typ, content, err := s.Object(hash(t, name))
		if err != nil {
			t.Fatalf("object %s: %v", name, err)
		}
		want := lab.RunGit(t, bare, "cat-file", typ.String(), name)
		if string(content) != want {
			t.Fatalf("object %s: got %q, want %q", name, content, want)
		}
		n++
	}
	return n
}

func TestFetch(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t)
	first := p.Commit(lab.Commit{Message: "first", Files: map[string]string{"a": "1\n", "d/b": "2\n", "run!": "x"}})
	p.Commit(lab.Commit{Message: "second", Files: map[string]string{"a": "3\n"}})
	third := p.Commit(lab.Commit{Message: "third\n\nmore", Files: map[string]string{"d/c": strings.Repeat("long\n", 5000)}})
	p.Push()

	dir := t.TempDir()
	s := openStore(t, dir, p.remote(t))
	if s.Has(hash(t, third)) {
		t.Fatal("an empty copy has a commit")
	}
	if err := s.Fetch(ctx, []gitops.Hash{hash(t, third)}, 1); err != nil {
		t.Fatal(err)
	}
	if !s.Has(hash(t, third)) || s.Has(hash(t, first)) || !s.IsShallow(hash(t, third)) {
		t.Error("depth 1 did not bring the tip alone")
	}
	if n := compare(t, s, p.bare(), third); n != 7 {
		t.Errorf("compared %d objects", n)
	}
	fsck(t, dir)

	c, err := s.Commit(hash(t, third))
	if err != nil {
		t.Fatal(err)
	}
	if c.Subject != "third" || c.Author.Name != "Ada" || c.Author.Email != "ada@example.com" || !c.Committer.When.Equal(lab.Epoch.Add(2*60e9)) || len(c.Parents) != 1 {
		t.Errorf("commit %+v", c)
	}
	entries, err := s.Tree(c.Tree)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Mode+" "+e.Name+" "+e.Kind())
	}
	if got := strings.Join(names, ", "); got != "100644 a 100644, 40000 d 40000, 100755 run 100755" {
		t.Errorf("tree: %s", got)
	}
	if _, err := s.Blob(c.Tree); !errors.Is(err, store.ErrType) || errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a tree as a blob: %v", err)
	}
	if _, err := s.Blob(hash(t, first)); !errors.Is(err, store.ErrCorrupt) || !errors.Is(err, store.ErrMissing) {
		t.Errorf("a missing object: %v", err)
	}

	// What is here is not asked for again.
	requests := p.Requests()
	if err := s.Fetch(ctx, []gitops.Hash{hash(t, third)}, 1); err != nil {
		t.Fatal(err)
	}
	if p.Requests() != requests {
		t.Error("the server was asked for what is here")
	}

	complete, err := s.Deepen(ctx, hash(t, third), 1)
	if err != nil || complete {
		t.Fatalf("deepen: %v, %v", complete, err)
	}
	complete, err = s.Deepen(ctx, hash(t, third), 5)
	if err != nil || !complete {
		t.Fatalf("deepen: %v, %v", complete, err)
	}
	if s.IsShallow(hash(t, third)) || !s.Has(hash(t, first)) {
		t.Error("deepening did not bring the history")
	}
	compare(t, s, p.bare(), first)
	fsck(t, dir)

	// Another process later.
	s.Close()
	if _, err := s.Commit(hash(t, third)); !errors.Is(err, store.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	s = openStore(t, dir, p.remote(t))
	compare(t, s, p.bare(), third)
	fourth := p.Commit(lab.Commit{Message: "fourth", Files: map[string]string{"d/b": "4\n"}})
	p.Push()
	if err := s.Fetch(ctx, []gitops.Hash{hash(t, fourth)}, 0); err != nil {
		t.Fatal(err)
	}
	compare(t, s, p.bare(), fourth)
	fsck(t, dir)
}

func TestFetchUnknown(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.Commit(lab.Commit{Files: map[string]string{"a": "1\n"}})
	p.Push()
	s := openStore(t, t.TempDir(), p.remote(t))
	err := s.Fetch(context.Background(), []gitops.Hash{plumbing.NewHash("1111111111111111111111111111111111111111")}, 1)
	if !errors.Is(err, wire.ErrNotAdvertised) {
		t.Errorf("got %v", err)
	}
}

func TestManyFetchesFewPacks(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t)
	dir := t.TempDir()
	s := openStore(t, dir, p.remote(t))
	var all []string
	for i := range 40 {
		all = append(all, p.Commit(lab.Commit{Files: map[string]string{fmt.Sprint("d", i%5, "/f", i): strings.Repeat(fmt.Sprint(i, "\n"), 50)}}))
		p.Push()
		if err := s.Fetch(ctx, []gitops.Hash{hash(t, all[i])}, 1); err != nil {
			t.Fatal(err)
		}
	}
	packs, err := filepath.Glob(filepath.Join(dir, "0/objects/pack/*"))
	if err != nil || len(packs) > 20 {
		t.Errorf("%d files: %v", len(packs), err)
	}
	for _, c := range all {
		if !s.Has(hash(t, c)) || s.IsShallow(hash(t, c)) {
			t.Errorf("commit %s is not here whole", c)
		}
	}
	compare(t, s, p.bare(), all[39])
	fsck(t, dir)
}

func TestKeep(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t)
	head := p.Commit(lab.Commit{Files: map[string]string{"a": "1\n"}})
	p.Push()
	dir := t.TempDir()
	s := openStore(t, dir, p.remote(t))
	if err := s.Fetch(ctx, []gitops.Hash{hash(t, head)}, 1); err != nil {
		t.Fatal(err)
	}
	raw, err := s.RawCommit(hash(t, head))
	if err != nil {
		t.Fatal(err)
	}
	var made store.Objects
	blob := made.Add(plumbing.BlobObject, []byte("new\n"))
	if again := made.Add(plumbing.BlobObject, []byte("new\n")); again != blob || made.Len() != 1 {
		t.Error("added twice")
	}
	tree := made.Add(plumbing.TreeObject, append([]byte("100644 a\x00"), blob[:]...))
	_, rest, _ := strings.Cut(string(raw), "\nauthor ")
	commit := made.Add(plumbing.CommitObject, fmt.Appendf(nil, "tree %s\nparent %s\nauthor %s", tree, head, rest))
	if err := s.Keep(&made); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Blob(blob); err != nil || string(got) != "new\n" {
		t.Errorf("blob: %q, %v", got, err)
	}
	if !s.Has(commit) {
		t.Error("the commit was not kept")
	}
	fsck(t, dir)

	// The pack is what a push would send.
	pack, err := os.Create(filepath.Join(t.TempDir(), "made.pack"))
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Pack(pack); err != nil {
		t.Fatal(err)
	}
	pack.Close()
	lab.RunGit(t, p.bare(), "index-pack", "--strict", pack.Name())

	// Nothing is kept that would leave a hole.
	if err := s.Reset(); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep(&made); err != nil {
		t.Fatal(err)
	}
	if s.Has(commit) {
		t.Error("a commit without its parent was kept")
	}
}

// TestServerWithBitmaps: such a server reuses its packs as they are and counts
// objects by bitmap.
func TestServerWithBitmaps(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t)
	dir := t.TempDir()
	s := openStore(t, dir, p.remote(t))
	files := map[string]string{}
	for i := range 40 {
		files[fmt.Sprint("d", i%4, "/f", i)] = strings.Repeat(fmt.Sprintln("file", i), 20)
	}
	for i := range 8 {
		files["d1/f1"] = fmt.Sprint(i)
		if i == 5 {
			files["d1/f1"] = "1" // content from before the edge of what we have
		}
		tip := hash(t, p.Commit(lab.Commit{Files: files}))
		p.Commit(lab.Commit{Files: map[string]string{"other": fmt.Sprint(i)}})
		p.Push()
		lab.RunGit(t, p.bare(), "repack", "-adbq")
		depth := 1
		if i > 2 {
			depth = 0
		}
		if i == 2 {
			continue // a gap, so that the copy begins in the middle
		}
		if err := s.Fetch(ctx, []gitops.Hash{tip}, depth); err != nil {
			t.Fatal(err)
		}
		compare(t, s, p.bare(), tip.String())
	}
	fsck(t, dir)
}
