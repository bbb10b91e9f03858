package fleet

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"towpath.dev/towpath/gitops"
)

// window is how long a batch waits for others after its first bump: images
// that were built from one commit, or one push, become ready together.
const window = 15 * time.Millisecond

// Promote writes a bump to the branch and the ledger, and returns after the
// ledger was read back as ours. It joins the next batch: whatever is promoted
// meanwhile goes with it in one push.
//
// Errors, by errors.Is: ErrMoved, ErrPromoted, ErrNoMarker, ErrForeign and
// ErrStranger refuse this bump, and nothing of it was pushed; ErrBusy asks to
// try again. Any other may come after the push was applied: Promoted tells.
func (f *Fleet) Promote(ctx context.Context, b Bump) (Promotion, error) {
	if err := f.life.Err(); err != nil {
		return Promotion{}, f.fault("promote "+b.Image.Name, err)
	}
	f.known.add(b.Image)
	r := &request{ctx: ctx, bump: b, made: map[gitops.Hash]*Promotion{}, done: make(chan struct{})}
	f.batches.join(f, r)
	select {
	case <-r.done:
	case <-ctx.Done():
		return Promotion{}, f.fault("promote "+b.Image.Name, ctx.Err())
	}
	if r.err != nil {
		return Promotion{}, f.fault("promote "+b.Image.Name, r.err)
	}
	return r.promotion, nil
}

// request is a caller of Promote who waits.
type request struct {
	ctx  context.Context
	bump Bump
	// made holds the commits of every round: any may have been applied, and the
	// answer to its push lost. newest is this round's.
	made   map[gitops.Hash]*Promotion
	newest *Promotion
	// declined is what the server said when it was asked to move branch and
	// ledger, while we try whether it takes the branch alone.
	declined error

	done      chan struct{}
	promotion Promotion
	err       error
}

func (r *request) succeed(p Promotion) {
	r.promotion = p
	close(r.done)
}

func (r *request) fail(err error) {
	r.err = err
	close(r.done)
}

func fail(batch []*request, err error) {
	for _, r := range batch {
		r.fail(err)
	}
}

// batches gathers requests. One batch is under way at a time; those that come
// meanwhile make up the next.
type batches struct {
	window  time.Duration
	mu      sync.Mutex
	waiting []*request
	running bool
}

func (b *batches) join(f *Fleet, r *request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, r)
	if b.running {
		return
	}
	b.running = true
	f.work.Go(func() {
		wait(f.life, b.window)
		for batch := b.take(); len(batch) > 0; batch = b.take() {
			f.settle(f.life, batch)
		}
	})
}

// take returns the next batch, with one request for each image. A second request
// for the same image stays for the batch after, which will find that the ledger has
// moved.
func (b *batches) take() []*request {
	b.mu.Lock()
	defer b.mu.Unlock()
	var batch, later []*request
	images := map[string]bool{}
	for _, r := range b.waiting {
		if name := r.bump.Image.Name; !images[name] {
			images[name] = true
			batch = append(batch, r)
		} else {
			later = append(later, r)
		}
	}
	b.waiting = later
	b.running = len(batch) > 0
	return batch
}

// present returns the requests whose callers still wait, and answers the others.
func present(batch []*request) []*request {
	var left []*request
	for _, r := range batch {
		if err := r.ctx.Err(); err != nil {
			r.fail(err)
			continue
		}
		left = append(left, r)
	}
	return left
}

// unanswered returns the requests that have no answer yet.
func unanswered(batch []*request) []*request {
	var left []*request
	for _, r := range batch {
		select {
		case <-r.done:
		default:
			left = append(left, r)
		}
	}
	return left
}

// jitter is a wait between half of d and d, within bounds.
func jitter(d time.Duration) time.Duration {
	d = min(d, longestPause)
	return d/2 + rand.N(d/2+1)
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// retryAfter is how long the server asks not to be asked again; 0: it does not say.
func retryAfter(err error) time.Duration {
	var asks interface{ RetryAfter() time.Duration }
	if errors.As(err, &asks) {
		return asks.RetryAfter()
	}
	return 0
}
