package job_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/job"
)

// TestJobDeletedByHand: it is said, and the build tried again.
func TestJobDeletedByHand(t *testing.T) {
	t.Parallel()
	for name, withPod := range map[string]bool{"before its pod": false, "at work": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, s, what := world(t)
			b := builder(t, daemon(t, s.Namespace), s)
			done := run(t.Context(), b, what)
			live := cluster.made(what.Order)
			if withPod {
				pod := cluster.pod(live, nil)
				cluster.status(pod, phase(corev1.PodPending, at(pod, "fetch")))
			}
			if err := cluster.client.BatchV1().Jobs(s.Namespace).Delete(t.Context(), live.Name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}); err != nil {
				t.Fatal(err)
			}
			if o := result(t, done); o.err == nil || !strings.Contains(o.err.Error(), "it was deleted while it ran") {
				t.Errorf("got %v", o.err)
			}
			again := run(t.Context(), b, what)
			cluster.succeed(cluster.pod(cluster.made(what.Order, live), nil), digest("d"))
			if o := result(t, again); o.err != nil {
				t.Errorf("the second time: %v", o.err)
			}
		})
	}
}

// TestPodDeleted: a drained node's pod is deleted, and its containers are killed.
// What they end with is not the build's fault.
func TestPodDeleted(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	done := run(t.Context(), builder(t, daemon(t, s.Namespace), s), what)
	pod := cluster.pod(cluster.made(what.Order), nil)
	cluster.status(pod, phase(corev1.PodPending, ran(pod, "fetch", 0, "", report(pod, "fetch", kaniko.Report{})), at(pod, "kaniko")))
	if err := cluster.client.CoreV1().Pods(s.Namespace).Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	var fault *kaniko.BuildError
	if o := result(t, done); o.err == nil || errors.As(o.err, &fault) || !strings.Contains(o.err.Error(), "it was deleted while it ran") {
		t.Errorf("got %v", o.err)
	}
	cluster.gone(what.Order)
}

// TestConcurrency: no more Jobs are at work than may be, those of an earlier
// process among them, and builds begin in the order they were asked for.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	s.Concurrency = 2
	order := func(n int) job.Job {
		what := what
		what.Order.Image = fmt.Sprintf("image-%d", n)
		what.Order.Destination.Repository = fmt.Sprintf("registry.example.com/apps/image-%d", n)
		return what
	}
	before, stop := context.WithCancel(t.Context())
	earlier := run(before, builder(t, daemon(t, s.Namespace), s), order(0))
	cluster.made(order(0).Order)
	stop()
	result(t, earlier)

	b := builder(t, daemon(t, s.Namespace), s)
	const n = 6
	var done [n]<-chan outcome
	for i := 1; i < n; i++ {
		done[i] = run(t.Context(), b, order(i))
		if i == 1 {
			cluster.made(order(i).Order) // the first has its turn; the others queue, in some order
		}
	}
	done[0] = run(t.Context(), b, order(0)) // adopted at once, although two are at work
	seen := map[string]bool{}
	for len(seen) < n {
		var working []batchv1.Job
		eventually(t, "the next Job", func() bool {
			working = nil
			for _, j := range cluster.jobs() {
				if !seen[j.Name] {
					working = append(working, j)
				}
			}
			return len(working) > 0
		})
		if len(working) > 2 {
			t.Fatalf("%d Jobs at work, want 2 at most", len(working))
		}
		seen[working[0].Name] = true
		cluster.succeed(cluster.pod(&working[0], nil), digest("d"))
	}
	for i := range done {
		if o := result(t, done[i]); o.err != nil {
			t.Errorf("%d: %v", i, o.err)
		}
	}
}

// TestManyAtOnce: two hundred builds that become due together are not held back
// on this side, and each costs a handful of requests.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	config, count := counted(daemon(t, s.Namespace))
	b := builder(t, config, s)
	b.Glance(time.Hour) // no pod is made here, and a busy machine takes its time
	const n = 200
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	began := time.Now()
	var all sync.WaitGroup
	for i := range n {
		what := what
		what.Order.Image = fmt.Sprintf("image-%d", i)
		what.Order.Destination.Repository = fmt.Sprintf("registry.example.com/apps/image-%d", i)
		all.Go(func() { _, _ = b.Run(ctx, what) })
	}
	eventually(t, "all Jobs", func() bool { return len(cluster.jobs()) == n })
	t.Logf("%d Jobs were made in %s with %d requests", n, time.Since(began).Round(time.Millisecond), count.all.Load())
	if requests := count.all.Load(); requests > n+10 {
		t.Errorf("%d requests for %d Jobs", requests, n)
	}
	stop()
	all.Wait()
}

