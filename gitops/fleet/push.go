package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

// trial is a push that was tried, and what it was to change.
type trial struct {
	plan    *plan
	updates []wire.Update
	err     error
}

// errDiscarded says that the server reported a push as applied, and it was not.
var errDiscarded = errors.New("the server reported success and changed nothing")

// explain adds what became of the last push to an error that came after it.
func (t *trial) explain(err error) error {
	if t == nil || t.err == nil {
		return err
	}
	return fmt.Errorf("%w (the last push: %w)", err, t.err)
}

// moved tells whether a ref that the push was to change has changed meanwhile. If it
// was our push that changed it, confirm has noticed before.
func (t *trial) moved(w *world) bool {
	return slices.ContainsFunc(t.updates, func(u wire.Update) bool { return w.refs[u.Ref] != u.Old })
}

// send pushes what was composed. Its error says little: a push may be applied
// and its answer lost, so the next round reads.
//
// Where the server cannot move refs together, the branch goes first: to die
// between the two leaves a bump on the branch that the ledger does not name,
// which the next reading finds by its signature. The other way round would leave
// a promotion that never was.
func (f *Fleet) send(ctx context.Context, w *world, p *plan) *trial {
	branches, ledgers := p.updates(w)
	t := &trial{plan: p, updates: slices.Concat(branches, ledgers)}
	if len(t.updates) == 0 {
		t.err = errors.New("there is nothing to push")
		return t
	}
	atomic, err := f.atomic(ctx)
	switch {
	case err != nil:
		t.err = err
	case atomic || len(branches) == 0 || len(ledgers) == 0:
		t.err = f.transmit(ctx, t.updates, p, atomic)
	default:
		if t.err = f.transmit(ctx, branches, p, false); t.err == nil {
			t.err = f.transmit(ctx, ledgers, nil, false)
		}
	}
	return t
}

// transmit is one push request.
func (f *Fleet) transmit(ctx context.Context, updates []wire.Update, p *plan, atomic bool) error {
	// Whatever comes of it, what was read before is not to be relied on.
	defer f.readings.forget()
	request := wire.PushRequest{Updates: updates, Atomic: atomic && len(updates) > 1, Options: f.pushOptions()}
	if p != nil {
		var pack bytes.Buffer
		if err := p.objects.Pack(&pack); err != nil {
			return err
		}
		request.Pack = &pack
	}
	if err := f.Remote.Push(ctx, request); err != nil {
		return err
	}
	if p != nil {
		if err := f.store.Keep(p.objects); err != nil {
			f.Log.Debug("keep what was pushed", "target", f.Name, "error", err) // it will be fetched
		}
	}
	return nil
}

// pushOptions are Flux's push.options as git push takes them.
func (f *Fleet) pushOptions() []string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(f.PushOptions)) {
		option := key
		if value := f.PushOptions[key]; value != "" {
			option += "=" + value
		}
		all = append(all, option)
	}
	return all
}

// outcome is why a push has not promoted what it was to promote.
type outcome int

const (
	again   outcome = iota // a race or a lost answer: try once more
	refused                // the server has a rule against something in the push
	broken                 // nothing can be pushed to this server now
)

// examine tells a race from a refusal by what the refs say now: servers have
// many words for the same thing.
func (f *Fleet) examine(w *world, batch []*request, last *trial) outcome {
	if last == nil || last.moved(w) {
		return again
	}
	if last.err == nil {
		last.err = errDiscarded
		return again
	}
	var rejected *wire.RejectedError
	switch {
	case errors.Is(last.err, wire.ErrAtomicUnsupported):
		f.caps = nil // the server has changed its mind
		return again
	case errors.Is(last.err, wire.ErrOutcomeUnknown):
		if retryAfter(last.err) > 0 {
			return broken
		}
		return again
	case !errors.As(last.err, &rejected):
		return broken
	case contended(rejected):
		return again
	case len(batch) > 1:
		return refused
	}
	return f.withoutLedger(w, batch[0], last)
}

// withoutLedger decides, where the server refused a single bump, whether it may
// be the ledger ref that it objects to. A server that knows branches and tags
// only gets the branch alone; that is tried only where it never kept a ledger
// ref of this target, for a ledger that stays behind the branch would have the
// same commit promoted again.
func (f *Fleet) withoutLedger(w *world, r *request, last *trial) outcome {
	switch {
	case r.declined != nil:
		// The branch alone is refused as well: it was not the ledger.
		last.err = r.declined
		return refused
	case f.bare || f.keepsLedger(w):
		return refused
	}
	r.declined = last.err
	return again
}

// contended tells by the server's words whether somebody else was changing a ref at
// the same moment, although it has not moved yet.
func contended(rejected *wire.RejectedError) bool {
	for _, reason := range rejected.Refs {
		reason = strings.ToLower(reason)
		for _, word := range []string{"lock", "failed to update ref", "incorrect old value", "already exists", "fetch first", "stale info"} {
			if strings.Contains(reason, word) {
				return true
			}
		}
	}
	return false
}

// bringForward lets the ledger name a bump that is on the branch already.
func (f *Fleet) bringForward(ctx context.Context, w *world, entry *Entry) error {
	ref := f.ledgerRef(entry.Image)
	if err := f.transmit(ctx, []wire.Update{{Ref: ref, Old: w.refs[ref], New: entry.Bump}}, nil, false); err != nil {
		return err
	}
	w.refs[ref] = entry.Bump
	return nil
}

// Mend brings an image's ledger forward to the bump that is on the branch
// (State.LedgerBehind), as a server without atomic pushes needs after a crash.
// Where there is nothing to mend it does nothing.
func (f *Fleet) Mend(ctx context.Context, image Image) error {
	f.known.add(image)
	f.mu.Lock()
	defer f.mu.Unlock()
	w, err := f.read(ctx)
	if err != nil {
		return f.fault("mend "+image.Name, err)
	}
	entry, behind, err := f.entry(ctx, w, image.Name)
	if err == nil && behind && !f.bare {
		err = f.bringForward(ctx, w, entry)
	}
	if err != nil {
		return f.fault("mend "+image.Name, err)
	}
	return nil
}

// mirror pushes a branch's new head to the ref of Refspec, as Flux does with
// push.refspec. It is no part of the promotion.
func (f *Fleet) mirror(ctx context.Context, w *world, head gitops.Hash) error {
	if f.dst == "" || head.IsZero() || w.refs[f.dst] == head {
		return nil
	}
	old := w.refs[f.dst]
	if !old.IsZero() {
		if err := f.store.Fetch(ctx, []gitops.Hash{old}, 1); err != nil {
			return fmt.Errorf("push to %s: %w", f.dst, err)
		}
		forward, err := f.history.contains(ctx, head, old)
		if err != nil {
			return fmt.Errorf("push to %s: %w", f.dst, err)
		}
		if !forward {
			return fmt.Errorf("push to %s: it holds %s, which is not behind %s: Towpath never forces", f.dst, gitops.Short(old), gitops.Short(head))
		}
	}
	if err := f.transmit(ctx, []wire.Update{{Ref: f.dst, Old: old, New: head}}, nil, false); err != nil {
		return fmt.Errorf("push to %s: %w", f.dst, err)
	}
	w.refs[f.dst] = head
	return nil
}
