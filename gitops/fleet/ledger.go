package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/bump"
	"towpath.dev/towpath/gitops/store"
	"towpath.dev/towpath/gitops/trust"
)

// LedgerError is a ledger ref whose commit is no entry of ours. Whatever wrote
// it, what was promoted is not known, and so nothing is promoted.
type LedgerError struct {
	Ref    string
	Commit gitops.Hash
	Err    error
}

func (e *LedgerError) Error() string {
	return fmt.Sprintf("ledger %s: commit %s: %s", e.Ref, gitops.Short(e.Commit), e.Err)
}

func (e *LedgerError) Unwrap() error { return e.Err }

// Hint says what a person can do about it.
func (e *LedgerError) Hint() string {
	if errors.Is(e.Err, trust.ErrUnknownKey) {
		return "if that key was Towpath's, put its public key into the signing secret as former.pub (SSH) or former.asc (OpenPGP); if it was not, somebody else wrote the ref"
	}
	return "only Towpath may write " + e.Ref + "; find out who did, and set the ref back to the last bump that Towpath signed"
}

// entry is what was promoted last of an image, from the ledger or, where that
// has none, from the branch's history. nil: nothing. behind: the entry is on
// the branch and the ledger does not name it.
//
// Where branch and ledger move together, the ledger alone is asked. Elsewhere
// the branch is pushed first, so we may have died before the ledger followed.
func (f *Fleet) entry(ctx context.Context, w *world, image string) (e *Entry, behind bool, err error) {
	ledger, found := w.refs[f.ledgerRef(image)]
	if found {
		if e, err = f.ledgerEntry(image, ledger); err != nil {
			return nil, false, err
		}
		if atomic, err := f.atomic(ctx); err != nil || atomic {
			return e, false, err
		}
	}
	onBranch, err := f.newestInHistory(ctx, w, image)
	if err != nil || onBranch == nil || e != nil && onBranch.Bump == e.Bump {
		return e, false, err
	}
	if e == nil {
		return onBranch, true, nil
	}
	newer, err := f.follows(ctx, onBranch, e)
	if err != nil || !newer {
		return e, false, err
	}
	return onBranch, true, nil
}

// lost tells whether an image without an entry may have had one. It may where the
// branch's history is longer than a search looks at. How far a search looks depends
// on the branch alone, so every copy of Towpath says the same.
func (f *Fleet) lost(ctx context.Context, w *world, image string, entry *Entry) (*LostError, error) {
	if entry != nil {
		return nil, nil
	}
	chronicle, err := f.history.of(ctx, w.head)
	if err != nil || !chronicle.cut {
		return nil, err
	}
	return &LostError{Image: image, Ref: f.ledgerRef(image), Branch: f.Branch}, nil
}

// ledgerEntry reads and verifies the entry that a ledger ref points to.
func (f *Fleet) ledgerEntry(image string, commit gitops.Hash) (*Entry, error) {
	fault := func(err error) error {
		return &LedgerError{Ref: f.ledgerRef(image), Commit: commit, Err: err}
	}
	r := f.history.records[commit]
	if r == nil || !r.signed {
		c, err := f.store.Commit(commit)
		if errors.Is(err, store.ErrCorrupt) {
			return nil, err
		}
		if err != nil {
			return nil, fault(err)
		}
		if r, err = f.readRecord(c); err != nil {
			return nil, fault(err)
		}
		f.history.records[commit] = r
	}
	if r.Image != image {
		return nil, fault(fmt.Errorf("it is about image %s", r.Image))
	}
	e := r.Entry
	return &e, nil
}

// newestInHistory finds the newest bump of an image that we signed behind the
// branch's tip, or on the review branch.
func (f *Fleet) newestInHistory(ctx context.Context, w *world, image string) (*Entry, error) {
	proposed, err := f.proposals(ctx, w, image)
	if err != nil {
		return nil, err
	}
	if p := proposed.of(image); p != nil {
		return &p.Entry, nil
	}
	chronicle, err := f.history.of(ctx, w.head)
	if err != nil {
		return nil, err
	}
	return chronicle.newest[image], nil
}

