package fleet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// A random history of people, resets, key rotations and lost caches: after each
// step a daemon with a warm cache and one with none decide alike, and what is
// promoted is never promoted again.
func TestRandomHistory(t *testing.T) {
	t.Parallel()
	for _, review := range []bool{false, true} {
		for seed := range uint64(2) {
			t.Run(fmt.Sprintf("review=%v/%d", review, seed), func(t *testing.T) {
				t.Parallel()
				random(t, seed, review)
			})
		}
	}
}

func random(t *testing.T, seed uint64, review bool) {
	dice := rand.New(rand.NewPCG(seed, 7))
	y := newYard(t, plainFiles())
	change := func(*Options) {}
	if review {
		change = forReview
	}
	f := y.fleet(change)
	next, promoted := 1, map[string]bool{}
	var told []string
	defer func() {
		if t.Failed() {
			t.Logf("seed %d:\n%s", seed, strings.Join(told, "\n"))
		}
	}()
	for range 12 {
		s := y.stands(f, podinfo, y.state(f, podinfo).Standing)
		told = append(told, fmt.Sprint("is ", s.Standing))
		switch {
		case s.Stranger != nil:
			// main was set back behind what the proposals stand on: to merge them
			// now would bring back what was taken away.
			if _, err := f.Promote(t.Context(), bumpTo(podinfo, next, s)); !errors.Is(err, ErrStranger) {
				t.Fatalf("over somebody's commits: %v", err)
			}
			y.run("update-ref", "-d", "refs/heads/"+reviewBranch)
			told = append(told, "stranger, close")
			continue
		case s.Standing == TakenOver:
			if _, err := f.Promote(t.Context(), bumpTo(podinfo, next, s)); !errors.Is(err, ErrForeign) {
				t.Fatalf("over somebody's value: %v", err)
			}
			y.write(value(podinfo, next-1)) // given back
			told = append(told, "given back")
			continue
		case s.Standing == Unfilled || s.Stale:
			if _, err := f.Promote(t.Context(), Bump{Image: podinfo, Base: s.Entry.Source, BaseBump: s.Entry.Bump, Fill: true}); err != nil {
				t.Fatalf("fill: %v", err)
			}
			told = append(told, "fill")
		case dice.IntN(2) == 0:
			p := y.promote(f, podinfo, next)
			told = append(told, fmt.Sprint("promote ", next, " as ", p.Bump))
			source := source(next).Hash.String()
			if promoted[source] {
				t.Fatalf("promoted twice: %s", source)
			}
			promoted[source] = true
			next++
		}
		if s.Entry != nil && !s.Stale && s.Standing != Unfilled {
			again := bumpTo(podinfo, next-1, y.state(f, podinfo))
			if _, err := f.Promote(t.Context(), again); !errors.Is(err, ErrPromoted) && !errors.Is(err, ErrForeign) {
				t.Fatalf("the same commit again: %v", err)
			}
		}
		told = append(told, y.disturb(dice, &f, change, next))
	}
	if !review {
		y.sound()
	}
}

// disturb is one thing that people do.
func (y *yard) disturb(dice *rand.Rand, f **Fleet, change func(*Options), next int) string {
	proposed := y.ref("refs/heads/"+reviewBranch) != ""
	switch n := dice.IntN(12); {
	case n == 0 && y.run("rev-list", "--count", "main") != "1":
		y.run("update-ref", "refs/heads/main", "main~1")
		return "reset main"
	case n == 1 && y.ledger("podinfo") != "" && lastIsPlain(y):
		y.revert("main", "HEAD")
		return "revert the last"
	case n == 2:
		y.person("main", lab.Commit{Message: "noise", Files: map[string]string{"noise": fmt.Sprint(dice.Int())}})
		return "noise"
	case n == 3 && next > 2:
		y.write(value(podinfo, 1+dice.IntN(next-1)))
		return "an old value"
	case n == 4 && next > 1:
		y.write("registry.example.com/apps/podinfo:somebody-" + fmt.Sprint(dice.IntN(3)))
		return "somebody's value"
	case n == 5 && next > 1:
		y.person("main", lab.Commit{Message: "cluster", Files: map[string]string{
			fmt.Sprintf("clusters/production/c%d.yaml", dice.IntN(3)): deployment("podinfo", placeholder)}})
		return "a new cluster"
	case n == 6:
		former := append(append([]byte{}, y.secret["former.pub"]...), y.secret["identity.pub"]...)
		y.newKey()
		y.secret["former.pub"] = former
		*f = y.fleet(change)
		return "a new key, no cache"
	case n == 7:
		*f = y.fleet(change)
		return "no cache"
	case n == 8 && proposed:
		y.works("main", []string{"merge", "-q", "--squash", "-X", "theirs", "origin/" + reviewBranch}, []string{"commit", "-q", "--allow-empty", "-m", "squash"})
		return "squash"
	case n == 9 && proposed:
		y.works("main", []string{"merge", "-q", "--no-edit", "-X", "theirs", "origin/" + reviewBranch})
		return "merge"
	case n == 10 && proposed:
		y.run("update-ref", "-d", "refs/heads/"+reviewBranch)
		return "close"
	}
	return "nothing"
}

// lastIsPlain: the last commit of main is no merge and changes something.
func lastIsPlain(y *yard) bool {
	return len(strings.Fields(y.run("show", "-s", "--format=%P", "main"))) == 1 && y.run("diff-tree", "-r", "--no-commit-id", "main") != ""
}
