package fleet

import (
	"context"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
)

// verdict is how an image stands. It follows from its key alone, so it is
// remembered until the key changes.
type verdict struct {
	key      verdictKey
	standing Standing
	fates    []fate // of the image's markers, in their order
	foreign  *Foreign
	stale    bool
	rejected bool
	unmerged bool
	stranger *Stranger
}

type verdictKey struct {
	head, entry, review gitops.Hash
	policy              marker.Policy
}

// judge gathers what standing depends on. Where all markers hold the entry's
// image, which is nearly always, that needs nothing but the branch's tree;
// history is read only to tell why one does not.
func (f *Fleet) judge(ctx context.Context, w *world, image Image, entry *Entry) (verdict, error) {
	v := verdict{key: verdictKey{head: w.head, policy: image.Policy}}
	if entry != nil {
		v.key.entry = entry.Bump
	}
	if f.reviewed() {
		v.key.review = w.refs[f.reviewRef(image.Name)]
	}
	if known, ok := f.verdicts[image.Name]; ok && known.key == v.key {
		return known, nil
	}

	proposed, err := f.proposals(ctx, w, image.Name)
	if err != nil {
		return verdict{}, err
	}
	v.stranger = proposed.stranger
	find := finding{promoted: entry != nil, observed: entry != nil && entry.Observed}
	v.fates = make([]fate, len(w.view.sites[image.Policy]))
	var c *comparison // nil: every marker holds the entry's image
	if find.promoted && !find.observed {
		if c, err = f.examineMarkers(ctx, w, image, entry, &v); err != nil {
			return verdict{}, err
		}
		if c != nil {
			if find.proposal, err = c.proposal(ctx, proposed); err != nil {
				return verdict{}, err
			}
		}
	}
	find.markers = v.fates
	v.standing = find.standing()
	if v.standing == Undone {
		absent, err := c.absent(ctx)
		if err != nil {
			return verdict{}, err
		}
		v.rejected, v.unmerged = absent && f.reviewed(), absent && !f.reviewed()
	}
	if v.standing == Proposed {
		if v.stale, err = f.stale(ctx, w, image, proposed, entry); err != nil {
			return verdict{}, err
		}
	}
	f.verdicts[image.Name] = v
	return v, nil
}

// examineMarkers fills in what became of each of an image's markers since its
// entry's bump, and who wrote over the first that is taken over. It returns the
// comparison with the history that this took; nil: every marker holds the entry's
// image, and no history had to be read.
func (f *Fleet) examineMarkers(ctx context.Context, w *world, image Image, entry *Entry, v *verdict) (c *comparison, err error) {
	for i, site := range w.view.sites[image.Policy] {
		if holds(site, entry.Ref) {
			continue
		}
		if c == nil {
			if c, err = f.compare(ctx, w, image, entry); err != nil {
				return nil, err
			}
		}
		evidence, err := c.evidence(ctx, site)
		if err != nil {
			return nil, err
		}
		v.fates[i] = evidence.fate()
		if v.fates[i] == foreign && v.foreign == nil {
			if v.foreign, err = c.blame(ctx, site); err != nil {
				return nil, err
			}
		}
	}
	return c, nil
}

// holds tells whether a marker holds an image. With and without the digest both
// count: `pin` may have been changed since, and that waits for the next source
// commit.
func holds(site Found, ref string) bool {
	for _, pin := range []bool{true, false} {
		if site.Value == valueOf(ref, pin).Text(site.Field) {
			return true
		}
	}
	return false
}

// valueOf is what markers hold of a reference, name:tag@digest.
func valueOf(ref string, pin bool) marker.Value {
	name, tag, digest := marker.Split(ref)
	return marker.Value{Name: name, Tag: tag, Digest: digest, Pin: pin}
}
