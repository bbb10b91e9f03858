package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/gitops/flux"
	"towpath.dev/towpath/reconcile"
)

// nudges ask Flux to pull what was pushed: once for each push, however many images it
// promoted. That happens in the background and delays no round. If it fails, Flux finds
// the bump at its next interval.
//
// A process that dies between push and nudge leaves a push that Flux was not told of. So
// every process looks once for each target, when it starts, whether Flux has fetched
// what is promoted there.
type nudges struct {
	log        *slog.Logger
	flux       *flux.Client
	repository func(target string) (types.NamespacedName, bool)

	mu      sync.Mutex
	pushed  map[string]string               // by target: the head that Flux was asked for last
	looked  map[string]bool                 // by target: whether the look at the start was done, or is not needed any more
	told    map[types.NamespacedName]string // by GitRepository: the error that was logged last
	working sync.WaitGroup
}

func newNudges(log *slog.Logger, client *flux.Client, repository func(string) (types.NamespacedName, bool)) *nudges {
	return &nudges{log: log, flux: client, repository: repository, pushed: map[string]string{}, looked: map[string]bool{}, told: map[types.NamespacedName]string{}}
}

// nudgePauses are the waits before each attempt; after the last, Flux's own
// interval is as quick.
var nudgePauses = []time.Duration{0, time.Second, 5 * time.Second}

// nudgeTimeout is how long an attempt may take.
const nudgeTimeout = 10 * time.Second

// report asks for what an outcome says was pushed to the branch that Flux
// applies. The images of a batch were pushed together, up to the same head.
func (n *nudges) report(ctx context.Context, o reconcile.Outcome) {
	repository, ok := n.repository(o.Target)
	if !ok {
		return
	}
	if o.Pushed == "" {
		n.found(ctx, repository, o)
		return
	}
	n.mu.Lock()
	n.looked[o.Target] = true
	again := n.pushed[o.Target] == o.Pushed
	n.pushed[o.Target] = o.Pushed
	n.mu.Unlock()
	if again {
		return
	}
	n.working.Go(func() { n.nudge(ctx, repository, o.Target) })
}

// found is the look at the start: if Flux has not fetched what an earlier process
// promoted, it is asked to pull. Where somebody else has pushed since, that is one nudge
// too many, and harmless.
func (n *nudges) found(ctx context.Context, repository types.NamespacedName, o reconcile.Outcome) {
	n.mu.Lock()
	again := o.Tip == "" || n.looked[o.Target]
	if !again {
		n.looked[o.Target] = true
	}
	n.mu.Unlock()
	if again {
		return
	}
	n.working.Go(func() {
		limited, cancel := context.WithTimeout(ctx, nudgeTimeout)
		fetched, err := n.flux.Fetched(limited, repository)
		cancel()
		if err != nil {
			n.log.Debug("whether Flux has fetched what was promoted is not known", "target", o.Target, "gitRepository", repository, "error", oneLine(err.Error()))
			return
		}
		if commit, ok := fetched.Commit(); !ok || commit.String() != o.Tip {
			n.nudge(ctx, repository, o.Target)
		}
	})
}

// nudge asks Flux to pull, in a few attempts.
func (n *nudges) nudge(ctx context.Context, repository types.NamespacedName, target string) {
	var err error
	for _, pause := range nudgePauses {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			if pause > 0 {
				return // the first attempt is made even now: the push is done
			}
		}
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), nudgeTimeout)
		err = n.flux.Nudge(attempt, repository, time.Now())
		cancel()
		if err == nil || flux.Refused(err) {
			break
		}
	}
	n.tell(repository, target, err)
}

// tell logs the outcome of a nudge. An error is logged once, until it is another one or
// is gone.
func (n *nudges) tell(repository types.NamespacedName, target string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err == nil {
		delete(n.told, repository)
		n.log.Debug("Flux was asked to pull", "target", target, "gitRepository", repository)
		return
	}
	text := oneLine(err.Error())
	if n.told[repository] == text {
		return
	}
	n.told[repository] = text
	n.log.Warn("Flux was not asked to pull at once: it pulls at its next interval", "target", target, "gitRepository", repository, "error", text, "hint", hintOf(err))
}

// close waits for the nudges that are under way, until the context ends.
func (n *nudges) close(ctx context.Context) {
	done := make(chan struct{})
	go func() { n.working.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
