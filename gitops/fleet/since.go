package fleet

import (
	"container/heap"
	"context"

	"towpath.dev/towpath/gitops"
)

// since lists the commits behind tip that are not behind base, newest first, as
// `git rev-list base..tip` does. cut: there may be more, which were not looked at.
func (h *history) since(ctx context.Context, base, tip gitops.Hash) (commits []gitops.Commit, cut bool, err error) {
	p := &painting{sides: map[gitops.Hash]side{}, known: map[gitops.Hash]gitops.Commit{}}
	for _, start := range []struct {
		hash gitops.Hash
		side side
	}{{tip, fromTip}, {base, fromBase}} {
		c, err := h.commit(start.hash)
		if err != nil {
			return nil, false, err
		}
		p.reach(c, start.side)
	}
	ours, theirs := h.back(tip, shortWay), h.back(base, shortWay)
	var order []gitops.Commit
	for visited := 0; !p.settled(); visited++ {
		if visited == 2*maxHistory {
			cut = true
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		c := heap.Pop(&p.queue).(gitops.Commit)
		by := p.sides[c.Hash]
		back := ours
		switch by {
		case fromTip:
			order = append(order, c)
		case fromBase:
			back = theirs
		}
		parents, err := back.parents(ctx, c)
		if err != nil {
			return nil, false, err
		}
		for _, parent := range parents {
			p.reach(parent, by)
		}
	}
	p.share()
	for _, c := range order {
		if p.sides[c.Hash] == fromTip {
			commits = append(commits, c)
		}
	}
	return commits, cut, nil
}

// painting marks commits by the side that they were reached from, as git's
// paint_down_to_common does.
type painting struct {
	sides map[gitops.Hash]side
	known map[gitops.Hash]gitops.Commit
	queue byDate
	alone int // how many are reached from the tip only
}

type side uint8

const (
	fromTip side = 1 << iota
	fromBase
	shared = fromTip | fromBase
)

func (p *painting) reach(c gitops.Commit, by side) {
	before := p.sides[c.Hash]
	if before|by == before {
		return
	}
	p.paint(c, before|by)
	heap.Push(&p.queue, c)
}

func (p *painting) paint(c gitops.Commit, now side) {
	if p.sides[c.Hash] == fromTip {
		p.alone--
	}
	if now == fromTip {
		p.alone++
	}
	p.sides[c.Hash], p.known[c.Hash] = now, c
}

// settled tells whether the painting is done: no commit belongs to the tip alone, or
// all that is still to be followed belongs to both sides.
func (p *painting) settled() bool {
	if p.alone == 0 {
		return true
	}
	for _, c := range p.queue {
		if p.sides[c.Hash] != shared {
			return false
		}
	}
	return true
}

// share marks as shared what is behind a shared commit, and was visited before it was
// known to be shared. That happens where a committer's clock was wrong, so that a
// commit is met before its descendants.
func (p *painting) share() {
	for stack := p.queue; len(stack) > 0; {
		c := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		for _, hash := range c.Parents {
			if parent, visited := p.known[hash]; visited && p.sides[hash] != shared && p.sides[c.Hash] == shared {
				p.paint(parent, shared)
				stack = append(stack, parent)
			}
		}
	}
}

// contains tells whether commit is behind tip, or is it.
func (h *history) contains(ctx context.Context, tip, commit gitops.Hash) (bool, error) {
	only, _, err := h.since(ctx, tip, commit)
	return len(only) == 0, err
}