// follows tells whether a bump found on the branch was made after the one that
// the ledger names: the ledger then missed it. A bump that the ledger's own
// stands on is older, and so is one from before the branch was set back.
func (f *Fleet) follows(ctx context.Context, found, ledger *Entry) (bool, error) {
	older, err := f.history.contains(ctx, ledger.Bump, found.Bump)
	if err != nil || older {
		return false, err
	}
	newer, err := f.history.contains(ctx, found.Bump, ledger.Bump)
	if err != nil || newer {
		return newer, err
	}
	// Neither stands on the other: the branch was set back and bumped again, or
	// a review branch was rebuilt. Both dates are our own clock's.
	return found.When.After(ledger.When), nil
}

// notReplayed refuses to promote where the ledger was set to another bump of ours
// than the newest, as somebody may do who can push refs. Otherwise what was promoted
// after that bump, and reverted by a person, would be promoted once more.
//
// The ledger was set back where
//   - the branch or the review branch holds a newer bump of ours, or
//   - a squash or a rebase of ours on the branch tells of the very source commit that
//     is to be promoted now.
//
// It is of another repository, whose Towpath has our key and our target's name, where
// it has no history in common with a branch that holds a bump of ours. A branch
// without any bump of ours may be one whose history an administrator began anew: then
// the entry counts, but its image is not written to the branch (Bump.Fill).
//
// One case cannot be seen: a rejected proposal leaves nothing behind once its branch
// is deleted. Who sets the ledger back to before it has it proposed once more, for
// another review.
func (f *Fleet) notReplayed(ctx context.Context, w *world, e *Entry, b Bump) error {
	ledger, found := gitops.Hash{}, false
	if e != nil {
		ledger, found = w.refs[f.ledgerRef(e.Image)]
	}
	if !found || ledger != e.Bump {
		return nil
	}
	newer, cut, err := f.history.since(ctx, e.Bump, w.head)
	if err != nil {
		return err
	}
	fault := func(format string, args ...any) error {
		// A server lists refs one after the other. Where another copy of Towpath has
		// pushed in between, it shows the branch as after that push, and the ledger as
		// before: so nobody is suspected by one look.
		ref := f.ledgerRef(e.Image)
		now, err := f.Remote.Refs(ctx, ref)
		switch {
		case err != nil:
			return err
		case now[ref] != ledger:
			return ErrMoved
		}
		return &LedgerError{Ref: ref, Commit: ledger, Err: fmt.Errorf(format, args...)}
	}
	apart := !cut && whole(newer)
	for _, c := range newer {
		r, err := f.history.recordAt(c)
		if err != nil {
			return err
		}
		if r == nil || r.Image != e.Image {
			continue
		}
		if !r.signed {
			if r.Source == b.Commit.Hash && r.Source != e.Source && !b.Fill && b.Accepted == "" {
				return fault("it was set back: %s on the branch tells that %s was promoted, and the ledger does not know of it", gitops.Short(c.Hash), gitops.Short(r.Source))
			}
			continue
		}
		if apart {
			return fault("it has no history in common with the branch, which holds the bump %s: it is of another repository", gitops.Short(c.Hash))
		}
		newer, err := f.newer(ctx, &r.Entry, e)
		if err != nil {
			return err
		}
		if newer {
			return fault("it was set back: the branch holds the newer bump %s", gitops.Short(c.Hash))
		}
	}
	proposed, err := f.proposals(ctx, w, e.Image)
	if err != nil {
		return err
	}
	if r := proposed.of(e.Image); r != nil && r.Bump != e.Bump {
		newer, err := f.newer(ctx, &r.Entry, e)
		if err != nil {
			return err
		}
		if newer {
			return fault("it was set back: the review branch holds the newer bump %s", gitops.Short(r.Bump))
		}
	}
	if apart && b.Fill && !f.reviewed() {
		return fault("it has no history in common with the branch, so its image does not go where none of ours was")
	}
	return nil
}

