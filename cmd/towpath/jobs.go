package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/job"
	"towpath.dev/towpath/reconcile"
)

// jobView is how builds stand as Jobs, read once for all images of one command.
// Where builds are no Jobs it knows of none.
type jobView struct {
	read func() (map[string]job.Standing, error)
}

// jobView looks at the builder's Jobs when it is first asked.
func (w *wiring) jobView(ctx context.Context) *jobView {
	jobs, ok := w.builder.(*inCluster)
	if !ok {
		return &jobView{func() (map[string]job.Standing, error) { return map[string]job.Standing{}, nil }}
	}
	return &jobView{sync.OnceValues(func() (map[string]job.Standing, error) {
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

// last is what became of a delivery's newest commit last, by its Job or, where
// that says nothing, by the history. building says what a Job is at that has not
// ended.
func (v *jobView) last(s reconcile.Sight, history reconcile.Outcome) (last reconcile.Outcome, building string, notices []string) {
	if s.Built || s.Order.Image == "" {
		return history, "", nil
	}
	standing, there, err := v.of(s.Order)
	switch {
	case err != nil:
		return history, "", []string{"whether a Job builds it is not known: " + oneLine(err.Error())}
	case !there:
		return history, "", nil
	case standing.Doing != "":
		return history, fmt.Sprintf("Job %s %s; made %s ago", standing.Job, standing.Doing, age(standing.Made)), nil
	case standing.Failure == nil:
		return history, "", nil
	}
	fault := standing.Failure
	last = reconcile.Outcome{
		Time: standing.Made, Image: s.Outcome.Image, Target: s.Outcome.Target, State: reconcile.Faulty, Step: "build",
		Commit: s.Outcome.Commit, Hint: fault.Hint(),
		Reason: strings.TrimSuffix("build: "+strings.TrimPrefix(fault.Error(), "build: "), ": "+fault.Tail),
	}
	if fault.Tail != "" {
		last.Output = strings.Split(fault.Tail, "\n")
	}
	return last, "", nil
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

// patienceWithLogs bounds what a command waits for that does not follow.
const patienceWithLogs = time.Minute
