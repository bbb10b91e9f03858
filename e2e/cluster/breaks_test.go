//go:build cluster

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"towpath.dev/towpath/e2e/lab"
)

// TestDaemonKilled kills the daemon at each step on a commit's way, without a
// word of warning. Its container comes back, and the commit arrives once.
func TestDaemonKilled(t *testing.T) {
	i := breakable(t)
	for _, moment := range []struct {
		what string
		// reach returns when the moment has come. What it stopped goes on with
		// the function that it returns.
		reach func(t *testing.T, commit string) (release func())
	}{
		{"as the commit arrives", func(*testing.T, string) func() { return func() {} }},
		{"when the Job is made", func(t *testing.T, commit string) func() { i.jobMade(t, commit); return func() {} }},
		{"while the commit is fetched", func(t *testing.T, commit string) func() { i.began(t, commit, "fetch"); return func() {} }},
		{"while kaniko builds", func(t *testing.T, commit string) func() { i.began(t, commit, "kaniko"); return func() {} }},
		{"while the image is published", func(t *testing.T, commit string) func() { i.began(t, commit, "publish"); return func() {} }},
		{"as the provenance reaches the registry", func(t *testing.T, commit string) func() {
			return i.holdRequest(t, commit, func(path string) bool { return !strings.Contains(path, "/manifests/master-") }, false)
		}},
		{"when the registry has the provenance", func(t *testing.T, commit string) func() {
			return i.holdRequest(t, commit, func(path string) bool { return !strings.Contains(path, "/manifests/master-") }, true)
		}},
		{"when the registry has the tag", func(t *testing.T, commit string) func() {
			return i.holdRequest(t, commit, func(path string) bool { return strings.Contains(path, "/manifests/master-") }, true)
		}},
		{"as the bump reaches the git server", func(t *testing.T, _ string) func() { return i.holdPush(t, "pre-receive") }},
		{"when the git server has the bump", func(t *testing.T, _ string) func() { return i.holdPush(t, "post-receive") }},
	} {
		t.Run(strings.ReplaceAll(moment.what, " ", "_"), func(t *testing.T) {
			commit, pushed := i.commit(colour(moment.what)), time.Now()
			release := moment.reach(t, commit)
			if killed := i.kill(t); killed == 0 {
				t.Fatal("no daemon was there to kill")
			}
			release()
			i.follow(t, commit, pushed)
			i.once(t)
		})
	}
}

// TestNodeProgramsKilled kills what a build needs of its node while kaniko
// builds, and starts it again.
func TestNodeProgramsKilled(t *testing.T) {
	i := breakable(t)
	for _, kill := range []struct {
		program string
		away    time.Duration
	}{{"kubelet", 5 * time.Second}, {"containerd", 5 * time.Second}, {"kube-apiserver", time.Minute}} {
		t.Run(kill.program, func(t *testing.T) {
			commit, pushed := i.commit(colour(kill.program)), time.Now()
			i.began(t, commit, "kaniko")
			program := i.Node.programs[kill.program].running
			program.Stop(0)
			t.Logf("%s was killed; it is away for %s", kill.program, kill.away)
			rest := time.NewTimer(kill.away)
			defer rest.Stop()
			<-rest.C
			i.Node.startAgain(t, kill.program)
			unshared, err := lab.UnsharedClient(i.Config)
			if err != nil {
				t.Fatal(err)
			}
			client, err := kubernetes.NewForConfigAndClient(i.Config, unshared)
			if err != nil {
				t.Fatal(err)
			}
			i.until(t, time.Minute, kill.program+" serves again", func(ctx context.Context) error {
				if err := lab.ServesAPI(ctx, i.Config); err != nil {
					return err
				}
				return nodeReady(ctx, client)
			})
			t.Logf("%s serves again %s after the push", kill.program, time.Since(pushed).Round(time.Second))
			for _, leg := range i.follow(t, commit, pushed) {
				t.Logf("%s: %s", leg.what, leg.took.Round(100*time.Millisecond))
			}
			i.once(t)
		})
	}
}

// TestJobDeleted takes the Job away while kaniko builds.
func TestJobDeleted(t *testing.T) {
	i := breakable(t)
	commit, pushed := i.commit("deleted"), time.Now()
	job := i.began(t, commit, "kaniko")
	background := metav1.DeletePropagationBackground
	err := i.Client.BatchV1().Jobs(buildsNamespace).Delete(t.Context(), job, metav1.DeleteOptions{PropagationPolicy: &background})
	if err != nil {
		t.Fatal(err)
	}
	i.follow(t, commit, pushed)
	i.once(t)
}

