package job_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/job"
)

// standin does what the Job controller and the kubelet do to the objects of one
// namespace: it makes pods, writes statuses and serves logs, as those do, to a
// real API server. Nothing runs. What a real node makes of the same Jobs is
// tested from end to end, on one.
type standin struct {
	t         *testing.T
	client    kubernetes.Interface
	namespace string
	node      string

	mu   sync.Mutex
	logs map[string]string // by container

	ended map[string]chan struct{} // closed when a container's log ends, for those who follow
}

func newStandin(t *testing.T, namespace string) *standin {
	t.Helper()
	s := &standin{t: t, client: client(t), namespace: namespace, node: "node-of-" + namespace, logs: map[string]string{}, ended: map[string]chan struct{}{}}
	for _, container := range []string{"fetch", "kaniko", "publish"} {
		s.ended[container] = make(chan struct{})
	}
	server := httptest.NewTLSServer(http.HandlerFunc(s.serveLogs))
	t.Cleanup(server.Close)
	address, ok := server.Listener.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("no address")
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: s.node}}
	node, err := s.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address.IP.String()}, {Type: corev1.NodeHostName, Address: address.IP.String()}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(address.Port)
	if _, err := s.client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// serveLogs is the kubelet's /containerLogs/NAMESPACE/POD/CONTAINER.
func (s *standin) serveLogs(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) != 4 || parts[0] != "containerLogs" {
		http.NotFound(w, r)
		return
	}
	query, container := r.URL.Query(), parts[3]
	number := func(name string, otherwise int) int {
		if n, err := strconv.Atoi(query.Get(name)); err == nil {
			return n
		}
		return otherwise
	}
	s.mu.Lock()
	text, there := s.logs[container]
	s.mu.Unlock()
	if !there {
		http.Error(w, "the container's log is not there", http.StatusInternalServerError)
		return
	}
	lines := strings.SplitAfter(text, "\n")
	lines = lines[max(0, len(lines)-number("tailLines", len(lines))-1):]
	if query.Get("timestamps") == "true" {
		for i, line := range lines {
			if line != "" {
				lines[i] = started.Add(time.Duration(i)*time.Millisecond).Format(time.RFC3339Nano) + " " + line
			}
		}
	}
	text = strings.Join(lines, "")
	fmt.Fprint(w, text[:min(number("limitBytes", len(text)), len(text))])
	if query.Get("follow") == "true" {
		http.NewResponseController(w).Flush()
		select {
		case <-s.ended[container]:
		case <-r.Context().Done():
		}
	}
}

func (s *standin) log(container, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logs[container] = text
}

// eventually waits until something holds, which others bring about.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within two minutes", what)
		}
	}
}

