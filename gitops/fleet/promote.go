package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/wire"
)

// Bump is what is to be promoted, and what that was decided on.
type Bump struct {
	Image Image
	// Base and BaseBump are the ledger entry that this was decided on: its
	// source commit and its bump. Zero: there was none.
	Base, BaseBump gitops.Hash

	SourceURL string          // without credentials
	SourceRef string          // "refs/heads/master"
	Commit    gitops.Commit   // the source commit
	Commits   []gitops.Commit // those that come with it, newest first
	More      int             // how many are not listed

	Name, Tag, Digest string // the image
	Provenance        string // digest of its provenance's manifest
	Accepted          string // a person's reason to promote what would be held
	acceptedBefore    string // what the entry says of words that were used before
	Size, SizeBefore  int64  // compressed bytes; 0: unknown

	// Observe writes a ledger entry and promotes nothing.
	Observe bool
	// Fill brings the ledger's own image to markers that never held one
	// (Unfilled), or onto a review branch that no longer merges (State.Stale).
	// Of the fields above only Image, Base and BaseBump are needed.
	Fill bool
}

// Promotion is a bump that the ledger names.
type Promotion struct {
	Bump    gitops.Hash // the commit; on no branch where nothing had to change
	Branch  string      // that it was pushed to; empty: none
	Head    gitops.Hash // of that branch after the push
	Changes []FileChange
	// Problems are files that could not be edited and were left alone.
	Problems []Problem
	// Mirror is why the push to Refspec's ref failed. That push follows the
	// promotion, whose outcome it does not change; the next one tries it again.
	Mirror error
}

// FileChange is one value that changed.
type FileChange struct {
	File string // path in the repository
	marker.Change
}

// rounds is how often a batch is tried while others move the branch;
// firstPause and longestPause bound the waits between.
const (
	rounds       = 8
	firstPause   = 20 * time.Millisecond
	longestPause = time.Second
)

// settle answers every request of a batch, in rounds of reading, committing and
// pushing, until the ledger says that it is done or that it cannot be.
func (f *Fleet) settle(ctx context.Context, batch []*request) {
	var last *trial
	for round := 0; ; round++ {
		if round > 1 { // somebody else was faster, more than once
			wait(ctx, jitter(firstPause<<(round-2)))
		}
		if batch = present(batch); len(batch) == 0 {
			return
		}
		var apart bool
		batch, last, apart = f.round(ctx, batch, last, round == rounds)
		if apart {
			// One of them is what the server objects to. It shall not keep the
			// others from being promoted.
			for _, r := range batch {
				f.settle(ctx, []*request{r})
			}
			return
		}
	}
}

// round is the story of one attempt. It returns the requests that are still
// without an answer, and whether they must go on one by one.
//
// A crash before send leaves nothing behind. One after it leaves what the next
// reading finds: the ledger names our commit, or it does not.
func (f *Fleet) round(ctx context.Context, batch []*request, last *trial, final bool) (left []*request, next *trial, apart bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, f.patience)
	defer cancel()

	// Where do branch and ledger stand? Asked anew after every push: its answer
	// may have been lost, or a lie.
	w, err := f.start(ctx, last)
	if err == nil && f.complete(ctx, w, last) {
		w, err = f.read(ctx)
	}
	if err != nil {
		fail(batch, last.explain(f.slow(ctx, err)))
		return nil, nil, false
	}

	// Who is done by that, and whose ledger has moved elsewhere?
	if batch = f.confirm(ctx, w, batch, last); len(batch) == 0 {
		return nil, nil, false
	}

	// Why did the last push not do it?
	switch verdict := f.examine(w, batch, last); {
	case verdict == broken, verdict == refused && len(batch) == 1:
		fail(batch, last.err)
		return nil, nil, false
	case verdict == refused:
		return batch, nil, true
	case final:
		fail(batch, last.explain(ErrBusy))
		return nil, nil, false
	}

	// Edit, commit and sign upon the head that was read.
	p, batch := f.compose(ctx, w, batch)
	if len(batch) == 0 || p == nil {
		return batch, nil, false
	}

	// Push: the branch and every ledger, from what was read to what was made.
	return batch, f.send(ctx, w, p), false
}

