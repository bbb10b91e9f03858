package fleet

import (
	"fmt"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
)

// TestThePastIsReadOnce: all images of a batch ask what came after their bumps,
// which is mostly the same commits. They are read, and asked whether they tell of
// a promotion, once, and not once for every image: with a hundred images that is
// most of what a batch costs.
func TestThePastIsReadOnce(t *testing.T) {
	const commits = 40
	y := newYard(t, plainFiles())
	f := y.fleet()
	first := y.promote(f, podinfo, 1)
	y.works("main")
	for n := range commits {
		y.pat.Commit(lab.Commit{Message: fmt.Sprint("change ", n), Files: map[string]string{"README.md": fmt.Sprint(n)}})
	}
	y.pat.Push("HEAD:main")
	head := y.state(f, podinfo).Head

	asked := map[gitops.Hash]int{}
	h := newHistory(f.store, func(c gitops.Commit) (*record, error) {
		asked[c.Hash]++
		return f.recordOf(c)
	})
	after := func() {
		newer, _, err := h.since(t.Context(), first.Bump, head)
		if err != nil || len(newer) != commits {
			t.Fatalf("%d commits came after the first bump, %v; want %d", len(newer), err, commits)
		}
		for _, c := range newer {
			if _, err := h.recordAt(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	after()
	after()
	for hash, times := range asked {
		if times != 1 {
			t.Errorf("commit %s was asked %d times", hash, times)
		}
	}
	// To read one allocates some twenty times: its bytes, what unpacks them, names.
	if each := testing.AllocsPerRun(5, after) / commits; each > 8 {
		t.Errorf("looking at a commit again allocates %.0f times: it is read again", each)
	}
}

// TestCommitsMadeLargeAreNotRemembered: what is remembered of the past is bounded
// by commits, so that none may be larger than a person's.
func TestCommitsMadeLargeAreNotRemembered(t *testing.T) {
	y := newYard(t, plainFiles())
	f := y.fleet()
	first := y.promote(f, podinfo, 1)
	y.works("main")
	args := []string{"commit-tree", "HEAD^{tree}", "-m", "Octopus"}
	for n := range maxParents + 1 {
		y.pat.Commit(lab.Commit{Message: fmt.Sprint("arm ", n), Files: map[string]string{"README.md": fmt.Sprint(n)}})
		args = append(args, "-p", y.pat.Head())
	}
	octopus := strings.TrimSpace(y.pat.Git(args...))
	y.pat.Git("reset", "--quiet", "--hard", octopus)
	y.pat.Push("HEAD:main")
	head := y.state(f, podinfo).Head

	h := newHistory(f.store, f.recordOf)
	newer, _, err := h.since(t.Context(), first.Bump, head)
	if err != nil || len(newer) != maxParents+2 {
		t.Fatalf("%d commits came after the first bump, %v; want %d", len(newer), err, maxParents+2)
	}
	if _, kept := h.commits[head]; kept || len(h.commits) < maxParents {
		t.Errorf("%d commits are remembered, that of %d parents among them: %t", len(h.commits), maxParents+1, kept)
	}
}
