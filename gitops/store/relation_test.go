package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
	"towpath.dev/towpath/gitops/wire"
)

// grow makes a random history of n commits in a bare repository, with merges of
// old branches and several roots, and returns the commits.
func grow(t testing.TB, bare string, random *rand.Rand, n int) []string {
	t.Helper()
	var b strings.Builder
	for i := 1; i <= n; i++ {
		// Dates jump: nobody may rely on them.
		date := 1767323045 + 60*i + random.IntN(4000) - 2000
		fmt.Fprintf(&b, "commit refs/heads/b%d\nmark :%d\ncommitter Ada <ada@example.com> %d +0100\ndata 3\nc%02d\n", i, i, date, i%100)
		parents := 1
		switch r := random.IntN(20); {
		case i == 1 || r == 0:
			parents = 0
		case r < 5:
			parents = 2
		case r == 5:
			parents = 3
		}
		seen := map[int]bool{}
		for p := range parents {
			parent := max(1, i-1-random.IntN(3))
			if random.IntN(6) == 0 {
				parent = 1 + random.IntN(i-1)
			}
			if seen[parent] {
				continue
			}
			seen[parent] = true
			word := "merge"
			if p == 0 {
				word = "from"
			}
			fmt.Fprintf(&b, "%s :%d\n", word, parent)
		}
		content := fmt.Sprint("content ", i, "\n", strings.Repeat("same\n", random.IntN(30)))
		fmt.Fprintf(&b, "M 100644 inline dir%d/file%d\ndata %d\n%s\n", i%3, random.IntN(8), len(content), content)
	}
	cmd := exec.Command("git", "fast-import", "--quiet", "--force", "--export-marks="+filepath.Join(bare, "marks"))
	cmd.Dir, cmd.Stdin = bare, strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("fast-import: %v\n%s", err, out)
	}
	var commits []string
	for i := 1; i <= n; i++ {
		commits = append(commits, strings.TrimSpace(lab.RunGit(t, bare, "rev-parse", fmt.Sprintf("refs/heads/b%d", i))))
	}
	return commits
}

// relation is what real git says.
func relation(t testing.TB, bare, base, candidate string) gitops.Relation {
	t.Helper()
	ancestor := func(a, b string) bool {
		_, err := lab.TryGit(bare, "merge-base", "--is-ancestor", a, b)
		return err == nil
	}
	switch {
	case base == candidate:
		return gitops.Same
	case ancestor(base, candidate):
		return gitops.Ahead
	case ancestor(candidate, base):
		return gitops.Behind
	}
	return gitops.Unrelated
}

// TestRelationLikeGit asks for random pairs of random histories, with a copy
// that has seen all questions before and with an empty one.
func TestRelationLikeGit(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			random := rand.New(rand.NewPCG(seed, 7))
			p := newPlace(t)
			commits := grow(t, p.bare(), random, 20+random.IntN(60))
			dir := t.TempDir()
			warm := openStore(t, dir, p.remote(t))
			for range 9 {
				base, tip := commits[random.IntN(len(commits))], commits[random.IntN(len(commits))]
				want := relation(t, p.bare(), base, tip)
				wantList := without(t, p.bare(), base, tip)
				cold := openStore(t, t.TempDir(), p.remote(t))
				for name, s := range map[string]*store.Store{"warm": warm, "cold": cold} {
					got, err := s.Relation(ctx, hash(t, base), hash(t, tip))
					if err != nil || got != want {
						t.Fatalf("%s: relation of %s to %s: %v, %v; git says %v", name, tip, base, got, err, want)
					}
					checkBetween(t, s, base, tip, wantList)
				}
				cold.Close()
			}
			fsck(t, dir)
		})
	}
}

// without lists the commits of tip that base has not. "rev-list base..tip" trusts
// dates too far to be asked.
func without(t testing.TB, bare, base, tip string) []string {
	t.Helper()
	has := strings.Fields(lab.RunGit(t, bare, "rev-list", base))
	return slices.DeleteFunc(strings.Fields(lab.RunGit(t, bare, "rev-list", tip)), func(c string) bool {
		return slices.Contains(has, c)
	})
}

