package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/kaniko"
)

// Standing is how a build stands in the cluster, for people to read.
type Standing struct {
	Job     string             // its name
	Image   string             // the image's name in the config
	Commit  string             // 40 hexadecimal digits
	Made    time.Time          // when the Job was made
	Doing   string             // what it is at; empty: it has ended
	Failure *kaniko.BuildError // why it failed by its own fault, or nil; the same commit is not built again
}

// Standings are those of every Job in the namespace, by the Job's name. It asks
// the API server twice, however many there are. What it tells is not verified as
// a result is.
func (b *Builder) Standings(ctx context.Context) (map[string]Standing, error) {
	jobs, pods, err := b.list(ctx, selector)
	if err != nil {
		return nil, err
	}
	standings := map[string]Standing{}
	for i := range jobs {
		job := &jobs[i]
		s := Standing{
			Job: job.Name, Image: line(job.Labels[labelImage]), Commit: line(job.Annotations[annotationCommit]), Made: job.CreationTimestamp.Time,
		}
		var fault *kaniko.BuildError
		if errors.As(recorded(job), &fault) {
			s.Failure = fault
		} else if stands := judge(job, pods[job.UID]); stands.state == going {
			s.Doing = stands.doing
		}
		standings[job.Name] = s
	}
	return standings, nil
}

// list reads Jobs, the newest first, and the pod of each.
func (b *Builder) list(ctx context.Context, selector string) ([]batchv1.Job, map[types.UID]*corev1.Pod, error) {
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	jobs, err := b.client.BatchV1().Jobs(b.settings.Namespace).List(limited, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, nil, hintAPI(fmt.Errorf("list Jobs in namespace %s: %w", b.settings.Namespace, err))
	}
	pods, err := b.client.CoreV1().Pods(b.settings.Namespace).List(limited, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, nil, hintAPI(fmt.Errorf("list pods in namespace %s: %w", b.settings.Namespace, err))
	}
	byJob := map[types.UID]*corev1.Pod{}
	for i := range pods.Items {
		pod := &pods.Items[i]
		owner := metav1.GetControllerOf(pod)
		if owner == nil {
			continue
		}
		if first := byJob[owner.UID]; first == nil || pod.CreationTimestamp.Before(&first.CreationTimestamp) {
			byJob[owner.UID] = pod
		}
	}
	slices.SortFunc(jobs.Items, func(a, b batchv1.Job) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return jobs.Items, byJob, nil
}

// ofImage selects the Jobs and pods of one image.
func ofImage(image string) string { return selector + "," + labelImage + "=" + image }

// Forgotten is a failed build that Retry removed.
type Forgotten struct{ Job, Commit string }

// Retry removes the failed builds of an image, so that the same commit is built
// again, the newest first. Builds at work are left alone.
func (b *Builder) Retry(ctx context.Context, image string) ([]Forgotten, error) {
	jobs, _, err := b.list(ctx, ofImage(image))
	if err != nil {
		return nil, err
	}
	var removed []Forgotten
	for i := range jobs {
		end := ending(&jobs[i])
		if end == nil || end.Type == batchv1.JobComplete || jobs[i].DeletionTimestamp != nil {
			continue
		}
		if err := b.remove(ctx, &jobs[i]); err != nil {
			return removed, fmt.Errorf("build Job %s: %w", jobs[i].Name, err)
		}
		removed = append(removed, Forgotten{jobs[i].Name, line(jobs[i].Annotations[annotationCommit])})
	}
	return removed, nil
}

// Forget removes the Job of an order whose result turned out to be worth
// nothing, so that it is built again. A Job at work is left alone.
func (b *Builder) Forget(ctx context.Context, order kaniko.Order) error {
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	job, err := b.client.BatchV1().Jobs(b.settings.Namespace).Get(limited, Name(order), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return hintAPI(fmt.Errorf("build Job %s: %w", Name(order), err))
	}
	if end := ending(job); end == nil || end.Type != batchv1.JobComplete {
		return nil
	}
	return b.remove(ctx, job)
}
