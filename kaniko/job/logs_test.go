package job_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/job"
)

// printed gathers what a log command prints.
type printed struct {
	mu    sync.Mutex
	lines []string
}

func (p *printed) print(l job.Line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lines = append(p.lines, strings.TrimSpace(l.Step+" "+l.Text))
}

func (p *printed) has(line string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lines {
		if l == line {
			return true
		}
	}
	return false
}

// TestLogsFollow: the three steps' output comes in their order, while they work,
// cleaned, and ends with the build.
func TestLogsFollow(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	b := builder(t, daemon(t, s.Namespace), s)
	var hinted interface{ Hint() string }
	if err := b.Logs(t.Context(), "podinfo", false, (&printed{}).print); !errors.As(err, &hinted) {
		t.Errorf("without a build: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := run(ctx, b, what)
	live := cluster.made(what.Order)

	out, followed := &printed{}, make(chan error, 1)
	go func() { followed <- b.Logs(t.Context(), "podinfo", true, out.print) }()
	eventually(t, "a word about the wait", func() bool { return out.has("the build waits for its pod") })
	pod := cluster.pod(live, nil)
	cluster.log("fetch", "fetched 8b07d4aa: 12 files\n")
	pod = cluster.status(pod, phase(corev1.PodPending, at(pod, "fetch")))
	eventually(t, "fetch's words", func() bool { return out.has("fetch fetched 8b07d4aa: 12 files") })
	close(cluster.ended["fetch"])
	fetched := ran(pod, "fetch", 0, "", report(pod, "fetch", kaniko.Report{}))
	cluster.log("kaniko", "one \x1b[31mred\x1b[0m\n"+strings.Repeat("x", 20_000)+"\n")
	pod = cluster.status(pod, phase(corev1.PodPending, fetched, at(pod, "kaniko")))
	eventually(t, "kaniko's words", func() bool { return out.has("kaniko one red") })
	close(cluster.ended["kaniko"])
	cluster.log("publish", "")
	close(cluster.ended["publish"])
	cluster.succeed(pod, digest("d"))
	result(t, done)
	if err := <-followed; err != nil {
		t.Fatal(err)
	}
	want := []string{
		"the build waits for its pod", "fetch fetched 8b07d4aa: 12 files", "kaniko one red", "kaniko " + strings.Repeat("x", 20_000), "the build succeeded",
	}
	short := func(lines []string) []string {
		var all []string
		for _, l := range lines {
			if l != "the build goes from one step to the next" && l != "the build waits for a node" { // as fast as this reader is
				all = append(all, fmt.Sprintf("%.60s", l))
			}
		}
		return all
	}
	if diff := cmp.Diff(short(want), short(out.lines)); diff != "" {
		t.Errorf("printed (-want +got):\n%s", diff)
	}
}

// TestRetry: a failed build is answered from its Job until somebody forgets it,
// and then done again; one at work is left alone.
func TestRetry(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	b := builder(t, daemon(t, s.Namespace), s)
	cluster.log("kaniko", "make: no rule\n")
	done := run(t.Context(), b, what)
	live := cluster.made(what.Order)
	pod := cluster.pod(live, nil)
	if removed, err := b.Retry(t.Context(), "podinfo"); err != nil || len(removed) > 0 {
		t.Errorf("a build at work: removed %v, %v", removed, err)
	}
	cluster.status(pod, phase(corev1.PodFailed, ran(pod, "fetch", 0, "", report(pod, "fetch", kaniko.Report{})), ran(pod, "kaniko", 1, "", "")))
	first := result(t, done)
	var fault *kaniko.BuildError
	if !errors.As(first.err, &fault) || !fault.Kept {
		t.Fatalf("got %v", first.err)
	}
	if hint := fault.Hint(); !strings.Contains(hint, "towpath logs IMAGE") || !strings.Contains(hint, "towpath retry IMAGE") {
		t.Errorf("the hint names neither the log nor the way to build it again: %q", hint)
	}
	cluster.end(live, batchv1.JobFailed, "BackoffLimitExceeded", "")

	standings, err := b.Standings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	standing := standings[live.Name]
	if standing.Failure == nil || standing.Failure.Tail != "make: no rule" || standing.Doing != "" || standing.Image != "podinfo" || standing.Commit != what.Order.Source.Commit {
		t.Errorf("it stands as %+v", standing)
	}
	out := &printed{}
	if err := b.Logs(t.Context(), "podinfo", false, out.print); err == nil || !strings.Contains(err.Error(), "log of fetch") {
		t.Errorf("a log that is not there: %v", err)
	}
	cluster.log("fetch", "")
	if err := b.Logs(t.Context(), "podinfo", false, out.print); err != nil || !out.has("kaniko make: no rule") || !out.has("the build failed: kaniko: ended with status 1") {
		t.Errorf("got %q, %v", out.lines, err)
	}
	cluster.forget(pod)
	out = &printed{}
	if err := b.Logs(t.Context(), "podinfo", true, out.print); err != nil || len(out.lines) != 1 || !strings.HasPrefix(out.lines[0], "its pod and log are gone; what was recorded of it: build: kaniko ended with status 1") {
		t.Errorf("without its pod: %q, %v", out.lines, err)
	}

	if removed, err := b.Retry(t.Context(), "other"); err != nil || len(removed) > 0 {
		t.Errorf("another image: removed %v, %v", removed, err)
	}
	removed, err := b.Retry(t.Context(), "podinfo")
	if diff := cmp.Diff([]job.Forgotten{{Job: live.Name, Commit: what.Order.Source.Commit}}, removed); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	again := run(t.Context(), b, what)
	cluster.succeed(cluster.pod(cluster.made(what.Order, live), nil), digest("d"))
	if o := result(t, again); o.err != nil {
		t.Errorf("the second time: %v", o.err)
	}
}
