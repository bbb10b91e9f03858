package job

import (
	"context"
	"errors"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/kaniko"
)

// Built is an image that was pushed by its digest; nothing names it yet.
type Built struct {
	Digest   string   // of its manifest, sha256:<hex>
	Size     int64    // compressed bytes
	Warnings []string // of the Dockerfile
	Run      string   // namespace/name/UID of the Job
	Started  time.Time
	Finished time.Time
	Times    Times
}

// Times says how long each step took, to the second.
type Times struct{ Fetch, Build, Publish time.Duration }

const (
	// rounds is how often Run begins anew where a Job of the name was in the way.
	rounds = 3
	// unseen is how long a Job that was made may stay out of the watch's sight
	// before the API server is asked for it.
	unseen = 10 * time.Second
)

// Run builds an order: it makes the Job, or adopts the one that is there, waits
// for its end and returns what it published. A build that failed by its own fault
// is a *kaniko.BuildError, also when that was found in the Job that an earlier
// process left; the Job stays. Any other error is the machinery's, the Job of it
// is removed, and the same order may do better later. When the context is done,
// Run returns at once and the Job goes on.
func (b *Builder) Run(ctx context.Context, what Job) (Built, error) {
	if _, err := Render(b.settings, what); err != nil {
		return Built{}, fmt.Errorf("build Job: %w", err)
	}
	name := Name(what.Order)
	seen, done, err := b.look(ctx)
	if err != nil {
		return Built{}, fmt.Errorf("build Job %s: %w", name, err)
	}
	defer done()
	for range rounds {
		built, err := b.round(ctx, seen, what)
		if errors.Is(err, errAgain) {
			continue
		}
		var fault *kaniko.BuildError
		if err != nil && !errors.As(err, &fault) {
			err = fmt.Errorf("build Job %s: %w", name, err)
		}
		return built, err
	}
	return Built{}, hinted{
		fmt.Errorf("build Job %s: another one of that name was in the way %d times", name, rounds),
		"see who else makes Jobs in namespace " + b.settings.Namespace,
	}
}

// errAgain asks for another round: what was in the way has been removed.
var errAgain = errors.New("again")

// round is the story. Dying anywhere in it leaves a Job, and the next round, here
// or in another process, goes on with it.
//
// Hundreds of rounds may wait at the same time. So none keeps its rendered Job while
// it waits: what the watches hold is enough, and the Job is rendered again afterwards.
func (b *Builder) round(ctx context.Context, seen *sight, what Job) (Built, error) {
	want, err := Render(b.settings, what)
	if err != nil {
		return Built{}, err
	}
	live, release, err := b.obtain(ctx, seen, want)
	if err != nil {
		return Built{}, err
	}
	defer release()
	if place := jobDiffers(live, want); place != "" {
		release() // what is in the way counts by itself, if it does
		return Built{}, b.giveWay(ctx, seen, live, place)
	}
	if ended := recorded(live); ended != nil {
		return Built{}, ended
	}
	verdict, live, pod, err := b.await(ctx, seen, live, release)
	if err != nil {
		return Built{}, err
	}
	if verdict.state == broken {
		return Built{}, b.discard(ctx, live, verdict.err)
	}
	if want, err = Render(b.settings, what); err != nil {
		return Built{}, err
	}
	return b.conclude(ctx, want, live, pod)
}

// obtain finds the Job, or makes it when it is its turn. The caller calls release
// when the watch shows the Job, and at the end: then its turn is over, and the Job
// itself counts as one at work. It may be called more than once.
func (b *Builder) obtain(ctx context.Context, seen *sight, want *batchv1.Job) (live *batchv1.Job, release func(), err error) {
	changed, forget := seen.listen(want.Name)
	defer forget()
	nothing := func() {}
	if live := b.there(seen, want.Name); live != nil {
		b.log.Debug("build Job adopted", "job", live.Name, "uid", live.UID)
		return live, nothing, nil
	}
	turn := seen.turns.join(want.Name)
	release = onlyOnce(func() { seen.turns.leave(turn) })
	for waiting := true; waiting; {
		select {
		case <-turn.ready:
			waiting = false
		case <-changed:
			if live := b.there(seen, want.Name); live != nil {
				release()
				return live, nothing, nil
			}
		case <-ctx.Done():
			release()
			return nil, nil, fmt.Errorf("wait for other builds to end: %w", context.Cause(ctx))
		}
	}
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	jobs := b.client.BatchV1().Jobs(want.Namespace)
	live, err = jobs.Create(limited, want, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		// Another copy of us was faster, or the watch is behind.
		live, err = jobs.Get(limited, want.Name, metav1.GetOptions{})
		if err == nil && live.DeletionTimestamp != nil {
			err = errors.New("the one before it is still being deleted")
		}
	} else if err == nil {
		b.log.Info("build Job made", "job", live.Name, "uid", live.UID, "image", want.Labels[labelImage], "commit", want.Annotations[annotationCommit])
		if place := jobDiffers(live, want); place != "" {
			// Left alone, it would be built to its end without being believed.
			release()
			return nil, nil, b.discard(ctx, live, hinted{fmt.Errorf("it was changed on its way into the cluster: %s", place),
				"see which admission webhook or policy changes Jobs in namespace " + want.Namespace + ", and keep it from that"})
		}
	}
	if err != nil {
		// It may have been made all the same: the next round adopts it.
		release()
		return nil, nil, hintAPI(fmt.Errorf("make it in namespace %s: %w", want.Namespace, err))
	}
	return live, release, nil
}