// start reads the world, or begins with the reading that the bump was decided on
// if that is young enough (MaxAge). Should it be outdated, the push compares and
// fails, and the next round knows better.
func (f *Fleet) start(ctx context.Context, last *trial) (*world, error) {
	w := f.readings.young(f.MaxAge)
	if w == nil || last != nil {
		return f.read(ctx)
	}
	if err := f.watchKeys(); err != nil {
		return nil, err
	}
	return w, f.fetchLedgers(ctx, w)
}

// confirm answers those whose fate the ledger tells: done, where it names a
// commit that we made, and to be decided again, where it names another. It
// returns those that are still to be promoted.
func (f *Fleet) confirm(ctx context.Context, w *world, batch []*request, last *trial) (left []*request) {
	for _, r := range batch {
		done, err := f.confirmed(ctx, w, r)
		if err == nil && done != nil {
			err = f.arrived(ctx, w, r.bump.Image.Name, done, last)
		}
		switch {
		case f.damaged(err):
			left = append(left, r) // the next round reads anew
		case err != nil:
			r.fail(f.slow(ctx, err))
		case done != nil:
			done.Mirror = f.mirror(ctx, w, done.Head)
			r.succeed(*done)
		default:
			left = append(left, r)
		}
	}
	return left
}

func (f *Fleet) confirmed(ctx context.Context, w *world, r *request) (*Promotion, error) {
	entry, behind, err := f.entry(ctx, w, r.bump.Image.Name)
	if err != nil {
		return nil, err
	}
	now := gitops.Hash{}
	if entry != nil {
		now = entry.Bump
	}
	if promotion, ours := r.made[now]; ours {
		if behind && !f.bare {
			err := f.bringForward(ctx, w, entry)
			if r.declined != nil && errors.As(err, new(*wire.RejectedError)) {
				// Without its ledger the branch was taken, and the ledger alone is
				// refused: it is the ledger. A server that was out of order for a
				// moment gets it now.
				f.bare, err = true, nil
			}
			if err != nil {
				return nil, fmt.Errorf("the bump is on the branch, but the ledger does not name it yet: %w", err)
			}
		}
		return promotion, nil
	}
	if now == r.bump.BaseBump {
		return nil, nil
	}
	for commit, promotion := range r.made {
		// Somebody may have promoted further, on top of ours, before we looked.
		if under, err := f.history.contains(ctx, now, commit); err == nil && under {
			return promotion, nil
		}
	}
	return nil, ErrMoved
}

// admit says whether a bump may be made in this world. It repeats what the
// caller has decided: this is the last moment to notice that it no longer holds.
func (f *Fleet) admit(ctx context.Context, w *world, b Bump) (*Entry, verdict, error) {
	if f.reviewed() && f.reviewRef(b.Image.Name) == f.branchRef() {
		return nil, verdict{}, fmt.Errorf("push.branch names %s itself for image %s: nothing would be reviewed", f.Branch, b.Image.Name)
	}
	entry, _, err := f.entry(ctx, w, b.Image.Name)
	if err != nil {
		return nil, verdict{}, err
	}
	if err := f.notReplayed(ctx, w, entry, b); err != nil {
		return nil, verdict{}, err
	}
	lost, err := f.lost(ctx, w, b.Image.Name, entry)
	if err != nil {
		return nil, verdict{}, err
	}
	v, err := f.judge(ctx, w, b.Image, entry)
	if err != nil {
		return nil, verdict{}, err
	}
	switch {
	case v.stranger != nil:
		err = &StrangerError{*v.stranger}
	case lost != nil && b.Accepted == "":
		err = lost
	case b.Observe:
		if entry != nil {
			err = ErrMoved
		}
	case v.standing == NoMarker:
		err = &NoMarkerError{Policy: b.Image.Policy.String(), Path: "./" + strings.Join(f.path, "/"), Branch: f.Branch}
	case b.Fill:
		if v.standing != Unfilled && !v.stale {
			err = ErrMoved
		}
	case v.standing == TakenOver && b.Accepted == "":
		err = &ForeignError{Image: b.Image.Name, Foreign: *v.foreign}
	case entry != nil && b.Accepted != "" && !entry.Accepts(b.Commit.Hash):
		err = ErrPromoted
	case entry != nil && b.Accepted == "" && entry.Source == b.Commit.Hash:
		err = ErrPromoted
	}
	return entry, v, err
}
