package fleet

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// TestLedgerSetBack is somebody who may push refs, and perhaps not to the
// branch, and sets the ledger back to an older bump of ours: what was promoted
// since, and perhaps reverted by a person, is not promoted once more.
func TestLedgerSetBack(t *testing.T) {
	t.Parallel()
	for name, reverted := range map[string]bool{"reverted": true, "standing": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, plainFiles())
			f := y.fleet()
			first := y.promote(f, podinfo, 1)
			second := y.promote(f, podinfo, 2)
			if reverted {
				y.revert("main", second.Bump.String())
				y.stands(f, podinfo, Undone)
			}
			y.run("update-ref", "refs/towpath/production/podinfo", first.Bump.String())
			f.readings.forget()
			s, err := f.Promoted(t.Context(), podinfo)
			if err == nil {
				_, err = f.Promote(t.Context(), bumpTo(podinfo, 2, s))
			}
			var ledger *LedgerError
			if !errors.As(err, &ledger) {
				t.Errorf("the second source commit: %v; want a ledger error\n%s", err, y.run("log", "--oneline", "main"))
			}
		})
	}
}

// TestLedgerSetBackBehindAReview: in a target whose bumps are reviewed, what was
// proposed since is told by the review branch, and by what came of it on the branch.
func TestLedgerSetBackBehindAReview(t *testing.T) {
	t.Parallel()
	remove := []string{"update-ref", "-d", "refs/heads/" + reviewBranch}
	for name, c := range map[string]struct {
		do   [][]string // in a person's clone of main
		next bool       // the next source commit is promoted all the same
	}{
		"open":                 {nil, false},
		"merged":               {[][]string{{"merge", "-q", "--ff-only", "origin/" + reviewBranch}}, false},
		"merged, undone":       {[][]string{{"merge", "-q", "--no-ff", "--no-edit", "origin/" + reviewBranch}, {"revert", "--no-edit", "-m", "1", "HEAD"}}, false},
		"rebased, then undone": {[][]string{{"commit", "-q", "--allow-empty", "-m", "x"}, {"cherry-pick", "origin/" + reviewBranch}, {"revert", "--no-edit", "HEAD"}}, true},
		"squashed, undone": {[][]string{
			{"merge", "-q", "--squash", "origin/" + reviewBranch}, {"commit", "-q", "-C", "origin/" + reviewBranch}, {"revert", "--no-edit", "HEAD"},
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, plainFiles())
			f := y.fleet(forReview)
			second := proposeSecond(y, f)
			first := y.run("rev-parse", second.Bump.String()+"^")
			if name != "open" {
				y.works("main", c.do...)
				y.run(remove...)
				y.state(f, podinfo) // a warm cache has seen it all
			}
			y.run("update-ref", "refs/towpath/production/podinfo", first)
			head, review := y.ref("main"), y.ref("refs/heads/"+reviewBranch)
			for _, f := range []*Fleet{f, y.fleet(forReview)} {
				f.readings.forget()
				_, err := f.Promote(t.Context(), bumpTo(podinfo, 2, y.state(f, podinfo)))
				var ledger *LedgerError
				if !errors.As(err, &ledger) || !strings.Contains(err.Error(), "set back") {
					t.Errorf("the second source commit: %v; want a ledger error", err)
				}
				if y.ref("main") != head || y.ref("refs/heads/"+reviewBranch) != review || y.ledger("podinfo") != first {
					t.Fatalf("something was pushed:\n%s", y.run("log", "--graph", "--oneline", "--all"))
				}
			}
			_, err := f.Promote(t.Context(), bumpTo(podinfo, 3, y.state(f, podinfo)))
			if (err == nil) != c.next {
				t.Errorf("the next one: %v", err)
			}
		})
	}
}

