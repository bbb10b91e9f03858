package store

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"

	"towpath.dev/towpath/gitops"
)

// listGenerations bounds the history that is fetched only so that a list of
// commits is exact, and not to decide anything.
const listGenerations = 64

// Between lists the commits that tip has and base has not, as git's
// "rev-list base..tip" does: tip first, and each commit before its parents; of
// those that may come next the youngest by its committer's date. At most limit
// are returned; more counts the others. A zero base stands for no history, and
// only tip is listed.
//
// It fetches what it needs, but no history deeper than 64 generations that
// only makes the list exact: where a branch is merged that parted that long ago,
// commits that base has too may be listed. Nobody should decide by this list.
// It is the same whatever the copy holds.
func (s *Store) Between(ctx context.Context, base, tip gitops.Hash, limit int) (commits []gitops.Commit, more int, err error) {
	if base == tip {
		return nil, 0, nil
	}
	s.fetching.Lock()
	defer s.fetching.Unlock()
	err = s.mended(func() error {
		set, err := s.between(ctx, base, tip)
		if err != nil {
			return err
		}
		commits, err = s.list(set, limit)
		more = len(set) - len(commits)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("commits from %s to %s: %w", base, tip, err)
	}
	s.settle()
	return commits, more, nil
}

func (s *Store) between(ctx context.Context, base, tip gitops.Hash) (hashSet, error) {
	if base.IsZero() {
		return hashSet{tip: {}}, s.fetch(ctx, []gitops.Hash{tip}, 1)
	}
	gone := false
	for depth := 1; ; depth = min(depth*deeper, maxGenerations) {
		v, err := s.views(ctx, base, tip, depth, &gone)
		if err != nil {
			return nil, err
		}
		histories := []history{v.candidate}
		ahead := v.candidate.seen.has(base)
		if !ahead && v.base != nil {
			histories = append(histories, *v.base)
		}
		var d difference
		err = s.look(func() (err error) {
			d, err = s.compare(base, histories)
			return err
		})
		if err != nil {
			return nil, err
		}
		switch {
		case d.exact, ahead && depth >= listGenerations, depth >= maxGenerations, len(v.candidate.seen) > maxCommits,
			len(v.candidate.edge) == 0 && (v.base == nil || len(v.base.edge) == 0):
			return d.apart, nil
		}
	}
}

// difference is what one history has and another has not, as far as both are
// known; exact: it would be the same if more were known.
type difference struct {
	apart hashSet
	exact bool
}

// graph is some commits with their parents.
type graph map[gitops.Hash][]gitops.Hash

// compare finds what the first history has and base's has not; base may be met
// in the first, or have a second of its own. Callers hold the lock.
func (s *Store) compare(base gitops.Hash, histories []history) (difference, error) {
	known := graph{}
	for _, h := range histories {
		edge := hashSet{}
		for _, commit := range slices.Concat(h.edge, h.cut) {
			edge[commit] = struct{}{}
		}
		for _, commit := range h.order {
			if edge.has(commit) {
				continue // though it may be well inside the other
			}
			parents, err := s.parentsOf(commit)
			if err != nil {
				return difference{}, err
			}
			known[commit] = parents
		}
	}
	had, open := known.below(base)
	d := difference{apart: hashSet{}, exact: true}
	for _, commit := range histories[0].order {
		if had.has(commit) {
			continue
		}
		if _, ok := known[commit]; ok {
			d.apart[commit] = struct{}{}
		} else {
			d.exact = false // a name only, and there may be more below it
		}
	}
	d.exact = d.exact && known.settled(base, d.apart, open)
	return d, nil
}

// below is a commit and its ancestors, and those of them that are not looked
// into.
func (g graph) below(commit gitops.Hash) (all hashSet, open []gitops.Hash) {
	all = hashSet{commit: {}}
	for queue := []gitops.Hash{commit}; len(queue) > 0; {
		next := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		parents, ok := g[next]
		if !ok {
			open = append(open, next)
		}
		for _, parent := range parents {
			if !all.has(parent) {
				all[parent] = struct{}{}
				queue = append(queue, parent)
			}
		}
	}
	return all, open
}

// settled tells whether knowing more history could not change which commits are apart.
// Base's history goes on below the open commits, and might lead to a commit of apart
// there. It cannot where that commit has all open commits among its own ancestors, or
// descends from base. It is enough to look at the lowest commits of apart.
func (g graph) settled(base gitops.Hash, apart hashSet, open []gitops.Hash) bool {
	if len(open) == 0 {
		return true
	}
	for commit := range apart {
		if slices.ContainsFunc(g[commit], apart.has) {
			continue
		}
		below, _ := g.below(commit)
		if below.has(base) {
			continue
		}
		if slices.ContainsFunc(open, func(h gitops.Hash) bool { return !below.has(h) }) {
			return false
		}
	}
	return true
}

// list puts commits in order and reads the first of them.
func (s *Store) list(set hashSet, limit int) (commits []gitops.Commit, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[gitops.Hash]gitops.Commit, len(set))
	children := make(map[gitops.Hash]int, len(set))
	for h := range set {
		raw, err := s.typedLocked(h, plumbing.CommitObject)
		if err != nil {
			return nil, err
		}
		c, err := parseCommit(h, raw)
		if err != nil {
			return nil, err
		}
		all[h] = c
		for _, parent := range unique(c.Parents) {
			children[parent]++
		}
	}
	ready := &youngest{}
	for h, c := range all {
		if children[h] == 0 {
			heap.Push(ready, c)
		}
	}
	for ready.Len() > 0 && len(commits) < limit {
		c := heap.Pop(ready).(gitops.Commit)
		commits = append(commits, c)
		for _, parent := range unique(c.Parents) {
			if children[parent]--; children[parent] == 0 {
				if next, ok := all[parent]; ok {
					heap.Push(ready, next)
				}
			}
		}
	}
	return commits, nil
}

// youngest is a heap of commits, the youngest on top.
type youngest []gitops.Commit

func (y youngest) Len() int      { return len(y) }
func (y youngest) Swap(i, j int) { y[i], y[j] = y[j], y[i] }
func (y youngest) Less(i, j int) bool {
	if c := y[i].Committer.When.Compare(y[j].Committer.When); c != 0 {
		return c > 0
	}
	return cmp.Less(bytes.Compare(y[i].Hash[:], y[j].Hash[:]), 0)
}
func (y *youngest) Push(c any) { *y = append(*y, c.(gitops.Commit)) }
func (y *youngest) Pop() any {
	last := len(*y) - 1
	c := (*y)[last]
	*y = (*y)[:last]
	return c
}
