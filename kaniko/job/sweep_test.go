package job_test

import (
	"fmt"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/kaniko/job"
)

// TestSweep: what nobody asks for any more goes: a success whose daemon died, and
// failures beyond the newest few of an image. What others keep there stays.
func TestSweep(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	left := func(n int) *batchv1.Job {
		other := what
		other.Order.Image = "old"
		other.Order.Source.Commit = strings.Repeat(fmt.Sprintf("%x", n), 40)
		return cluster.create(must(job.Render(s, other)))
	}
	const failures = 7
	for n := range failures {
		cluster.end(left(n), batchv1.JobFailed, "BackoffLimitExceeded", "")
	}
	succeeded := left(8)
	cluster.end(succeeded, batchv1.JobComplete, "CompletionsReached", "")
	cluster.backdate(succeeded)
	recent := left(9)
	cluster.end(recent, batchv1.JobComplete, "CompletionsReached", "")
	stranger := left(10)
	stranger.ResourceVersion, stranger.UID, stranger.Name, stranger.Labels = "", "", "stranger", nil
	stranger.Spec.Selector, stranger.Spec.Template.Labels, stranger.Status = nil, map[string]string{"app": "x"}, batchv1.JobStatus{}
	stranger = cluster.create(stranger)
	cluster.end(stranger, batchv1.JobComplete, "CompletionsReached", "")
	cluster.backdate(stranger)

	done := run(t.Context(), builder(t, daemon(t, s.Namespace), s), what)
	cluster.succeed(cluster.pod(cluster.made(what.Order), nil), digest("d"))
	if o := result(t, done); o.err != nil {
		t.Fatal(o.err)
	}
	failed := 0
	for _, j := range cluster.jobs() {
		ttl := j.Spec.TTLSecondsAfterFinished
		switch {
		case j.Status.Failed > 0:
			failed++
			if ttl != nil {
				t.Errorf("failed Job %s goes by itself", j.Name)
			}
		case (ttl != nil) != (j.Name == succeeded.Name || j.Name == job.Name(what.Order)):
			t.Errorf("Job %s is let go: %v", j.Name, ttl != nil)
		}
	}
	if failed != 5 {
		t.Errorf("%d failed Jobs are kept, want 5", failed)
	}
}

// TestForget: a result that is worth nothing is not read again; what is at work
// or failed stays.
func TestForget(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	b := builder(t, daemon(t, s.Namespace), s)
	live := cluster.create(must(job.Render(s, what)))
	eventually(t, "the right to look", func() bool { return b.Forget(t.Context(), what.Order) == nil })
	if n := len(cluster.jobs()); n != 1 {
		t.Errorf("%d Jobs: one at work was forgotten", n)
	}
	cluster.end(live, batchv1.JobComplete, "CompletionsReached", "")
	for range 2 {
		if err := b.Forget(t.Context(), what.Order); err != nil {
			t.Error(err)
		}
	}
	cluster.gone(what.Order)
}

// backdate makes a Job's end an hour old.
func (s *standin) backdate(live *batchv1.Job) {
	s.t.Helper()
	live, err := s.client.BatchV1().Jobs(s.namespace).Get(s.t.Context(), live.Name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range live.Status.Conditions {
		live.Status.Conditions[i].LastTransitionTime = metav1.NewTime(live.CreationTimestamp.Add(-1e9 * 3600))
	}
	if _, err := s.client.BatchV1().Jobs(s.namespace).UpdateStatus(s.t.Context(), live, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}