// outage is a network that can be cut between a client and its API server.
type outage struct {
	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]struct{}
}

func (o *outage) through(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.cut {
			return nil, errors.New("connection refused")
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			o.conns[conn] = struct{}{}
		}
		return conn, err
	}
	return config
}

func (o *outage) set(cut bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cut = cut
	for conn := range o.conns {
		conn.Close()
		delete(o.conns, conn)
	}
}

// TestServerAway: an API server that is away for a while costs time: the build
// goes on, and its end, which nobody saw, is read when the server is back.
func TestServerAway(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	network := &outage{conns: map[net.Conn]struct{}{}}
	b := builder(t, network.through(daemon(t, s.Namespace)), s)
	done := run(t.Context(), b, what)
	pod := cluster.pod(cluster.made(what.Order), nil)
	cluster.status(pod, phase(corev1.PodPending, at(pod, "fetch")))
	network.set(true)
	cluster.succeed(cluster.reread(pod), digest("d"))

	// Another build begins meanwhile: it says what is wrong and leaves nothing.
	other := what
	other.Order.Image = "other"
	o := result(t, run(t.Context(), b, other))
	if o.err == nil || !strings.Contains(o.err.Error(), "make it in namespace") {
		t.Errorf("got %v", o.err)
	}
	select {
	case o := <-done:
		t.Fatalf("the first did not wait: %+v, %v", o.built, o.err)
	case <-cluster.quiet():
	}
	network.set(false)
	if o := result(t, done); o.err != nil || o.built.Digest != digest("d") {
		t.Errorf("got %+v, %v", o.built, o.err)
	}
}

// TestRefused: what a quota or an admission policy says is passed on.
func TestRefused(t *testing.T) {
	t.Parallel()
	t.Run("quota", func(t *testing.T) {
		t.Parallel()
		cluster, s, what := world(t)
		quota := &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Name: "builds"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}},
		}
		quota, err := cluster.client.CoreV1().ResourceQuotas(s.Namespace).Create(t.Context(), quota, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		quota.Status = corev1.ResourceQuotaStatus{Hard: quota.Spec.Hard, Used: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}}
		if _, err := cluster.client.CoreV1().ResourceQuotas(s.Namespace).UpdateStatus(t.Context(), quota, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		refused(t, cluster, s, what, "exceeded quota: builds")
	})
	t.Run("admission policy", func(t *testing.T) {
		t.Parallel()
		cluster, s, what := world(t)
		policy := &admissionv1.ValidatingAdmissionPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: s.Namespace},
			Spec: admissionv1.ValidatingAdmissionPolicySpec{
				MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
					Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule:       admissionv1.Rule{APIGroups: []string{"batch"}, APIVersions: []string{"v1"}, Resources: []string{"jobs"}},
				}}}},
				Validations: []admissionv1.Validation{{Expression: "false", Message: "no builds on Sundays"}},
			},
		}
		if _, err := cluster.client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		binding := &admissionv1.ValidatingAdmissionPolicyBinding{
			ObjectMeta: metav1.ObjectMeta{Name: s.Namespace},
			Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
				PolicyName: s.Namespace, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
				MatchResources: &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: s.Namespace}}},
			},
		}
		if _, err := cluster.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		refused(t, cluster, s, what, "no builds on Sundays")
	})
	t.Run("rights", func(t *testing.T) {
		t.Parallel()
		cluster, s, what := world(t)
		config := daemon(t, s.Namespace)
		role, err := cluster.client.RbacV1().Roles(s.Namespace).Get(t.Context(), "towpath", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		role.Rules[0].Verbs = []string{"get", "list", "watch"}
		if _, err := cluster.client.RbacV1().Roles(s.Namespace).Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the loss of the right", func() bool {
			problems := builder(t, config, s).Check(t.Context())
			return len(problems) == 1 && strings.Contains(problems[0].Error(), "no right to create, patch, delete jobs in namespace "+s.Namespace)
		})
		o := result(t, run(t.Context(), builder(t, config, s), what))
		if o.err == nil || !strings.Contains(o.err.Error(), "forbidden") {
			t.Errorf("got %v", o.err)
		}
	})
}