// TestNodeDrained takes the node from everything that runs on it, Towpath too.
func TestNodeDrained(t *testing.T) {
	i := breakable(t)
	commit, pushed := i.commit("drained"), time.Now()
	i.began(t, commit, "kaniko")
	i.Kubectl(t, "", "drain", nodeName, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=4m")
	i.Kubectl(t, "", "uncordon", nodeName)
	i.follow(t, commit, pushed)
	i.once(t)
}

// TestTwoCopiesWithoutALease: both do all the work there is, and each commit is
// promoted once.
func TestTwoCopiesWithoutALease(t *testing.T) {
	i := breakable(t)
	i.deploy(t, "leaderElection: {enabled: false}\n")
	i.scale(t, 2)
	t.Cleanup(func() { i.deploy(t, "") }) // of one copy
	for _, colour := range []string{"teal", "navy", "olive"} {
		commit, pushed := i.commit(colour), time.Now()
		i.follow(t, commit, pushed)
	}
	i.once(t)
	if alive := i.daemons(t); len(alive) != 2 {
		t.Errorf("%d copies ran at the end, want 2", len(alive))
	}
}

// breakable is the installation with a first commit delivered, on a node whose
// programs can be killed.
func breakable(t *testing.T) *installation {
	t.Helper()
	if shared.Node == nil {
		t.Skip("the cluster was given: its programs and its pods' processes cannot be killed from here")
	}
	i := theInstallation(t)
	i.until(t, 3*time.Minute, "the last commit's pod runs", func(ctx context.Context) error { return i.runs(ctx, i.app.Head()) })
	return i
}

// jobMade waits for the Job of a commit and returns its name.
func (i *installation) jobMade(t *testing.T, commit string) (name string) {
	t.Helper()
	i.until(t, time.Minute, "a Job for the commit", func(ctx context.Context) error {
		job, err := i.jobOf(ctx, commit)
		if err == nil {
			name = job.Name
		}
		return err
	})
	return name
}

// began waits until a step of a commit's Job runs, or ran already, and returns
// the Job's name.
func (i *installation) began(t *testing.T, commit, step string) (job string) {
	t.Helper()
	job = i.jobMade(t, commit)
	i.until(t, time.Minute, step+" runs", func(ctx context.Context) error {
		pods, err := i.Client.CoreV1().Pods(buildsNamespace).List(ctx, metav1.ListOptions{LabelSelector: "job-name=" + job})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
				if status.Name == step && (status.State.Running != nil || status.State.Terminated != nil) {
					return nil
				}
			}
		}
		return fmt.Errorf("%d pods, and no %s in them", len(pods.Items), step)
	})
	return job
}

// kill kills every daemon, and returns how many there were.
func (i *installation) kill(t *testing.T) int {
	t.Helper()
	pids := i.daemons(t)
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	return len(pids)
}

// holdRequest waits until the daemon puts a manifest to the registry after the
// commit's Job has published its image, and holds it there: before the registry
// has it, or after.
func (i *installation) holdRequest(t *testing.T, commit string, match func(path string) bool, after bool) (release func()) {
	t.Helper()
	reached, released := make(chan struct{}), make(chan struct{})
	var first sync.Once
	i.registry.Hook(func(w http.ResponseWriter, request *http.Request, next http.Handler) {
		put := request.Method == http.MethodPut && strings.Contains(request.URL.Path, "/manifests/") && match(request.URL.Path)
		if put {
			if job, err := i.jobOf(request.Context(), commit); err != nil || i.ended(request.Context(), job, "publish") != nil {
				put = false // the Job's own
			}
		}
		if put && after {
			next.ServeHTTP(w, request)
		}
		if put {
			first.Do(func() { close(reached) })
			<-released
		}
		if !put || !after {
			next.ServeHTTP(w, request)
		}
	})
	release = sync.OnceFunc(func() {
		i.registry.Heal()
		close(released)
	})
	t.Cleanup(release)
	i.reach(t, "a manifest of the daemon's", reached)
	return release
}

// holdPush waits until the git server has been pushed to, and holds the push in
// one of its hooks.
func (i *installation) holdPush(t *testing.T, hook string) (release func()) {
	t.Helper()
	dir := t.TempDir()
	received, released := filepath.Join(dir, "received"), filepath.Join(dir, "released")
	i.fleet.Hook("fleet.git", hook, fmt.Sprintf(": > %q\nuntil [ -e %q ]; do sleep 0.02; done", received, released))
	reached := make(chan struct{})
	go func() {
		look := time.NewTicker(20 * time.Millisecond)
		defer look.Stop()
		for !lab.Exists(received) {
			select {
			case <-look.C:
			case <-t.Context().Done():
				return
			}
		}
		close(reached)
	}()
	release = sync.OnceFunc(func() {
		lab.WriteFile(t, released, nil)
		if err := os.Remove(filepath.Join(i.fleet.Dir("fleet.git"), "hooks", hook)); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(release)
	i.reach(t, "a push", reached)
	return release
}

func (i *installation) reach(t *testing.T, what string, reached <-chan struct{}) {
	t.Helper()
	i.until(t, 2*time.Minute, what, func(context.Context) error {
		select {
		case <-reached:
			return nil
		default:
			return errors.New("not yet")
		}
	})
}

// scale runs so many copies of Towpath.
func (i *installation) scale(t *testing.T, replicas int) {
	t.Helper()
	i.Kubectl(t, "", "-n", towpathNamespace, "scale", fmt.Sprintf("--replicas=%d", replicas), "deployment/towpath")
	i.rolledOut(t)
	i.until(t, time.Minute, "as many copies run as should", func(ctx context.Context) error {
		pods, err := i.Client.CoreV1().Pods(towpathNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=towpath"})
		if err != nil {
			return err
		}
		running := 0
		for _, pod := range pods.Items {
			if pod.Status.Phase == corev1.PodRunning {
				running++
			}
		}
		if running != replicas || len(pods.Items) != replicas {
			return fmt.Errorf("%d of %d pods run, want %d", running, len(pods.Items), replicas)
		}
		return nil
	})
}

// colour is a word for a commit's content.
func colour(what string) string { return strings.ReplaceAll(what, " ", "-") }
