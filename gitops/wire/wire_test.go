package wire_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/git"
	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

func hash(t testing.TB, s string) gitops.Hash {
	t.Helper()
	h, err := gitops.ParseHash(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func dial(t testing.TB, o wire.Options) *wire.Remote {
	t.Helper()
	remote, err := wire.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remote.Close() })
	return remote
}

func as(auth git.AuthOptions) func() (*git.AuthOptions, error) {
	return func() (*git.AuthOptions, error) { return &auth, nil }
}

// bare is a repository that packs are put into, for real git to judge them.
type bare struct {
	dir string
	t   testing.TB
}

func newBare(t testing.TB) *bare {
	t.Helper()
	dir := t.TempDir()
	lab.RunGit(t, dir, "init", "--quiet", "--bare")
	return &bare{dir, t}
}

// take puts a fetched pack into the repository and notes what is shallow.
func (b *bare) take(pack *wire.Pack) {
	b.t.Helper()
	defer pack.Close()
	content, err := io.ReadAll(pack)
	if err != nil {
		b.t.Fatalf("read the pack: %v", err)
	}
	if err := pack.Close(); err != nil {
		b.t.Fatal(err)
	}
	file := filepath.Join(b.dir, "shallow")
	old, _ := os.ReadFile(file)
	shallow := make(map[string]bool)
	for _, line := range strings.Fields(string(old)) {
		shallow[line] = true
	}
	for _, h := range pack.Shallow {
		shallow[h.String()] = true
	}
	for _, h := range pack.Unshallow {
		delete(shallow, h.String())
	}
	var out strings.Builder
	for line := range shallow {
		fmt.Fprintln(&out, line)
	}
	if out.Len() > 0 {
		lab.WriteFile(b.t, file, []byte(out.String()))
	} else {
		os.Remove(file)
	}
	cmd := exec.Command("git", "index-pack", "--stdin", "--strict")
	cmd.Dir, cmd.Stdin = b.dir, bytes.NewReader(content)
	if text, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("git index-pack: %v\n%s", err, text)
	}
}

// fsck lets real git look at a commit with all that it needs.
func (b *bare) fsck(tip gitops.Hash) {
	b.t.Helper()
	lab.RunGit(b.t, b.dir, "update-ref", "refs/heads/tip", tip.String())
	lab.RunGit(b.t, b.dir, "fsck", "--strict", "--full")
	lab.RunGit(b.t, b.dir, "rev-list", "--objects", "--quiet", tip.String())
}

func (b *bare) count(tip gitops.Hash) string {
	b.t.Helper()
	return strings.TrimSpace(lab.RunGit(b.t, b.dir, "rev-list", "--count", tip.String()))
}

// served is a repository on a server of any kind, and where it lies.
type served struct {
	remote *wire.Remote
	dir    string // of the bare repository
	work   *lab.Work
	heads  []gitops.Hash // commits of main, oldest first
}

// fill makes a history of n commits on main, pushed straight to the server's
// directory.
func fill(t testing.TB, dir string, n int) (*lab.Work, []gitops.Hash) {
	t.Helper()
	work := lab.NewWork(t, dir)
	var heads []gitops.Hash
	for i := range n {
		heads = append(heads, hash(t, work.Commit(lab.Commit{
			Message: fmt.Sprintf("commit %d", i),
			Files: map[string]string{
				"app.txt":                      strings.Repeat(fmt.Sprintf("line %d\n", i), 50),
				fmt.Sprintf("dir%d/file", i%3): fmt.Sprint(i),
				fmt.Sprintf("many/%d/file", i): fmt.Sprint(i),
			},
		})))
	}
	work.Push()
	return work, heads
}

// story lists, fetches, deepens and pushes; every transport must tell it the
// same way.
func story(t *testing.T, s served, exact bool) {
	ctx := t.Context()
	tip, old := s.heads[len(s.heads)-1], s.heads[len(s.heads)-3]
	lab.RunGit(t, s.dir, "update-ref", "refs/heads/main2", old.String())
	lab.RunGit(t, s.dir, "update-ref", "refs/heads/old", old.String())
	lab.RunGit(t, s.dir, "update-ref", "refs/towpath/production/podinfo", old.String())

	refs, err := s.remote.Refs(ctx, "refs/heads/main", "refs/towpath/")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]gitops.Hash{"refs/heads/main": tip, "refs/heads/main2": old, "refs/towpath/production/podinfo": old}
	if diff := cmp.Diff(want, refs); diff != "" {
		t.Errorf("refs (-want +got):\n%s", diff)
	}

	// one commit, then everything that is missing, then nothing new
	here := newBare(t)
	pack, err := s.remote.Fetch(ctx, wire.FetchRequest{Wants: []gitops.Hash{old}, Depth: 1})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]gitops.Hash{old}, pack.Shallow); diff != "" {
		t.Errorf("shallow (-want +got):\n%s", diff)
	}
	here.take(pack)
	here.fsck(old)
	if got := here.count(old); got != "1" {
		t.Errorf("depth 1 brought %s commits", got)
	}
	pack, err = s.remote.Fetch(ctx, wire.FetchRequest{Wants: []gitops.Hash{tip}, Haves: []gitops.Hash{old}, Shallows: []gitops.Hash{old}})
	if err != nil {
		t.Fatal(err)
	}
	here.take(pack)
	here.fsck(tip)
	if got := here.count(tip); got != "3" {
		t.Errorf("there are %s commits, want 3", got)
	}
	pack, err = s.remote.Fetch(ctx, wire.FetchRequest{Wants: []gitops.Hash{tip}, Haves: []gitops.Hash{tip}, Shallows: []gitops.Hash{old}, Depth: 5})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]gitops.Hash{old}, pack.Unshallow); diff != "" {
		t.Errorf("unshallow (-want +got):\n%s", diff)
	}
	here.take(pack)
	here.fsck(tip)
	if got := here.count(tip); got != "5" {
		t.Errorf("there are %s commits, want 5", got)
	}
	var told []string
	pack, err = s.remote.Fetch(ctx, wire.FetchRequest{Wants: []gitops.Hash{tip}, Progress: func(line string) { told = append(told, line) }})
	if err != nil {
		t.Fatal(err)
	}
	whole := newBare(t)
	whole.take(pack)
	whole.fsck(tip)
	if got := whole.count(tip); got != fmt.Sprint(len(s.heads)) {
		t.Errorf("there are %s commits, want %d", got, len(s.heads))
	}
	if len(told) == 0 || strings.ContainsAny(strings.Join(told, ""), "\r\n") {
		t.Errorf("progress: %q", told)
	}
	buried := s.heads[0]
	pack, err = s.remote.Fetch(ctx, wire.FetchRequest{Wants: []gitops.Hash{buried}, Depth: 1})
	switch {
	case exact && err != nil:
		t.Errorf("fetch by hash: %v", err)
	case exact:
		alone := newBare(t)
		alone.take(pack)
		alone.fsck(buried)
	case !isErr(err, wire.ErrNotAdvertised):
		t.Errorf("fetch of no tip over version 0: %v", err)
	}
	absent := hash(t, "0123456789012345678901234567890123456789")
	if _, err := s.remote.Fetch(ctx, wire.FetchRequest{Wants: []gitops.Hash{absent}, Depth: 1}); !isErr(err, wire.ErrNotAdvertised) {
		t.Errorf("fetch of what does not exist: %v", err)
	}

	storyPush(t, s)
}
