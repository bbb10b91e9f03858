//go:build cluster

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/e2e/lab"
)

// ownDir is where the GitOps repository has Towpath's overlay, as deploy/README.md
// puts it.
const ownDir = "infrastructure/towpath"

// TestTowpathRunsWhatItBuilt: Towpath builds this repository by its own
// Dockerfile and promotes what comes of it to its own Deployment, to its config
// and to the admission policy. Flux applies that, and what runs from then on, in
// the Deployment and in build Jobs, delivers the next commit of an application.
func TestTowpathRunsWhatItBuilt(t *testing.T) {
	i := theInstallation(t)
	i.until(t, 3*time.Minute, "the last commit's pod runs", func(ctx context.Context) error { return i.runs(ctx, i.app.Head()) })
	commit := i.ownSource(t)
	i.ownOverlay(t, commit)

	started := time.Now()
	var bump string
	i.until(t, 10*time.Minute, "Towpath's own image is promoted", func(context.Context) error {
		out, err := lab.TryGit(i.fleet.Dir("fleet.git"), "log", "-1", "--format=%H %(trailers:key=Towpath-Commit,valueonly,separator=%x2C)", "refs/towpath/platform/towpath")
		hash, of, _ := strings.Cut(strings.TrimSpace(out), " ")
		if err != nil || of != commit {
			return fmt.Errorf("the ledger has a bump of %q, %w", of, err)
		}
		bump = hash
		return nil
	})
	fmt.Printf("cluster: Towpath has built and promoted itself after %.0f s\n", time.Since(started).Seconds())
	changed := strings.Fields(lab.RunGit(t, i.fleet.Dir("fleet.git"), "show", "--format=", "--name-only", bump))
	if want := ownDir + "/admission.yaml " + ownDir + "/kustomization.yaml " + ownDir + "/towpath.yaml"; strings.Join(changed, " ") != want {
		t.Errorf("the bump changes %v, want %s", changed, want)
	}
	pin := i.pinned(t)
	_, digest, _ := strings.Cut(pin, "@")
	i.until(t, 3*time.Minute, "what runs is what was built", func(ctx context.Context) error {
		pods, err := i.Client.CoreV1().Pods(towpathNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=towpath"})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if !strings.HasSuffix(pod.Spec.Containers[0].Image, "@"+digest) || len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Running == nil {
				return fmt.Errorf("%s has %s and is %s", pod.Name, pod.Spec.Containers[0].Image, pod.Status.Phase)
			}
		}
		if len(pods.Items) != 1 {
			return fmt.Errorf("%d pods", len(pods.Items))
		}
		return nil
	})
	i.rolledOut(t)
	fmt.Printf("cluster: what Towpath built runs in its place after %.0f s\n", time.Since(started).Seconds())
	if out := i.Kubectl(t, "", "-n", towpathNamespace, "exec", "deployment/towpath", "--", "towpath", "version"); !strings.Contains(out, "towpath 1.2.3 (revision "+commit) {
		t.Errorf("it says of itself: %s", out)
	}

	next := i.commit("built-by-itself")
	i.follow(t, next, time.Now())
	i.once(t)
	job, err := i.jobOf(t.Context(), next)
	if err != nil {
		t.Fatal(err)
	}
	if images := stepsOf(job); images["fetch"] != pin || images["publish"] != pin {
		t.Errorf("its build ran %v, want fetch and publish of %s", images, pin)
	}
}

// stepsOf are the images of a build's steps.
func stepsOf(job *batchv1.Job) map[string]string {
	images := map[string]string{}
	for _, c := range append(job.Spec.Template.Spec.InitContainers, job.Spec.Template.Spec.Containers...) {
		images[c.Name] = c.Image
	}
	return images
}

// ownSource makes a repository of this one's files as they are here, and returns
// its only commit.
func (i *installation) ownSource(t *testing.T) (commit string) {
	t.Helper()
	root := repository(t)
	i.apps.Create("platform/towpath.git")
	work := lab.NewWork(t, i.apps.Dir("platform/towpath.git"))
	work.Git("switch", "--quiet", "--orphan", "master")
	for name := range strings.SplitSeq(strings.TrimRight(lab.RunGit(t, root, "ls-files", "-z"), "\x00"), "\x00") {
		content, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and not yet committed
		}
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(work.Dir, name)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(work.Dir, name), content, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	work.Git("add", "--all", "--force")
	commit = work.Commit(lab.Commit{Message: "All of Towpath"})
	work.Push("HEAD:master")
	return commit
}