// jobs are those in the namespace.
func (s *standin) jobs() []batchv1.Job {
	s.t.Helper()
	list, err := s.client.BatchV1().Jobs(s.namespace).List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

// made waits for the Job of an order, other than those known.
func (s *standin) made(order kaniko.Order, known ...*batchv1.Job) *batchv1.Job {
	s.t.Helper()
	var found *batchv1.Job
	eventually(s.t, "a Job for "+order.Image, func() bool {
		live, err := s.client.BatchV1().Jobs(s.namespace).Get(s.t.Context(), job.Name(order), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false
		}
		if err != nil {
			s.t.Fatal(err)
		}
		for _, other := range known {
			if other.UID == live.UID {
				return false
			}
		}
		found = live
		return true
	})
	return found
}

// gone waits until there is no Job of an order.
func (s *standin) gone(order kaniko.Order) {
	s.t.Helper()
	eventually(s.t, "the Job's removal", func() bool {
		_, err := s.client.BatchV1().Jobs(s.namespace).Get(s.t.Context(), job.Name(order), metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// pod makes the pod of a Job, on the node, as edit leaves it.
func (s *standin) pod(live *batchv1.Job, edit func(*corev1.Pod)) *corev1.Pod {
	s.t.Helper()
	pod := podOf(live)
	pod.Spec.NodeName = s.node
	if edit != nil {
		edit(pod)
	}
	pod, err := s.client.CoreV1().Pods(s.namespace).Create(s.t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return pod
}

// status writes a pod's status.
func (s *standin) status(pod *corev1.Pod, status corev1.PodStatus) *corev1.Pod {
	s.t.Helper()
	pod = pod.DeepCopy()
	pod.Status = status
	pod, err := s.client.CoreV1().Pods(s.namespace).UpdateStatus(s.t.Context(), pod, metav1.UpdateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return pod
}

var started = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// ran is the status of a container that ended.
func ran(pod *corev1.Pod, name string, code int32, reason, message string) corev1.ContainerStatus {
	status := corev1.ContainerStatus{Name: name}
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		if c.Name == name {
			status.Image, status.ImageID = c.Image, c.Image
		}
	}
	at := map[string]time.Duration{"fetch": 0, "kaniko": 2 * time.Second, "publish": 10 * time.Second}[name]
	if reason == "" {
		reason = "Error"
		if code == 0 {
			reason = "Completed"
		}
	}
	status.State.Terminated = &corev1.ContainerStateTerminated{
		ExitCode: code, Reason: reason, Message: message,
		StartedAt: metav1.NewTime(started.Add(at)), FinishedAt: metav1.NewTime(started.Add(at + time.Second)),
	}
	return status
}

// at is the status of a container that works.
func at(pod *corev1.Pod, name string) corev1.ContainerStatus {
	status := ran(pod, name, 0, "", "")
	status.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(started)}}
	return status
}

// waiting is the status of a container that has not begun.
func waiting(name, reason, message string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}
}

func phase(phase corev1.PodPhase, steps ...corev1.ContainerStatus) corev1.PodStatus {
	status := corev1.PodStatus{Phase: phase, StartTime: new(metav1.NewTime(started))}
	for _, step := range steps {
		if step.Name == "publish" {
			status.ContainerStatuses = append(status.ContainerStatuses, step)
		} else {
			status.InitContainerStatuses = append(status.InitContainerStatuses, step)
		}
	}
	return status
}

// report is what a step leaves as its last word.
func report(pod *corev1.Pod, step string, r kaniko.Report) string {
	r.Order = job.OrderDigest(pod.Annotations["towpath.dev/"+step])
	encoded, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	return string(encoded)
}

// succeed ends a Job's pod as a good build does.
func (s *standin) succeed(pod *corev1.Pod, digest string) {
	s.t.Helper()
	s.status(pod, phase(corev1.PodSucceeded,
		ran(pod, "fetch", 0, "", report(pod, "fetch", kaniko.Report{Warnings: []string{"Dockerfile: line 3: \x1b[31mbeware"}})),
		ran(pod, "kaniko", 0, "", "a RUN step may write here"),
		ran(pod, "publish", 0, "", report(pod, "publish", kaniko.Report{Digest: digest, Size: 12345}))))
}

// end writes the conditions that the Job controller ends a Job with.
func (s *standin) end(live *batchv1.Job, kind batchv1.JobConditionType, reason, message string) {
	s.t.Helper()
	live, err := s.client.BatchV1().Jobs(s.namespace).Get(s.t.Context(), live.Name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	now := metav1.Now()
	live.Status.StartTime = &live.CreationTimestamp
	before := batchv1.JobFailureTarget
	if kind == batchv1.JobComplete {
		before = batchv1.JobSuccessCriteriaMet
		live.Status.CompletionTime, live.Status.Succeeded = &now, 1
	} else {
		live.Status.Failed = 1
	}
	live.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	for _, c := range []batchv1.JobConditionType{before, kind} {
		live.Status.Conditions = append(live.Status.Conditions, batchv1.JobCondition{
			Type: c, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: now, LastProbeTime: now,
		})
	}
	if _, err := s.client.BatchV1().Jobs(s.namespace).UpdateStatus(s.t.Context(), live, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// quiet is over when whoever watches has had the time to act on what was there:
// a change that was written now has come back by a watch of our own.
func (s *standin) quiet() <-chan struct{} {
	s.t.Helper()
	done := make(chan struct{})
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	events, err := maps.Watch(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	go func() {
		defer close(done)
		defer events.Stop()
		for range 20 {
			if _, err := maps.Create(s.t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "mark-"}}, metav1.CreateOptions{}); err != nil {
				return
			}
			<-events.ResultChan()
		}
	}()
	return done
}
