package source

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
	"towpath.dev/towpath/gitops/wire"
)

// Commit reads any commit of the repository that the server hands out, to show
// it.
func (r *Repository) Commit(ctx context.Context, commit gitops.Hash) (c gitops.Commit, err error) {
	err = r.store.View(ctx, []gitops.Hash{commit}, 1, func() error {
		c, err = r.store.Commit(commit)
		return err
	})
	return c, err
}

// commitBelow reads a commit that is in tip's history.
func (r *Repository) commitBelow(ctx context.Context, commit, tip gitops.Hash) (c gitops.Commit, err error) {
	err = r.store.View(ctx, []gitops.Hash{tip}, 1, func() error {
		if err := obtainBelow(ctx, r.store, commit, tip); err != nil {
			return err
		}
		c, err = r.store.Commit(commit)
		return err
	})
	return c, err
}

// obtainBelow makes a commit present that is in tip's history. A server of
// protocol version 0 hands out tips only: then it comes with tip's history.
func obtainBelow(ctx context.Context, s *store.Store, commit, tip gitops.Hash) error {
	err := s.Fetch(ctx, []gitops.Hash{commit}, 1)
	if !errors.Is(err, wire.ErrNotAdvertised) {
		return err
	}
	if err := s.Fetch(ctx, []gitops.Hash{tip}, 1); err != nil {
		return err
	}
	for by := 4; !s.Has(commit); by *= 4 {
		complete, deepenErr := s.Deepen(ctx, tip, by)
		if deepenErr != nil {
			return deepenErr
		}
		if !s.Has(commit) && (complete || by > 1<<16) {
			return err
		}
	}
	return nil
}

// LookupError: no commit, or more than one, is meant by what a person typed.
type LookupError struct {
	Abbreviation string
	Matches      []gitops.Hash
}

func (e *LookupError) Error() string {
	if len(e.Matches) > 0 {
		return fmt.Sprintf("%q is short for %d commits", gitops.Line(e.Abbreviation, 60), len(e.Matches))
	}
	return fmt.Sprintf("no commit %q among the branch's last %d generations", gitops.Line(e.Abbreviation, 60), lookupGenerations)
}

// Hint says what to type instead.
func (e *LookupError) Hint() string {
	if len(e.Matches) > 0 {
		return fmt.Sprintf("type more digits: %s or %s", e.Matches[0], e.Matches[1])
	}
	return "give the full hash, 40 hexadecimal digits"
}

// lookupGenerations is how far back an abbreviation is looked for.
const lookupGenerations = 256

// Lookup finds the commit that a person means by a hash or by at least four of
// its first digits: any commit for a full hash, else one among the branch's
// recent history. An abbreviation means what it means today; nothing should be
// decided by it.
func (r *Repository) Lookup(ctx context.Context, branch, abbreviation string) (gitops.Commit, error) {
	abbreviation = strings.ToLower(abbreviation)
	if h, err := gitops.ParseHash(abbreviation); err == nil {
		return r.Commit(ctx, h)
	}
	if len(abbreviation) < 4 || strings.Trim(abbreviation, "0123456789abcdef") != "" {
		return gitops.Commit{}, &LookupError{Abbreviation: abbreviation}
	}
	tip, err := r.tip(ctx, branch)
	if err != nil {
		return gitops.Commit{}, err
	}
	history, err := r.store.History(ctx, tip, lookupGenerations)
	if err != nil {
		return gitops.Commit{}, err
	}
	var matches []gitops.Hash
	for _, h := range history {
		if strings.HasPrefix(h.String(), abbreviation) {
			matches = append(matches, h)
		}
	}
	if len(matches) != 1 {
		return gitops.Commit{}, &LookupError{Abbreviation: abbreviation, Matches: matches}
	}
	return r.commitBelow(ctx, matches[0], tip)
}