// ownOverlay puts Towpath's installation into the GitOps repository, as its
// README says, with Towpath among its own images, and has Flux apply it. With the
// test, all of it is gone but the installation, which has the newest image then.
func (i *installation) ownOverlay(t *testing.T, commit string) {
	t.Helper()
	golang := i.bases.Push(t, "golang", "1", lab.Golang(t, lab.GoModules{Of: []string{repository(t)}, Program: "./cmd/towpath"}))
	static := i.bases.Push(t, "static", "1", lab.Static(t))
	config := strings.Replace(i.config(), "builder:\n", fmt.Sprintf(`  - name: platform
    url: %s
    secretRef: {name: fleet}
    git:
      checkout: {ref: {branch: main}}
      commit:
        author: {name: Towpath, email: towpath@example.com}
        signingKey: {type: ssh, secretRef: {name: towpath-signing}}
    update: {path: ./%s}
    flux: {gitRepository: {namespace: flux-system, name: flux-system}}
builder:
`, i.fleet.RepoURL("fleet.git"), ownDir), 1) + fmt.Sprintf(`    gitops: [production]
  - name: towpath
    source: {url: %[1]s, secretRef: {name: apps}}
    build:
      args: {GO_IMAGE: %[2]q, BASE_IMAGE: %[3]q, VERSION: 1.2.3, REVISION: %[4]s}
      pull: {secretRef: {name: bases}, allow: [%[5]s, %[6]s]}
    destination: {repository: %[7]s, insecure: true}
    policy: flux-system:towpath
    gitops: [platform]
`, i.apps.RepoURL("platform/towpath.git"), golang, static, commit,
		i.bases.Repository("golang"), i.bases.Repository("static"), i.platform.Repository("towpath/towpath"))
	// The Dockerfile has stages for another image.
	config = strings.Replace(config, "kaniko: {image: "+i.kaniko+"}", "kaniko: {image: "+i.kaniko+", args: [--skip-unused-stages]}", 1)

	applied := filepath.Join(i.gitops.Dir, "clusters/production/towpath.yaml")
	i.gitops.Git("pull", "--quiet", "--rebase", "origin", "main")
	i.overlay(filepath.Join(i.gitops.Dir, ownDir), config).write(t)
	lab.WriteFile(t, applied, []byte(`apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: towpath, namespace: flux-system}
spec:
  interval: 10m
  path: ./`+ownDir+`
  prune: false # the tests after this one go on with what is there
  wait: true
  sourceRef: {kind: GitRepository, name: flux-system}
`))
	i.gitops.Git("add", "--all")
	i.gitops.Commit(lab.Commit{Message: "Towpath"})
	i.gitops.Push("HEAD:main")
	i.pull(t)
	t.Cleanup(func() {
		i.image = i.pinned(t)
		i.gitops.Git("pull", "--quiet", "--rebase", "origin", "main")
		i.gitops.Git("rm", "--quiet", "-r", ownDir, "clusters/production/towpath.yaml")
		i.gitops.Commit(lab.Commit{Message: "Towpath is for the tests to deploy again"})
		i.gitops.Push("HEAD:main")
		i.pull(t)
		i.Kubectl(t, "", "-n", fluxNamespace, "wait", "--for=delete", "--timeout=60s", "kustomization/towpath")
		i.deploy(t, "")
	})
}

// pull asks Flux to pull the GitOps repository, as `flux reconcile` does.
func (i *installation) pull(t *testing.T) {
	t.Helper()
	i.Kubectl(t, "", "-n", fluxNamespace, "annotate", "--overwrite", "gitrepository/flux-system", "reconcile.fluxcd.io/requestedAt="+time.Now().Format(time.RFC3339Nano))
}

// pinned is Towpath's own image as the config in the GitOps repository names it.
func (i *installation) pinned(t *testing.T) string {
	t.Helper()
	config := lab.RunGit(t, i.fleet.Dir("fleet.git"), "show", "main:"+ownDir+"/towpath.yaml")
	_, kubernetes, _ := strings.Cut(config, "  kubernetes:\n")
	_, image, _ := strings.Cut(kubernetes, "image: ")
	image, _, found := strings.Cut(image, " #")
	image = strings.Trim(image, `"`)
	if !found || !strings.Contains(image, "@sha256:") {
		t.Fatalf("the config names no image of Towpath:\n%s", config)
	}
	return image
}
