package fleet

import (
	"context"
	"slices"
	"strings"

	"towpath.dev/towpath/gitops"
)

// entries lists what was promoted last of every image that the ledger has an entry
// for, in the order of the images' names, whether they are in the config or not. An
// entry that cannot be trusted is left out; fault is the first such.
func (f *Fleet) entries(ctx context.Context, w *world) (all []Entry, fault error) {
	var images []string
	var missing []gitops.Hash
	for ref, commit := range w.refs {
		if image, ok := strings.CutPrefix(ref, f.ledgerPrefix()); ok {
			images = append(images, image)
			missing = append(missing, commit)
		}
	}
	slices.Sort(images)
	if err := f.store.Fetch(ctx, missing, 1); err != nil {
		return nil, err
	}
	for _, image := range images {
		e, err := f.ledgerEntry(image, w.refs[f.ledgerRef(image)])
		if err != nil {
			if fault == nil {
				fault = err
			}
			continue
		}
		all = append(all, *e)
	}
	return all, fault
}

// Lookup finds promotions by what somebody holds in hand: a bump's hash, a source
// commit's, a digest or a reference, whole or their first characters (at least
// seven). The ledger is searched first and then the history behind it; newest
// first, at most most.
func (f *Fleet) Lookup(ctx context.Context, what string, most int) ([]Entry, error) {
	if len(what) < 7 {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w, err := f.read(ctx)
	if err != nil {
		return nil, f.fault("look up", err)
	}
	named, fault := f.entries(ctx, w)
	var found []Entry
	seen := map[gitops.Hash]bool{}
	add := func(e Entry) bool {
		if e.matches(what) && !seen[e.Bump] {
			seen[e.Bump] = true
			found = append(found, e)
		}
		return len(found) < most
	}
	for _, e := range named {
		add(e)
	}
	if len(found) < most {
		_, err = f.history.walk(ctx, f.history.back(w.head, longWay), func(c gitops.Commit) (step, error) {
			r, err := f.history.recordAt(c)
			if err != nil || r == nil || !r.signed || add(r.Entry) {
				return onward, err
			}
			return stop, nil
		})
		if err != nil {
			return nil, f.fault("look up", err)
		}
	}
	if len(found) == 0 && fault != nil {
		return nil, f.fault("look up", fault)
	}
	return found[:min(len(found), most)], nil
}

func (e Entry) matches(what string) bool {
	_, digest, _ := strings.Cut(e.Ref, "@")
	for _, text := range []string{e.Bump.String(), e.Source.String(), digest, strings.TrimPrefix(digest, "sha256:"), e.Ref} {
		if strings.HasPrefix(text, what) {
			return true
		}
	}
	return false
}
