package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

var (
	// ErrTooFar: the commits are so far apart that their relation was not found
	// within the bounds on history.
	ErrTooFar = fmt.Errorf("not decided within %d generations or %d commits of history", maxGenerations, maxCommits)
	// ErrHistoryCut: the server's own copy of the repository is shallow, and
	// what it lacks is needed.
	ErrHistoryCut error = historyCut{}
)

type historyCut struct{}

func (historyCut) Error() string { return "the server's own history of the repository is not complete" }

func (historyCut) Hint() string {
	return "the server's repository is a shallow clone: name a complete one, or complete it (git fetch --unshallow)"
}

// Relation says how candidate stands to base. It fetches as much history as it
// needs, a few generations at first, and never more than lies between the two
// and where they part.
//
// Ancestry is read from the commits themselves, whose hashes were checked:
// never from what a server says. The answer depends on the repository alone,
// not on what the copy holds. A base that the server does not hand out any more
// (it was replaced by a forced push and collected, or the server speaks version
// 0) can still be met in candidate's history; where that is complete without
// it, the two are Unrelated.
//
// Unknown comes with an error that says why.
func (s *Store) Relation(ctx context.Context, base, candidate gitops.Hash) (gitops.Relation, error) {
	switch {
	case base.IsZero():
		return gitops.NoBase, nil
	case candidate.IsZero():
		return gitops.Unknown, errors.New("relation: no candidate")
	case base == candidate:
		return gitops.Same, nil
	}
	s.fetching.Lock()
	defer s.fetching.Unlock()
	relation := gitops.Unknown
	err := s.mended(func() (err error) {
		relation, err = s.relation(ctx, base, candidate)
		return err
	})
	if err != nil {
		return gitops.Unknown, fmt.Errorf("relation of %s to %s: %w", candidate, base, err)
	}
	s.settle()
	return relation, nil
}

func (s *Store) relation(ctx context.Context, base, candidate gitops.Hash) (gitops.Relation, error) {
	gone := false // the server does not hand out base
	for depth := 1; ; depth = min(depth*deeper, maxGenerations) {
		v, err := s.views(ctx, base, candidate, depth, &gone)
		if err != nil {
			return gitops.Unknown, err
		}
		relation := v.relation()
		if relation == gitops.Behind || relation == gitops.Unrelated && !gone {
			// This was said with base's history, which the copy may hold
			// although the server does not any more. A copy that is empty now
			// must come to the same answer.
			held, err := s.handsOut(ctx, base)
			if err != nil {
				return gitops.Unknown, err
			}
			if !held {
				gone = true
				v.base = nil
				relation = v.relation()
			}
		}
		switch {
		case relation != gitops.Unknown:
			return relation, nil
		case len(v.candidate.edge) == 0 && (v.base == nil || len(v.base.edge) == 0):
			return gitops.Unknown, ErrHistoryCut
		case depth >= maxGenerations || len(v.candidate.seen) > maxCommits || v.base != nil && len(v.base.seen) > maxCommits:
			return gitops.Unknown, ErrTooFar
		}
	}
}

// deeper is how many times more history each round looks at.
const deeper = 4

// views are the histories of two commits, as far as they were fetched.
type views struct {
	baseHash, candidateHash gitops.Hash
	candidate               history
	base                    *history // nil: not looked into
	// The same two, followed only to where one meets the other.
	candidateApart, baseApart history
}

// views fetches candidate's history to a depth and base's to less: most often
// base is among candidate's nearest ancestors, and its own are not needed.
func (s *Store) views(ctx context.Context, base, candidate gitops.Hash, depth int, gone *bool) (views, error) {
	for range maxMends {
		epoch := s.currentEpoch()
		v := views{baseHash: base, candidateHash: candidate}
		if err := s.fetch(ctx, []gitops.Hash{candidate}, depth); err != nil {
			return v, err
		}
		err := s.look(func() (err error) {
			v.candidate, err = s.walk(candidate, depth, nil)
			return err
		})
		if err != nil || v.candidate.seen.has(base) {
			return v, err
		}
		if *gone {
			return v, nil
		}
		baseDepth := max(1, depth/deeper)
		err = s.fetch(ctx, []gitops.Hash{base}, baseDepth)
		if errors.Is(err, wire.ErrNotAdvertised) {
			*gone = true
			return v, nil
		}
		if err != nil {
			return v, err
		}
		if s.currentEpoch() != epoch {
			continue // base came only into an emptied copy
		}
		return v, s.look(func() error {
			b, err := s.walk(base, baseDepth, nil)
			if err != nil {
				return err
			}
			v.base = &b
			if v.candidateApart, err = s.walk(candidate, depth, b.seen); err != nil {
				return err
			}
			v.baseApart, err = s.walk(base, baseDepth, v.candidate.seen)
			return err
		})
	}
	return views{}, errors.New("the server sends one commit only without the other")
}

// look reads under the lock.
func (s *Store) look(read func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.touch(); err != nil {
		return err
	}
	return read()
}

// relation is what the views prove; Unknown where they are not deep enough.
func (v views) relation() gitops.Relation {
	switch {
	case v.candidate.seen.has(v.baseHash):
		return gitops.Ahead
	case v.base == nil:
		if v.candidate.whole() {
			return gitops.Unrelated
		}
		return gitops.Unknown
	case v.base.seen.has(v.candidateHash):
		return gitops.Behind
	// What lies below a common ancestor cannot contain either of the two: each
	// of them would be its own ancestor. So both histories need to be complete
	// only down to where they meet.
	case v.candidateApart.whole() && v.baseApart.whole():
		return gitops.Unrelated
	}
	return gitops.Unknown
}

// handsOut asks the server whether it gives out a commit that is here.
func (s *Store) handsOut(ctx context.Context, commit gitops.Hash) (bool, error) {
	reply, err := s.remote.Fetch(ctx, wire.FetchRequest{
		Wants: []gitops.Hash{commit}, Haves: []gitops.Hash{commit}, Shallows: []gitops.Hash{commit}, Depth: 1,
	})
	if errors.Is(err, wire.ErrNotAdvertised) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer reply.Close()
	if _, err := io.Copy(io.Discard, reply); err != nil {
		return false, err
	}
	return true, nil
}
