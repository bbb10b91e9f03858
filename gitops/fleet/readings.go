package fleet

import (
	"context"
	"sync"
	"time"
)

// readings lets concurrent callers share one reading.
type readings struct {
	mu      sync.Mutex
	running *reading // began already: a caller that comes now must not join it
	next    *reading // begins when running ends
	last    *reading // ended well
}

type reading struct {
	begun time.Time
	done  chan struct{}
	world *world
	err   error
}

func (r *readings) get(ctx context.Context, f *Fleet) (*world, error) {
	mine := r.join(f)
	select {
	case <-mine.done:
		return mine.world, mine.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *readings) join(f *Fleet) *reading {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.last != nil && time.Since(r.last.begun) <= f.MaxAge:
		return r.last
	case r.running == nil:
		r.running = &reading{done: make(chan struct{})}
		r.start(f, r.running)
		return r.running
	case r.next == nil:
		r.next = &reading{done: make(chan struct{})}
	}
	return r.next
}

func (r *readings) start(f *Fleet, it *reading) {
	it.begun = time.Now()
	f.work.Go(func() {
		// Held to the end: a push in between would make this reading old news.
		f.mu.Lock()
		defer f.mu.Unlock()
		ctx, cancel := context.WithTimeout(f.life, f.patience)
		defer cancel()
		it.world, it.err = f.read(ctx)
		if it.err = f.slow(ctx, it.err); it.err == nil {
			it.world.rewritten, f.rewritten = f.rewritten, "" // its callers are told, once
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if it.err == nil {
			r.last = it
		}
		r.running, r.next = r.next, nil
		if r.running != nil {
			r.start(f, r.running)
		}
		close(it.done)
	})
}

// young returns the last reading if it is not older than that.
func (r *readings) young(age time.Duration) *world {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || time.Since(r.last.begun) > age {
		return nil
	}
	return r.last.world
}

// forget makes the next caller read: we have just changed the world.
func (r *readings) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = nil
}
