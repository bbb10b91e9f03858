package reconcile

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Group is the deliveries that share a source: one poll serves them all.
type Group struct {
	Name       string        // tells groups apart: the source's URL and credential
	Interval   time.Duration // between polls
	Deliveries []*Delivery
}

// Loop runs deliveries again and again. Groups run side by side and so do the
// deliveries of a group, so that a slow or broken source, a long build or a
// registry that is away delays nobody else.
type Loop struct {
	Report  func(Outcome) // called for every outcome, one at a time
	Beat    func()        // called by Run every BeatEvery while no group is overdue; may be nil
	reports sync.Mutex
	// Settled is called by Run, beside its work, when of all groups that it was
	// sent only these are still at work; may be nil.
	Settled func([]Group)

	recovered recoveries
}

// BeatEvery is the time between two beats of a loop that is well.
const BeatEvery = 10 * time.Second

// pulse is when a group that is well will next have turned, in nanoseconds of
// the Unix time; 0: it has ended.
type pulse struct{ due atomic.Int64 }

// overdue is how late a group may be before the loop counts as stuck. A group's
// turn takes no time to speak of: all that may last happens beside it. A minute
// is for reports, which write to a disk that may be slow.
const overdue = time.Minute

func (p *pulse) expect(at time.Time) { p.due.Store(at.UnixNano()) }

func (p *pulse) late(now time.Time) bool {
	due := p.due.Load()
	return due != 0 && now.Sub(time.Unix(0, due)) > overdue
}

// rounds is how many rounds Once gives a delivery at most: another one where another
// copy of Towpath was faster, so that the decision was out of date.
const rounds = 3

// Once runs one complete round of every delivery and waits for its builds.
func (l *Loop) Once(ctx context.Context, groups []Group) []Outcome {
	var deliveries []*Delivery
	for _, group := range groups {
		deliveries = append(deliveries, group.Deliveries...)
	}
	outcomes := make([]Outcome, len(deliveries))
	var all sync.WaitGroup
	for i, d := range deliveries {
		all.Go(func() {
			for range rounds {
				outcomes[i] = d.Deliver(ctx)
				l.report(outcomes[i])
				if outcomes[i].State != Outdated || !d.Current() {
					return
				}
			}
		})
	}
	all.Wait()
	return outcomes
}

// Run works on the newest groups it was sent until the context ends, and then
// waits for what is in flight to be finished or abandoned. New groups replace
// the old ones at once; rounds in flight go on, and what they bring is promoted
// only where the new config still says the same.
func (l *Loop) Run(ctx context.Context, snapshots <-chan []Group) {
	var running sync.WaitGroup
	before := make(chan struct{}) // closed when all groups before the newest have ended
	close(before)
	stop := func() {}
	var pulses []*pulse
	beats := time.NewTicker(BeatEvery)
	defer beats.Stop()
	l.beat(pulses)
	for {
		select {
		case <-ctx.Done():
			stop()
			running.Wait()
			return
		case <-beats.C:
			l.beat(pulses)
		case groups := <-snapshots:
			stop()
			var scheduling context.Context
			scheduling, stop = context.WithCancel(ctx)
			pulses = nil // of the groups before, which only end
			var these sync.WaitGroup
			for _, group := range groups {
				p := &pulse{}
				p.expect(time.Now())
				pulses = append(pulses, p)
				these.Go(func() { l.follow(ctx, scheduling, group, p) })
			}
			earlier, all := before, make(chan struct{})
			before = all
			running.Go(func() {
				<-earlier
				if scheduling.Err() == nil && l.Settled != nil {
					l.Settled(groups)
				}
				these.Wait()
				close(all)
			})
		}
	}
}

// beat tells that the loop is well, if it is: every group turns when it said it
// would.
func (l *Loop) beat(pulses []*pulse) {
	now := time.Now()
	if l.Beat != nil && !slices.ContainsFunc(pulses, func(p *pulse) bool { return p.late(now) }) {
		l.Beat()
	}
}

// follow keeps one group's deliveries going: rounds start while scheduling
// lasts and work under ctx.
func (l *Loop) follow(ctx, scheduling context.Context, group Group, alive *pulse) {
	type result struct {
		slot    int
		outcome Outcome
	}
	turns := make([]turn, len(group.Deliveries))
	finished := make(chan result)
	inFlight := 0
	poll := time.Now() // deliveries that rest meet again at this time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-scheduling.Done():
			alive.due.Store(0)
			for ; inFlight > 0; inFlight-- {
				l.report((<-finished).outcome)
			}
			return
		case done := <-finished:
			alive.expect(time.Now()) // a report that never ends shows
			inFlight--
			l.report(done.outcome)
			t := &turns[done.slot]
			t.busy, t.next = false, poll
			switch {
			case done.outcome.Class == Retry:
				t.failed(done.outcome, group.Interval)
			case t.failures > 0:
				t.failures = 0
				l.recovered.tell(group.Deliveries[done.slot].Hosts)
			}
		case <-l.recovered.next():
		case <-timer.C:
		}

		now := time.Now()
		if !now.Before(poll) {
			poll = now.Add(jittered(group.Interval))
		}
		wake := poll
		for i := range turns {
			t := &turns[i]
			if !t.busy && t.failures > 0 && !t.woken && l.recovered.since(group.Deliveries[i].Hosts, t.tried) {
				t.cutShort(group.Interval)
			}
			switch {
			case t.busy:
			case now.Before(t.next):
				if t.next.Before(wake) {
					wake = t.next
				}
			default:
				t.busy = true
				inFlight++
				go func() { finished <- result{i, group.Deliveries[i].Deliver(ctx)} }()
			}
		}
		alive.expect(wake)
		timer.Reset(time.Until(wake))
	}
}

// report hands an outcome on, unless it only says that the process is ending.
func (l *Loop) report(o Outcome) {
	if errors.Is(o.Err, context.Canceled) {
		return
	}
	l.reports.Lock()
	defer l.reports.Unlock()
	if l.Report != nil {
		l.Report(o)
	}
}
