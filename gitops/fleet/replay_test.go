package fleet

import (
	"errors"
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