// newer tells whether one bump of ours was made after another: because it descends
// from the other or, where neither descends from the other, by our own clock.
func (f *Fleet) newer(ctx context.Context, one, other *Entry) (bool, error) {
	above, err := f.history.contains(ctx, one.Bump, other.Bump)
	return above || one.When.After(other.When), err
}

// whole tells whether these commits are a complete history: every parent of one is
// another of them.
func whole(commits []gitops.Commit) bool {
	among := map[gitops.Hash]bool{}
	for _, c := range commits {
		among[c.Hash] = true
	}
	for _, c := range commits {
		for _, parent := range c.Parents {
			if !among[parent] {
				return false
			}
		}
	}
	return len(commits) > 0
}

// recordOf is history's question: does this commit tell of our promotions? A
// commit that does not parse, is about another target or by somebody else is no
// error here: anybody may write to the branch.
func (f *Fleet) recordOf(c gitops.Commit) (*record, error) {
	raw, err := f.store.RawCommit(c.Hash)
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(raw, []byte("\nTowpath-Image: ")) {
		return nil, nil
	}
	r, err := f.readRecord(c)
	if err == nil {
		return r, nil
	}
	var keys *keysError
	if errors.As(err, &keys) {
		return nil, err
	}
	// A squash or a rebase of our commit carries its words and not its
	// signature. It counts as nothing but a hint that a value is an old one of
	// ours, from which only restraint can follow.
	if t, err := bump.ParseTrailers(message(raw)); err == nil && targetName(t.Target) == f.Name {
		source, _ := gitops.ParseHash(t.Commit) // zero: it tells of none
		return &record{Entry: Entry{Image: t.Image, Ref: t.Ref, Source: source}}, nil
	}
	return nil, nil
}

// keysError says that our own keys could not be read, so that no signature can be
// judged.
type keysError struct{ err error }

func (e *keysError) Error() string { return "our keys: " + e.err.Error() }
func (e *keysError) Unwrap() error { return e.err }

// readRecord reads a commit as an entry of this target, signed by us.
func (f *Fleet) readRecord(c gitops.Commit) (*record, error) {
	raw, err := f.store.RawCommit(c.Hash)
	if err != nil {
		return nil, err
	}
	commit, err := trust.ParseCommit(raw)
	if err != nil {
		return nil, err
	}
	keys, err := f.keys()
	if err != nil {
		return nil, err
	}
	signer, err := keys.VerifyCommit(commit)
	if err != nil {
		return nil, err
	}
	t, err := bump.ParseTrailers(commit.Message)
	if err != nil {
		return nil, err
	}
	if name := targetName(t.Target); name != f.Name {
		return nil, fmt.Errorf("it is about target %s", name)
	}
	source, err := gitops.ParseHash(t.Commit)
	if err != nil {
		return nil, err
	}
	url, ref := splitLast(t.Source)
	return &record{signed: true, Entry: Entry{
		Image: t.Image, Bump: c.Hash, Source: source, SourceURL: url, SourceRef: ref, Policy: t.Policy,
		Ref: t.Ref, Provenance: t.Provenance, Accepted: t.Accepted, AcceptedBefore: t.AcceptedBefore, Observed: t.Observed(),
		When: commit.Committer.When, Signer: signer.String(),
	}}, nil
}

// message is a commit's message, however odd its headers are.
func message(raw []byte) string {
	_, text, _ := bytes.Cut(raw, []byte("\n\n"))
	return string(text)
}

func targetName(trailer string) string {
	name, _, _ := strings.Cut(trailer, " ")
	return name
}

// splitLast parts "URL ref": a URL in the config may hold spaces, a ref cannot.
func splitLast(s string) (first, last string) {
	at := strings.LastIndexByte(s, ' ')
	if at < 0 {
		return s, ""
	}
	return strings.TrimSpace(s[:at]), s[at+1:]
}
