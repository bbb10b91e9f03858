package reconcile

import (
	"math/rand/v2"
	"sync"
	"time"
)

// recoveries lets groups tell each other of hosts that answer again. After a long
// outage all deliveries that need a host are in long back-offs, each for itself. The
// first one that gets through spares the others the rest of theirs. The zero value is
// ready to use, and safe for concurrent use.
type recoveries struct {
	mu   sync.Mutex
	when map[string]time.Time // by host
	news chan struct{}        // closed by the next recovery
}

// tell says that a delivery which failed gets through again.
func (r *recoveries) tell(hosts []string) {
	if len(hosts) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.when == nil {
		r.when = map[string]time.Time{}
	}
	for _, host := range hosts {
		r.when[host] = time.Now()
	}
	if r.news != nil {
		close(r.news)
		r.news = nil
	}
}

// next is closed when something is told.
func (r *recoveries) next() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.news == nil {
		r.news = make(chan struct{})
	}
	return r.news
}

// since tells whether one of the hosts came back after a moment.
func (r *recoveries) since(hosts []string, moment time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, host := range hosts {
		if r.when[host].After(moment) {
			return true
		}
	}
	return false
}

// turn is when a delivery of a group has its next round.
type turn struct {
	next     time.Time
	busy     bool
	failures int
	tried    time.Time // when the round began that failed
	woken    bool      // since then, by a host that came back
	asked    time.Time // what the other side wants to be left alone until
}

// failed plans the next try after a failure.
func (t *turn) failed(o Outcome, interval time.Duration) {
	now := time.Now()
	t.failures++
	t.tried, t.woken = o.Time, false
	t.asked = now.Add(retryAfter(o.Err))
	t.next = now.Add(backOff(t.failures, interval, o.Err))
}

// cutShort ends the wait for a host that has come back. The next try is at a random
// moment within one interval, lest all who waited come at once, and no sooner than the
// other side asked for. It is cut short once: the others who get through meanwhile, and
// say so as well, do not hurry it any more.
func (t *turn) cutShort(interval time.Duration) {
	t.woken = true
	soon := time.Now().Add(time.Duration(rand.Float64() * float64(interval)))
	if soon.Before(t.asked) {
		soon = t.asked
	}
	if soon.Before(t.next) {
		t.next = soon
	}
}
