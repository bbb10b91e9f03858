package fleet

import (
	"context"

	"towpath.dev/towpath/gitops"
)

// chronicle is what the whole history behind one commit says of this target.
type chronicle struct {
	tip    gitops.Hash
	newest map[string]*Entry          // by image: the newest bump that we signed
	refs   map[string]map[string]bool // by image: every Towpath-Ref, signed or not
	seen   map[gitops.Hash]bool
	cut    bool // the bound was reached, and there is more
}

// of returns the chronicle of a tip. Where the tip grew out of the one before, only
// the commits that are new are read.
func (h *history) of(ctx context.Context, tip gitops.Hash) (*chronicle, error) {
	if h.last != nil && h.last.tip == tip {
		return h.last, nil
	}
	c, grown, err := h.tell(ctx, tip, h.last)
	if err == nil && !grown {
		c, _, err = h.tell(ctx, tip, nil)
	}
	if err != nil {
		return nil, err
	}
	h.last = c
	return c, nil
}

// tell reads the history behind a tip, down to the tip of the chronicle before, and
// adds what that tells. grown is false where it cannot be added: the new tip reaches
// commits of the chronicle before by a way that avoids its tip, so that others of its
// commits may not be behind the new tip at all. Without a chronicle before, the whole
// history is read.
func (h *history) tell(ctx context.Context, tip gitops.Hash, before *chronicle) (c *chronicle, grown bool, err error) {
	c = &chronicle{tip: tip, newest: map[string]*Entry{}, refs: map[string]map[string]bool{}, seen: map[gitops.Hash]bool{}}
	met, astray := false, false
	by := longWay
	if before != nil {
		by = shortWay
	}
	c.cut, err = h.walk(ctx, h.back(tip, by), func(commit gitops.Commit) (step, error) {
		if before != nil && commit.Hash == before.tip {
			met = true
			return prune, nil
		}
		if before != nil && before.seen[commit.Hash] {
			astray = true
			return stop, nil
		}
		c.seen[commit.Hash] = true
		r, err := h.recordAt(commit)
		if err != nil || r == nil {
			return onward, err
		}
		c.add(r)
		return onward, nil
	})
	if err != nil || astray || before == nil {
		return c, before == nil, err
	}
	if !met || c.cut || before.cut {
		return c, false, nil
	}
	c.extend(before)
	return c, true, nil
}

func (c *chronicle) add(r *record) {
	if r.signed && c.newest[r.Image] == nil {
		e := r.Entry
		c.newest[r.Image] = &e
	}
	if r.Ref != "" {
		if c.refs[r.Image] == nil {
			c.refs[r.Image] = map[string]bool{}
		}
		c.refs[r.Image][r.Ref] = true
	}
}

// extend adds what an older chronicle tells.
func (c *chronicle) extend(before *chronicle) {
	for hash := range before.seen {
		c.seen[hash] = true
	}
	for image, e := range before.newest {
		if c.newest[image] == nil {
			c.newest[image] = e
		}
	}
	for image, refs := range before.refs {
		if c.refs[image] == nil {
			c.refs[image] = map[string]bool{}
		}
		for ref := range refs {
			c.refs[image][ref] = true
		}
	}
}
