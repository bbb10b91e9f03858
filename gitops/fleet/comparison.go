package fleet

import (
	"context"
	"errors"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
)

// comparison finds out, for markers that do not hold an entry's image, what became
// of them since the entry's bump. It reads history, and only as much as maxEffort
// allows.
type comparison struct {
	f      *Fleet
	w      *world
	image  Image
	entry  *Entry
	parent *gitops.Commit   // of the bump; nil: it has none
	at     map[place]string // what the markers held in the bump's tree
	traces map[place]*trace // by marker on the branch, as far as they were traced

	left int                  // of maxEffort
	paid map[gitops.Hash]bool // files of the past whose parsing was paid for

	// Remembered of the trees looked at last: what their markers held, and, for
	// two trees, which markers only the first has.
	marked map[gitops.Hash]map[place]string
	parted map[[2]gitops.Hash][]place
}

func (f *Fleet) compare(ctx context.Context, w *world, image Image, entry *Entry) (*comparison, error) {
	bump, err := f.store.Commit(entry.Bump)
	if err != nil {
		return nil, err
	}
	c := &comparison{
		f: f, w: w, image: image, entry: entry, traces: map[place]*trace{}, left: f.effort, paid: map[gitops.Hash]bool{},
		marked: map[gitops.Hash]map[place]string{}, parted: map[[2]gitops.Hash][]place{},
	}
	parents, err := f.history.back(entry.Bump, 1).parents(ctx, bump)
	if err != nil {
		return nil, err
	}
	if len(parents) > 0 {
		c.parent = &parents[0]
	}
	c.at, err = f.markers(ctx, bump, image.Policy)
	return c, err
}

// markers lists what a policy's markers held in a commit of the past.
func (f *Fleet) markers(ctx context.Context, c gitops.Commit, policy marker.Policy) (map[place]string, error) {
	v, _, err := f.scanner.view(ctx, f.store, c.Tree, f.path)
	var link *LinkError
	if errors.As(err, &link) {
		return nil, nil // the path was a link then: no marker counted
	}
	if err != nil {
		return nil, err
	}
	at := make(map[place]string, len(v.sites[policy]))
	for _, site := range v.sites[policy] {
		at[placeOf(site)] = site.Value
	}
	return at, nil
}

// evidence reads what history says about one marker that does not hold the entry's
// image. It asks the cheapest questions first.
func (c *comparison) evidence(ctx context.Context, site Found) (evidence, error) {
	p := placeOf(site)
	then, known := c.at[p]
	wrote := known && c.wrote(p, then)
	if !wrote && (!known || then != site.Value) {
		// The bump knew no such marker. It may be new, or moved here since.
		t, err := c.trace(ctx, site)
		if err != nil {
			return evidence{}, err
		}
		if t.lost {
			// Not knowing is not the same as the marker being new. It counts as taken
			// over, so that nothing is written there.
			return evidence{wrote: true}, nil
		}
		if then, known = c.at[t.origin]; known && c.wrote(t.origin, then) {
			p, wrote = t.origin, true
		}
	}
	if wrote {
		before, err := c.before(ctx, p, site.Value)
		if err != nil || before {
			return evidence{wrote: true, before: before}, err
		}
	}
	older, err := c.older(ctx, site)
	return evidence{wrote: wrote, older: older}, err
}

// wrote tells whether the bump left the entry's image in a marker, which held then
// in the bump's tree.
func (c *comparison) wrote(p place, then string) bool {
	return holds(Found{File: p.File, Site: marker.Site{Policy: p.Policy, Field: p.Field, Path: p.Path, Value: then}}, c.entry.Ref)
}

// before tells whether a marker held a value at any time before the bump.
func (c *comparison) before(ctx context.Context, p place, value string) (bool, error) {
	if c.parent == nil {
		return false, nil
	}
	found, tree := false, gitops.Hash{}
	_, err := c.f.history.walk(ctx, c.f.history.back(c.parent.Hash, shortWay), func(commit gitops.Commit) (step, error) {
		if commit.Tree == tree {
			return onward, nil
		}
		tree = commit.Tree
		then, there, err := c.value(commit.Tree, p)
		if errors.Is(err, errTired) {
			return stop, nil
		}
		if err != nil || !there || then != value {
			return onward, err
		}
		found = true
		return stop, nil
	})
	return found, err
}

// older tells whether a value is of an older promotion of this image.
func (c *comparison) older(ctx context.Context, site Found) (bool, error) {
	chronicle, err := c.f.history.of(ctx, c.w.head)
	if err != nil {
		return false, err
	}
	for ref := range chronicle.refs[c.image.Name] {
		if ref != c.entry.Ref && holds(site, ref) {
			return true, nil
		}
	}
	return false, nil
}

// blame finds out who wrote a value over ours, if maxTrace commits are enough to tell.
func (c *comparison) blame(ctx context.Context, site Found) (*Foreign, error) {
	foreign := &Foreign{File: site.File, Line: site.Line, Value: site.Value}
	t, err := c.trace(ctx, site)
	if err == nil && !t.lost {
		foreign.Author, foreign.Commit = t.writer.Author, t.writer.Hash
	}
	return foreign, err
}
