package store

import (
	"cmp"
	"context"
	"fmt"

	"towpath.dev/towpath/gitops"
)

const (
	// maxGenerations bounds how far back history is followed.
	maxGenerations = 1 << 16
	// maxCommits bounds how many commits are looked at.
	maxCommits = 1 << 20
)

type hashSet map[gitops.Hash]struct{}

func (s hashSet) has(h gitops.Hash) bool {
	_, ok := s[h]
	return ok
}

// history is what can be said of the ancestry of one commit from a number of
// generations. It depends on the repository and that number alone, and not on
// how much more of it the copy happens to hold.
type history struct {
	seen  hashSet       // the commit and its ancestors, as far as they were met
	order []gitops.Hash // the same, generation by generation
	edge  []gitops.Hash // of seen: not looked into, being as far as was asked
	cut   []gitops.Hash // of seen: not looked into, being not here
}

// whole tells whether every ancestor is known.
func (h history) whole() bool { return len(h.edge) == 0 && len(h.cut) == 0 }

// walk follows a commit's history through a number of generations, but not
// below commits in stop. Callers hold the lock.
func (s *Store) walk(tip gitops.Hash, generations int, stop hashSet) (history, error) {
	h := history{seen: hashSet{tip: {}}, order: []gitops.Hash{tip}}
	for at, generation := 0, 0; at < len(h.order); generation++ {
		level := h.order[at:]
		at = len(h.order)
		for _, commit := range level {
			if stop.has(commit) {
				continue
			}
			if generation == generations {
				h.edge = append(h.edge, commit)
				continue
			}
			here, err := s.here(commit)
			if err != nil {
				return history{}, err
			}
			if !here {
				h.cut = append(h.cut, commit)
				continue
			}
			parents, err := s.lineage(commit)
			if err != nil {
				return history{}, err
			}
			for _, parent := range parents {
				if !h.seen.has(parent) {
					h.seen[parent] = struct{}{}
					h.order = append(h.order, parent)
				}
			}
		}
	}
	return h, nil
}

// lineage is a commit's parents, which may be missing only at the edge of what
// was fetched: anywhere else that is damage, and the server, told that we have
// the commit, would not send them.
func (s *Store) lineage(commit gitops.Hash) ([]gitops.Hash, error) {
	parents, err := s.parentsOf(commit)
	if err != nil {
		return nil, err
	}
	if _, edge := s.state.shallow[commit]; edge {
		return parents, nil
	}
	for _, parent := range parents {
		if here, err := s.here(parent); err != nil || !here {
			return nil, cmp.Or(err, missing(parent))
		}
	}
	return parents, nil
}

// reach counts how many generations of a tip's history are here before the
// first commit is missing, up to limit; whole: none is missing at all. Callers
// hold the lock.
func (s *Store) reach(tip gitops.Hash, limit int) (have int, whole bool, err error) {
	seen := hashSet{tip: {}}
	for level := []gitops.Hash{tip}; have < limit; have++ {
		if len(level) == 0 {
			return have, true, nil
		}
		var next []gitops.Hash
		for _, commit := range level {
			here, err := s.here(commit)
			if err != nil || !here {
				return have, false, err
			}
			parents, err := s.lineage(commit)
			if err != nil {
				return have, false, err
			}
			for _, parent := range parents {
				if !seen.has(parent) {
					seen[parent] = struct{}{}
					next = append(next, parent)
				}
			}
		}
		level = next
	}
	return have, false, nil
}

// History names the commits of a tip's last generations, tip first, fetching
// what is not here.
func (s *Store) History(ctx context.Context, tip gitops.Hash, generations int) (commits []gitops.Hash, err error) {
	if generations < 1 {
		return nil, fmt.Errorf("history of %d generations", generations)
	}
	s.fetching.Lock()
	defer s.fetching.Unlock()
	err = s.mended(func() error {
		if err := s.fetch(ctx, []gitops.Hash{tip}, generations); err != nil {
			return err
		}
		return s.look(func() error {
			h, err := s.walk(tip, generations-1, nil)
			commits = h.order
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("history of %s: %w", tip, err)
	}
	s.settle()
	return commits, nil
}
