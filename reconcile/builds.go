package reconcile

import (
	"context"
	"errors"
	"sync"

	"towpath.dev/towpath/kaniko"
)

// Builds keeps the work on images within bounds. Each order is worked on once,
// however many deliveries ask for it. Only so many are built at a time. And a build
// that failed by its own fault is not repeated until the config changes or the process
// ends; where the builder itself remembers failures (kaniko.BuildError.Kept), as with
// Jobs, the builder is asked again. It is safe for concurrent use.
type Builds struct {
	slots chan struct{}

	mu      sync.Mutex
	running map[work]*flight
	faults  map[work]error
	config  int // counts the changes of the config
}

// work identifies what is worked on: what is built and where it goes.
type work struct {
	key         kaniko.Key
	destination kaniko.Destination
}

// flight is work in progress and those who wait for it.
type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiters int
	config  int // when it began
	result  kaniko.Result
	err     error
}

// NewBuilds allows so many builds at a time; fewer than one means one.
func NewBuilds(concurrency int) *Builds {
	return &Builds{
		slots:   make(chan struct{}, max(concurrency, 1)),
		running: make(map[work]*flight),
		faults:  make(map[work]error),
	}
}

// Once runs the work for an order, or joins it where it runs already, or
// returns the fault it ended with before. Work goes on while anybody waits for
// it: it is cancelled when the last one's context ends.
func (b *Builds) Once(ctx context.Context, order kaniko.Order, do func(context.Context) (kaniko.Result, error)) (kaniko.Result, error) {
	id := work{order.Key(), order.Destination}
	b.mu.Lock()
	if err := b.faults[id]; err != nil {
		b.mu.Unlock()
		return kaniko.Result{}, err
	}
	f := b.running[id]
	if f == nil {
		shared, cancel := context.WithCancel(context.WithoutCancel(ctx))
		f = &flight{done: make(chan struct{}), cancel: cancel, config: b.config}
		b.running[id] = f
		go b.fly(shared, id, f, do)
	}
	f.waiters++
	b.mu.Unlock()

	select {
	case <-f.done:
	case <-ctx.Done():
		b.leave(id, f)
		// Whoever cancels must find the work gone when this returns, lest a
		// build outlive its daemon; those who go on waiting keep it running.
		if f.abandoned(&b.mu) {
			<-f.done
		}
		return kaniko.Result{}, ctx.Err()
	}
	b.leave(id, f)
	return f.result, f.err
}

// fly does the work and hands its result to all who wait for it.
func (b *Builds) fly(ctx context.Context, id work, f *flight, do func(context.Context) (kaniko.Result, error)) {
	defer f.cancel()
	f.result, f.err = do(ctx)
	b.mu.Lock()
	if b.running[id] == f {
		delete(b.running, id)
	}
	var fault *kaniko.BuildError
	if errors.As(f.err, &fault) && !fault.Kept && f.config == b.config {
		b.faults[id] = f.err
	}
	b.mu.Unlock()
	close(f.done)
}

// leave counts a waiter out; the last one ends work that still runs, and a
// newcomer starts anew instead of joining what was given up.
func (b *Builds) leave(id work, f *flight) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.waiters--; f.waiters == 0 {
		if b.running[id] == f {
			delete(b.running, id)
		}
		f.cancel()
	}
}

// abandoned tells whether nobody waits for the work any more.
func (f *flight) abandoned(mu *sync.Mutex) bool {
	mu.Lock()
	defer mu.Unlock()
	return f.waiters == 0
}

// Forget lets builds that failed by their own fault be tried again, because the config
// has changed. A build that is at work now and fails counts as one of before.
func (b *Builds) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.config++
	clear(b.faults)
}

// Slot runs a build when one of the slots is free.
func (b *Builds) Slot(ctx context.Context, build func() (kaniko.Result, error)) (kaniko.Result, error) {
	select {
	case b.slots <- struct{}{}:
	case <-ctx.Done():
		return kaniko.Result{}, ctx.Err()
	}
	defer func() { <-b.slots }()
	return build()
}
