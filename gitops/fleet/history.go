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

// maxHistory bounds how many commits a search looks at before it goes by what
// it has seen. It counts commits and not what happens to be in the cache, so
// that every copy of Towpath stops at the same one.
const maxHistory = 20_000

// history reads the GitOps repository's commits backwards, and fetches what the
// shallow copy lacks.
type history struct {
	store *store.Store
	// record says what a commit tells of our promotions; nil: nothing.
	record func(commit gitops.Commit) (*record, error)

	tips    []gitops.Hash           // what the server's refs name, as last read
	records map[gitops.Hash]*record // of commits that tell something
	last    *chronicle

	commits map[gitops.Hash]gitops.Commit // read before: maxCommits at most
	silent  map[gitops.Hash]bool          // of these, those that tell nothing
}

// maxCommits is how many commits are remembered, before all are forgotten: every
// image of a batch asks the same ones what came after its bump, and reading one
// takes twenty times as long as walking past it.
const maxCommits = 8_192

// maxParents is how many parents a commit may have to be remembered: a merge has
// two, and more than these only one that was made to be large.
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

// forget drops what was concluded with keys that have changed since.
func (h *history) forget() {
	h.records, h.last = map[gitops.Hash]*record{}, nil
	clear(h.silent)
}

// commit reads a commit. One that was read before stays true, whatever becomes of
// the copy: its name is its hash.
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

// deepen fetches the next step. A server that speaks the old protocol hands out
// only what its refs name: then all of that is deepened, since one of them must
// lead to the tip.
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

// chronicle is what the whole history behind one commit says of this target.
type chronicle struct {
	tip    gitops.Hash
	newest map[string]*Entry          // by image: the newest bump that we signed
	refs   map[string]map[string]bool // by image: every Towpath-Ref, signed or not
	seen   map[gitops.Hash]bool
	cut    bool // the bound was reached, and there is more
}

// of tells the chronicle of a tip. After the first it costs what is new: where
// the tip merely grew out of the last one, only the new commits are read.
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

// tell reads the history behind tip down to what before covers. grown is false
// where before cannot be built upon: commits that it covers are reached past its
// tip, so some that it covers may not be behind the new one.
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

// since lists the commits behind tip that are not behind base, newest first,
// as `git rev-list base..tip` does. cut: there are more than it looks at.
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

// settled: nothing is the tip's alone, or all that is still to be followed is
// shared.
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

// share passes on what was found to be shared last to what was visited before:
// where a clock was wrong, a commit is met before its descendants.
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
