package store

import (
	"towpath.dev/towpath/gitops"
)

// maxGenerations bounds how far back history is followed.
const maxGenerations = 1 << 16

// depthOf is generations for who does not hold the lock.
func (s *Store) depthOf(tip gitops.Hash, limit int) (have int, whole bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generations(tip, limit)
}

// generations counts how many generations of a tip's history are here before
// the first commit is missing, up to limit; whole: none is missing at all.
// Callers hold the lock.
func (s *Store) generations(tip gitops.Hash, limit int) (have int, whole bool, err error) {
	seen := map[gitops.Hash]struct{}{tip: {}}
	level := []gitops.Hash{tip}
	for have < limit {
		if len(level) == 0 {
			return have, true, nil
		}
		for _, h := range level {
			here, err := s.here(h)
			if err != nil || !here {
				return have, false, err
			}
		}
		have++
		var next []gitops.Hash
		for _, h := range level {
			parents, err := s.parentsOf(h)
			if err != nil {
				return have, false, err
			}
			for _, parent := range parents {
				if _, ok := seen[parent]; !ok {
					seen[parent] = struct{}{}
					next = append(next, parent)
				}
			}
		}
		level = next
	}
	return have, len(level) == 0, nil
}
