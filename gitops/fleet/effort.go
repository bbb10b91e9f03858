package fleet

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"towpath.dev/towpath/gitops"
)

// maxEffort bounds what one comparison looks at of the past, in marker.Weight: as
// much YAML as was made to be slow is parsed in some seconds. Whoever commits ever
// other versions of a large file, or thousands of markers, has us go by what was
// seen until then; and what is not known is a reason to write nothing. It counts
// what is looked at and not what is remembered, so that every copy of Towpath
// stops at the same place.
const maxEffort = 1 << 23

// maxTime is how long one reading, one judgement or one attempt to promote may
// take, whatever the server sends and whatever is in it. All of them take seconds
// but for the first fetch of a repository, which may be large and far away.
const maxTime = time.Hour

// slow makes a SlowError of what failed since that time was over.
func (f *Fleet) slow(ctx context.Context, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &SlowError{After: f.patience, Err: err}
	}
	return err
}

// perLook is what looking up a marker in a tree of the past costs beside that.
const perLook = 64

// errTired: more of the past would have to be looked at than is.
var errTired = errors.New("too much to look at")

func (c *comparison) spend(effort int) error {
	if c.left -= effort; c.left < 0 {
		return errTired
	}
	return nil
}

// pay spends what parsing a file of the past costs, once.
func (c *comparison) pay(blob gitops.Hash, weight int) error {
	if c.paid[blob] {
		return nil
	}
	c.paid[blob] = true
	return c.spend(weight)
}

// value is what a marker held in a tree of the past.
func (c *comparison) value(tree gitops.Hash, p place) (value string, found bool, err error) {
	if err := c.spend(perLook); err != nil {
		return "", false, err
	}
	return c.f.scanner.value(c.f.store, tree, p, c.pay)
}

// gone lists the markers of a parent that a commit has no more where they were.
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

// maxTrees is of how many trees of the past it is kept what all markers held.
const maxTrees = 8

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
