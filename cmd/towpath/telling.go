package main

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops/flux"
	"towpath.dev/towpath/reconcile"
	"towpath.dev/towpath/reconcile/events"
	"towpath.dev/towpath/reconcile/metrics"
)

// telling is who hears of outcomes besides the log: Flux, which is asked to pull,
// notification-controller, and a collector of metrics. Each is nil where there is none,
// and none of them delays or fails a round.
type telling struct {
	ctx     context.Context
	ended   atomic.Int64 // when ctx ended, in nanoseconds of the Unix time; 0: not yet
	nudges  *nudges
	events  *events.Teller
	pusher  *metrics.Pusher
	metrics *metrics.Recorder
}

// farewell is how long close waits for what is still to be told, unless ending the work
// in flight has used up that time.
const farewell = 3 * time.Second

// tell finds out who is to hear of outcomes. What cannot be reached or
// understood is logged, and does without: a config is not refused for it.
func (g *globals) tell(ctx context.Context, cfg *config.Config, w *wiring, in *cluster) *telling {
	t := &telling{ctx: ctx}
	context.AfterFunc(ctx, func() { t.ended.Store(time.Now().UnixNano()) })
	past, err := readHistory(cfg.Cache)
	if err != nil {
		g.log.Debug("no history is read", "error", err)
	}
	if in != nil {
		if client, err := flux.New(in.config); err != nil {
			g.log.Warn("Flux is not asked to pull", "error", err)
		} else {
			t.nudges = newNudges(g.log, client, w.gitRepository)
		}
	}
	address := cfg.Events.Address
	if address == "" && in != nil && in.pod {
		address = events.Address
	}
	if address != "" {
		t.events = events.New(events.Options{Address: address, Repository: w.gitRepository, Instance: instance(), Log: g.log}, past)
	}
	if !metrics.Asked() {
		return t
	}
	if t.pusher, err = metrics.Push(ctx, version, instance(), g.log); err == nil {
		t.metrics, err = metrics.New(t.pusher.Provider, version, w.delivers, past)
	}
	if err != nil {
		g.log.Warn("no metrics are pushed", "error", err)
	}
	return t
}

// instance names this copy: the pod, in a cluster.
func instance() string {
	name, err := os.Hostname()
	if err != nil {
		return "towpath"
	}
	return name
}

// report takes an outcome in, and never waits.
func (t *telling) report(o reconcile.Outcome) {
	if t.nudges != nil {
		t.nudges.report(t.ctx, o)
	}
	if t.events != nil {
		t.events.Report(o)
	}
	if t.metrics != nil {
		t.metrics.Report(o)
	}
}

// leading tells whether this copy holds the Lease.
func (t *telling) leading(leads bool) {
	if t.metrics != nil {
		t.metrics.Leading(leads)
	}
}

// close tells what is still to be told, for a moment.
func (t *telling) close() {
	until := time.Now().Add(farewell)
	if ended := t.ended.Load(); ended != 0 {
		if last := time.Unix(0, ended).Add(grace + grace/20); last.Before(until) {
			until = last
		}
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(t.ctx), until)
	defer cancel()
	var all sync.WaitGroup
	if t.nudges != nil {
		all.Go(func() { t.nudges.close(ctx) })
	}
	if t.events != nil {
		all.Go(func() { t.events.Close(ctx) })
	}
	if t.pusher != nil {
		all.Go(func() { t.pusher.Close(ctx) })
	}
	all.Wait()
}

// gitRepository is the object of Flux that watches a target, as the newest
// config says.
func (w *wiring) gitRepository(target string) (types.NamespacedName, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.config == nil {
		return types.NamespacedName{}, false
	}
	return gitRepository(w.config.GitOps, target)
}

// delivers tells whether the newest config has an image go to a target.
func (w *wiring) delivers(image, target string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.config == nil {
		return false
	}
	found := w.config.Image(image)
	if found == nil {
		return false
	}
	for _, one := range found.Targets(w.config) {
		if one.Name == target {
			return true
		}
	}
	return false
}
