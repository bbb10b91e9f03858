package election

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"towpath.dev/towpath/e2e/lab"
)

// patient are times at which a test would give up, were anything done by
// looking now and then. hasty ones are for what has to run out; between a leader
// that gives up and a Lease that may be taken there is time even where all is slow.
var (
	patient = times{leaseDuration: 20 * time.Minute, renewDeadline: 19 * time.Minute, retryPeriod: 10 * time.Minute, request: time.Minute, handOver: 2 * time.Second}
	hasty   = times{leaseDuration: 8 * time.Second, renewDeadline: 4 * time.Second, retryPeriod: 500 * time.Millisecond, request: time.Minute, handOver: time.Second}
)

// soon is how long a test waits for what happens at once, on a busy machine.
const soon = 2 * time.Minute

// namespace makes one for a test, with a Lease as deploy/ makes it.
func namespace(t *testing.T, config *rest.Config, name string) types.NamespacedName {
	t.Helper()
	admin := kubernetes.NewForConfigOrDie(config)
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "towpath", Namespace: name}}
	if _, err := admin.CoordinationV1().Leases(name).Create(t.Context(), lease, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return types.NamespacedName{Namespace: name, Name: "towpath"}
}

// allow gives a user verbs on the Lease and nothing else, and returns a
// configuration for that user.
func allow(t *testing.T, config *rest.Config, lease types.NamespacedName, user string, verbs ...string) *rest.Config {
	t.Helper()
	var rules []rbacv1.PolicyRule
	if len(verbs) > 0 {
		rules = []rbacv1.PolicyRule{{APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: []string{lease.Name}, Verbs: verbs}}
	}
	return lab.Account(t, config, lease.Namespace, user, rules...)
}

// candidate is a copy that takes part.
type candidate struct {
	t      *testing.T
	name   string
	end    context.CancelFunc
	ended  chan struct{}
	leads  chan bool // every change
	line   *line
	offer  *Election
	cutOff *cut
}

// line is what candidates compete for: one leads at a time.
type line struct {
	mu     sync.Mutex
	leader string
}

func (l *line) enter(t *testing.T, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leader != "" {
		t.Errorf("%s leads beside %s", name, l.leader)
	}
	l.leader = name
}

func (l *line) leave(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leader == name {
		l.leader = ""
	}
}

// cut is a network that can fail, and counts requests.
type cut struct {
	away atomic.Bool
	n    atomic.Int64
}

func (c *cut) wrap(next http.RoundTripper) http.RoundTripper { return &link{c, next} }

type link struct {
	*cut
	next http.RoundTripper
}

func (l *link) RoundTrip(r *http.Request) (*http.Response, error) {
	l.n.Add(1)
	if l.away.Load() {
		return nil, errors.New("the API server is away")
	}
	return l.next.RoundTrip(r)
}

func join(t *testing.T, config *rest.Config, lease types.NamespacedName, name string, how times, l *line) *candidate {
	t.Helper()
	c := &candidate{t: t, name: name, ended: make(chan struct{}), leads: make(chan bool, 100), line: l, cutOff: &cut{}}
	config = rest.CopyConfig(config)
	config.Wrap(c.cutOff.wrap)
	offer, err := New(config, Options{
		Lease: lease, Identity: name, Leading: func(leads bool) { c.leads <- leads }, Log: slog.New(slog.DiscardHandler), times: how,
	})
	if err != nil {
		t.Fatal(err)
	}
	c.offer = offer
	ctx, end := context.WithCancel(t.Context())
	c.end = end
	go func() {
		defer close(c.ended)
		offer.Run(ctx, func(ctx context.Context) {
			l.enter(t, name)
			defer l.leave(name)
			<-ctx.Done()
		})
	}()
	t.Cleanup(c.leave)
	return c
}

func (c *candidate) leave() {
	c.end()
	<-c.ended
}

// expect waits until the candidate leads, or does no more.
func (c *candidate) expect(leads bool, within time.Duration) {
	c.t.Helper()
	select {
	case got := <-c.leads:
		if got != leads {
			c.t.Fatalf("%s leads: %v", c.name, got)
		}
	case <-time.After(within):
		c.t.Fatalf("%s leads: still %v after %s", c.name, !leads, within)
	}
}

func (c *candidate) waits() {
	c.t.Helper()
	select {
	case got := <-c.leads:
		c.t.Fatalf("%s leads: %v", c.name, got)
	default:
	}
}

