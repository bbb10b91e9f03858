package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

// Query asks which commit of a branch may be built.
type Query struct {
	Branch string // its short name: "master"
	// Base is the commit that was promoted last; zero: none.
	Base gitops.Hash
	// Watch says which paths, changed, ask for a new image: gitignore patterns
	// relative to the repository's root, of which the last that matches wins;
	// "/" is everything. Empty: every new commit asks for one.
	Watch []string
	// Accept holds commits that a person has accepted, with the reason.
	Accept map[gitops.Hash]string
}

// Choice is the answer. It must not be changed.
type Choice struct {
	Head   gitops.Commit // the branch's tip
	Commit gitops.Commit // the newest commit that may be built, or Base where nothing watched has changed
	// Relation is how Commit stands to Base. Only Ahead and NoBase ask for a
	// promotion; Behind and Unrelated are a branch that was set back or replaced.
	Relation gitops.Relation
	Refused  []Refusal       // newer than Commit, and why they were not chosen
	Commits  []gitops.Commit // that come with Commit: Base..Commit, newest first, at most 50
	More     int             // how many further ones
	Accepted string          // the reason, where Commit is one that a person accepted
}

// Refusal is a commit that may not be built.
type Refusal struct {
	Commit gitops.Commit
	Reason string
}

const (
	maxListed = 50
	// How long a choice is used again while nothing has moved. It holds for
	// ever but for a base that the server does not hand out any more.
	choiceLife  = 10 * time.Minute
	maxRemember = 200
)

type rememberedChoice struct {
	Choice
	tip gitops.Hash
	at  time.Time
}

// Choose polls the branch, unless that was done lately, and chooses.
//
// The tip is chosen. Where it descends from Base and nothing that is watched
// differs between the two, Base is chosen (Same). Where it does not descend
// from Base although a person accepted one of its ancestors that does not
// either, that one is chosen and the tip refused: promoted, it is the base that
// the tip descends from.
func (r *Repository) Choose(ctx context.Context, q Query) (Choice, error) {
	watch, err := parseWatch(q.Watch)
	if err != nil {
		return Choice{}, err
	}
	for tries := 0; ; tries++ {
		tip, err := r.tip(ctx, q.Branch)
		if err != nil {
			return Choice{}, fmt.Errorf("poll: %w", err)
		}
		choice, err := r.choose(ctx, q, watch, tip)
		if errors.Is(err, wire.ErrNotAdvertised) && tries == 0 {
			// The branch moved on since the poll, and the server has let go of
			// the commit or hands out tips only.
			r.forget()
			continue
		}
		if err != nil {
			return Choice{}, fmt.Errorf("choose a commit of %s: %w", r.url, err)
		}
		return choice, nil
	}
}

func (r *Repository) choose(ctx context.Context, q Query, watch watch, tip gitops.Hash) (Choice, error) {
	key := q.key()
	r.mu.Lock()
	known, ok := r.choices[key]
	r.mu.Unlock()
	if ok && known.tip == tip && time.Since(known.at) < choiceLife {
		return known.Choice, nil
	}

	choice, err := r.decide(ctx, q, watch, tip)
	if err != nil {
		return Choice{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.choices) >= maxRemember {
		clear(r.choices)
	}
	r.choices[key] = rememberedChoice{choice, tip, time.Now()}
	return choice, nil
}

// key names everything that a choice depends on but the tip.
func (q Query) key() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %s %q", q.Branch, q.Base, q.Watch)
	for _, h := range sortedKeys(q.Accept) {
		fmt.Fprintf(&b, " %s %q", h, q.Accept[h])
	}
	return b.String()
}

func sortedKeys(accept map[gitops.Hash]string) []gitops.Hash {
	return slices.SortedFunc(maps.Keys(accept), func(a, b gitops.Hash) int { return cmp.Compare(a.String(), b.String()) })
}

func (r *Repository) decide(ctx context.Context, q Query, watch watch, tip gitops.Hash) (Choice, error) {
	head, err := r.Commit(ctx, tip)
	if err != nil {
		return Choice{}, err
	}
	choice := Choice{Head: head, Commit: head}
	if choice.Relation, err = r.store.Relation(ctx, q.Base, tip); err != nil {
		return Choice{}, err
	}
	switch choice.Relation {
	case gitops.Ahead:
		touched, err := r.touched(ctx, watch, q.Base, tip)
		if err != nil {
			return Choice{}, err
		}
		if !touched {
			choice.Relation = gitops.Same
			if choice.Commit, err = r.commitBelow(ctx, q.Base, tip); err != nil {
				return Choice{}, err
			}
		}
	case gitops.Behind, gitops.Unrelated:
		if _, ok := q.Accept[tip]; ok {
			break
		}
		if err := r.takeAccepted(ctx, q, &choice); err != nil {
			return Choice{}, err
		}
	}
	choice.Accepted = q.Accept[choice.Commit.Hash]
	if choice.Relation == gitops.Ahead || choice.Relation == gitops.NoBase || choice.Accepted != "" {
		choice.Commits, choice.More, err = r.store.Between(ctx, q.Base, choice.Commit.Hash, maxListed)
	}
	return choice, err
}

// takeAccepted chooses, instead of a tip that does not descend from the base,
// the newest ancestor of it that a person accepted. One that the base descends
// from is not taken: that would lead backwards without anybody having said so
// of the branch as it is now.
func (r *Repository) takeAccepted(ctx context.Context, q Query, choice *Choice) error {
	var best gitops.Hash
	for _, candidate := range sortedKeys(q.Accept) {
		relation, err := r.store.Relation(ctx, candidate, choice.Head.Hash)
		if err != nil {
			return err
		}
		if relation != gitops.Ahead {
			continue
		}
		if _, err := r.commitBelow(ctx, candidate, choice.Head.Hash); err != nil {
			return err
		}
		toBase, err := r.store.Relation(ctx, q.Base, candidate)
		if err != nil {
			return err
		}
		if toBase != gitops.Unrelated {
			continue
		}
		if !best.IsZero() {
			newer, err := r.store.Relation(ctx, best, candidate)
			if err != nil {
				return err
			}
			if newer != gitops.Ahead {
				continue
			}
		}
		best = candidate
	}
	if best.IsZero() {
		return nil
	}
	commit, err := r.commitBelow(ctx, best, choice.Head.Hash)
	if err != nil {
		return err
	}
	choice.Refused = []Refusal{{choice.Head, fmt.Sprintf("it does not descend from %s, which was promoted last (%s)", gitops.Short(q.Base), choice.Relation)}}
	choice.Commit, choice.Relation = commit, gitops.Unrelated
	return nil
}
