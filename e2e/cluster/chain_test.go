//go:build cluster

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/e2e/lab"
)

// TestPushToPod: a push to the application's repository, and the pod of the new
// image runs, with nothing else touched. It prints how long each leg took.
func TestPushToPod(t *testing.T) {
	i := theInstallation(t)
	sockets := i.watchSockets(t)
	i.follow(t, i.app.Head(), time.Now())

	commit, pushed := i.commit("blue"), time.Now()
	legs := i.follow(t, commit, pushed)
	var table strings.Builder
	for _, leg := range legs {
		fmt.Fprintf(&table, "  %-34s %6.2f s\n", leg.what, leg.took.Seconds())
	}
	fmt.Printf("cluster: from a push to the pod that runs:\n%s", &table)
	if i.Node != nil {
		fmt.Printf("cluster: meanwhile Towpath asked the API server: %s\n", i.Node.requests(t, "system:serviceaccount:towpath:towpath", pushed))
	}

	if page := i.Kubectl(t, "", "-n", appsNamespace, "exec", "deployment/podinfo", "--", "cat", "/site/index.html"); !strings.Contains(page, "color: blue") {
		t.Errorf("the pod serves %q", page)
	}
	i.once(t)
	var repository struct{ Metadata metav1.ObjectMeta }
	if err := i.get(t.Context(), "/apis/source.toolkit.fluxcd.io/v1/namespaces/flux-system/gitrepositories/flux-system", &repository); err != nil {
		t.Fatal(err)
	}
	if repository.Metadata.Annotations["reconcile.fluxcd.io/requestedAt"] == "" {
		t.Error("Flux was not asked to pull: it found the bump at its own interval")
	}
	lease, err := i.Client.CoordinationV1().Leases(towpathNamespace).Get(t.Context(), "towpath", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if holder := lease.Spec.HolderIdentity; holder == nil || !strings.HasPrefix(*holder, "towpath-") {
		t.Errorf("nobody holds the Lease: %v", lease.Spec)
	}
	if listening := sockets(); len(listening) > 0 {
		t.Errorf("Towpath listens: %v", listening)
	}
}

// leg is a part of the way from a push to a pod.
type leg struct {
	what string
	took time.Duration
}

// follow waits for one thing after the other that a source commit makes happen,
// until a pod of it runs.
func (i *installation) follow(t *testing.T, commit string, pushed time.Time) (legs []leg) {
	t.Helper()
	var job *batchv1.Job
	var bump string
	for _, step := range []struct {
		what  string
		limit time.Duration
		holds func(context.Context) error
	}{
		{"the push, to a Job for it", 2 * time.Minute, func(ctx context.Context) (err error) {
			job, err = i.jobOf(ctx, commit)
			return err
		}},
		{"to its commit fetched", 2 * time.Minute, func(ctx context.Context) error { return i.ended(ctx, job, "fetch") }},
		{"to kaniko's end", 2 * time.Minute, func(ctx context.Context) error { return i.ended(ctx, job, "kaniko") }},
		{"to the image published", 2 * time.Minute, func(ctx context.Context) error { return i.ended(ctx, job, "publish") }},
		{"to the bump pushed", time.Minute, func(context.Context) error {
			ledger, branch := i.bumps(t)
			if ledger != commit || !slices.Contains(branch, commit) {
				return fmt.Errorf("the ledger has %q, the branch bumps of %v", ledger, branch)
			}
			bump = strings.TrimSpace(lab.RunGit(t, i.fleet.Dir("fleet.git"), "rev-parse", "main"))
			return nil
		}},
		{"to Flux having applied it", 2 * time.Minute, func(ctx context.Context) error {
			var kustomization struct {
				Status struct{ LastAppliedRevision string }
			}
			err := i.get(ctx, "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations/flux-system", &kustomization)
			if applied := kustomization.Status.LastAppliedRevision; err == nil && !strings.Contains(applied, bump) {
				err = fmt.Errorf("applied is %s, and not yet %s", applied, bump)
			}
			return err
		}},
		{"to its pod running", time.Minute, func(ctx context.Context) error { return i.runs(ctx, commit) }},
	} {
		i.until(t, step.limit, step.what, step.holds)
		now := time.Now()
		legs = append(legs, leg{step.what, now.Sub(pushed)})
		pushed = now
	}
	return legs
}

// until is wait with everything that tells how Towpath is.
func (i *installation) until(t *testing.T, limit time.Duration, what string, holds func(context.Context) error) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("Towpath's log:\n%s", i.logs(context.WithoutCancel(t.Context()), t))
		}
	}()
	i.wait(t, buildsNamespace, limit, what, holds)
}