// TestLedgerSetBackBySlowClock is the same where this machine's clock went back
// between the two bumps, or both were made within a second: which of them is the
// newer one, the branch tells.
func TestLedgerSetBackBySlowClock(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]int64{"a day": -24 * 60 * 60, "within a second": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, plainFiles())
			f := y.fleet()
			first := y.promote(f, podinfo, 1)
			at := y.clock.Load()
			y.clock.Store(at + back)
			second := y.promote(f, podinfo, 2)
			y.revert("main", second.Bump.String())
			y.stands(f, podinfo, Undone)
			y.run("update-ref", "refs/towpath/production/podinfo", first.Bump.String())
			f.readings.forget()
			s, err := f.Promoted(t.Context(), podinfo)
			if err == nil {
				_, err = f.Promote(t.Context(), bumpTo(podinfo, 2, s))
			}
			var ledger *LedgerError
			if !errors.As(err, &ledger) {
				t.Errorf("the second source commit: %v; want a ledger error\n%s", err, y.run("log", "--format=%ct %s", "main"))
			}
			// Set right, it goes on.
			y.run("update-ref", "refs/towpath/production/podinfo", second.Bump.String())
			f.readings.forget()
			y.clock.Store(at + 60)
			y.promote(f, podinfo, 3)
		})
	}
}

// TestLedgerDeleted: without its ref, an image's promotions are found in the
// branch's history, and it is no new start.
func TestLedgerDeleted(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	bump := y.promote(f, podinfo, 1)
	y.run("update-ref", "-d", "refs/towpath/production/podinfo")
	f.readings.forget()
	s, err := f.Promoted(t.Context(), podinfo)
	if err != nil || s.Entry == nil || s.Entry.Bump != bump.Bump {
		t.Errorf("entry %+v, %v; want %s", s.Entry, err, bump.Bump)
	}
}

