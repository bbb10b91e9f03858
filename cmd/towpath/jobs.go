package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/job"
	"towpath.dev/towpath/reconcile"
)

// jobView is how builds stand as Jobs, read once for all images of one command.
// Where builds are no Jobs, or no cluster is at hand, it knows of none.
type jobView struct {
	read func() (map[string]job.Standing, error)
	all  bool // every failure that still holds has its Job
}

// jobView looks at the builder's Jobs when it is first asked.
func (w *wiring) jobView(ctx context.Context) *jobView {
	jobs, ok := w.builder.(*inCluster)
	if !ok {
		return &jobView{read: func() (map[string]job.Standing, error) { return map[string]job.Standing{}, nil }}
	}
	return &jobView{all: true, read: sync.OnceValues(func() (map[string]job.Standing, error) {
		limited, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		return jobs.Standings(limited)
	})}
}

// of is how the build of an order stands. The second result is false where there
// is no Job of it; the error says why that is not known.
func (v *jobView) of(order kaniko.Order) (job.Standing, bool, error) {
	standings, err := v.read()
	if err != nil {
		return job.Standing{}, false, err
	}
	standing, there := standings[job.Name(order)]
	return standing, there, nil
}

// soFar is how the build of a delivery's newest commit stands.
type soFar struct {
	last     reconcile.Outcome // what became of it last
	building string            // what its Job is at that has not ended; empty: there is none
	again    string            // why it is built again although it failed; empty: it is not, or did not
	notices  []string
}

// last is how a delivery's newest commit stands, by its Job or, where that says
// nothing, by the history.
func (v *jobView) last(s reconcile.Sight, history reconcile.Outcome) soFar {
	if s.Built || s.Order.Image == "" {
		return soFar{last: history}
	}
	standing, there, err := v.of(s.Order)
	switch {
	case err != nil:
		return soFar{last: history, notices: []string{"whether a Job builds it is not known: " + oneLine(err.Error())}}
	case !there && v.all && history.State == reconcile.Faulty && history.Commit == s.Outcome.Commit:
		return soFar{last: history, again: "its build failed, and no Job records that any more (towpath retry, or a changed config): it is built again with the next poll"}
	case !there:
		return soFar{last: history}
	case standing.Doing != "":
		if history.State == reconcile.Faulty {
			history = reconcile.Outcome{} // of a Job before this one
		}
		return soFar{last: history, building: fmt.Sprintf("Job %s %s; made %s ago", standing.Job, standing.Doing, age(standing.Made))}
	case standing.Failure == nil:
		return soFar{last: history}
	}
	fault := standing.Failure
	last := reconcile.Outcome{
		Time: standing.Made, Image: s.Outcome.Image, Target: s.Outcome.Target, State: reconcile.Faulty, Step: "build",
		Commit: s.Outcome.Commit, Hint: fault.Hint(),
		Reason: strings.TrimSuffix("build: "+strings.TrimPrefix(fault.Error(), "build: "), ": "+fault.Tail),
	}
	if fault.Tail != "" {
		last.Output = strings.Split(fault.Tail, "\n")
	}
	return soFar{last: last}
}

// jobs is the builder of a command that is about one image's Jobs.
func (g *globals) jobs(image, command string) (*inCluster, *config.Config, error) {
	cfg, err := config.Load(config.Options{File: g.config})
	if err != nil {
		return nil, nil, err
	}
	if cfg.Image(image) == nil {
		return nil, nil, usageError{fmt.Errorf("%s: the config has no image %q", command, image), "towpath status lists them"}
	}
	if cfg.Builder.Type != config.BuilderKubernetes {
		return nil, nil, errNoJobs
	}
	w := newWiring(g.log, nil)
	if err := w.prepareBuilder(cfg); err != nil {
		return nil, nil, err
	}
	jobs, ok := w.builder.(*inCluster)
	if !ok {
		return nil, nil, errNowhere
	}
	return jobs, cfg, nil
}

var errNoJobs = errors.New("builder.type is sandbox: builds are no Jobs")
