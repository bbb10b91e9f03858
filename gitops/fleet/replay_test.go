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
