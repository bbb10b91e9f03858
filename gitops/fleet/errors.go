package fleet

import (
	"errors"
	"fmt"
	"time"

	"towpath.dev/towpath/gitops"
)

var (
	// ErrMoved: the image's ledger entry is not the one that the bump was
	// decided on, or what the bump was to mend is no longer so. Decide again.
	ErrMoved = errors.New("the ledger has moved since this was decided")
	// ErrPromoted: the ledger names this source commit already and no person
	// accepted it anew, or the person's word for it was used before.
	ErrPromoted = errors.New("this source commit was promoted or proposed already")
	// ErrNoMarker: nothing to edit. Wrapped in a NoMarkerError.
	ErrNoMarker = errors.New("no marker")
	// ErrForeign: somebody else wrote over our value. Wrapped in a ForeignError.
	ErrForeign = errors.New("taken over")
	// ErrStranger: a commit that is not ours is on the review branch. Wrapped
	// in a StrangerError.
	ErrStranger = errors.New("the review branch is not ours alone")
	// ErrBusy: others moved the branch every time. Try again soon.
	ErrBusy = errors.New("the branch moved under every attempt")
	// ErrLedgerNeeded: the server keeps no ledger refs, and without them this
	// cannot be recorded anywhere.
	ErrLedgerNeeded = errors.New("the server refuses ledger refs")
)

// NoMarkerError says where a marker was looked for.
type NoMarkerError struct{ Policy, Path, Branch string }

func (e *NoMarkerError) Error() string {
	return fmt.Sprintf("no marker for policy %s below %s on branch %s", e.Policy, e.Path, e.Branch)
}
func (e *NoMarkerError) Unwrap() error { return ErrNoMarker }

// Hint shows the comment that is missing.
func (e *NoMarkerError) Hint() string {
	return fmt.Sprintf(`put the comment # {"$imagepolicy": "%s"} behind the image's value in a .yaml or .yml file`, e.Policy)
}

// ForeignError is a refusal to write over somebody else's value.
type ForeignError struct {
	Image   string
	Foreign Foreign
}

func (e *ForeignError) Error() string {
	by := "somebody"
	if !e.Foreign.Commit.IsZero() {
		by = fmt.Sprintf("%s in commit %s", gitops.Line(e.Foreign.Author.Name, 60), gitops.Short(e.Foreign.Commit))
	}
	return fmt.Sprintf("%s was taken over: %s:%d holds %q, written by %s", e.Image, gitops.Line(e.Foreign.File, 200), e.Foreign.Line, gitops.Line(e.Foreign.Value, 200), by)
}
func (e *ForeignError) Unwrap() error { return ErrForeign }

// Hint says how to give the marker back.
func (e *ForeignError) Hint() string {
	return "set the value back to the one before, or accept the source commit in the config (source.accept), and Towpath writes it again"
}

// StrangerError is a refusal to build upon, or to remove, somebody else's
// commit on the review branch.
type StrangerError struct{ Stranger Stranger }

func (e *StrangerError) Error() string {
	c := e.Stranger.Commit
	return fmt.Sprintf("review branch %s holds commit %s by %s, which is not ours: %s", e.Stranger.Branch, gitops.Short(c.Hash), gitops.Line(c.Author.Name, 60), e.Stranger.Reason)
}
func (e *StrangerError) Unwrap() error { return ErrStranger }

// Hint says how to go on.
func (e *StrangerError) Hint() string {
	return "merge or delete the branch, or take the commit off it; a branch that people or other targets write to cannot be push.branch"
}

// NoBranchError: the branch of the target does not exist.
type NoBranchError struct{ Branch string }

func (e *NoBranchError) Error() string { return fmt.Sprintf("there is no branch %s", e.Branch) }

// Hint names the config key.
func (e *NoBranchError) Hint() string {
	return "git.checkout.ref.branch names the branch that Flux applies; it needs a first commit"
}

// NoPathError: the target's path does not exist on the branch.
type NoPathError struct{ Path, Branch string }

func (e *NoPathError) Error() string {
	return fmt.Sprintf("there is no %s on branch %s", gitops.Line(e.Path, 200), e.Branch)
}

// Hint names the config key.
func (e *NoPathError) Hint() string { return "update.path is relative to the repository's root" }

// LinkError: a path leads through a symbolic link, which is never followed.
type LinkError struct{ Path, Link string }

func (e *LinkError) Error() string {
	return fmt.Sprintf("%s leads through %s, a symbolic link: never followed", gitops.Line(e.Path, 200), gitops.Line(e.Link, 200))
}

// Hint names the config key.
func (e *LinkError) Hint() string { return "name the real directory in update.path" }

// PartedError: the ledger names a bump of ours, and the branch that went with it in
// one push does not hold it.
type PartedError struct{ Ref, Branch, Image string }

func (e *PartedError) Error() string {
	return fmt.Sprintf("%s names the bump, and branch %s does not hold it: the server moved one and not the other, or somebody took the bump off the branch at once", e.Ref, e.Branch)
}

// Hint says how to have it promoted nevertheless.
func (e *PartedError) Hint() string {
	return "look for what keeps branch " + e.Branch + " from moving (a hook, a rule of the forge); then have the source commit promoted once more by naming it in " + e.Image + "'s source.accept, or push the next one"
}

// LostError: there is no ledger entry of an image, and the branch's history is too
// long to tell that there never was one. A ledger that was lost is no new start.
type LostError struct{ Image, Ref, Branch string }

func (e *LostError) Error() string {
	return fmt.Sprintf("whether %s was promoted before cannot be told: there is no %s, none of the newest %d commits of %s is a bump of it, and there are more", e.Image, e.Ref, maxHistory, e.Branch)
}

// Hint says how to go on in either case.
func (e *LostError) Hint() string {
	return "if it was, set " + e.Ref + " to its last bump; if it never was, name the source commit to begin with in source.accept, with a reason"
}

// TooMuchError: below the target's path lies more than is looked through, so that
// nothing can be said of any of its markers: one that was not seen may be ours.
type TooMuchError struct{ What string }

func (e *TooMuchError) Error() string { return e.What }

// Hint names the config key.
func (e *TooMuchError) Hint() string {
	return "let update.path name what this target applies, or part it into several targets with a path each"
}

// SlowError: the repository was still being read after a time that no repository
// takes. The next attempt begins with what has come until then.
type SlowError struct {
	After time.Duration
	Err   error
}

func (e *SlowError) Error() string {
	return fmt.Sprintf("given up after %s: %s", e.After, e.Err)
}
func (e *SlowError) Unwrap() error { return e.Err }

// Hint says where to look.
func (e *SlowError) Hint() string {
	return "the server is slow or the repository is huge: see how long git fetch takes from here; what is read below update.path should be what this target applies"
}

// ProblemError is a file that could not be edited, so that nothing was left to
// commit.
type ProblemError struct{ Problems []Problem }

func (e *ProblemError) Error() string {
	p := e.Problems[0]
	text := fmt.Sprintf("%s: %s", gitops.Line(p.File, 200), p.Text)
	if p.Line > 0 {
		text = fmt.Sprintf("%s:%d: %s", gitops.Line(p.File, 200), p.Line, p.Text)
	}
	if more := len(e.Problems) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}
