package fleet

import (
	"container/heap"
	"context"
	"errors"
	"fmt"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
	"towpath.dev/towpath/gitops/wire"
)

// maxHistory bounds how many commits a search looks at. After that it concludes from
// what it has seen. It counts commits, whether or not they are in the cache, so that
// every copy of Towpath stops at the same one.
const maxHistory = 20_000

// history reads the GitOps repository's commits backwards, and fetches what the
// shallow copy lacks.
type history struct {
	store *store.Store
	// record says what a commit tells of our promotions; nil: nothing.
	record func(commit gitops.Commit) (*record, error)

	tips    []gitops.Hash           // what the server's refs name, as last read
	records map[gitops.Hash]*record // by commit: what it tells of our promotions
	last    *chronicle              // the newest; nil: none was made yet

	commits map[gitops.Hash]gitops.Commit // that were read: maxCommits at most
	silent  map[gitops.Hash]bool          // of these, those without a record
}

// maxCommits is how many commits are remembered before all are forgotten. Every
// image of a batch asks what came after its bump, and so reads the same commits; to
// read one takes twenty times as long as to have it at hand.
const maxCommits = 8_192

// maxParents is how many parents a commit may have to be remembered. A merge has two;
// one with more parents than this was made to take memory.
const maxParents = 64

// record is what one commit claims in Towpath's trailers, for this target.
type record struct {
	Entry
	signed bool // by us; else it may be a squash or a rebase of ours, or a forgery
}

func newHistory(s *store.Store, recordOf func(gitops.Commit) (*record, error)) *history {
	return &history{
		store: s, record: recordOf, records: map[gitops.Hash]*record{},
		commits: map[gitops.Hash]gitops.Commit{}, silent: map[gitops.Hash]bool{},
	}
}

// forget drops what was concluded by means of our keys, because they have changed.
func (h *history) forget() {
	h.records, h.last = map[gitops.Hash]*record{}, nil
	clear(h.silent)
}

// commit reads a commit, once. What was read stays true even if the copy on disk is
// damaged later, since a commit's name is the hash of its content.
func (h *history) commit(hash gitops.Hash) (gitops.Commit, error) {
	if c, known := h.commits[hash]; known {
		return c, nil
	}
	c, err := h.store.Commit(hash)
	if err != nil {
		return c, err
	}
	if len(h.commits) >= maxCommits {
		clear(h.commits)
		clear(h.silent)
	}
	if len(c.Parents) <= maxParents {
		h.commits[hash] = c
	}
	return c, nil
}

// past is one way back from a tip. It fetches what the copy lacks in steps that
// grow, so that a long way takes few requests and a short one little data.
type past struct {
	*history
	tip gitops.Hash
	by  int // generations to fetch when the copy ends
}

// shortWay suits questions that are mostly answered by the last few commits;
// longWay those that need all there are.
const (
	shortWay = 32
	longWay  = maxHistory
)

// back is the way back from a tip, which fetches so many generations first.
func (h *history) back(tip gitops.Hash, by int) *past { return &past{history: h, tip: tip, by: by} }

// parents reads a commit's parents.
func (p *past) parents(ctx context.Context, c gitops.Commit) ([]gitops.Commit, error) {
	parents := make([]gitops.Commit, 0, len(c.Parents))
	for _, hash := range c.Parents {
		for !p.store.Has(hash) {
			complete, err := p.deepen(ctx)
			if err != nil {
				return nil, fmt.Errorf("read history: %w", err)
			}
			if complete && !p.store.Has(hash) {
				return nil, fmt.Errorf("read history: commit %s is missing on the server", gitops.Short(hash))
			}
		}
		parent, err := p.commit(hash)
		if err != nil {
			return nil, err
		}
		parents = append(parents, parent)
	}
	return parents, nil
}

// deepen fetches the next generations below the tip. A server that speaks protocol
// version 0 only hands out the commits that its refs name. Then the history of all of
// those is deepened, since the tip must be behind one of them.
func (p *past) deepen(ctx context.Context) (complete bool, err error) {
	by := p.by
	p.by = min(by*8, longWay)
	complete, err = p.store.Deepen(ctx, p.tip, by)
	if !errors.Is(err, wire.ErrNotAdvertised) {
		return complete, err
	}
	complete = true
	for _, tip := range p.tips {
		whole, err := p.store.Deepen(ctx, tip, by)
		if err != nil {
			return false, err
		}
		complete = complete && whole
	}
	return complete, nil
}

// walk visits a commit and its ancestors, children before parents as far as
// their dates are honest, until visit says stop, nothing is left, or maxHistory
// were visited: cut is true then. A commit for which visit says prune is not
// followed further.
func (h *history) walk(ctx context.Context, back *past, visit func(gitops.Commit) (next step, err error)) (cut bool, err error) {
	first, err := h.commit(back.tip)
	if err != nil {
		return false, err
	}
	queue, seen := &byDate{first}, map[gitops.Hash]bool{first.Hash: true}
	for visited := 0; queue.Len() > 0; visited++ {
		if visited == maxHistory {
			return true, nil
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		c := heap.Pop(queue).(gitops.Commit)
		next, err := visit(c)
		if err != nil || next == stop {
			return false, err
		}
		if next == prune {
			continue
		}
		parents, err := back.parents(ctx, c)
		if err != nil {
			return false, err
		}
		for _, parent := range parents {
			if !seen[parent.Hash] {
				seen[parent.Hash] = true
				heap.Push(queue, parent)
			}
		}
	}
	return false, nil
}

// step is what a walk does after a commit.
type step int

const (
	onward step = iota
	prune
	stop
)

// recordAt is what a commit tells of our promotions; nil: nothing.
func (h *history) recordAt(c gitops.Commit) (*record, error) {
	if r, ok := h.records[c.Hash]; ok || h.silent[c.Hash] {
		return r, nil
	}
	r, err := h.record(c)
	switch {
	case err != nil:
		return nil, err
	case r != nil:
		h.records[c.Hash] = r
	default:
		if _, kept := h.commits[c.Hash]; kept {
			h.silent[c.Hash] = true
		}
	}
	return r, nil
}

// byDate is a queue of commits, the newest first.
type byDate []gitops.Commit

func (q byDate) Len() int           { return len(q) }
func (q byDate) Less(i, j int) bool { return q[i].Committer.When.After(q[j].Committer.When) }
func (q byDate) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *byDate) Push(x any)        { *q = append(*q, x.(gitops.Commit)) }
func (q *byDate) Pop() any {
	last := len(*q) - 1
	c := (*q)[last]
	*q = (*q)[:last]
	return c
}
