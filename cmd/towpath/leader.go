package main

import (
	"context"
	"os"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/reconcile"
	"towpath.dev/towpath/reconcile/election"
)

// leaseName is the Lease's, in the namespace that Towpath runs in.
const leaseName = "towpath"

// lead does the daemon's work: at once, or whenever this copy holds the Lease.
//
// Where the config does not say whether to take part, a pod that has the right to the
// Lease does; while the API server cannot be asked about that right, the pod asks again.
// A copy that waits opens nothing and polls nobody. That makes its first round after the
// hand-over slower by a fetch, and spares polling twice for good. status and why work in
// its pod as anywhere.
func (g *globals) lead(ctx context.Context, cfg *config.Config, in *cluster, told *telling, work func(context.Context)) {
	wanted := cfg.LeaderElection.Enabled
	switch {
	case wanted != nil && !*wanted, wanted == nil && (in == nil || !in.pod):
		work(ctx)
		return
	case in == nil:
		g.log.Warn("leaderElection.enabled is true, and there is no cluster: this copy works", "hint", "run it in a pod, or set KUBECONFIG")
		work(ctx)
		return
	}
	offer, err := election.New(in.config, election.Options{
		Lease:    types.NamespacedName{Namespace: in.namespace, Name: leaseName},
		Identity: in.identity(), Leading: told.leading, Log: g.log,
	})
	if err != nil {
		g.log.Error("this copy works without leader election", "error", err)
		work(ctx)
		return
	}
	if !g.mayLead(ctx, offer, wanted != nil) {
		work(ctx)
		return
	}
	told.leading(false)
	offer.Run(ctx, work)
}

// checkAgain is the pause between two questions whether the Lease may be had,
// while that is not known or, where it is asked for, not so.
const checkAgain = 30 * time.Second

// mayLead finds out whether this copy may have the Lease. Without the right it
// takes no part, unless the config insists: then it waits until it may.
func (g *globals) mayLead(ctx context.Context, offer *election.Election, insists bool) bool {
	said := ""
	for {
		limited, cancel := context.WithTimeout(ctx, patience)
		err := offer.Check(limited)
		cancel()
		if err == nil || ctx.Err() != nil {
			return true
		}
		if election.Forbidden(err) && !insists {
			g.log.Warn("this copy works without leader election, and so does any other: each commit is promoted once all the same", "error", oneLine(err.Error()), "hint", hintOf(err))
			return false
		}
		if text := oneLine(err.Error()); text != said {
			said = text
			g.log.Warn("this copy waits until it may have the Lease", "error", text, "hint", hintOf(err))
		}
		select {
		case <-time.After(checkAgain):
		case <-ctx.Done():
			return true
		}
	}
}

// identity names this copy in the Lease. A container that is started again in
// its pod is the same copy, and need not wait for its own Lease to run out.
func (c *cluster) identity() string {
	name := instance()
	if !c.pod {
		name += "_" + strconv.Itoa(os.Getpid())
	}
	return name
}

// whileIdle beats for a copy that waits for its turn, as the loop does for one
// that works: neither is stuck. It returns the work to be done in a turn.
func whileIdle(ctx context.Context, beat func(), work func(context.Context)) func(context.Context) {
	var turn sync.Mutex // held while this copy works, and while it beats for a copy that waits
	beatIfIdle := func() {
		if turn.TryLock() {
			defer turn.Unlock()
			beat()
		}
	}
	go func() {
		beats := time.NewTicker(reconcile.BeatEvery)
		defer beats.Stop()
		for {
			beatIfIdle()
			select {
			case <-beats.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func(ctx context.Context) {
		turn.Lock()
		defer turn.Unlock()
		work(ctx)
	}
}

// feed hands the newest deliveries to whoever works at the moment.
type feed struct {
	mu     sync.Mutex
	groups []reconcile.Group
	out    chan []reconcile.Group
}

func newFeed(groups []reconcile.Group) *feed {
	return &feed{groups: groups, out: make(chan []reconcile.Group, 1)}
}

// put replaces the deliveries. Earlier ones that nobody has taken are dropped.
func (f *feed) put(groups []reconcile.Group) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.groups = groups
	f.hand()
}

// begin is what a turn reads: the deliveries as they are now, and every change.
func (f *feed) begin() <-chan []reconcile.Group {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hand()
	return f.out
}

// hand leaves the newest deliveries in the channel. Callers hold f.mu.
func (f *feed) hand() {
	select {
	case <-f.out:
	default:
	}
	f.out <- f.groups
}
