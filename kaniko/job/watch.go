package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	// linger is how long the watches go on when no build needs them, so that the
	// next does not begin by listing.
	linger = 10 * time.Minute
	// firstSight is how long the API server may take to list what there is.
	firstSight = 30 * time.Second
)

// sight is what the API server shows of the builds' namespace: Towpath's Jobs and
// their pods, kept up to date by one watch of each. Nothing is polled.
type sight struct {
	jobs, pods cache.SharedIndexInformer
	stop       context.CancelFunc
	stopped    sync.WaitGroup
	log        *slog.Logger

	mu        sync.Mutex
	listeners map[string]map[chan struct{}]struct{} // by the Job's name
	trouble   error                                 // what the last watch ended with
	told      time.Time                             // when the log was told of trouble
	turns     turns
}

const byController = "controller"

// open begins to watch. It does not wait for the first answer.
func open(client kubernetes.Interface, namespace string, concurrency int, log *slog.Logger) (*sight, error) {
	s := &sight{log: log, listeners: map[string]map[chan struct{}]struct{}{}}
	s.turns = turns{limit: concurrency, live: s.live, granted: map[string]struct{}{}}
	ours := func(options *metav1.ListOptions) { options.LabelSelector = selector }
	ctx, stop := context.WithCancel(context.Background())
	watched := func(of rest.Interface, resource string) cache.ListerWatcher {
		return steady{cache.NewFilteredListWatchFromClient(of, resource, namespace, ours), func(err error) { s.failed(ctx, nil, err) }}
	}
	s.jobs = cache.NewSharedIndexInformer(watched(client.BatchV1().RESTClient(), "jobs"), &batchv1.Job{}, 0, cache.Indexers{})
	s.pods = cache.NewSharedIndexInformer(watched(client.CoreV1().RESTClient(), "pods"), &corev1.Pod{}, 0, cache.Indexers{byController: controllerOf})
	s.stop = stop
	for _, informer := range []cache.SharedIndexInformer{s.jobs, s.pods} {
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    s.changed,
			UpdateFunc: func(_, now any) { s.changed(now) },
			DeleteFunc: s.changed,
		})
		err = errors.Join(err, informer.SetTransform(slim), informer.SetWatchErrorHandlerWithContext(s.failed))
		if err != nil {
			stop()
			return nil, fmt.Errorf("watch namespace %s: %w", namespace, err)
		}
	}
	s.stopped.Go(func() { s.jobs.RunWithContext(ctx) })
	s.stopped.Go(func() { s.pods.RunWithContext(ctx) })
	return s, nil
}

// close ends the watches.
func (s *sight) close() {
	s.stop()
	s.stopped.Wait()
}

// ready waits until all there is has been listed once.
func (s *sight) ready(ctx context.Context) error {
	if s.jobs.HasSynced() && s.pods.HasSynced() {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, firstSight)
	defer cancel()
	if cache.WaitForCacheSync(limited.Done(), s.jobs.HasSynced, s.pods.HasSynced) {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Errorf("jobs and pods were not listed within %s: %w", firstSight, or(s.trouble, errors.New("the API server does not answer")))
}

// slim drops what nobody here reads, which is half of an object.
func slim(object any) (any, error) {
	if accessor, err := meta.Accessor(object); err == nil {
		accessor.SetManagedFields(nil)
	}
	return object, nil
}

func controllerOf(object any) ([]string, error) {
	accessor, err := meta.Accessor(object)
	if err != nil {
		return nil, err
	}
	if owner := metav1.GetControllerOf(accessor); owner != nil {
		return []string{string(owner.UID)}, nil
	}
	return nil, nil
}

// changed wakes who waits for a Job, of which it or its pod has changed, and
// lets the next build begin where one has ended.
func (s *sight) changed(object any) {
	if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = gone.Obj
	}
	var name string
	switch object := object.(type) {
	case *batchv1.Job:
		name = object.Name
	case *corev1.Pod:
		owner := metav1.GetControllerOf(object)
		if owner == nil {
			return
		}
		name = owner.Name
	default:
		return
	}
	s.mu.Lock()
	for channel := range s.listeners[name] {
		select {
		case channel <- struct{}{}:
		default: // it is awake already
		}
	}
	s.mu.Unlock()
	s.turns.grant()
}

// failed is told of every question that had no answer, and of every watch that
// ended in an error. The watches go on by themselves.
func (s *sight) failed(ctx context.Context, _ *cache.Reflector, err error) {
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	s.trouble = err
	quiet := time.Since(s.told) < time.Minute
	if !quiet {
		s.told = time.Now()
	}
	s.mu.Unlock()
	if !quiet {
		s.log.Warn("build Jobs cannot be watched at the moment: running ones go on, and are looked at when the API server answers", "error", err)
	}
}

// listen returns a channel that says when the Job of a name, or its pod, has
// changed, until forget is called.
func (s *sight) listen(name string) (changed <-chan struct{}, forget func()) {
	channel := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listeners[name] == nil {
		s.listeners[name] = map[chan struct{}]struct{}{}
	}
	s.listeners[name][channel] = struct{}{}
	return channel, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners[name], channel)
		if len(s.listeners[name]) == 0 {
			delete(s.listeners, name)
		}
	}
}

// job is the Job of a name as last seen, or nil.
func (s *sight) job(namespace, name string) *batchv1.Job {
	object, there, err := s.jobs.GetStore().GetByKey(namespace + "/" + name)
	if err != nil || !there {
		return nil
	}
	job, _ := object.(*batchv1.Job)
	return job
}

// pod is the pod of a Job as last seen, or nil. A Job makes one alone; of several,
// it is the oldest, and whether that is the Job's is judged before it is believed.
func (s *sight) pod(job types.UID) *corev1.Pod {
	objects, err := s.pods.GetIndexer().ByIndex(byController, string(job))
	if err != nil {
		return nil
	}
	var found *corev1.Pod
	for _, object := range objects {
		if pod, ok := object.(*corev1.Pod); ok && (found == nil || pod.CreationTimestamp.Before(&found.CreationTimestamp)) {
			found = pod
		}
	}
	return found
}

// live names the Jobs that have not ended and will, whoever made them.
func (s *sight) live() map[string]struct{} {
	live := map[string]struct{}{}
	for _, object := range s.jobs.GetStore().List() {
		job, ok := object.(*batchv1.Job)
		if !ok || finished(job) || endless(job) {
			continue
		}
		// The Job's own word comes a second or two after its pod's.
		if pod := s.pod(job.UID); pod != nil && (pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed) {
			continue
		}
		live[job.Name] = struct{}{}
	}
	return live
}

// all are Towpath's Jobs as last seen.
func (s *sight) all() []*batchv1.Job {
	var jobs []*batchv1.Job
	for _, object := range s.jobs.GetStore().List() {
		if job, ok := object.(*batchv1.Job); ok {
			jobs = append(jobs, job)
		}
	}
	return jobs
}