// refused waits until a policy or quota is in force, which check tells, and has
// a build refused by it.
func refused(t *testing.T, cluster *standin, s job.Settings, what job.Job, why string) {
	t.Helper()
	b := builder(t, daemon(t, s.Namespace), s)
	eventually(t, "the refusal", func() bool {
		problems := b.Check(t.Context())
		return len(problems) == 1 && strings.Contains(problems[0].Error(), why)
	})
	o := result(t, run(t.Context(), b, what))
	var fault *kaniko.BuildError
	var hinted interface{ Hint() string }
	if o.err == nil || errors.As(o.err, &fault) || !strings.Contains(o.err.Error(), why) || !errors.As(o.err, &hinted) {
		t.Errorf("got %v, want %q", o.err, why)
	}
	if n := len(cluster.jobs()); n != 0 {
		t.Errorf("%d Jobs", n)
	}
}

// TestCheck: a namespace where all is well has no problem, and what is missing is
// named.
func TestCheck(t *testing.T) {
	t.Parallel()
	cluster, s, _ := world(t)
	b := builder(t, daemon(t, s.Namespace), s)
	eventually(t, "the rights", func() bool { return len(b.Check(t.Context())) == 0 })
	if n := len(cluster.jobs()); n != 0 {
		t.Errorf("check made %d Jobs", n)
	}
	if _, visible, err := b.MissingSecrets(t.Context(), []string{"registry"}); visible || err != nil {
		t.Errorf("Towpath sees secrets: %v, %v", visible, err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "git-apps"}, StringData: map[string]string{"password": "canary"}}
	if _, err := cluster.client.CoreV1().Secrets(s.Namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	config, _ := counted(lab.ControlPlane(t))
	missing, visible, err := builder(t, config, s).MissingSecrets(t.Context(), []string{"registry", "git-apps", "registry"})
	if err != nil || !visible || strings.Join(missing, " ") != "registry" {
		t.Errorf("got %v, %v, %v", missing, visible, err)
	}

	nowhere := s
	nowhere.Namespace = "no-such-namespace"
	problems := builder(t, lab.ControlPlane(t), nowhere).Check(t.Context())
	if len(problems) != 1 || !apierrors.IsNotFound(problems[0]) {
		t.Errorf("got %v, want one about the namespace", problems)
	}
}

// forgetful is a network that loses the answer to the first Job that is made.
type forgetful struct {
	next http.RoundTripper
	lost *atomic.Bool
}

func (f forgetful) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := f.next.RoundTrip(request)
	if err == nil && request.Method == http.MethodPost && strings.HasSuffix(request.URL.Path, "/jobs") && f.lost.CompareAndSwap(false, true) {
		response.Body.Close()
		return nil, errors.New("connection reset by peer")
	}
	return response, err
}

// TestAnswerLost: a Job that was made although the answer was lost is not made
// twice.
func TestAnswerLost(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	config := daemon(t, s.Namespace)
	lost := &atomic.Bool{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return forgetful{next, lost} })
	b := builder(t, config, s)
	if o := result(t, run(t.Context(), b, what)); o.err == nil || !strings.Contains(o.err.Error(), "connection reset by peer") {
		t.Fatalf("got %v", o.err)
	}
	live := cluster.made(what.Order)
	done := run(t.Context(), b, what)
	cluster.succeed(cluster.pod(live, nil), digest("d"))
	if o := result(t, done); o.err != nil || !strings.HasSuffix(o.built.Run, string(live.UID)) {
		t.Errorf("got %+v, %v", o.built, o.err)
	}
	if n := len(cluster.jobs()); n != 1 {
		t.Errorf("%d Jobs, want 1", n)
	}
}

