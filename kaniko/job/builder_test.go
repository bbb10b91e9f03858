package job_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/job"
)

// requests counts what goes to the API server.
type requests struct {
	next http.RoundTripper
	all  *atomic.Int64
	mu   *sync.Mutex
	what map[string]int
}

func (r requests) RoundTrip(request *http.Request) (*http.Response, error) {
	r.all.Add(1)
	what := request.Method + " " + request.URL.Path
	if request.URL.Query().Get("watch") != "" {
		what = "WATCH " + request.URL.Path
	}
	r.mu.Lock()
	r.what[what]++
	r.mu.Unlock()
	return r.next.RoundTrip(request)
}

func (r requests) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint(r.what)
}

// of is how often one thing was asked for.
func (r requests) of(what string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.what[what]
}

// counted is a configuration whose requests are counted.
func counted(config *rest.Config) (*rest.Config, requests) {
	count := requests{all: &atomic.Int64{}, mu: &sync.Mutex{}, what: map[string]int{}}
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		count.next = next
		return count
	})
	return config, count
}

// daemon is a service account that has in a namespace what Towpath has in that
// of its builds, and nothing else anywhere.
func daemon(t *testing.T, namespace string) *rest.Config {
	t.Helper()
	const user = "system:serviceaccount:towpath:towpath"
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "towpath"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"get", "list", "watch", "create", "patch", "delete"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"pods/log"}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"list"}},
	}}
	if _, err := client(t).RbacV1().Roles(namespace).Create(t.Context(), role, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "towpath"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "towpath"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}
	if _, err := client(t).RbacV1().RoleBindings(namespace).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return lab.As(lab.ControlPlane(t), user)
}

// builder is one process's builder.
func builder(t *testing.T, config *rest.Config, s job.Settings) *job.Builder {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	client, err := job.Client(config, log)
	if err != nil {
		t.Fatal(err)
	}
	b, err := job.New(client, s, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// outcome is what a Run came to.
type outcome struct {
	built job.Built
	err   error
}

// run runs a build in the background.
func run(ctx context.Context, b *job.Builder, what job.Job) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		built, err := b.Run(ctx, what)
		done <- outcome{built, err}
	}()
	return done
}

// result waits for the end of a Run.
func result(t *testing.T, done <-chan outcome) outcome {
	t.Helper()
	select {
	case o := <-done:
		return o
	case <-time.After(2 * time.Minute):
		t.Fatal("the build did not end within two minutes")
		return outcome{}
	}
}

// world is a namespace with its stand-in, and what to build there.
func world(t *testing.T) (*standin, job.Settings, job.Job) {
	t.Helper()
	s, what := minimal()
	s.Namespace = namespace(t)
	return newStandin(t, s.Namespace), s, what
}

// TestBuild: a build is one Job, its result what publish reports, and costs a
// handful of requests.
func TestBuild(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	config, count := counted(daemon(t, s.Namespace))
	b := builder(t, config, s)
	began := time.Now()
	done := run(t.Context(), b, what)
	live := cluster.made(what.Order)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("the Job was made after %s", took)
	}
	pod := cluster.pod(live, nil)
	cluster.status(pod, phase(corev1.PodPending, at(pod, "fetch")))
	cluster.succeed(cluster.reread(pod), digest("d"))
	o := result(t, done)
	if o.err != nil {
		t.Fatal(o.err)
	}
	want := job.Built{
		Digest: digest("d"), Size: 12345, Warnings: []string{"Dockerfile: line 3: beware"},
		Run:     s.Namespace + "/" + live.Name + "/" + string(live.UID),
		Started: live.CreationTimestamp.Time, Finished: started.Add(11 * time.Second),
		Times: job.Times{Fetch: time.Second, Build: time.Second, Publish: time.Second},
	}
	if diff := cmp.Diff(want, o.built, cmp.Comparer(time.Time.Equal)); diff != "" {
		t.Errorf("built (-want +got):\n%s", diff)
	}
	if n := count.all.Load(); n >= 20 {
		t.Errorf("%d requests for a build: %s", n, count)
	}
	asked := count.all.Load()
	<-cluster.quiet()
	if n := count.all.Load(); n != asked {
		t.Errorf("%d requests while nothing was to be done: %s", n-asked, count)
	}
	kept := cluster.made(what.Order)
	if ttl := kept.Spec.TTLSecondsAfterFinished; kept.UID != live.UID || ttl == nil || *ttl != 3600 {
		t.Errorf("the Job is kept for %v seconds, want 3600", ttl)
	}

	// A process that died before it sealed the image finds it again.
	cluster.end(live, batchv1.JobComplete, "CompletionsReached", "")
	again := result(t, run(t.Context(), builder(t, daemon(t, s.Namespace), s), what))
	if diff := cmp.Diff(o.built, again.built, cmp.Comparer(time.Time.Equal)); again.err != nil || diff != "" {
		t.Errorf("built the second time: %v (-want +got):\n%s", again.err, diff)
	}
	if jobs := cluster.jobs(); len(jobs) != 1 || jobs[0].UID != live.UID {
		t.Errorf("%d Jobs, want the first alone", len(jobs))
	}
}

