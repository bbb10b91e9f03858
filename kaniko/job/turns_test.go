package job_test

import (
	"bufio"
	"io"
	"log/slog"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"

	"towpath.dev/towpath/kaniko/job"
)

// TestTurnComesBack: a build that met a Job of its name gives its turn back while
// that one is in the way.
func TestTurnComesBack(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	s.Concurrency = 1
	forged := must(job.Render(s, what))
	forged.Labels, forged.Spec.Template.Labels = nil, nil
	forged = cluster.create(forged)
	reading, said := io.Pipe()
	defer reading.Close()
	b := must(job.New(must(job.Client(daemon(t, s.Namespace), nil)), s, slog.New(slog.NewTextHandler(said, nil))))
	defer b.Close()
	done := run(t.Context(), b, what)
	for lines := bufio.NewScanner(reading); lines.Scan() && !strings.Contains(lines.Text(), "its end is waited for"); {
	}
	go func() { _, _ = io.Copy(io.Discard, reading) }()
	other := what
	other.Order.Image, other.Order.Destination.Repository = "other", "registry.example.com/apps/other"
	beside := run(t.Context(), b, other)
	cluster.succeed(cluster.pod(cluster.made(other.Order), nil), digest("a"))
	if o := result(t, beside); o.err != nil {
		t.Errorf("a build beside it: %v", o.err)
	}
	cluster.end(forged, batchv1.JobFailed, "BackoffLimitExceeded", "")
	cluster.succeed(cluster.pod(cluster.made(what.Order, forged), nil), digest("d"))
	if o := result(t, done); o.err != nil || o.built.Digest != digest("d") {
		t.Errorf("got %+v, %v", o.built, o.err)
	}
}

// inert are Jobs with our labels that never come to an end by themselves. No
// version of Towpath makes one.
var inert = map[string]func(*batchv1.Job){
	"suspended":                func(j *batchv1.Job) { j.Spec.Suspend = new(true) },
	"of another controller":    func(j *batchv1.Job) { j.Spec.ManagedBy = new("example.com/nobody") },
	"without pods":             func(j *batchv1.Job) { j.Spec.Parallelism = new(int32(0)) },
	"without a deadline":       func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = nil },
	"with a deadline far away": func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = new(int64(1 << 40)) },
}

// TestInertJobsTakeNoTurn: who may make Jobs in the namespace keeps nobody from
// building by such as never end.
func TestInertJobsTakeNoTurn(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	s.Concurrency = 1
	for name, edit := range inert {
		other := what
		other.Order.Destination.Repository = "registry.example.com/" + must(job.Render(s, what)).Name
		stranger := must(job.Render(s, other))
		stranger.Name, stranger.GenerateName = "", "stranger-"
		edit(stranger)
		t.Logf("%s is %s", cluster.create(stranger).Name, name)
	}
	done := run(t.Context(), builder(t, daemon(t, s.Namespace), s), what)
	cluster.succeed(cluster.pod(cluster.made(what.Order), nil), digest("d"))
	if o := result(t, done); o.err != nil {
		t.Error(o.err)
	}
}

// TestInertJobInTheWay: the end of a Job that has none is not waited for.
func TestInertJobInTheWay(t *testing.T) {
	t.Parallel()
	for name, edit := range inert {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, s, what := world(t)
			s.Concurrency = 1
			forged := must(job.Render(s, what))
			edit(forged)
			forged = cluster.create(forged)
			done := run(t.Context(), builder(t, daemon(t, s.Namespace), s), what)
			cluster.succeed(cluster.pod(cluster.made(what.Order, forged), nil), digest("d"))
			if o := result(t, done); o.err != nil || o.built.Digest != digest("d") {
				t.Errorf("got %+v, %v", o.built, o.err)
			}
		})
	}
}