// TestNeverStarts: a build that waits for what will not come by itself is given
// up, and what is missing is named. One that waits for a node is not.
func TestNeverStarts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pod  func(*standin, *batchv1.Job)
		want string
		hint string
	}{
		"no pod is made": {pod: func(*standin, *batchv1.Job) {}, want: "no pod was made for it within", hint: "ServiceAccount build"},
		"a secret is missing": {
			pod: func(s *standin, live *batchv1.Job) {
				pod := s.pod(live, nil)
				status := phase(corev1.PodPending, waiting("fetch", "PodInitializing", ""))
				status.Conditions = []corev1.PodCondition{
					{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()},
					{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()},
				}
				s.status(pod, status)
			},
			want: "did not prepare its pod within", hint: "Secret git-apps, Secret registry",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, s, what := world(t)
			what.GitSecret, what.PushSecret = "git-apps", "registry"
			b := builder(t, daemon(t, s.Namespace), s)
			b.Hurry(500 * time.Millisecond)
			done := run(t.Context(), b, what)
			test.pod(cluster, cluster.made(what.Order))
			o := result(t, done)
			var hinted interface{ Hint() string }
			if o.err == nil || !strings.Contains(o.err.Error(), test.want) || !errors.As(o.err, &hinted) || !strings.Contains(hinted.Hint(), test.hint) {
				t.Errorf("got %v", o.err)
			}
			cluster.gone(what.Order)
		})
	}
	for name, test := range map[string]struct {
		podless         bool
		reason, message string
		want, hint      string // empty: it waits on
	}{
		"a secret is missing, and an event says so": {
			reason: "FailedMount", message: `MountVolume.SetUp failed for volume "git-secret" : secret "git-apps" not found`,
			want: `its pod cannot be prepared: FailedMount: MountVolume.SetUp failed for volume "git-secret" : secret "git-apps" not found`, hint: "make Secret git-apps in namespace ",
		},
		"a ConfigMap is missing": {
			reason: "FailedMount", message: `MountVolume.SetUp failed for volume "authorities" : configmap "authorities" not found`,
			want: `configmap "authorities" not found`, hint: "make ConfigMap authorities in namespace ",
		},
		"a key is missing": {
			reason: "FailedMount", message: `MountVolume.SetUp failed for volume "authorities" : configmap references non-existent config key: ca.crt`,
			want: "non-existent config key: ca.crt", hint: "give it that key",
		},
		"the kubelet is slow": {reason: "FailedMount", message: `MountVolume.SetUp failed for volume "git-secret" : failed to sync secret cache: timed out waiting for the condition`},
		"its pod is refused": {
			podless: true, reason: "FailedCreate", message: `Error creating: pods "x" is forbidden: error looking up service account ns/build: serviceaccount "build" not found`,
			want: "no pod is made for it: FailedCreate: Error creating", hint: "ServiceAccount build",
		},
		"the quota is used up": {podless: true, reason: "FailedCreate", message: `Error creating: pods "x" is forbidden: exceeded quota: builds`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, s, what := world(t)
			config, count := counted(daemon(t, s.Namespace))
			b := builder(t, config, s)
			b.Glance(200 * time.Millisecond)
			done := run(t.Context(), b, what)
			live := cluster.made(what.Order)
			about := corev1.ObjectReference{Kind: "Job", Namespace: s.Namespace, Name: live.Name, UID: live.UID}
			if !test.podless {
				pod := cluster.pod(live, nil)
				status := phase(corev1.PodPending, waiting("fetch", "PodInitializing", ""))
				status.Conditions = []corev1.PodCondition{
					{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()},
					{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()},
				}
				cluster.status(pod, status)
				about = corev1.ObjectReference{Kind: "Pod", Namespace: s.Namespace, Name: pod.Name, UID: pod.UID}
			}
			_, err := cluster.client.CoreV1().Events(s.Namespace).Create(t.Context(), &corev1.Event{
				ObjectMeta: metav1.ObjectMeta{GenerateName: "warning-"}, InvolvedObject: about, Type: corev1.EventTypeWarning, Reason: test.reason, Message: test.message,
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if test.want == "" {
				eventually(t, "two looks at the events", func() bool { return count.of("GET /api/v1/namespaces/"+s.Namespace+"/events") >= 2 })
				select {
				case o := <-done:
					t.Fatalf("it did not wait: %v", o.err)
				default:
				}
				return
			}
			o := result(t, done)
			var fault *kaniko.BuildError
			var hinted interface{ Hint() string }
			if o.err == nil || errors.As(o.err, &fault) || !strings.Contains(o.err.Error(), test.want) || !errors.As(o.err, &hinted) || !strings.Contains(hinted.Hint(), test.hint) {
				t.Errorf("got %v", o.err)
			}
			cluster.gone(what.Order)
		})
	}
	t.Run("no node", func(t *testing.T) {
		t.Parallel()
		cluster, s, what := world(t)
		pod := cluster.pod(cluster.create(must(job.Render(s, what))), func(p *corev1.Pod) { p.Spec.NodeName = "" })
		status := phase(corev1.PodPending)
		status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/1 nodes are available"}}
		pod = cluster.status(pod, status)
		b := builder(t, daemon(t, s.Namespace), s)
		b.Hurry(time.Millisecond)
		done := run(t.Context(), b, what)
		select {
		case o := <-done:
			t.Fatalf("it did not wait: %v", o.err)
		case <-cluster.quiet():
		}
		standings, err := b.Standings(t.Context())
		if doing := standings[job.Name(what.Order)].Doing; err != nil || doing != "waits for a node: 0/1 nodes are available" {
			t.Errorf("it %s, %v", doing, err)
		}
		cluster.succeed(pod, digest("d"))
		if o := result(t, done); o.err != nil {
			t.Error(o.err)
		}
	})
}
