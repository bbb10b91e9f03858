package fleet

import (
	"testing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
)

// arrives asserts how far podinfo's promotion has come in a commit, asked of a
// daemon that knows the past and of one that knows nothing.
func (y *yard) arrives(f *Fleet, commit string, want Arrival) {
	y.t.Helper()
	cold := y.fleet(func(o *Options) {
		dir, remote := o.Dir, o.Remote
		*o = f.Options
		o.Dir, o.Remote = dir, remote
	})
	for name, asked := range map[string]*Fleet{"warm": f, "cold": cold} {
		got, err := asked.Arrival(y.t.Context(), podinfo, mustHash(y.t, commit))
		if err != nil {
			y.t.Fatalf("%s: %v", name, err)
		}
		if got != want {
			y.t.Errorf("%s: arrival %d in %s, want %d\n%s", name, got, commit, want, y.run("log", "--graph", "--oneline", "--all"))
		}
	}
}

func TestArrival(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	before := y.ref("refs/heads/main")
	y.arrives(f, before, Pending) // nothing was promoted

	first := y.promote(f, podinfo, 1).Bump.String()
	y.arrives(f, before, Pending)
	y.arrives(f, first, Arrived)
	later := y.person("main", lab.Commit{Message: "meanwhile", Files: map[string]string{"x": "y"}}).String()
	y.arrives(f, later, Arrived)

	second := y.promote(f, podinfo, 2).Bump.String()
	y.arrives(f, first, Pending)
	y.arrives(f, later, Pending)
	y.arrives(f, second, Arrived)

	y.revert("main", second)
	y.arrives(f, second, Arrived)
	y.arrives(f, y.ref("refs/heads/main"), Departed)

	y.person("main", lab.Commit{Message: "take podinfo away", Remove: []string{podinfoFile}, Files: map[string]string{"clusters/production/other.yaml": "a: b\n"}})
	y.arrives(f, y.ref("refs/heads/main"), Departed)
}

// However a review is merged, its image has arrived with the merge; the
// proposal itself has not, as long as Flux applies another commit.
func TestArrivalOfAReview(t *testing.T) {
	t.Parallel()
	for name, merge := range map[string][][]string{
		"merged":   {{"merge", "-q", "--no-ff", "--no-edit", "origin/" + reviewBranch}},
		"squashed": {{"merge", "-q", "--squash", "origin/" + reviewBranch}, {"commit", "-q", "-m", "Bump podinfo (!1)"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, plainFiles())
			f := y.fleet(forReview)
			proposeSecond(y, f)
			before := y.ref("refs/heads/main")
			y.arrives(f, before, Pending)
			y.works("main", merge...)
			y.run("update-ref", "-d", "refs/heads/"+reviewBranch)
			y.arrives(f, before, Pending)
			y.arrives(f, y.ref("refs/heads/main"), Arrived)
		})
	}
}

func TestArrivalInACommitThatIsNotThere(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	y.promote(f, podinfo, 1)
	if arrival, err := f.Arrival(t.Context(), podinfo, gitops.Hash{1}); err == nil {
		t.Errorf("a commit that nobody has: arrival %d", arrival)
	}
}
