package fleet

import (
	"context"
	"slices"
	"strings"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

// remaining lists what a push has not changed although it has changed something
// else: atomic or not, a server that dies while it moves refs may leave that
// behind, and so may one whose hooks judge refs one by one.
func (t *trial) remaining(w *world) []wire.Update {
	var left []wire.Update
	applied := false
	for _, u := range t.updates {
		switch w.refs[u.Ref] {
		case u.New:
			applied = true
		case u.Old:
			left = append(left, u)
		}
	}
	if !applied {
		return nil
	}
	return left
}

// complete pushes what the last push left undone, in the order that a server
// without atomic pushes gets, and tells whether the world has to be read again.
// Each ref is compared with what it was, as in the push before.
//
// A branch that stands where it stood although the server reported success was
// perhaps set back by a person or a hook, at once: that is not ours to undo.
func (f *Fleet) complete(ctx context.Context, w *world, last *trial) bool {
	if last == nil || last.plan == nil {
		return false
	}
	left := last.remaining(w)
	branches := slices.DeleteFunc(slices.Clone(left), func(u wire.Update) bool { return !strings.HasPrefix(u.Ref, "refs/heads/") })
	ledgers := slices.DeleteFunc(left, func(u wire.Update) bool { return strings.HasPrefix(u.Ref, "refs/heads/") })
	if len(branches) > 0 && last.err == nil || len(branches)+len(ledgers) == 0 {
		return false
	}
	var err error
	if len(branches) > 0 {
		err = f.transmit(ctx, branches, last.plan, false)
	}
	if err == nil && len(ledgers) > 0 {
		err = f.transmit(ctx, ledgers, last.plan, false)
	}
	if err != nil {
		last.err = err
	}
	return true
}

// arrived checks that the branch holds a bump which the ledger names: only then
// it is what Flux gets. A server may have said so and not done it.
func (f *Fleet) arrived(ctx context.Context, w *world, image string, p *Promotion, last *trial) error {
	if p.Branch == "" {
		return nil
	}
	tip := w.refs["refs/heads/"+p.Branch]
	if tip == p.Head || tip == p.Bump {
		return nil
	}
	// Somebody may have pushed on top of it, or merged its review, before we looked.
	for _, above := range []gitops.Hash{tip, w.head} {
		if above.IsZero() || !f.store.Has(above) {
			continue
		}
		holds, err := f.history.contains(ctx, above, p.Bump)
		if err != nil || holds {
			return err
		}
	}
	return last.explain(&PartedError{Ref: f.ledgerRef(image), Branch: p.Branch, Image: image})
}
