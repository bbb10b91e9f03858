package main

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"towpath.dev/towpath/reconcile"
)

// TestFeed: each turn begins with the newest deliveries, and the old ones are
// never handed out after newer ones.
func TestFeed(t *testing.T) {
	t.Parallel()
	groups := func(name string) []reconcile.Group { return []reconcile.Group{{Name: name}} }
	takes := func(from <-chan []reconcile.Group, want string) {
		t.Helper()
		select {
		case got := <-from:
			if got[0].Name != want {
				t.Errorf("took %q, want %q", got[0].Name, want)
			}
		default:
			t.Errorf("nothing to take, want %q", want)
		}
	}
	f := newFeed(groups("first"))
	f.put(groups("second")) // while this copy waits
	f.put(groups("third"))
	turn := f.begin()
	takes(turn, "third")
	f.put(groups("fourth"))
	takes(turn, "fourth")
	turn = f.begin() // the Lease was lost, and is held again
	takes(turn, "fourth")
	select {
	case again := <-turn:
		t.Errorf("%q was handed out twice", again[0].Name)
	default:
	}
}

// TestWhoWaitsBeats: and leaves it to the loop while that works, which does not
// beat when it is stuck.
func TestWhoWaitsBeats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var beats atomic.Int64
		work := whileIdle(ctx, func() { beats.Add(1) }, func(ctx context.Context) { <-ctx.Done() })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got, want := beats.Load(), int64(time.Minute/reconcile.BeatEvery)+1; got != want {
			t.Errorf("%d beats in a minute, want %d", got, want)
		}
		before := beats.Load()
		turn, end := context.WithTimeout(ctx, time.Minute)
		defer end()
		work(turn)
		if more := beats.Load() - before; more != 0 {
			t.Errorf("%d beats while the work is stuck", more)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if beats.Load() == before {
			t.Error("no beat after the turn")
		}
	})
}
