package fleet

import (
	"context"
	"errors"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

// Rights is what a target allows us, as `towpath check` asks.
type Rights struct {
	// Branch, Ledger: why bumps cannot be pushed to the branch (or to the
	// review branch), and entries to the ledger; nil: they can.
	Branch, Ledger error
	// Atomic: branch and ledger move together. Without it, a crash between the
	// two leaves a ledger behind, which the next start mends.
	Atomic bool
	// Signing is why commits cannot be signed, or are not recognised as ours.
	Signing error
}

// LedgerLost names the guarantees that a server without ledger refs takes away.
const LedgerLost = "what was promoted is told by the branch's history alone: a bump that is squashed, rebased or reset away is forgotten and may be promoted again, and closed reviews do not count as rejected"

// Check tries the rights that a promotion needs and changes nothing. The error is
// about reaching the repository at all: the branch, the path, the review branch.
//
// A right to push can only be found out by pushing. So Check pushes what cannot
// be applied: the refs' old values are wrong. The server runs its rules and hooks
// over it, as over any push, and then refuses it for the old value at the
// latest; that answer says that nothing else was in the way.
func (f *Fleet) Check(ctx context.Context) (Rights, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var rights Rights
	w, err := f.read(ctx)
	if err != nil {
		return rights, f.fault("check", err)
	}
	rights.Signing = f.checkSigning(w)
	caps, err := f.Remote.PushCapabilities(ctx)
	if err != nil {
		rights.Branch, rights.Ledger = err, err
		return rights, nil
	}
	f.caps = &caps
	rights.Atomic = caps.Atomic
	if len(f.PushOptions) > 0 && !caps.PushOptions {
		rights.Branch = wire.ErrPushOptionsUnsupported
	}

	head, err := f.store.Commit(w.head)
	if err != nil {
		return rights, f.fault("check", err)
	}
	wrong := w.head // of a ref that does not exist, any old value is wrong
	if len(head.Parents) > 0 {
		wrong = head.Parents[0]
	}
	if rights.Branch == nil {
		update := wire.Update{Ref: f.branchRef(), Old: wrong, New: w.head}
		switch {
		case f.reviewed():
			// A name beside the review branches, as far as rules by prefix go.
			update = wire.Update{Ref: f.pushRef("towpath-check"), Old: wrong, New: w.head}
			if now := w.refs[update.Ref]; now == wrong {
				update.Old = w.head
			}
		case wrong == w.head:
			update.Old = gitops.Hash{} // the branch has one commit: create what exists
		}
		rights.Branch = f.tryPush(ctx, update)
	}
	// Images are DNS labels, so no ledger ref of an image has this name.
	rights.Ledger = f.tryPush(ctx, wire.Update{Ref: f.ledgerRef("_check"), Old: wrong, New: w.head})
	return rights, nil
}

// tryPush pushes an update that cannot be applied; nil: nothing but its old
// value was in the way.
func (f *Fleet) tryPush(ctx context.Context, u wire.Update) error {
	err := f.Remote.Push(ctx, wire.PushRequest{Updates: []wire.Update{u}, Options: f.pushOptions()})
	var rejected *wire.RejectedError
	switch {
	case err == nil, errors.As(err, &rejected) && contended(rejected):
		return nil
	default:
		return err
	}
}

// checkSigning signs something and asks whether our keys know it.
func (f *Fleet) checkSigning(w *world) error {
	signer, err := f.Signer()
	if err != nil {
		return err // it names the key
	}
	p := newPlan(f.store, signer, nil)
	_, err = f.commit(p, w.tree, w.head, "check\n", f.Author)
	return err
}
