package fleet

import (
	"errors"
	"strings"
	"testing"
)

// A person's word for a source commit counts once, whatever was promoted since
// and however that got onto the branch.
func TestAcceptedOnce(t *testing.T) {
	t.Parallel()
	accept := func(y *yard, f *Fleet, n int) error {
		y.t.Helper()
		b := bumpTo(podinfo, n, y.state(f, podinfo))
		b.Accepted = "Pat says so"
		_, err := f.Promote(y.t.Context(), b)
		return err
	}
	squash := func(y *yard) {
		y.works("main", []string{"merge", "-q", "--squash", "origin/" + reviewBranch}, []string{"commit", "-q", "-m", "Bump podinfo (!1)"})
	}
	for name, c := range map[string]struct {
		change func(*Options)
		land   func(*yard)
	}{
		"on the branch":                   {func(*Options) {}, func(*yard) {}},
		"squashed in review":              {forReview, squash},
		"the branch is reset in between":  {func(*Options) {}, func(y *yard) { y.works("main", []string{"reset", "-q", "--hard", "HEAD^"}) }},
		"rejected in review, so never on": {forReview, func(y *yard) { y.run("update-ref", "-d", "refs/heads/"+reviewBranch) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, plainFiles())
			f := y.fleet(c.change)
			for n := 1; n <= 2; n++ {
				y.promote(f, podinfo, n)
				c.land(y)
			}
			for _, n := range []int{1, 2} { // back, and forth again
				if err := accept(y, f, n); err != nil {
					t.Fatalf("accept %d: %v", n, err)
				}
				c.land(y)
			}
			y.promote(f, podinfo, 3)
			c.land(y)
			for _, f := range []*Fleet{f, y.fleet(c.change)} {
				for _, n := range []int{1, 2} {
					s := y.state(f, podinfo)
					if s.Entry.Accepts(source(n).Hash) {
						t.Errorf("the entry %+v does not know that commit %d was accepted", s.Entry, n)
					}
					if err := accept(y, f, n); !errors.Is(err, ErrPromoted) {
						t.Errorf("accept %d again: %v", n, err)
					}
				}
				if s := y.state(f, podinfo); !s.Entry.Accepts(source(3).Hash) || !s.Entry.Accepts(source(4).Hash) {
					t.Errorf("the entry %+v takes others for accepted, too", s.Entry)
				}
			}
			if err := accept(y, f, 4); err != nil {
				t.Error(err)
			}
			y.sound()
		})
	}
}

// TestAcceptedIsBounded: an entry forgets the oldest words only.
func TestAcceptedIsBounded(t *testing.T) {
	t.Parallel()
	e := &Entry{}
	for n := range 3 * maxAccepted {
		e = &Entry{Source: source(n).Hash, Accepted: "yes", AcceptedBefore: e.acceptedSoFar()}
	}
	if n := len(strings.Fields(e.acceptedSoFar())); n != maxAccepted {
		t.Errorf("%d words", n)
	}
	for n := range maxAccepted {
		if e.Accepts(source(3*maxAccepted - 1 - n).Hash) {
			t.Errorf("the word %d ago is forgotten", n)
		}
	}
}