func checkBetween(t testing.TB, s *store.Store, base, tip string, want []string) {
	t.Helper()
	list, more, err := s.Between(context.Background(), hash(t, base), hash(t, tip), 1000)
	if err != nil || more != 0 {
		t.Fatalf("between: %v, %d more", err, more)
	}
	var got []string
	place := map[gitops.Hash]int{}
	for i, c := range list {
		got = append(got, c.Hash.String())
		place[c.Hash] = i
	}
	for i, c := range list {
		for _, parent := range c.Parents {
			if at, ok := place[parent]; ok && at < i {
				t.Errorf("%s comes after its parent %s", c.Hash, parent)
			}
		}
	}
	if len(got) > 0 && got[0] != tip {
		t.Errorf("the list begins with %s, not with the tip", got[0])
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("between %s and %s: got %v, want %v", base, tip, got, want)
	}
	part, more, err := s.Between(context.Background(), hash(t, base), hash(t, tip), 2)
	if err != nil || len(part) != min(2, len(list)) || more != len(list)-len(part) {
		t.Errorf("cut to 2: %d and %d more of %d, %v", len(part), more, len(list), err)
	}
}

func TestRelationEasyCases(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t)
	a := hash(t, p.Commit(lab.Commit{}))
	p.Push()
	s := openStore(t, t.TempDir(), p.remote(t))
	if got, err := s.Relation(ctx, gitops.Hash{}, a); got != gitops.NoBase || err != nil {
		t.Errorf("no base: %v, %v", got, err)
	}
	if got, err := s.Relation(ctx, a, a); got != gitops.Same || err != nil {
		t.Errorf("same: %v, %v", got, err)
	}
	if got, err := s.Relation(ctx, a, gitops.Hash{1}); got != gitops.Unknown || !errors.Is(err, wire.ErrNotAdvertised) {
		t.Errorf("no such candidate: %v, %v", got, err)
	}
}

// TestRelationFetchesLittle: the usual case, a few commits on top of the base,
// does not bring the whole history.
func TestRelationFetchesLittle(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t)
	var commits []string
	for i := range 60 {
		commits = append(commits, p.Commit(lab.Commit{Files: map[string]string{"f": fmt.Sprint(i)}}))
	}
	p.Push()
	s := openStore(t, t.TempDir(), p.remote(t))
	base, tip := hash(t, commits[56]), hash(t, commits[59])
	if err := s.Fetch(ctx, []gitops.Hash{base}, 1); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Relation(ctx, base, tip); got != gitops.Ahead || err != nil {
		t.Fatalf("%v, %v", got, err)
	}
	if s.Has(hash(t, commits[40])) {
		t.Error("far more was fetched than needed")
	}
}

// forced makes a repository whose branch was replaced by a forced push and the
// old commits collected: base is one of them, tip the new branch.
func forced(t testing.TB, p *place, tipBelowBase bool) (base, tip string) {
	t.Helper()
	p.Commit(lab.Commit{Files: map[string]string{"f": "1"}})
	root := p.Commit(lab.Commit{Files: map[string]string{"f": "2"}})
	base = p.Commit(lab.Commit{Files: map[string]string{"f": "3"}})
	p.Push("HEAD:refs/heads/main")
	p.Work.Git("reset", "--quiet", "--hard", root)
	tip = root
	if !tipBelowBase {
		tip = p.Commit(lab.Commit{Files: map[string]string{"f": "4"}})
	}
	return base, tip
}

func TestRelationBaseGone(t *testing.T) {
	t.Parallel()
	for _, below := range []bool{false, true} {
		t.Run(fmt.Sprint("below=", below), func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			p := newPlace(t)
			base, tip := forced(t, p, below)
			warm := openStore(t, t.TempDir(), p.remote(t))
			if err := warm.Fetch(ctx, []gitops.Hash{hash(t, base)}, 0); err != nil {
				t.Fatal(err)
			}
			p.Push("+HEAD:refs/heads/main")

			want := relation(t, p.bare(), base, tip)
			for name, s := range map[string]*store.Store{"warm": warm, "cold": openStore(t, t.TempDir(), p.remote(t))} {
				if got, err := s.Relation(ctx, hash(t, base), hash(t, tip)); got != want || err != nil {
					t.Errorf("%s, not yet collected: %v, %v; want %v", name, got, err, want)
				}
			}
			lab.RunGit(t, p.bare(), "reflog", "expire", "--expire=now", "--all")
			lab.RunGit(t, p.bare(), "gc", "--quiet", "--prune=now")
			for name, s := range map[string]*store.Store{"warm": warm, "cold": openStore(t, t.TempDir(), p.remote(t))} {
				if got, err := s.Relation(ctx, hash(t, base), hash(t, tip)); got != gitops.Unrelated || err != nil {
					t.Errorf("%s, collected: %v, %v", name, got, err)
				}
			}
		})
	}
}