func TestWhoEndsHandsOverAtOnce(t *testing.T) {
	t.Parallel()
	config := lab.ControlPlane(t)
	lease := namespace(t, config, "hand-over")
	config = allow(t, config, lease, "hand-over", "get", "watch", "update")
	l := &line{}
	first := join(t, config, lease, "first", patient, l)
	first.expect(true, soon)
	second := join(t, config, lease, "second", patient, l)
	third := join(t, config, lease, "third", patient, l)
	for leading, waiting := first, []*candidate{second, third}; len(waiting) > 0; {
		for _, c := range waiting {
			for c.cutOff.n.Load() < 2 { // it has asked, and watches
				time.Sleep(time.Millisecond)
			}
			c.waits()
		}
		began := time.Now()
		leading.leave()
		leading.expect(false, soon)
		leading, waiting = next(t, waiting)
		t.Logf("handed over in %s", time.Since(began))
	}
}

// next is who of those that wait leads now, and who goes on waiting.
func next(t *testing.T, waiting []*candidate) (leading *candidate, left []*candidate) {
	t.Helper()
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for i, c := range waiting {
			select {
			case leads := <-c.leads:
				if !leads {
					t.Fatalf("%s has ended", c.name)
				}
				return c, slices.Delete(slices.Clone(waiting), i, i+1)
			default:
			}
		}
	}
	t.Fatal("nobody took over")
	return nil, nil
}