// there is the Job of a name as the watch shows it; nil: there is none, or it is
// being removed.
func (b *Builder) there(seen *sight, name string) *batchv1.Job {
	job := seen.job(b.settings.Namespace, name)
	if job == nil || job.DeletionTimestamp != nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, removed := b.gone[job.UID]; removed {
		return nil
	}
	return job
}

// await waits until the build has ended, one way or another, and returns Job and
// pod as they were then.
func (b *Builder) await(ctx context.Context, seen *sight, live *batchv1.Job, release func()) (verdict, *batchv1.Job, *corev1.Pod, error) {
	changed, forget := seen.listen(live.Name)
	defer forget()
	b.sweep(ctx, seen)
	var pod *corev1.Pod // as last seen: what ends a pod may remove it at once
	met, doing, since := false, "", time.Now()
	ask := since.Add(unseen)
	var look looks
	for {
		now := time.Now()
		current := seen.job(live.Namespace, live.Name)
		switch {
		case current != nil && current.UID == live.UID:
			met, live = true, current
			release()
		case met:
			return verdict{state: broken, err: errDeleted}, live, pod, nil
		case now.After(ask):
			gone, err := b.isGone(ctx, live)
			if err != nil && ctx.Err() == nil {
				b.log.Debug("a build Job is out of sight", "job", live.Name, "error", err)
			}
			if gone {
				return verdict{state: broken, err: errDeleted}, live, pod, nil
			}
			ask = time.Now().Add(unseen)
		}
		if last := seen.pod(live.UID); last != nil {
			pod = last
		}
		stands := judge(live, pod)
		if stands.state == broken && pod == nil && live.DeletionTimestamp == nil {
			// The two watches are apart by some moments: is there really no pod?
			last, err := b.podOf(ctx, live)
			if err != nil {
				return verdict{}, nil, nil, hintAPI(fmt.Errorf("look for its pod: %w", err))
			}
			pod, stands = last, judge(live, last)
		}
		if stands.state != going {
			return stands, live, pod, nil
		}
		if stands.doing != doing {
			doing, since = stands.doing, now
			look.begin(now, b.glance)
			b.log.Debug("build Job "+doing, "job", live.Name)
			if b.Progress != nil {
				b.Progress(live.Labels[labelImage] + ": its build " + doing)
			}
		}
		wait := time.Duration(0)
		if stands.late != nil {
			if wait = b.patience - now.Sub(since); wait <= 0 {
				return verdict{state: broken, err: stands.late}, live, pod, nil
			}
			if look.due(now) {
				if why := b.hindered(ctx, live, pod); why != nil {
					return verdict{state: broken, err: why}, live, pod, nil
				}
			}
			wait = max(min(wait, time.Until(look.next)), time.Millisecond)
		}
		if left := time.Until(ask); !met && (stands.late == nil || left < wait) {
			wait = left
		}
		if err := sleep(ctx, changed, wait); err != nil {
			return verdict{}, nil, nil, fmt.Errorf("left to itself while it %s: %w", doing, err)
		}
	}
}

