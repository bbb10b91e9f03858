package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/e2e/lab"
)

// kustomized is a GitOps repository as teams keep it: a base, a cluster that
// sets its images, patches and generates, and a cluster that must not move.
var kustomized = map[string]string{
	"README.md": "# fleet\n",
	"apps/podinfo/kustomization.yaml": `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
- deployment.yaml
- sweep.yaml
- service.yaml
configMapGenerator:
- name: settings
  literals: [colour=green]
`,
	"apps/podinfo/deployment.yaml": `apiVersion: apps/v1
kind: Deployment
metadata:
    name: podinfo


spec:
    selector: {matchLabels: {app: podinfo}}
    template:
        metadata: {labels: {app: podinfo}}
        spec:
            initContainers:
            - {name: prepare, image: registry.example.com/apps/podinfo, args: ["prepare"]}
            containers:
            - name: podinfo
              image: registry.example.com/apps/podinfo
              envFrom: [configMapRef: {name: settings}]
            - name: proxy
              image: "registry.example.com/infra/proxy:1.10" # {"$imagepolicy": "flux-system:proxy"}
`,
	"apps/podinfo/sweep.yaml": `apiVersion: batch/v1
kind: CronJob
metadata: {name: sweep}
spec:
  schedule: "0 4 * * *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: sweep, image: registry.example.com/apps/podinfo}]}}}}
`,
	"apps/podinfo/service.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: podinfo}\nspec: {selector: {app: podinfo}, ports: [{port: 80}]}\n",
	"clusters/production/kustomization.yaml": `# production, by hand
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: apps
resources: [../../apps/podinfo,   direct.yaml]
images:
- name: registry.example.com/apps/podinfo
  newName: registry.example.com/apps/podinfo # {"$imagepolicy": "flux-system:podinfo:name"}
  newTag: "0000000" # {"$imagepolicy": "flux-system:podinfo:tag"}
patches:
- target: {kind: Deployment, name: podinfo}
  patch: |-
    - {op: add, path: /spec/replicas, value: 3} # {"$imagepolicy": "not a marker: text"}
`,
	"clusters/production/direct.yaml": `apiVersion: v1
kind: Pod
metadata: {name: direct}
spec:
  containers:
  - {name: direct, image: 'registry.example.com/direct:none'} # {"$imagepolicy": "flux-system:other"}
  - name: podinfo
    image: registry.example.com/by-hand/podinfo:none # {"$imagepolicy": "flux-system:podinfo"}
`,
	"clusters/staging/kustomization.yaml": "resources: [../../apps/podinfo]\nimages: [{name: registry.example.com/apps/podinfo, newTag: 1.2.3}]\n",
}

// TestKustomizeJudges builds what Flux would apply, before a bump and after it:
// the two differ in the images of podinfo alone, which are those that the
// ledger names, and the other cluster is the same to the byte.
func TestKustomizeJudges(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{
		Binary: binary, Registry: memory,
		Fleet: func(_ *lab.World, manifests map[string]string) {
			clear(manifests)
			for path, content := range kustomized {
				manifests[path] = content
			}
		},
	})
	for _, colour := range []string{"green", "blue"} {
		w.App.Commit(lab.Commit{Message: "Choose " + colour, Files: map[string]string{"colour": colour + "\n"}})
		w.App.Push("HEAD:master")
		production, staging := kustomize(t, w, "production"), kustomize(t, w, "staging")
		w.MustRun("run", "--once")

		after := kustomize(t, w, "production")
		bump, source := w.Ledger("podinfo")
		if source != w.App.Head() {
			t.Fatalf("the ledger names %s, want %s", source, w.App.Head())
		}
		ref := strings.TrimSpace(lab.RunGit(t, w.Git.Dir("fleet.git"), "show", "-s", "--format=%(trailers:key=Towpath-Ref,valueonly)", bump))
		changed := changedLines(t, production, after)
		if len(changed) != 4 {
			t.Errorf("%d lines changed, want the images of four containers:\n%s", len(changed), strings.Join(changed, "\n"))
		}
		for _, line := range changed {
			image := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(line), "- "), "image: ")
			if tagged, _, _ := strings.Cut(ref, "@"); image == line || image != ref && image != tagged {
				t.Errorf("changed to %q, want the image %s", line, ref)
			}
		}
		if diff := cmp.Diff(staging, kustomize(t, w, "staging")); diff != "" {
			t.Errorf("staging moved (-before +after):\n%s", diff)
		}
		signers := filepath.Join(w.Dir, "secrets", "towpath-signing", "allowed_signers")
		lab.RunGit(t, w.Git.Dir("fleet.git"), "-c", "gpg.ssh.allowedSignersFile="+signers, "verify-commit", "main")
	}
}

// kustomize is what `kustomize build` makes of a cluster on the branch.
func kustomize(t *testing.T, w *lab.World, cluster string) string {
	t.Helper()
	tree := filepath.Join(t.TempDir(), "tree")
	lab.RunGit(t, w.Dir, "clone", "--quiet", "--branch", "main", w.Git.Dir("fleet.git"), tree)
	cmd := exec.CommandContext(t.Context(), lab.Tool(t, "kustomize"), "build", filepath.Join(tree, "clusters", cluster))
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("kustomize build %s: %v\n%s", cluster, err, errs.String())
	}
	return string(out)
}

// changedLines are the lines of after that are others in before, which has as
// many.
func changedLines(t *testing.T, before, after string) []string {
	t.Helper()
	was, is := strings.Split(before, "\n"), strings.Split(after, "\n")
	if len(was) != len(is) {
		t.Fatalf("%d lines became %d:\n%s", len(was), len(is), cmp.Diff(before, after))
	}
	var changed []string
	for i := range is {
		if was[i] != is[i] {
			changed = append(changed, is[i])
		}
	}
	return changed
}
