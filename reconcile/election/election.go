// Package election lets one of several copies of Towpath in a cluster work, by
// a Lease of Kubernetes, while the others wait.
//
// That saves work and nothing else: what may be promoted is decided by the
// ledger, however many copies work. So the Lease is renewed seldom, which spares
// the API server; a copy that ends hands it over at once, since those who wait
// watch it; one that dies is succeeded when the Lease has run out. A copy that
// loses the Lease, because the API server is away, ends its work and waits again.
//
// The package knows one Lease and nothing of what is done under it.
package election

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// Options say which Lease, and who asks for it.
type Options struct {
	Lease    types.NamespacedName
	Identity string // of this copy, as others read it in the Lease
	// Leading is told when this copy begins to lead and when it ends; may be nil.
	Leading func(bool)
	Log     *slog.Logger

	// Times other than these are for tests.
	times
}

// times are how long things take in an election. The first three are
// Kubernetes' own words for them.
type times struct {
	leaseDuration time.Duration // for which nobody else takes a Lease that is not renewed
	renewDeadline time.Duration // after which a leader that cannot renew gives up
	retryPeriod   time.Duration // between renewals, and between looks of those who wait
	request       time.Duration // that one answer of the API server may take
	handOver      time.Duration // that work may take to end before the Lease is given away
}

// usual are the times of every election but those of tests. A leader asks the API
// server 1.5 times a minute, and outlasts an API server that is away for a minute. A
// Lease that was not given back is free after 105 seconds, and is taken within 88 more,
// when somebody looks.
var usual = times{
	leaseDuration: 105 * time.Second, renewDeadline: 90 * time.Second, retryPeriod: 40 * time.Second,
	request: 5 * time.Second, handOver: 2 * time.Second,
}

// Election is one copy's part in it.
type Election struct {
	Options
	leases  v1.LeasesGetter
	watcher v1.LeaseInterface // without a bound on how long an answer takes

	work sync.Mutex // held while this copy leads
}

// New prepares an election. It talks to nobody.
func New(config *rest.Config, o Options) (*Election, error) {
	if o.times == (times{}) {
		o.times = usual
	}
	bounded := rest.CopyConfig(config)
	bounded.Timeout = o.request
	leases, err := v1.NewForConfig(bounded)
	if err != nil {
		return nil, fmt.Errorf("leader election: %w", err)
	}
	watcher, err := v1.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("leader election: %w", err)
	}
	return &Election{Options: o, leases: leases, watcher: watcher.Leases(o.Lease.Namespace)}, nil
}

// Error is a Lease that cannot be had.
type Error struct {
	Lease types.NamespacedName
	Err   error
}

func (e *Error) Error() string { return fmt.Sprintf("leader election: Lease %s: %v", e.Lease, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// Hint says what is missing.
func (e *Error) Hint() string {
	if Forbidden(e) {
		return "let Towpath's service account get, watch and update that Lease, which deploy/ makes; or set leaderElection.enabled to false"
	}
	return ""
}

// Forbidden tells whether this copy may not have the Lease, which stays so until
// somebody changes its rights.
func Forbidden(err error) bool { return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) }

// Check tries the rights that an election needs, and changes nothing. Errors
// are of type *Error.
func (e *Election) Check(ctx context.Context) error {
	leases := e.leases.Leases(e.Lease.Namespace)
	lease, err := leases.Get(ctx, e.Lease.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: e.Lease.Name, Namespace: e.Lease.Namespace}}
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	case err == nil:
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
		if apierrors.IsConflict(err) {
			err = nil // its holder renewed it meanwhile, as it may
		}
	}
	if err != nil {
		return &Error{e.Lease, err}
	}
	return nil
}

// Run takes part until the context ends. Whenever this copy holds the Lease it
// calls lead, whose context ends with that; lead has to return soon then, and
// is not called again before it did. When the context of Run ends, the Lease is
// given back as soon as lead returns, or after a moment.
func (e *Election) Run(ctx context.Context, lead func(context.Context)) {
	for lost := 0; ctx.Err() == nil; lost++ {
		if e.term(ctx, e.patience(lost), lead) {
			lost = 0
		}
	}
}

// patience is how long a candidate waits at least before it tries again, so
// that one that may watch the Lease but not have it asks seldom.
func (e *Election) patience(lost int) time.Duration {
	return min(time.Second<<min(lost, 10), e.retryPeriod)
}