// requests are what a user asked of the API server since a time: how often what.
func (n *Node) requests(t *testing.T, user string, since time.Time) string {
	t.Helper()
	counts := map[string]int{}
	for _, request := range n.Requests(t, user, since) {
		counts[request.What]++
	}
	var all []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, fmt.Sprintf("%s %d", what, counts[what]))
	}
	return strings.Join(all, ", ")
}

// get reads an object that there is no type for here, by its path.
func (i *installation) get(ctx context.Context, path string, object any) error {
	content, err := i.Client.CoreV1().RESTClient().Get().AbsPath(path).DoRaw(ctx)
	if err != nil {
		return err
	}
	return json.Unmarshal(content, object)
}

// jobOf is the Job that builds a source commit.
func (i *installation) jobOf(ctx context.Context, commit string) (*batchv1.Job, error) {
	jobs, err := i.Client.BatchV1().Jobs(buildsNamespace).List(ctx, metav1.ListOptions{LabelSelector: "towpath.dev/image=podinfo"})
	if err != nil {
		return nil, err
	}
	for _, job := range jobs.Items {
		if job.Annotations["towpath.dev/commit"] == commit {
			return &job, nil
		}
	}
	return nil, fmt.Errorf("%d Jobs, none of %s", len(jobs.Items), commit)
}

// ended tells whether a step of a Job has ended, and well.
func (i *installation) ended(ctx context.Context, job *batchv1.Job, step string) error {
	pods, err := i.Client.CoreV1().Pods(buildsNamespace).List(ctx, metav1.ListOptions{LabelSelector: "job-name=" + job.Name})
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if end := status.State.Terminated; status.Name == step && end != nil {
				if end.ExitCode != 0 {
					return fmt.Errorf("%s ended with %d: %s", step, end.ExitCode, end.Message)
				}
				return nil
			}
		}
	}
	return errors.New("it has not ended")
}

// runs tells whether a pod of a source commit's image is up.
func (i *installation) runs(ctx context.Context, commit string) error {
	pods, err := i.Client.CoreV1().Pods(appsNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app=podinfo"})
	if err != nil {
		return err
	}
	var images []string
	for _, pod := range pods.Items {
		image := pod.Spec.Containers[0].Image
		if strings.Contains(image, ":master-"+commit[:12]+"-") && strings.Contains(image, "@sha256:") && pod.Status.Phase == corev1.PodRunning {
			return nil
		}
		images = append(images, image+" "+string(pod.Status.Phase))
	}
	return fmt.Errorf("pods: %v", images)
}

// watchSockets looks for sockets that take connections in the network of
// Towpath's pod, again and again until the test asks.
func (i *installation) watchSockets(t *testing.T) (found func() []string) {
	t.Helper()
	if i.Node == nil {
		t.Log("the cluster was given: what Towpath's pod listens on is not seen from here")
		return func() []string { return nil }
	}
	all, looks := map[string]bool{}, 0
	look := func() {
		for _, pid := range i.daemons(t) {
			for _, socket := range listening(pid) {
				all[socket] = true
			}
			looks++
		}
	}
	look()
	if looks == 0 {
		t.Fatal("no process of Towpath's is found")
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		again := time.NewTicker(50 * time.Millisecond)
		defer again.Stop()
		for {
			select {
			case <-again.C:
				look()
			case <-stop:
				return
			}
		}
	}()
	end := func() { close(stop); <-stopped }
	t.Cleanup(func() {
		if end != nil {
			end()
		}
	})
	return func() (sockets []string) {
		end()
		end = nil
		look()
		t.Logf("looked %d times", looks)
		for socket := range all {
			sockets = append(sockets, socket)
		}
		slices.Sort(sockets)
		return sockets
	}
}

// daemons are the processes of `towpath run` on the node.
func (i *installation) daemons(t *testing.T) []int {
	t.Helper()
	return i.Node.Processes(t, "/usr/local/bin/towpath", "run")
}

// listening are the TCP sockets in a process's network that take connections,
// see proc(5) on /proc/net/tcp.
func listening(pid int) (sockets []string) {
	for _, kind := range []string{"tcp", "tcp6"} {
		table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, kind))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(table)) {
			if fields := strings.Fields(line); len(fields) > 3 && fields[3] == "0A" {
				sockets = append(sockets, kind+" "+fields[1])
			}
		}
	}
	return sockets
}