// TestResultBeforeThePodsEnd: the result is there when publish has ended, and the
// second or two that a node takes to clear the pod away are not waited for.
func TestResultBeforeThePodsEnd(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	done := run(t.Context(), builder(t, daemon(t, s.Namespace), s), what)
	pod := cluster.pod(cluster.made(what.Order), nil)
	fetched := ran(pod, "fetch", 0, "", report(pod, "fetch", kaniko.Report{}))
	built := ran(pod, "kaniko", 0, "", "")
	pod = cluster.status(pod, phase(corev1.PodRunning, fetched, built, at(pod, "publish")))
	<-cluster.quiet()
	select {
	case o := <-done:
		t.Fatalf("it ended while publish was at work: %+v, %v", o.built, o.err)
	default:
	}
	cluster.status(pod, phase(corev1.PodRunning, fetched, built, ran(pod, "publish", 0, "", report(pod, "publish", kaniko.Report{Digest: digest("d"), Size: 1}))))
	if o := result(t, done); o.err != nil || o.built.Digest != digest("d") {
		t.Errorf("got %+v, %v", o.built, o.err)
	}
}

// reread is a pod as it is now.
func (s *standin) reread(pod *corev1.Pod) *corev1.Pod {
	s.t.Helper()
	pod, err := s.client.CoreV1().Pods(s.namespace).Get(s.t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return pod
}

// TestTwoCopiesCollide: two processes that are after the same image make one Job
// and get one image.
func TestTwoCopiesCollide(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	one, two := builder(t, daemon(t, s.Namespace), s), builder(t, daemon(t, s.Namespace), s)
	first, second := run(t.Context(), one, what), run(t.Context(), two, what)
	live := cluster.made(what.Order)
	cluster.succeed(cluster.pod(live, nil), digest("d"))
	for _, done := range []<-chan outcome{first, second} {
		if o := result(t, done); o.err != nil || o.built.Digest != digest("d") || !strings.HasSuffix(o.built.Run, string(live.UID)) {
			t.Errorf("got %+v, %v", o.built, o.err)
		}
	}
	if n := len(cluster.jobs()); n != 1 {
		t.Errorf("%d Jobs, want 1", n)
	}
}

// TestAdopted: a process that ends leaves its build at work, at once, and the
// next goes on with it.
func TestAdopted(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	ctx, stop := context.WithCancel(t.Context())
	done := run(ctx, builder(t, daemon(t, s.Namespace), s), what)
	live := cluster.made(what.Order)
	pod := cluster.pod(live, nil)
	cluster.status(pod, phase(corev1.PodPending, at(pod, "fetch")))
	stop()
	if o := result(t, done); !errors.Is(o.err, context.Canceled) { // the build itself never ends
		t.Errorf("got %v", o.err)
	}
	adopted := run(t.Context(), builder(t, daemon(t, s.Namespace), s), what)
	cluster.succeed(cluster.reread(pod), digest("d"))
	if o := result(t, adopted); o.err != nil || o.built.Digest != digest("d") {
		t.Errorf("got %+v, %v", o.built, o.err)
	}
	if jobs := cluster.jobs(); len(jobs) != 1 || jobs[0].UID != live.UID {
		t.Errorf("%d Jobs, want the first alone", len(jobs))
	}
}

// TestEndings: whatever ends a build, it is told whose fault that was. A failure
// of the build's own stays as its Job and is answered again without a build; one
// of the machinery's is removed and tried anew.
func TestEndings(t *testing.T) {
	t.Parallel()
	const log = `time="2026-11-21T21:28:47Z" level=info msg="RUN make all"` + "\nmake: \x1b[31mno rule\x1b[0m\n"
	fetched := func(p *corev1.Pod) corev1.ContainerStatus {
		return ran(p, "fetch", 0, "", report(p, "fetch", kaniko.Report{}))
	}
	tests := map[string]struct {
		status func(p *corev1.Pod) corev1.PodStatus
		log    string
		fault  bool
		want   string // in the error
		hint   string
		tail   string
	}{
		"a RUN step fails": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 1, "", ""))
			},
			log: log + "error building image: waiting for process to exit: exit status 2\n", fault: true,
			want: "build: RUN make all: exit status 2", tail: "RUN make all\nmake: no rule\nerror building image: waiting for process to exit: exit status 2",
		},
		"a RUN step fails, in long lines": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 1, "", ""))
			},
			log: strings.Repeat(strings.Repeat("x", 16<<10)+"\n", 90) + log + "error building image: waiting for process to exit: exit status 2\n", fault: true,
			want: "build: RUN make all: exit status 2",
			tail: strings.Repeat(strings.Repeat("x", 400)+"…\n", 17) + "RUN make all\nmake: no rule\nerror building image: waiting for process to exit: exit status 2",
		},
		"its registry is away": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 1, "", ""))
			},
			log:  "error building image: GET https://registry.example.com/v2/: unexpected status code 503 Service Unavailable\n",
			want: "build: error building image: GET",
		},
		"a private address": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 1, "", ""))
			},
			log:  "error building image: dial tcp 10.0.0.1:443: connect: no route to host\n",
			want: "no route to host", hint: `builder.egress: ["10.0.0.1:443"]`,
		},
		"a private address of a git host": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, ran(p, "fetch", 1, "", report(p, "fetch", kaniko.Report{Error: "dial tcp 10.0.0.1:22: i/o timeout"})))
			},
			want: "fetch: dial tcp 10.0.0.1:22: i/o timeout", hint: `- {to: [{ipBlock: {cidr: "10.0.0.1/32"}}], ports: [{protocol: TCP, port: 22}]}`,
		},
		"kaniko's status alone": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 3, "", ""))
			},
			fault: true, want: "kaniko ended with status 3",
		},
		"a commit that may not be built": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, ran(p, "fetch", 1, "", report(p, "fetch", kaniko.Report{Fault: true, Error: "Dockerfile: line 3: ADD --checksum is ignored by kaniko", Hint: "change the Dockerfile"})))
			},
			fault: true, want: "fetch: Dockerfile: line 3: ADD --checksum", hint: "change the Dockerfile",
		},
		"a forged layout": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 0, "", ""), ran(p, "publish", 1, "", report(p, "publish", kaniko.Report{Fault: true, Error: "layout: index: two manifests"})))
			},
			fault: true, want: "publish: layout: index: two manifests",
		},
		"the git server is away": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, ran(p, "fetch", 1, "", report(p, "fetch", kaniko.Report{Error: "git.example.com: 503", Hint: "see the server"})))
			},
			want: "fetch: git.example.com: 503", hint: "see the server",
		},
		"fetch leaves no report": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, ran(p, "fetch", 2, "", "panic: x"))
			},
			want: "fetch ended with status 2: the report of fetch does not parse",
		},
		"a report of another order": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, ran(p, "fetch", 1, "", `{"order":"sha256:0","fault":true,"error":"forged"}`))
			},
			want: "it was given sha256:",
		},
		"evicted": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				status := phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 137, "", ""))
				status.Reason, status.Message = "Evicted", "The node was low on resource: ephemeral-storage."
				return status
			},
			want: "ended from outside: Evicted: The node was low on resource",
		},
		"evicted for its own use": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				status := phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 137, "", ""))
				status.Reason, status.Message = "Evicted", `Usage of EmptyDir volume "out" exceeds the limit "20Gi".`
				status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "TerminationByKubelet", Message: status.Message}}
				return status
			},
			want: `exceeds the limit "20Gi"`, hint: "ephemeral-storage",
		},
		"out of memory": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 137, "OOMKilled", ""))
			},
			want: "kaniko needed more memory than its limit", hint: "limits.memory",
		},
		"killed from outside": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 137, "", ""))
			},
			want: "kaniko was killed from outside (status 137)",
		},
		"an image that cannot be pulled": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodPending, fetched(p), waiting("kaniko", "ImagePullBackOff", "Back-off pulling image"), waiting("publish", "PodInitializing", ""))
			},
			want: "kaniko does not start: ImagePullBackOff: Back-off pulling image", hint: "imagePullSecrets",
		},
		"a container that cannot be made": {
			status: func(*corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodPending, waiting("fetch", "CreateContainerConfigError", `configmap "authorities" not found`))
			},
			want: `CreateContainerConfigError: configmap "authorities" not found`,
		},
		"a program that does not start": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, ran(p, "fetch", 128, "StartError", `exec: "towpath": executable file not found in $PATH`))
			},
			want: `fetch: StartError: exec: "towpath": executable file not found`,
		},
		"a node that is lost": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				status := phase(corev1.PodRunning, fetched(p), at(p, "kaniko"))
				status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint"}}
				return status
			},
			want: "ended from outside: DeletionByTaintManager",
		},
		"a container that nobody knows": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				return phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 137, "ContainerStatusUnknown", "The container could not be located when the pod was terminated"))
			},
			want: "ContainerStatusUnknown: The container could not be located",
		},
		"a node that goes down": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				status := phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 1, "", ""))
				status.Reason, status.Message = "Terminated", "Pod was terminated in response to imminent node shutdown."
				return status
			},
			want: "imminent node shutdown",
		},
		"its time is up at kaniko": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				status := phase(corev1.PodFailed, fetched(p), ran(p, "kaniko", 137, "", ""), waiting("publish", "PodInitializing", ""))
				status.Reason = "DeadlineExceeded"
				return status
			},
			log: log, fault: true, want: "build: it was not done within its time, 30m0s", hint: "builder.timeout", tail: "RUN make all\nmake: no rule",
		},
		"its time is up at fetch": {
			status: func(p *corev1.Pod) corev1.PodStatus {
				status := phase(corev1.PodFailed, ran(p, "fetch", 137, "", ""), waiting("kaniko", "PodInitializing", ""))
				status.Reason = "DeadlineExceeded"
				return status
			},
			want: "it got as far as fetch", hint: "builder.timeout",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, s, what := world(t)
			cluster.log("kaniko", test.log)
			config, count := counted(daemon(t, s.Namespace))
			b := builder(t, config, s)
			done := run(t.Context(), b, what)
			live := cluster.made(what.Order)
			pod := cluster.pod(live, nil)
			cluster.status(pod, test.status(pod))
			o := result(t, done)
			var fault *kaniko.BuildError
			if o.err == nil || errors.As(o.err, &fault) != test.fault || !strings.Contains(o.err.Error(), test.want) {
				t.Fatalf("got %v, want %q, the build's own: %v", o.err, test.want, test.fault)
			}
			var hinted interface{ Hint() string }
			if test.hint != "" && (!errors.As(o.err, &hinted) || !strings.Contains(hinted.Hint(), test.hint)) {
				t.Errorf("no hint of %q: %v", test.hint, o.err)
			}
			if n := count.all.Load(); n >= 20 {
				t.Errorf("%d requests: %s", n, count)
			}
			if !test.fault {
				// Anew: another Job, and this time all is well.
				cluster.gone(what.Order)
				again := run(t.Context(), b, what)
				next := cluster.made(what.Order, live)
				cluster.succeed(cluster.pod(next, nil), digest("e"))
				if o := result(t, again); o.err != nil || o.built.Digest != digest("e") {
					t.Errorf("the second time: %+v, %v", o.built, o.err)
				}
				return
			}
			if fault.Tail != test.tail {
				t.Errorf("last lines %q, want %q", fault.Tail, test.tail)
			}
			// Another process reads the failure, even when pod and log are gone.
			cluster.end(live, batchv1.JobFailed, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
			cluster.forget(pod)
			config, count = counted(daemon(t, s.Namespace))
			again := result(t, run(t.Context(), builder(t, config, s), what))
			var same *kaniko.BuildError
			if !errors.As(again.err, &same) || same.Error() != fault.Error() || same.Step != fault.Step || same.Hint() != fault.Hint() {
				t.Errorf("the second time: %v\nwant %v", again.err, fault)
			}
			if n := count.all.Load(); n > 4 {
				t.Errorf("%d requests for what is known: %s", n, count)
			}
			if jobs := cluster.jobs(); len(jobs) != 1 || jobs[0].UID != live.UID {
				t.Errorf("%d Jobs, want the failed one alone", len(jobs))
			}
		})
	}
}

// forget removes a pod as the garbage collector of pods does, with its log.
func (s *standin) forget(pod *corev1.Pod) {
	s.t.Helper()
	patch := []byte(`{"metadata":{"finalizers":null}}`)
	if _, err := s.client.CoreV1().Pods(s.namespace).Patch(s.t.Context(), pod.Name, "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
	if err := s.client.CoreV1().Pods(s.namespace).Delete(s.t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.logs)
}
