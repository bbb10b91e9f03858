package fleet

import (
	"context"
	"errors"
	"maps"
	"slices"

	"towpath.dev/towpath/gitops"
)

// maxTrace bounds how many commits are followed back to find who wrote a value.
const maxTrace = 5_000

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

// ancestor finds where a commit has a marker from. A parent that has it in the same
// place with the same value is preferred, then one that has it in the same place,
// then the place that it was moved from. nil: the marker began in this commit.
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

// moved looks in a parent for the marker that a commit moved to where it is now.
// It must be of the same policy and field, and gone from its place; and it must have
// had the same value, belong to the same object or be in the same file. Of several
// the one that is most alike counts. nil: there is none.
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

// gone lists the markers that a commit has no longer where its parent has them: it
// removed or moved them. Afterwards c.marked has the parent's.
func (c *comparison) gone(ctx context.Context, commit, parent gitops.Commit) ([]place, error) {
	if len(c.marked) > maxTrees {
		clear(c.marked)
		clear(c.parted)
	}
	then, err := c.past(ctx, parent)
	if err != nil {
		return nil, err
	}
	trees := [2]gitops.Hash{parent.Tree, commit.Tree}
	gone, known := c.parted[trees]
	if known {
		return gone, c.spend(len(gone))
	}
	now, err := c.past(ctx, commit)
	if err != nil {
		return nil, err
	}
	for p := range then {
		if _, still := now[p]; !still {
			gone = append(gone, p)
		}
	}
	slices.SortFunc(gone, place.compare)
	c.parted[trees] = gone
	return gone, c.spend(len(then) + len(now))
}

// past lists what the markers of the image's policy held in a commit.
func (c *comparison) past(ctx context.Context, commit gitops.Commit) (map[place]string, error) {
	if at, known := c.marked[commit.Tree]; known {
		return at, nil
	}
	v, _, err := c.f.scanner.view(ctx, c.f.store, commit.Tree, c.f.path)
	if err == nil {
		for _, file := range slices.Sorted(maps.Keys(v.scans)) {
			if err := c.pay(v.files[file], v.scans[file].cost()); err != nil {
				return nil, err
			}
		}
	}
	at, err := c.f.markers(ctx, commit, c.image.Policy)
	if err == nil {
		c.marked[commit.Tree] = at
	}
	return at, err
}

// maxTrees is how many trees of the past are remembered with all of their markers.
const maxTrees = 8
