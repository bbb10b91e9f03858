package fleet

import (
	"context"

	"towpath.dev/towpath/gitops"
)

// Arrival is how far an image's newest promotion has come in one commit of the
// target's repository, such as the one that Flux has applied.
type Arrival int

const (
	// Pending: the commit is older than the promotion.
	Pending Arrival = iota
	// Arrived: every marker of the image, in this commit, holds what was
	// promoted, however it came there: by the bump itself, by a merge or squash
	// of its review, or by hand.
	Arrived
	// Departed: the promotion is part of the commit's history, and its markers
	// hold something else by now.
	Departed
)

// Arrival tells whether a commit holds an image's newest promotion. It is read
// from the commit and its history, by hash, whether the branch still has it or
// has moved on. Without a promotion it is Pending.
func (f *Fleet) Arrival(ctx context.Context, image Image, commit gitops.Hash) (Arrival, error) {
	f.known.add(image)
	w, err := f.readings.get(ctx, f)
	if err != nil {
		return Pending, f.fault("read", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	arrival, err := f.arrival(ctx, w, image, commit)
	if f.damaged(err) {
		arrival, err = f.arrival(ctx, w, image, commit)
	}
	if err != nil {
		return Pending, f.fault("read "+gitops.Short(commit), err)
	}
	return arrival, nil
}

func (f *Fleet) arrival(ctx context.Context, w *world, image Image, commit gitops.Hash) (Arrival, error) {
	if err := f.fetchLedgers(ctx, w); err != nil {
		return Pending, err
	}
	entry, _, err := f.entry(ctx, w, image.Name)
	if err != nil || entry == nil || entry.Observed {
		return Pending, err
	}
	if !f.store.Has(commit) {
		if err := f.store.Fetch(ctx, []gitops.Hash{commit}, 1); err != nil {
			return Pending, err
		}
	}
	at, err := f.store.Commit(commit)
	if err != nil {
		return Pending, err
	}
	view, _, err := f.scanner.view(ctx, f.store, at.Tree, f.path)
	if err != nil {
		return Pending, err
	}
	sites := view.sites[image.Policy]
	arrived := len(sites) > 0
	for _, site := range sites {
		arrived = arrived && holds(site, entry.Ref)
	}
	if arrived {
		return Arrived, nil
	}
	behind, err := f.history.contains(ctx, commit, entry.Bump)
	if err != nil || !behind {
		return Pending, err
	}
	return Departed, nil
}
