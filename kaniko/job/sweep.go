package job

import (
	"cmp"
	"context"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
)

const (
	// orphaned is how long a successful build may wait to be asked for before it
	// is let go: whoever it was made for died, or has moved on.
	orphaned = 10 * time.Minute
	// keptFailures is how many failed builds of an image are kept.
	keptFailures = 5
	// sweepEvery is how often that is looked after.
	sweepEvery = 10 * time.Minute
)

// sweep looks after the Jobs that nobody asks for any more. It reads what the
// watches show, so it costs a request only for what it changes.
func (b *Builder) sweep(ctx context.Context, seen *sight) {
	b.mu.Lock()
	due := time.Since(b.swept) > sweepEvery
	if due {
		b.swept = time.Now()
	}
	b.mu.Unlock()
	if !due {
		return
	}
	failures := map[string][]*batchv1.Job{}
	for _, job := range seen.all() {
		end := ending(job)
		switch {
		case end == nil || !finished(job) || job.DeletionTimestamp != nil || job.Labels[labelImage] == "":
		case end.Type == batchv1.JobFailed:
			failures[job.Labels[labelImage]] = append(failures[job.Labels[labelImage]], job)
		case job.Spec.TTLSecondsAfterFinished == nil && time.Since(end.LastTransitionTime.Time) > orphaned:
			b.expire(ctx, job)
		}
	}
	for _, jobs := range failures {
		slices.SortFunc(jobs, func(a, b *batchv1.Job) int {
			return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
		for _, job := range jobs[min(keptFailures, len(jobs)):] {
			if err := b.remove(ctx, job); err != nil {
				b.log.Debug("an old failed build was not removed", "job", job.Name, "error", err)
			}
		}
	}
}
