package source_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/gitops/wire"
)

// place is one repository on a real server and the developer's work tree of it.
type place struct {
	*lab.Git
	*lab.Work
	url string
}

func newPlace(t testing.TB, options ...lab.GitOptions) *place {
	t.Helper()
	server := lab.NewGit(t, options...)
	url := server.Create("apps/app.git")
	return &place{server, lab.NewWork(t, url), url}
}

func (p *place) bare() string { return p.Git.Dir("apps/app.git") }

func (p *place) remote(t testing.TB) *wire.Remote {
	t.Helper()
	remote, err := wire.New(wire.Options{URL: p.url})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remote.Close() })
	return remote
}

// open gives a repository whose polls are never reused.
func (p *place) open(t testing.TB, dir string) *source.Repository {
	t.Helper()
	r, err := source.Open(source.Options{Remote: p.remote(t), Dir: dir, MaxAge: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func hash(t testing.TB, s string) gitops.Hash {
	t.Helper()
	h, err := gitops.ParseHash(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func choose(t testing.TB, r *source.Repository, q source.Query) source.Choice {
	t.Helper()
	if q.Branch == "" {
		q.Branch = "main"
	}
	c, err := r.Choose(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func subjects(commits []gitops.Commit) string {
	var s []string
	for _, c := range commits {
		s = append(s, c.Subject)
	}
	return strings.Join(s, " ")
}

func TestChoose(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	r := p.open(t, t.TempDir())
	one := hash(t, p.Commit(lab.Commit{Message: "one", Files: map[string]string{"app/main.go": "1", "docs/a.md": "1"}}))
	p.Push()

	c := choose(t, r, source.Query{})
	if c.Relation != gitops.NoBase || c.Commit.Hash != one || c.Head.Hash != one || subjects(c.Commits) != "one" {
		t.Errorf("first: %+v", c)
	}
	if c := choose(t, r, source.Query{Base: one}); c.Relation != gitops.Same || c.Commit.Hash != one || len(c.Commits) != 0 {
		t.Errorf("promoted: %+v", c)
	}

	two := hash(t, p.Commit(lab.Commit{Message: "two", Files: map[string]string{"docs/a.md": "2"}}))
	p.Push()
	if c := choose(t, r, source.Query{Base: one}); c.Relation != gitops.Ahead || c.Commit.Hash != two || subjects(c.Commits) != "two" {
		t.Errorf("next: %+v", c)
	}
	watch := []string{"/", "!/docs/"}
	if c := choose(t, r, source.Query{Base: one, Watch: watch}); c.Relation != gitops.Same || c.Commit.Hash != one || c.Head.Hash != two || c.Commit.Subject != "one" {
		t.Errorf("nothing watched changed: %+v", c)
	}
	three := hash(t, p.Commit(lab.Commit{Message: "three", Files: map[string]string{"app/new.go": "3"}}))
	p.Push()
	if c := choose(t, r, source.Query{Base: one, Watch: watch}); c.Relation != gitops.Ahead || c.Commit.Hash != three || subjects(c.Commits) != "three two" || c.More != 0 {
		t.Errorf("something watched changed: %+v", c)
	}
	// Done and undone between two looks: the tip decides.
	four := hash(t, p.Commit(lab.Commit{Message: "four", Remove: []string{"app/new.go"}}))
	p.Push()
	if c := choose(t, r, source.Query{Base: two, Watch: watch}); c.Relation != gitops.Same || c.Commit.Hash != two || c.Head.Hash != four {
		t.Errorf("undone: %+v", c)
	}
	if c := choose(t, r, source.Query{Base: two, Watch: nil}); c.Relation != gitops.Ahead {
		t.Errorf("undone, everything watched: %+v", c)
	}

	// The branch is set back, then replaced.
	p.Push("+" + two.String() + ":refs/heads/main")
	if c := choose(t, r, source.Query{Base: three, Watch: watch}); c.Relation != gitops.Behind || c.Commit.Hash != two {
		t.Errorf("set back: %+v", c)
	}
	p.Work.Git("checkout", "--quiet", "--orphan", "fresh")
	other := hash(t, p.Commit(lab.Commit{Message: "other"}))
	p.Push("+HEAD:refs/heads/main")
	if c := choose(t, r, source.Query{Base: three, Watch: watch}); c.Relation != gitops.Unrelated || c.Commit.Hash != other {
		t.Errorf("replaced: %+v", c)
	}
}

func TestAccept(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	r := p.open(t, t.TempDir())
	p.Commit(lab.Commit{Message: "root"})
	base := hash(t, p.Commit(lab.Commit{Message: "base", Files: map[string]string{"a": "1"}}))
	p.Push()
	p.Work.Git("reset", "--quiet", "--hard", "HEAD^")
	accepted := hash(t, p.Commit(lab.Commit{Message: "rewritten", Files: map[string]string{"a": "2"}}))
	p.Push("+HEAD:refs/heads/main")
	accept := map[gitops.Hash]string{accepted: "history cleaned, see the minutes"}

	if c := choose(t, r, source.Query{Base: base, Accept: accept}); c.Relation != gitops.Unrelated || c.Commit.Hash != accepted || c.Accepted != accept[accepted] || subjects(c.Commits) != "rewritten" {
		t.Errorf("the tip is accepted: %+v", c)
	}
	tip := hash(t, p.Commit(lab.Commit{Message: "on top", Files: map[string]string{"a": "3"}}))
	p.Push()
	c := choose(t, r, source.Query{Base: base, Accept: accept})
	if c.Commit.Hash != accepted || c.Accepted == "" || c.Head.Hash != tip || len(c.Refused) != 1 || c.Refused[0].Commit.Hash != tip || !strings.Contains(c.Refused[0].Reason, "does not descend") {
		t.Errorf("an ancestor of the tip is accepted: %+v", c)
	}
	if c := choose(t, r, source.Query{Base: accepted, Accept: accept}); c.Relation != gitops.Ahead || c.Commit.Hash != tip || c.Accepted != "" {
		t.Errorf("and promoted: %+v", c)
	}
	// A word once spoken does not lead back.
	back := map[gitops.Hash]string{accepted: "x", {1}: "no such commit"}
	p.Push("+" + accepted.String() + "^:refs/heads/main")
	if c := choose(t, r, source.Query{Base: tip, Accept: back}); c.Relation != gitops.Behind || c.Accepted != "" || c.Commit.Subject != "root" {
		t.Errorf("set back below what was accepted: %+v", c)
	}
	if c := choose(t, r, source.Query{Base: base, Accept: map[gitops.Hash]string{base: "again"}}); c.Accepted != "" || c.Relation != gitops.Behind {
		t.Errorf("a commit that is not on the branch: %+v", c)
	}
}

func TestMissingBranch(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.Commit(lab.Commit{})
	p.Push()
	p.Push("HEAD:refs/heads/master-2") // a prefix is not enough
	r := p.open(t, t.TempDir())
	_, err := r.Choose(context.Background(), source.Query{Branch: "master"})
	var missing *source.BranchError
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), `no branch "master"`) || !strings.Contains(missing.Hint(), `"main"`) {
		t.Errorf("got %v", err)
	}
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) {
		t.Error("no hint")
	}
	if _, err := r.Choose(context.Background(), source.Query{Branch: "main", Watch: []string{"[a"}}); err == nil || !strings.Contains(err.Error(), `"[a"`) {
		t.Errorf("a malformed pattern: %v", err)
	}
}

// TestSharedPolls: many images on one repository, one request.
func TestSharedPolls(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	tip := hash(t, p.Commit(lab.Commit{}))
	p.Push()
	p.Push("HEAD:refs/heads/other")
	r, err := source.Open(source.Options{Remote: p.remote(t), Dir: t.TempDir(), MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	choose(t, r, source.Query{Branch: "main"})
	choose(t, r, source.Query{Branch: "other"})
	requests := p.Requests()
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			if i%4 == 0 {
				if err := r.Poll(context.Background()); err != nil {
					t.Error(err)
				}
			}
			if c := choose(t, r, source.Query{Branch: []string{"main", "other"}[i%2], Base: tip}); c.Relation != gitops.Same {
				t.Errorf("%+v", c)
			}
		})
	}
	group.Wait()
	if n := p.Requests() - requests; n > 5 {
		t.Errorf("%d requests for 20 choices and 5 polls", n)
	}
	requests = p.Requests()
	if err := r.Poll(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := p.Requests() - requests; n != 1 {
		t.Errorf("a poll of two branches took %d requests", n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Poll(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestWarmAndColdChooseAlike takes a random history of pushes, merges, resets
// and forced pushes, and asks after each step with a warm cache and with none.
func TestWarmAndColdChooseAlike(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, 3))
			p := newPlace(t)
			warm := p.open(t, t.TempDir())
			all := []string{p.Commit(lab.Commit{Message: "start", Files: map[string]string{"src/a": "0"}})}
			base := hash(t, all[0])
			for step := range 10 {
				any := func() string { return all[random.IntN(len(all))] }
				files := map[string]string{[]string{"src/a", "src/b", "docs/a"}[random.IntN(3)]: fmt.Sprint(random.IntN(4))}
				switch random.IntN(8) {
				case 0:
					p.Work.Git("reset", "--quiet", "--hard", any())
				case 1:
					p.Work.Git("merge", "--quiet", "--no-edit", "--strategy=ours", "--allow-unrelated-histories", any())
					all = append(all, p.Head())
				case 2:
					all = append(all, p.Commit(lab.Commit{Message: "amended", Files: files, Args: []string{"--amend"}}))
				case 3:
					p.Work.Git("checkout", "--quiet", "--orphan", fmt.Sprint("o", step))
					all = append(all, p.Commit(lab.Commit{Message: "orphan", Files: files}))
				default:
					for range 1 + random.IntN(6) {
						all = append(all, p.Commit(lab.Commit{Message: fmt.Sprint("step ", step), Files: files}))
					}
				}
				p.Push("+HEAD:refs/heads/main")
				for range 2 {
					q := source.Query{Branch: "main", Base: base, Watch: []string{"/src"}}
					if random.IntN(3) == 0 {
						q.Accept = map[gitops.Hash]string{hash(t, any()): "reason"}
					}
					coldDir := t.TempDir()
					cold := p.open(t, coldDir)
					w, c := choose(t, warm, q), choose(t, cold, q)
					cold.Close()
					os.RemoveAll(coldDir)
					if diff := cmp.Diff(w, c, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); diff != "" {
						t.Fatalf("step %d: warm and cold differ:\n%s", step, diff)
					}
					if w.Head.Hash.String() != p.Head() {
						t.Fatalf("step %d: head is %s", step, w.Head.Hash)
					}
					if random.IntN(2) == 0 {
						base = w.Commit.Hash
					} else {
						base = hash(t, any())
					}
				}
			}
		})
	}
}

// TestOldServer: protocol version 0 hands out tips only; the base's tree comes
// with the history.
func TestOldServer(t *testing.T) {
	t.Parallel()
	p := newPlace(t, lab.GitOptions{V0: true})
	base := hash(t, p.Commit(lab.Commit{Message: "base", Files: map[string]string{"src/a": "1"}}))
	for i := range 9 {
		p.Commit(lab.Commit{Files: map[string]string{"docs/a": fmt.Sprint(i)}})
	}
	p.Push()
	r := p.open(t, t.TempDir())
	if c := choose(t, r, source.Query{Base: base, Watch: []string{"/src"}}); c.Relation != gitops.Same || c.Commit.Subject != "base" {
		t.Errorf("%+v", c)
	}
	if c := choose(t, r, source.Query{Base: base}); c.Relation != gitops.Ahead || len(c.Commits) != 9 {
		t.Errorf("%+v", c)
	}
}

func TestCommitsAreCapped(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	base := hash(t, p.Commit(lab.Commit{Message: "base"}))
	for i := range 55 {
		p.Commit(lab.Commit{Message: fmt.Sprint("c", i)})
	}
	p.Push()
	c := choose(t, p.open(t, t.TempDir()), source.Query{Base: base})
	if len(c.Commits) != 50 || c.More != 5 || c.Commits[0].Subject != "c54" || c.Commits[49].Subject != "c5" {
		t.Errorf("%d and %d: %s", len(c.Commits), c.More, subjects(c.Commits))
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t)
	var all []string
	for i := range 5 {
		all = append(all, p.Commit(lab.Commit{Message: fmt.Sprint("c", i)}))
	}
	p.Push()
	r := p.open(t, t.TempDir())
	for i, c := range all {
		for _, text := range []string{c, c[:8], strings.ToUpper(c[:10])} {
			if got, err := r.Lookup(ctx, "main", text); err != nil || got.Subject != fmt.Sprint("c", i) {
				t.Errorf("%s: %+v, %v", text, got, err)
			}
		}
	}
	for _, text := range []string{"", "abc", "zzzzzz", "00000000", strings.Repeat("1", 40)} {
		if _, err := r.Lookup(ctx, "main", text); err == nil {
			t.Errorf("%q was found", text)
		}
	}
}
