package fleet

import (
	"context"
	"errors"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
)

// maxTrace bounds how many commits are followed back to find who wrote a value.
const maxTrace = 5_000

// verdict is how an image stands, and what that was concluded from: with the
// same key, the same verdict.
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
	sites := w.view.sites[image.Policy]
	v.fates = make([]fate, len(sites))
	var c *comparison // where a marker does not hold the entry's image
	if find.promoted && !find.observed {
		for i, site := range sites {
			if holds(site, entry.Ref) {
				continue
			}
			if c == nil {
				if c, err = f.compare(ctx, w, image, entry); err != nil {
					return verdict{}, err
				}
			}
			evidence, err := c.evidence(ctx, site)
			if err != nil {
				return verdict{}, err
			}
			v.fates[i] = evidence.fate()
			if v.fates[i] == foreign && v.foreign == nil {
				if v.foreign, err = c.blame(ctx, site); err != nil {
					return verdict{}, err
				}
			}
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

func valueOf(ref string, pin bool) marker.Value {
	name, tag, digest := marker.Split(ref)
	return marker.Value{Name: name, Tag: tag, Digest: digest, Pin: pin}
}

// comparison is one entry's bump against the branch.
type comparison struct {
	f      *Fleet
	w      *world
	image  Image
	entry  *Entry
	parent *gitops.Commit   // of the bump; nil: it has none
	at     map[place]string // what the markers held in the bump's tree
	traces map[place]*trace // by marker on the branch

	left   int                              // of maxEffort
	paid   map[gitops.Hash]bool             // files of the past that were paid for
	marked map[gitops.Hash]map[place]string // by tree: what markers held there, of the trees looked at last
	parted map[[2]gitops.Hash][]place       // by two trees: the markers that only the first has, of those looked at last
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

// evidence reads what history says about a marker that does not hold the entry's
// image, the cheapest questions first.
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
			return evidence{wrote: true}, nil // unknown is never "new": do not write there
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

// wrote: the bump left the entry's image in this marker.
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

// blame finds who wrote a value over ours.
func (c *comparison) blame(ctx context.Context, site Found) (*Foreign, error) {
	foreign := &Foreign{File: site.File, Line: site.Line, Value: site.Value}
	t, err := c.trace(ctx, site)
	if err == nil && !t.lost {
		foreign.Author, foreign.Commit = t.writer.Author, t.writer.Hash
	}
	return foreign, err
}

// trace is where a marker of the branch, and its value, come from.
type trace struct {
	writer gitops.Commit // the commit that gave it its value
	// origin is where the marker was in the bump's tree, or where it began if it
	// was not there: it may have been moved since.
	origin place
	lost   bool // not found within maxTrace commits
}

// trace follows a marker back, through moves of its file and within it, until it
// is known who wrote its value and where it was when the bump was made.
func (c *comparison) trace(ctx context.Context, site Found) (*trace, error) {
	start := placeOf(site)
	if t, ok := c.traces[start]; ok {
		return t, nil
	}
	at, err := c.f.store.Commit(c.w.head)
	if err != nil {
		return nil, err
	}
	t, value, written := &trace{origin: start, lost: true}, site.Value, false
	back := c.f.history.back(c.w.head, shortWay)
	for range maxTrace {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		parents, err := back.parents(ctx, at)
		if err != nil {
			return nil, err
		}
		from, err := c.ancestor(ctx, at, parents, t.origin, value)
		if errors.Is(err, errTired) {
			break
		}
		if err != nil {
			return nil, err
		}
		if !written && (from == nil || from.value != value) {
			t.writer, written = at, true
		}
		if _, known := c.at[t.origin]; from == nil || written && known {
			t.lost = false
			break
		}
		at, t.origin, value = from.commit, from.place, from.value
	}
	c.traces[start] = t
	return t, nil
}

// forebear is a marker in a parent commit.
type forebear struct {
	commit gitops.Commit
	place  place
	value  string
}

// ancestor finds the marker in a commit's parents, rather where it has the same
// value, else where it is, else where it was moved from. nil: it began here.
func (c *comparison) ancestor(ctx context.Context, commit gitops.Commit, parents []gitops.Commit, p place, value string) (*forebear, error) {
	var other *forebear
	for _, parent := range parents {
		then, found, err := value, true, error(nil)
		if parent.Tree != commit.Tree {
			then, found, err = c.value(parent.Tree, p)
		}
		if err != nil {
			return nil, err
		}
		if found && then == value {
			return &forebear{parent, p, then}, nil
		}
		if found && other == nil {
			other = &forebear{parent, p, then}
		}
	}
	if other != nil {
		return other, nil
	}
	for _, parent := range parents {
		from, err := c.moved(ctx, commit, parent, p, value)
		if err != nil {
			return nil, err
		}
		if from != nil && (other == nil || other.value != value && from.value == value) {
			other = from
		}
	}
	return other, nil
}

// moved looks in a parent for the marker that a commit put elsewhere: one that
// is no longer where it was, of the same policy and field, and that had the same
// value, or belongs to the same object, or was in the same file. nil: none.
func (c *comparison) moved(ctx context.Context, commit, parent gitops.Commit, p place, value string) (*forebear, error) {
	gone, err := c.gone(ctx, commit, parent)
	if err != nil {
		return nil, err
	}
	then := c.marked[parent.Tree]
	var from *forebear
	best := 0
	for _, q := range gone {
		if q.Field != p.Field || q.Policy != p.Policy {
			continue
		}
		likeness := 0
		if then[q] == value {
			likeness += 4
		}
		if q.Path == p.Path {
			likeness += 2
		}
		if q.File == p.File {
			likeness++
		}
		if likeness > best {
			best, from = likeness, &forebear{parent, q, then[q]}
		}
	}
	return from, nil
}

// proposal tells how the entry's bump stands in review. A branch that still
// holds it is no open proposal if what it wrote once reached the branch: merged
// and then reverted looks the same as never merged, but for that.
func (c *comparison) proposal(ctx context.Context, proposed *proposals) (proposal, error) {
	p := proposal{open: proposed.holds(c.entry.Bump)}
	if !p.open || c.parent == nil {
		return p, nil
	}
	var err error
	p.landed, _, err = c.landedSince(ctx, proposed.base)
	return p, err
}

// absent tells whether the branch, as it is now, never held what the bump wrote.
func (c *comparison) absent(ctx context.Context) (bool, error) {
	if c.parent == nil {
		return false, nil
	}
	landed, cut, err := c.landedSince(ctx, c.parent.Hash)
	return !landed && !cut, err
}

// landedSince tells whether what the bump wrote reached the branch after a commit.
// cut: there are more commits than were looked at.
func (c *comparison) landedSince(ctx context.Context, base gitops.Hash) (landed, cut bool, err error) {
	since, cut, err := c.f.history.since(ctx, base, c.w.head)
	if err != nil {
		return false, false, err
	}
	wrote := c.written()
	for _, commit := range since {
		if err := ctx.Err(); err != nil {
			return false, cut, err
		}
		landed, err := c.landed(commit, wrote)
		if errors.Is(err, errTired) {
			return true, cut, nil // perhaps it was: it is not proposed again
		}
		if err != nil || landed {
			return landed, cut, err
		}
	}
	return false, cut, nil
}

// written lists the markers that the bump left holding the entry's image.
func (c *comparison) written() []place {
	var wrote []place
	for p, then := range c.at {
		if c.wrote(p, then) {
			wrote = append(wrote, p)
		}
	}
	return wrote
}

// landed: in this commit of the branch, every marker that the bump wrote and
// that exists there holds its image.
func (c *comparison) landed(commit gitops.Commit, wrote []place) (bool, error) {
	there := 0
	for _, p := range wrote {
		then, found, err := c.value(commit.Tree, p)
		if err != nil {
			return false, err
		}
		if found && !c.wrote(p, then) {
			return false, nil
		}
		if found {
			there++
		}
	}
	return there > 0, nil
}