// TestACopyThatComesBackGoesOn: a container that was killed starts again in its
// pod and need not wait for its own Lease to run out; another copy does.
func TestACopyThatComesBackGoesOn(t *testing.T) {
	t.Parallel()
	config := lab.ControlPlane(t)
	lease := namespace(t, config, "comes-back")
	leases := kubernetes.NewForConfigOrDie(config).CoordinationV1().Leases(lease.Namespace)
	held, err := leases.Get(t.Context(), lease.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	holder, seconds, now := "towpath-0", int32(600), metav1.NowMicro()
	held.Spec = coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now}
	if _, err := leases.Update(t.Context(), held, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	l := &line{}
	other := join(t, config, lease, "towpath-1", patient, l)
	same := join(t, config, lease, "towpath-0", patient, l)
	same.expect(true, soon)
	other.waits()
}

// TestALeaseThatIsNotRenewedIsTakenOver: its holder died.
func TestALeaseThatIsNotRenewedIsTakenOver(t *testing.T) {
	t.Parallel()
	config := lab.ControlPlane(t)
	lease := namespace(t, config, "dies")
	l := &line{}
	first := join(t, config, lease, "first", hasty, l)
	first.expect(true, soon)
	second := join(t, config, lease, "second", hasty, l)
	first.cutOff.away.Store(true)
	first.expect(false, soon) // before the Lease runs out
	second.expect(true, soon)
	first.cutOff.away.Store(false)
	second.leave()
	first.expect(true, soon) // it has gone on waiting
}

// TestALeaseForEver: who wrote that it holds the Lease for 68 years, since a time
// to come, holds it as long as anybody who does not renew it.
func TestALeaseForEver(t *testing.T) {
	t.Parallel()
	config := lab.ControlPlane(t)
	lease := namespace(t, config, "for-ever")
	leases := kubernetes.NewForConfigOrDie(config).CoordinationV1().Leases(lease.Namespace)
	held, err := leases.Get(t.Context(), lease.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	held.Spec = coordinationv1.LeaseSpec{
		HolderIdentity: new("thief"), LeaseDurationSeconds: new(int32(math.MaxInt32)), LeaseTransitions: new(int32(math.MaxInt32)),
		RenewTime: new(metav1.NewMicroTime(time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC))), AcquireTime: new(metav1.NewMicroTime(time.Unix(0, 0))),
	}
	if _, err := leases.Update(t.Context(), held, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	join(t, config, lease, "first", hasty, &line{}).expect(true, soon)
}

// TestTheAPIServerGoesAndComesBack: the only copy stops, and goes on by itself,
// long before it would look the next time.
func TestTheAPIServerGoesAndComesBack(t *testing.T) {
	t.Parallel()
	config := lab.ControlPlane(t)
	lease := namespace(t, config, "away")
	how := hasty
	how.leaseDuration, how.renewDeadline, how.retryPeriod = 10*time.Minute, 3*time.Second, 2*time.Second
	only := join(t, config, lease, "only", how, &line{})
	only.expect(true, soon)
	only.cutOff.away.Store(true)
	only.expect(false, soon)
	only.cutOff.away.Store(false)
	only.expect(true, soon)
}

// TestALeaderAsksSeldom: one request for each renewal, and those who wait no
// more than one for each look and one to watch.
func TestALeaderAsksSeldom(t *testing.T) {
	t.Parallel()
	config := lab.ControlPlane(t)
	lease := namespace(t, config, "seldom")
	l := &line{}
	leader := join(t, config, lease, "leader", hasty, l)
	leader.expect(true, soon)
	began := time.Now()
	waiter := join(t, config, lease, "waiter", hasty, l)
	const times = 8
	before := leader.cutOff.n.Load()
	for leader.cutOff.n.Load() < before+times || waiter.cutOff.n.Load() < times { // so both go on asking
		time.Sleep(time.Millisecond)
	}
	// Counted first: on a busy machine time goes on meanwhile.
	asked, looked := leader.cutOff.n.Load()-before, waiter.cutOff.n.Load()
	if periods := int64(time.Since(began) / hasty.retryPeriod); asked > periods+1 || looked > periods+3 {
		t.Errorf("in %d periods the leader asked %d times, and who waits %d times", periods, asked, looked)
	}
	if rate := float64(time.Minute) / float64(usual.retryPeriod); rate >= 2 {
		t.Errorf("a leader asks %v times a minute", rate)
	}
}

func TestRights(t *testing.T) {
	t.Parallel()
	config := lab.ControlPlane(t)
	lease := namespace(t, config, "rights")
	check := func(as *rest.Config, lease types.NamespacedName) error {
		offer, err := New(as, Options{Lease: lease, Identity: "x", Log: slog.New(slog.DiscardHandler), times: patient})
		if err != nil {
			t.Fatal(err)
		}
		return offer.Check(t.Context())
	}
	if err := check(allow(t, config, lease, "enough", "get", "update"), lease); err != nil {
		t.Errorf("with get and update: %v", err)
	}
	for user, verbs := range map[string][]string{"nothing": nil, "reader": {"get", "watch"}, "writer": {"update"}} {
		err := check(allow(t, config, lease, user, verbs...), lease)
		var hinted interface{ Hint() string }
		if !Forbidden(err) || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), "leaderElection.enabled") {
			t.Errorf("with %q: %v", verbs, err)
		}
	}
	missing := types.NamespacedName{Namespace: lease.Namespace, Name: "missing"}
	if err := check(config, missing); err != nil {
		t.Errorf("a Lease that may be made: %v", err)
	}
	if err := check(allow(t, config, missing, "cannot-make", "get", "update"), missing); !Forbidden(err) {
		t.Errorf("a Lease that may not be made: %v", err)
	}
	found, err := kubernetes.NewForConfigOrDie(config).CoordinationV1().Leases(lease.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(found.Items) != 1 || found.Items[0].Spec.HolderIdentity != nil {
		t.Errorf("to check has changed something: %+v, %v", found.Items, err)
	}
}

// TestWithoutTheRightToWatch it is still taken over, by looking.
func TestWithoutTheRightToWatch(t *testing.T) {
	t.Parallel()
	config := lab.ControlPlane(t)
	lease := namespace(t, config, "blind")
	config = allow(t, config, lease, "blind", "get", "update")
	l := &line{}
	first := join(t, config, lease, "first", hasty, l)
	first.expect(true, soon)
	second := join(t, config, lease, "second", hasty, l)
	first.leave()
	second.expect(true, soon)
}

// TestALeaseThatIsDeleted is said to be, by who works and who waits; made again,
// it is taken.
func TestALeaseThatIsDeleted(t *testing.T) {
	t.Parallel()
	config := lab.ControlPlane(t)
	lease := namespace(t, config, "deleted")
	leases := kubernetes.NewForConfigOrDie(config).CoordinationV1().Leases(lease.Namespace)
	narrow := allow(t, config, lease, "deleted", "get", "watch", "update")
	l := &line{}
	first := join(t, narrow, lease, "first", hasty, l)
	first.expect(true, soon)
	if err := leases.Delete(t.Context(), lease.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	first.expect(false, soon)
	if why := first.offer.why(t.Context()); !strings.Contains(why, "cannot create resource") {
		t.Errorf("why: %s", why)
	}
	again := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: lease.Name}}
	if _, err := leases.Create(t.Context(), again, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	first.expect(true, soon)
}