// sleep waits for a change, or so long (0: for ever); the error is the
// context's.
func sleep(ctx context.Context, changed <-chan struct{}, wait time.Duration) error {
	var over <-chan time.Time
	if wait != 0 {
		timer := time.NewTimer(max(wait, 0))
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-changed:
	case <-over:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// podOf asks the API server for the pod of a Job; nil: there is none.
func (b *Builder) podOf(ctx context.Context, job *batchv1.Job) (*corev1.Pod, error) {
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	pods, err := b.client.CoreV1().Pods(job.Namespace).List(limited, metav1.ListOptions{
		LabelSelector: selector + "," + batchv1.ControllerUidLabel + "=" + string(job.UID),
	})
	if err != nil || len(pods.Items) == 0 {
		return nil, err
	}
	return &pods.Items[0], nil
}

// isGone asks the API server whether a Job is there no more.
func (b *Builder) isGone(ctx context.Context, job *batchv1.Job) (bool, error) {
	now, err := b.find(ctx, job)
	return err == nil && (now == nil || now.UID != job.UID), err
}

// find asks the API server for what has a Job's name now; nil: nothing.
func (b *Builder) find(ctx context.Context, job *batchv1.Job) (*batchv1.Job, error) {
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	now, err := b.client.BatchV1().Jobs(job.Namespace).Get(limited, job.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil //nolint:nilnil // as documented
	}
	return now, err
}

// giveWay waits for the end of a Job that has our Job's name and is not as we render
// it, and then removes it. It waits because another version of Towpath may have made it
// and may wait for it. A Job that has no end is nobody's build.
func (b *Builder) giveWay(ctx context.Context, seen *sight, foreign *batchv1.Job, place string) error {
	changed, forget := seen.listen(foreign.Name)
	defer forget()
	// What happened before that wakes nobody. One that is not in sight has been removed,
	// or the watch is behind.
	now := seen.job(foreign.Namespace, foreign.Name)
	if now == nil || now.UID != foreign.UID {
		var err error
		if now, err = b.find(ctx, foreign); err != nil {
			now = foreign // its end will be seen when the API server answers
		}
		if now == nil || now.UID != foreign.UID {
			return errAgain
		}
	}
	foreign = now
	// No version of us lets a Job take longer, from now on by our own clock.
	until := time.Now().Add(b.settings.timeout() + queueing)
	if !finished(foreign) && !endless(foreign) {
		b.log.Warn("a Job that is not as rendered here has the name of a build: its end is waited for, and it is not believed",
			"job", foreign.Name, "uid", foreign.UID, "differs", place)
	}
	// One without our label is not among those that are watched: it is asked for.
	hidden := foreign.Labels[labelManager] != manager
	var look looks
	look.begin(time.Now(), b.glance)
	for !finished(foreign) && !endless(foreign) && time.Now().Before(until) {
		next := until
		if hidden && look.next.Before(next) {
			next = look.next
		}
		if err := sleep(ctx, changed, max(time.Until(next), time.Millisecond)); err != nil {
			return fmt.Errorf("wait for the end of another Job of that name: %w", err)
		}
		now := seen.job(foreign.Namespace, foreign.Name)
		if hidden {
			if !look.due(time.Now()) {
				continue
			}
			var err error
			if now, err = b.find(ctx, foreign); err != nil {
				continue // it may be told at the next look
			}
		}
		if now == nil || now.UID != foreign.UID {
			return errAgain
		}
		foreign = now
	}
	b.log.Warn("a Job that is not as rendered here is removed, and its build done anew", "job", foreign.Name, "uid", foreign.UID, "differs", place)
	if err := b.remove(ctx, foreign); err != nil {
		return err
	}
	return errAgain
}

// discard removes the Job of a build that the machinery failed, so that the next
// try begins anew, and returns why.
func (b *Builder) discard(ctx context.Context, job *batchv1.Job, why error) error {
	if ctx.Err() != nil {
		return why
	}
	b.log.Warn("build Job removed: the machinery failed it", "job", job.Name, "uid", job.UID, "error", why)
	if err := b.remove(ctx, job); err != nil {
		return fmt.Errorf("%w (and it was not removed: %w)", why, err)
	}
	return why
}

// remove deletes a Job, this one and no other of its name, with its pod.
func (b *Builder) remove(ctx context.Context, job *batchv1.Job) error {
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := b.client.BatchV1().Jobs(job.Namespace).Delete(limited, job.Name, metav1.DeleteOptions{
		Preconditions:     &metav1.Preconditions{UID: &job.UID},
		PropagationPolicy: new(metav1.DeletePropagationBackground),
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return hintAPI(fmt.Errorf("remove it: %w", err))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for uid, when := range b.gone {
		if time.Since(when) > time.Hour {
			delete(b.gone, uid)
		}
	}
	b.gone[job.UID] = time.Now()
	return nil
}

// onlyOnce returns a function of which only the first call does something. Unlike
// sync.OnceFunc it is for one goroutine.
func onlyOnce(do func()) func() {
	called := false
	return func() {
		if !called {
			called = true
			do()
		}
	}
}
