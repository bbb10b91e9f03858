//go:build cluster

package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/e2e/lab"
)

// TestNodeBuildsWithKaniko: an image is pulled from the registry, kaniko runs
// in a pod with the rights that a build Job has, and its log is read through
// the API server.
func TestNodeBuildsWithKaniko(t *testing.T) {
	c := shared
	registry := c.Registry(t, lab.RegistryOptions{})
	kaniko := lab.PushImage(t, registry.Repository("kaniko"), "1", lab.Kaniko(t))
	base := lab.PushImage(t, registry.Repository("busybox"), "1", lab.Busybox(t))
	namespace := newNamespace(t, c, "baseline")
	c.Apply(t, fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata: {name: context, namespace: %[1]s}
data:
  Dockerfile: |
    FROM %[2]s
    RUN id -u && chown 1000:1000 /home && echo built-here
---
apiVersion: batch/v1
kind: Job
metadata: {name: build, namespace: %[1]s}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      containers:
      - name: kaniko
        image: %[3]s
        args: [--context=dir:///kaniko/.context, --dockerfile=/kaniko/.context/Dockerfile, --destination=%[4]s, --insecure, --insecure-pull, --force]
        env: [{name: FF_KANIKO_RUN_VIA_TINI, value: "false"}]
        securityContext:
          runAsUser: 0
          allowPrivilegeEscalation: false
          capabilities: {drop: [ALL], add: [CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETUID, SETGID, SETFCAP, KILL]}
          seccompProfile: {type: RuntimeDefault}
        volumeMounts: [{name: context, mountPath: /kaniko/.context, readOnly: true}]
      volumes: [{name: context, configMap: {name: context}}]
`, namespace, base, kaniko, registry.Repository("built")+":1"))
	c.wait(t, namespace, time.Minute, "the Job completes", func(ctx context.Context) error {
		job, err := c.Client.BatchV1().Jobs(namespace).Get(ctx, "build", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range job.Status.Conditions {
			switch {
			case condition.Status != corev1.ConditionTrue:
			case condition.Type == batchv1.JobComplete:
				return nil
			case condition.Type == batchv1.JobFailed:
				t.Fatalf("the Job failed: %s\n%s", condition.Message, c.Kubectl(t, "", "-n", namespace, "logs", "job/build"))
			}
		}
		return errors.New("no condition yet")
	})
	if log := c.Kubectl(t, "", "-n", namespace, "logs", "job/build"); !strings.Contains(log, "\nbuilt-here\n") {
		t.Errorf("the build's log:\n%s", log)
	}
	lab.ImageDigest(t, registry.Repository("built")+":1")
}

// TestFluxApplies: what is pushed to a git server here runs in a pod.
func TestFluxApplies(t *testing.T) {
	c := shared
	registry := c.Registry(t, lab.RegistryOptions{})
	image := lab.PushImage(t, registry.Repository("busybox"), "1", lab.Busybox(t))
	namespace := newNamespace(t, c, "restricted")
	for _, server := range []struct {
		name  string
		serve func() (url, secret string, work *lab.Work)
	}{
		{"http", func() (string, string, *lab.Work) {
			git := c.Git(t, lab.GitOptions{})
			url := git.Create("fleet.git")
			return url, "", lab.NewWork(t, url)
		}},
		{"ssh", func() (string, string, *lab.Work) {
			ssh := c.SSH(t, lab.SSHOptions{})
			url := ssh.Create("fleet.git")
			c.Kubectl(t, "", "-n", namespace, "create", "secret", "generic", "fleet",
				"--from-literal=identity="+string(ssh.Identity), "--from-literal=known_hosts="+string(ssh.KnownHosts))
			return url, "\n  secretRef: {name: fleet}", lab.NewWork(t, ssh.Dir("fleet.git"))
		}},
	} {
		t.Run(server.name, func(t *testing.T) {
			url, secret, work := server.serve()
			work.Git("switch", "--quiet", "--orphan", "main")
			work.Commit(lab.Commit{Message: "Run a pod", Files: map[string]string{"app/pod.yaml": fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: applied-%s, namespace: %s}
spec:
  containers:
  - name: sleep
    image: %s
    command: [sleep, infinity]
    securityContext:
      runAsNonRoot: true
      runAsUser: 1000
      allowPrivilegeEscalation: false
      capabilities: {drop: [ALL]}
      seccompProfile: {type: RuntimeDefault}
  terminationGracePeriodSeconds: 0
`, server.name, namespace, image)}})
			work.Push("HEAD:main")
			c.Apply(t, fmt.Sprintf(`apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  interval: 1m
  url: %[3]s
  ref: {branch: main}%[4]s
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  interval: 1m
  path: ./app
  prune: true
  sourceRef: {kind: GitRepository, name: %[1]s}
`, server.name, namespace, url, secret))
			t.Cleanup(func() {
				c.Kubectl(t, "", "-n", namespace, "delete", "--timeout=60s", "kustomization,gitrepository", server.name)
			})
			c.wait(t, namespace, time.Minute, "the pod runs", func(ctx context.Context) error {
				pod, err := c.Client.CoreV1().Pods(namespace).Get(ctx, "applied-"+server.name, metav1.GetOptions{})
				if err == nil && pod.Status.Phase != corev1.PodRunning {
					err = fmt.Errorf("it is %s", pod.Status.Phase)
				}
				return err
			})
		})
	}
}

// newNamespace makes a namespace that is removed with the test.
func newNamespace(t *testing.T, c *Cluster, level string) string {
	t.Helper()
	name := lab.Namespace(t, c.Config, map[string]string{"pod-security.kubernetes.io/enforce": level})
	t.Cleanup(func() {
		background := context.WithoutCancel(t.Context())
		if err := c.Client.CoreV1().Namespaces().Delete(background, name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return name
}

// busier is how many times longer than on an idle machine something may take before
// a test gives up.
const busier = 3

// wait waits until something holds; where it does not, within so long on an idle
// machine, it tells how the namespace's objects are. A question without an answer,
// as of a server that was away, is asked again.
func (c *Cluster) wait(t *testing.T, namespace string, limit time.Duration, what string, holds func(context.Context) error) {
	t.Helper()
	limit *= busier
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		asked, answered := context.WithTimeout(ctx, 30*time.Second)
		err := holds(asked)
		answered()
		if err == nil {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			objects, _ := c.TryKubectl(t.Context(), t, "", "-n", namespace, "get", "jobs,pods,gitrepositories,kustomizations")
			events, _ := c.TryKubectl(t.Context(), t, "", "-n", namespace, "get", "events", "--sort-by=.lastTimestamp")
			t.Fatalf("not within %s: %s: %v\n%s\n%s", limit, what, err, objects, events)
		}
	}
}
