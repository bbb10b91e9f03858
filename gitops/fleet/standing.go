package fleet

// This file decides how an image stands. It is a pure function over what was
// found: it reads nothing, remembers nothing, and two Towpaths that found the
// same decide alike.

// finding is everything that an image's standing depends on.
type finding struct {
	promoted bool // there is an entry
	observed bool // and it promoted nothing
	markers  []fate
	proposal proposal
}

// proposal is how the entry's bump stands on the review branch.
type proposal struct {
	open   bool // the review branch exists and holds the bump
	landed bool // the branch once held what the bump wrote: it was merged, squashed or rebased
}

// fate is what became of one marker since the entry's bump.
type fate int

const (
	held    fate = iota // it holds the entry's image
	fresh               // it never held a value of ours
	undone              // it holds what it held before the bump, or an older value of ours
	foreign             // we wrote it, and somebody wrote something new over it
)

// standing decides.
func (f finding) standing() Standing {
	switch {
	case len(f.markers) == 0:
		return NoMarker
	case !f.promoted:
		return Unpromoted
	case f.observed:
		return Observed
	case f.any(foreign):
		// Even while a proposal waits: merging it would overwrite a person.
		return TakenOver
	case !f.any(undone) && !f.any(fresh):
		return Holds
	case f.proposal.open && !f.proposal.landed:
		return Proposed
	case f.any(undone):
		// Also where some markers are new: one person's word against the
		// image weighs more than another's wish for it.
		return Undone
	default:
		return Unfilled
	}
}

func (f finding) any(which fate) bool {
	for _, m := range f.markers {
		if m == which {
			return true
		}
	}
	return false
}

// evidence is what history says about a marker that does not hold the entry's
// image.
type evidence struct {
	// wrote: the entry's bump wrote this marker, or the one that was moved
	// here since.
	wrote bool
	// before: the value is one that this marker held before the bump.
	before bool
	// older: the value is of an older promotion of this image.
	older bool
}

// fate judges one marker. A value that a marker held before is a rollback,
// whoever had written it; on a marker that is new to us only a value of ours
// is, since a new cluster's placeholder is often a copy of an old one's.
func (e evidence) fate() fate {
	switch {
	case e.older, e.wrote && e.before:
		return undone
	case e.wrote:
		return foreign
	default:
		return fresh
	}
}
