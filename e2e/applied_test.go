//go:build cluster

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"towpath.dev/towpath/e2e/lab"
)

// controller starts one of Flux's real controllers as a process beside the API
// server, and shows its log where the test fails.
func (b *beside) controller(name string, args ...string) {
	b.t.Helper()
	dir := b.t.TempDir()
	command := exec.Command(lab.Tool(b.t, name), append([]string{
		"--metrics-addr=0", "--health-addr=127.0.0.1:0", "--enable-leader-election=false",
	}, args...)...)
	command.Dir = dir
	command.Env = append(os.Environ(), "KUBECONFIG="+lab.Kubeconfig(b.t, b.admin, b.namespace), "RUNTIME_NAMESPACE="+b.namespace, "TMPDIR="+dir)
	log := filepath.Join(dir, name+".log")
	running, err := lab.StartProcess(command, log)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		running.Stop(5 * time.Second)
		if b.t.Failed() {
			said, _ := os.ReadFile(log)
			b.t.Logf("%s:\n%s", name, said)
		}
	})
}

// freeAddress is one that nobody listened on a moment ago, for a program that
// cannot tell where it listens. It is on an address of the loopback's that is this
// process's alone, so that nobody takes it meanwhile: others ask for any port of
// 127.0.0.1.
func freeAddress(t *testing.T) string {
	t.Helper()
	pid := os.Getpid()
	listener, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 64+pid>>16&63, pid>>8&255, pid&255))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// TestABumpIsAppliedAtOnce: Flux, which would look again in ten hours, applies each
// bump, within two seconds of the push where the machine is not busy with other
// things, and status says that it is live.
func TestABumpIsAppliedAtOnce(t *testing.T) {
	b := newBeside(t, "applied-at-once")
	storage, artifacts := t.TempDir(), freeAddress(t)
	b.controller("source-controller", "--storage-path="+storage, "--storage-addr="+artifacts, "--storage-adv-addr="+artifacts, "--events-addr=")
	b.controller("kustomize-controller", "--events-addr=")
	w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory, Config: b.watched, Fleet: func(_ *lab.World, manifests map[string]string) {
		manifests["clusters/production/podinfo.yaml"] = `apiVersion: apps/v1
kind: Deployment
metadata: {name: podinfo}
spec:
  selector: {matchLabels: {app: podinfo}}
  template:
    metadata: {labels: {app: podinfo}}
    spec:
      containers:
        - name: podinfo
          image: registry.example.com/apps/podinfo:none # {"$imagepolicy": "flux-system:podinfo"}
`
	}})
	b.create(b.repositories(), `{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: fleet}, spec: {interval: 10h, url: "`+w.Git.RepoURL("fleet.git")+`", ref: {branch: main}}}`)
	b.create(b.kustomizations(), `{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: apps}, spec: {interval: 10h, prune: true, path: ./clusters/production, targetNamespace: applied-at-once, sourceRef: {kind: GitRepository, name: fleet}}}`)

	applied := func() string {
		found, err := b.kustomizations().Get(t.Context(), "apps", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		revision, _, _ := unstructured.NestedString(found.Object, "status", "lastAppliedRevision")
		return revision
	}
	head := func() string {
		return strings.TrimSpace(lab.RunGit(t, w.Git.Dir("fleet.git"), "rev-parse", "main"))
	}
	deadline := time.Now().Add(patience)
	for applied() != "main@sha1:"+head() {
		if time.Now().After(deadline) {
			t.Fatalf("Flux has applied %q", applied())
		}
		time.Sleep(50 * time.Millisecond)
	}

	kubeconfig := "KUBECONFIG=" + b.kubeconfig(fluxRights("get", "patch")...)
	d := w.Daemon(t, []string{kubeconfig})
	quickest := patience
	for _, colour := range []string{"", "blue", "red"} {
		commit := w.App.Head()
		if colour != "" {
			commit = paint(w, colour)
		}
		promotes(t, w, d, commit)
		pushed, bump := time.Now(), head()
		d.Wait("Flux applies the bump", patience, func() bool { return applied() == "main@sha1:"+bump })
		took := time.Since(pushed)
		fmt.Printf("flux: from the bump pushed to applied: %.2f s\n", took.Seconds())
		quickest = min(quickest, took)
		cmd := w.Command(t.Context(), "status")
		cmd.Env = append(cmd.Env, kubeconfig)
		out, err := cmd.Output()
		if err != nil || !strings.Contains(string(out), " yes\n") {
			t.Errorf("status: %v\n%s", err, out)
		}
	}
	if quickest > 2*time.Second {
		t.Errorf("the quickest took %s", quickest)
	}
}
