package fleet

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"towpath.dev/towpath/gitops"
)

// A server that never comes to an end, or a repository that is made to be read for
// ever, keeps its target busy for so long and no longer. Nobody else waits for it,
// and it goes on when the server does.
func TestPatienceEnds(t *testing.T) {
	t.Parallel()
	var stuck atomic.Bool
	y := newYard(t, plainFiles())
	held := make(chan struct{})
	t.Cleanup(func() { close(held) })
	y.faults.all = func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if stuck.Load() {
			select {
			case <-r.Context().Done():
			case <-held:
			}
			return
		}
		next.ServeHTTP(w, r)
	}
	f, well := y.fleet(), newYard(t, plainFiles())
	f.patience = 300 * time.Millisecond
	other := well.fleet()

	stuck.Store(true)
	f.readings.forget()
	answered := make(chan error, 1)
	go func() {
		_, err := f.Promoted(context.Background(), podinfo)
		answered <- err
	}()
	well.promote(other, podinfo, 1)
	var slow *SlowError
	if err := <-answered; !errors.As(err, &slow) || slow.Hint() == "" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: %v; want that it was given up", err)
	}
	stuck.Store(false)
	f.patience = maxTime
	s := y.stands(f, podinfo, Unpromoted)

	stuck.Store(true)
	f.readings.forget()
	f.patience = 300 * time.Millisecond
	if _, err := f.Promote(t.Context(), bumpTo(podinfo, 1, s)); !errors.As(err, &slow) {
		t.Errorf("promote: %v; want that it was given up", err)
	}
	stuck.Store(false)
	f.patience = maxTime
	y.promote(f, podinfo, 1)
	y.sound()
}

// A walk through the past ends with who asked for it: at every commit it is asked.
func TestWalksAreCancelled(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	first := y.promote(f, podinfo, 1)
	for n := range 5 {
		y.write("registry.example.com/apps/podinfo:theirs" + strconv.Itoa(n))
	}
	head := y.state(f, podinfo).Head
	visited := 0
	ctx, cancel := context.WithCancel(t.Context())
	_, err := f.history.walk(ctx, f.history.back(head, shortWay), func(gitops.Commit) (step, error) {
		if visited++; visited == 2 {
			cancel()
		}
		return onward, nil
	})
	if visited != 2 || !errors.Is(err, context.Canceled) {
		t.Errorf("walk: %d commits were visited, %v", visited, err)
	}
	if _, _, err := f.history.since(ctx, first.Bump, head); !errors.Is(err, context.Canceled) {
		t.Errorf("since: %v", err)
	}
	w, err := f.readings.get(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.verdicts)
	if _, err := f.state(ctx, w, podinfo); !errors.Is(err, context.Canceled) {
		t.Errorf("judge: %v", err)
	}
}