// TestLedgerDeletedLongAgo: where an image's last bump is further back than anybody
// looks, and its ledger ref is gone, nobody can tell that there was one. That is an
// error, and a person's word ends it. Where all of the history was seen, it is the
// first promotion.
func TestLedgerDeletedLongAgo(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	bump := y.promote(f, podinfo, 1)
	y.revert("main", bump.Bump.String())
	y.run("update-ref", "-d", "refs/towpath/production/podinfo")
	y.grow(maxHistory - 1)
	if s := y.stands(f, podinfo, Unpromoted); s.Lost == nil || s.Entry != nil {
		t.Fatalf("lost %v, entry %+v", s.Lost, s.Entry)
	}
	head := y.ref("main")
	for _, f := range []*Fleet{f, y.fleet()} {
		s := y.state(f, podinfo)
		for what, b := range map[string]Bump{
			"the same commit":    bumpTo(podinfo, 1, s),
			"the next one":       bumpTo(podinfo, 2, s),
			"a start to observe": {Image: podinfo, Commit: source(1), Observe: true},
		} {
			_, err := f.Promote(t.Context(), b)
			var lost *LostError
			if !errors.As(err, &lost) || !strings.Contains(lost.Hint(), "refs/towpath/production/podinfo") || !strings.Contains(lost.Hint(), "source.accept") {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := f.Preview(t.Context(), bumpTo(podinfo, 2, s)); err == nil {
			t.Error("a preview of what is not promoted")
		}
	}
	if y.ref("main") != head || y.ledger("podinfo") != "" {
		t.Fatal("something was promoted")
	}
	// Set right, the ledger counts however long ago that was.
	y.run("update-ref", "refs/towpath/production/podinfo", bump.Bump.String())
	if s := y.stands(f, podinfo, Undone); s.Lost != nil {
		t.Error(s.Lost)
	}
	// A person who says that there was none is believed, for one commit.
	y.run("update-ref", "-d", "refs/towpath/production/podinfo")
	b := bumpTo(podinfo, 2, y.state(f, podinfo))
	b.Accepted = "there was none"
	if _, err := f.Promote(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if s := y.stands(f, podinfo, Holds); s.Lost != nil || s.Entry.Accepted != b.Accepted {
		t.Errorf("lost %v, entry %+v", s.Lost, s.Entry)
	}
}

// TestFirstOfALongHistory: a branch whose history is as long as is looked at, and
// not longer, has been seen whole.
func TestFirstOfALongHistory(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	y.grow(maxHistory - 1)
	f := y.fleet()
	if s := y.stands(f, podinfo, Unpromoted); s.Lost != nil {
		t.Fatal(s.Lost)
	}
	y.promote(f, podinfo, 1)
	y.stands(f, podinfo, Holds)
}

// grow puts commits that change nothing onto main.
func (y *yard) grow(by int) {
	y.t.Helper()
	var b strings.Builder
	for n := range by {
		fmt.Fprintf(&b, "commit refs/heads/main\ncommitter Pat Platform <pat@example.com> %d +0000\ndata 4\nmore\n", y.clock.Load())
		if n == 0 {
			fmt.Fprintf(&b, "from %s\n", y.ref("main"))
		}
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Stdin = y.dir, strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		y.t.Fatalf("fast-import: %v\n%s", err, out)
	}
}

// TestLedgerOfAnotherRepository is two GitOps repositories whose targets have
// one name and whose Towpaths have one key, and somebody who may push refs to
// one, and perhaps not to its branch, and puts a bump of the other there.
func TestLedgerOfAnotherRepository(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		files    map[string]string
		prepare  func(*yard, *Fleet)
		standing Standing
	}{
		"what was rolled back would be promoted again": {plainFiles(), func(y *yard, f *Fleet) {
			bump := y.promote(f, podinfo, 2)
			y.revert("main", bump.Bump.String())
		}, Undone},
		"the other's image would go where there is a marker": {
			map[string]string{"clusters/production/elsewhere.yaml": deployment("podinfo", placeholder)},
			func(*yard, *Fleet) {}, Unfilled,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			theirs := plainFiles()
			theirs["README.md"] = "# another fleet\n"
			y, other := newYard(t, c.files), newYard(t, theirs)
			other.secret, other.allowed = y.secret, y.allowed
			f := y.fleet()
			c.prepare(y, f)
			other.clock.Store(y.clock.Load() + 1000)
			replayed := other.promote(other.fleet(), podinfo, 1)
			head := y.ref("main")
			y.run("fetch", "--quiet", other.dir, "+"+replayed.Bump.String()+":refs/towpath/production/podinfo")
			for _, f := range []*Fleet{f, y.fleet()} {
				f.readings.forget()
				s := y.state(f, podinfo)
				if s.Standing != c.standing {
					t.Fatalf("standing %q", s.Standing)
				}
				b := bumpTo(podinfo, 2, s)
				b.Fill = s.Standing == Unfilled
				_, err := f.Promote(t.Context(), b)
				var ledger *LedgerError
				if !errors.As(err, &ledger) || ledger.Hint() == "" {
					t.Errorf("standing %q, promoted: %v", s.Standing, err)
				}
				if y.ref("main") != head {
					t.Fatalf("the branch has moved:\n%s", y.run("log", "-p", "-1", "main"))
				}
			}
		})
	}
}

// TestHistoryBegunAnew: an administrator who replaces the branch by one without a
// past forgets nothing, and the next source commit is promoted.
func TestHistoryBegunAnew(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	y.promote(f, podinfo, 1)
	y.works("main", []string{"checkout", "-q", "--orphan", "anew"}, []string{"commit", "-q", "-m", "all of it"}, []string{"branch", "-f", "main"})
	s := y.stands(f, podinfo, Holds)
	if _, err := f.Promote(t.Context(), bumpTo(podinfo, 1, s)); !errors.Is(err, ErrPromoted) {
		t.Errorf("the same commit again: %v", err)
	}
	y.promote(f, podinfo, 2)
	y.stands(f, podinfo, Holds)
	y.sound()
}
