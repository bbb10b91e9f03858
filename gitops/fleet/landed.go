package fleet

import (
	"context"
	"errors"

	"towpath.dev/towpath/gitops"
)

// proposal tells how the entry's bump stands in review. A review branch that still
// holds the bump is an open proposal, unless what the bump wrote has been on the
// branch since: then it was merged and later reverted. The markers alone do not tell
// that from a review which was never merged.
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
			return true, cut, nil // perhaps it has landed, so it is not proposed again
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

// landed tells whether, in this commit of the branch, every marker that the bump
// wrote and that is still there holds its image.
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