// term is one candidacy, and the leadership that follows if it succeeds. It
// ends when the Lease is lost, given back, or seems to be free.
func (e *Election) term(ctx context.Context, atLeast time.Duration, lead func(context.Context)) (led bool) {
	// The Lease outlives ctx by what it takes to end the work.
	held, giveBack := context.WithCancel(context.WithoutCancel(ctx))
	defer giveBack()
	var leads atomic.Bool
	ended := make(chan struct{})
	began := time.Now()

	config := leaderelection.LeaderElectionConfig{
		Name: e.Lease.String(), ReleaseOnCancel: true,
		Lock: bounded{&resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: e.Lease.Namespace, Name: e.Lease.Name}, Client: e.leases,
			LockConfig: resourcelock.ResourceLockConfig{Identity: e.Identity},
		}, e.leaseDuration},
		LeaseDuration: e.leaseDuration, RenewDeadline: e.renewDeadline, RetryPeriod: e.retryPeriod,
		Callbacks: leaderelection.LeaderCallbacks{
			OnNewLeader: func(holder string) {
				if holder != "" && holder != e.Identity {
					e.Log.Info("another copy works, and this one waits", "lease", e.Lease, "holder", holder)
				}
			},
			OnStoppedLeading: func() {},
			// It is called beside Run, and may come to its turn after that ended.
			OnStartedLeading: func(leading context.Context) {
				e.work.Lock()
				defer e.work.Unlock()
				if leading.Err() != nil {
					return
				}
				leads.Store(true)
				defer close(ended)
				e.tell(true)
				defer e.tell(false)
				working, end := context.WithCancel(leading)
				defer end()
				defer context.AfterFunc(ctx, end)()
				lead(working)
			},
		},
	}
	elector, err := leaderelection.NewLeaderElector(config)
	if err != nil {
		panic(fmt.Sprintf("leader election: its times contradict each other: %v", err))
	}

	var aside sync.WaitGroup
	aside.Go(func() {
		select {
		case <-held.Done():
			return
		case <-ctx.Done():
		}
		if leads.Load() {
			select {
			case <-ended:
			case <-time.After(e.handOver):
			}
		}
		giveBack()
	})
	aside.Go(func() {
		e.watch(held, leads.Load, func(pause time.Duration) {
			if wait(held, max(pause, atLeast-time.Since(began))) && !leads.Load() {
				giveBack() // nothing is held: the next candidacy begins, and asks at once
			}
		})
	})
	elector.Run(held)
	giveBack()
	aside.Wait()
	// What was begun under this Lease has ended before the next is asked for.
	e.work.Lock()
	defer e.work.Unlock()
	if leads.Load() && ctx.Err() == nil {
		e.Log.Warn("the Lease was lost: this copy promotes nothing until it holds it again", "lease", e.Lease, "why", e.why(ctx))
	}
	return leads.Load()
}

// bounded is a Lease that obliges nobody for longer than ours do, whatever its
// holder wrote into it: it would stand for 68 years, and all work with it.
type bounded struct {
	*resourcelock.LeaseLock
	longest time.Duration
}

// Get implements resourcelock.Interface.
func (b bounded) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := b.LeaseLock.Get(ctx)
	if err == nil {
		record.LeaseDurationSeconds = min(record.LeaseDurationSeconds, int(b.longest/time.Second))
		if record.LeaderTransitions >= math.MaxInt32 {
			record.LeaderTransitions = 0 // one more would be refused
		}
	}
	return record, raw, err
}

// why is what keeps this copy from the Lease, as far as that is to be seen.
func (e *Election) why(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, e.request)
	defer cancel()
	if err := e.Check(ctx); err != nil {
		return err.Error()
	}
	return "the API server did not answer in time, or another copy holds it"
}

func (e *Election) tell(leading bool) {
	if leading {
		e.Log.Info("this copy holds the Lease and works", "lease", e.Lease, "identity", e.Identity)
	}
	if e.Leading != nil {
		e.Leading(leading)
	}
}

// watchAgain bounds the pauses between watches that fail.
const watchAgain = 15 * time.Second

// watch calls free when the Lease seems to be free, with how long this candidacy
// should be given to take it, until the context ends or this copy leads. Where it may
// not watch, it returns, and the Lease is looked at in the usual periods.
func (e *Election) watch(ctx context.Context, leads func() bool, free func(pause time.Duration)) {
	for pause := time.Second; !leads(); pause = min(2*pause, watchAgain) {
		err := e.watchOnce(ctx, leads, func(wait time.Duration) { pause = time.Second; free(wait) })
		if Forbidden(err) {
			e.Log.Debug("the Lease may not be watched: it is taken over some time after it is free", "error", err)
			return
		}
		if !wait(ctx, pause) {
			return
		}
	}
}

func (e *Election) watchOnce(ctx context.Context, leads func() bool, free func(pause time.Duration)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lasts := int64(10 * time.Minute / time.Second)
	changes, err := e.watcher.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, e.Lease.Name).String(), TimeoutSeconds: &lasts,
	})
	if err != nil {
		return err
	}
	defer changes.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case change, ok := <-changes.ResultChan():
			if !ok || leads() {
				return nil
			}
			lease, ok := change.Object.(*coordinationv1.Lease)
			switch {
			case !ok:
				return fmt.Errorf("watch: %v", change.Object)
			case change.Type == watch.Deleted:
				e.Log.Warn("the Lease was deleted: a copy that may make one does, else nobody works until it is there again", "lease", e.Lease)
				continue
			}
			switch *cmp.Or(lease.Spec.HolderIdentity, new(string)) {
			case "":
				free(0)
			case e.Identity:
				// This candidacy has just been granted, or an earlier one of ours
				// has lost touch with a Lease that nobody has taken since.
				free(time.Second)
			}
		}
	}
}

// wait tells whether the context lasted.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