// TestRelationOldServer: a server of protocol version 0 hands out tips only.
func TestRelationOldServer(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t, lab.GitOptions{V0: true})
	var commits []string
	for i := range 12 {
		commits = append(commits, p.Commit(lab.Commit{Files: map[string]string{"f": fmt.Sprint(i)}}))
	}
	p.Push()
	warm := openStore(t, t.TempDir(), p.remote(t))
	tip := hash(t, commits[11])
	ask := func(want gitops.Relation, base, candidate gitops.Hash) {
		t.Helper()
		for name, s := range map[string]*store.Store{"warm": warm, "cold": openStore(t, t.TempDir(), p.remote(t))} {
			if got, err := s.Relation(ctx, base, candidate); got != want || err != nil {
				t.Errorf("%s: %v, %v; want %v", name, got, err, want)
			}
		}
	}
	ask(gitops.Ahead, hash(t, commits[3]), tip)
	ask(gitops.Ahead, hash(t, commits[10]), tip)
	p.Work.Git("checkout", "--quiet", "--orphan", "other")
	other := hash(t, p.Commit(lab.Commit{Message: "other"}))
	p.Push("HEAD:refs/heads/other")
	ask(gitops.Unrelated, tip, other)
	ask(gitops.Unrelated, hash(t, commits[5]), other)
	checkBetween(t, warm, commits[3], commits[11], slices.Clone(commits[4:]))
}

// TestRelationShallowServer: what the server does not have itself is never "no".
func TestRelationShallowServer(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t)
	var commits []string
	for i := range 10 {
		commits = append(commits, p.Commit(lab.Commit{Files: map[string]string{"f": fmt.Sprint(i)}}))
	}
	p.Push()
	lab.RunGit(t, "", "clone", "--quiet", "--bare", "--depth=4", "file://"+p.bare(), p.Git.Dir("cut.git"))
	remote, err := wire.New(wire.Options{URL: p.RepoURL("cut.git")})
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	s := openStore(t, t.TempDir(), remote)
	if got, err := s.Relation(ctx, hash(t, commits[7]), hash(t, commits[9])); got != gitops.Ahead || err != nil {
		t.Errorf("within what it has: %v, %v", got, err)
	}
	if got, err := s.Relation(ctx, hash(t, commits[2]), hash(t, commits[9])); got != gitops.Unknown || !errors.Is(err, store.ErrHistoryCut) {
		t.Errorf("beyond what it has: %v, %v", got, err)
	}
	if complete, err := s.Deepen(ctx, hash(t, commits[9]), 10); complete || !errors.Is(err, store.ErrHistoryCut) {
		t.Errorf("deepened beyond what it has: %v, %v", complete, err)
	}
}

// TestRelationServerAway: no answer is no "no".
func TestRelationServerAway(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newPlace(t, lab.GitOptions{Middleware: func(next http.Handler) http.Handler {
		n := 0
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n++; n > 4 {
				http.Error(w, "away", http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	var commits []string
	for i := range 10 {
		commits = append(commits, p.Commit(lab.Commit{Files: map[string]string{"f": fmt.Sprint(i)}}))
	}
	lab.RunGit(t, p.Work.Dir, "push", "--quiet", p.bare(), "HEAD:refs/heads/main")
	s := openStore(t, t.TempDir(), p.remote(t))
	if got, err := s.Relation(ctx, hash(t, commits[0]), hash(t, commits[9])); got != gitops.Unknown || err == nil {
		t.Errorf("%v, %v", got, err)
	}
}
