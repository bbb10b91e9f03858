package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/e2e/lab"
)

// TestInit: what `towpath init` writes is what kustomize builds and an API server
// takes, with the config, the pins and the Secrets at their places.
func TestInit(t *testing.T) {
	c := install(t)
	dir := t.TempDir()
	towpath, err := lab.BuildTowpath(dir)
	if err != nil {
		t.Fatal(err)
	}
	help, err := exec.CommandContext(t.Context(), towpath, "init", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	manual, err := os.ReadFile("../../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(manual), "\ntowpath init ")
	example, _, _ = strings.Cut(example, "```")
	flags := regexp.MustCompile(`--[a-z-]+`).FindAllString(example, -1)
	for _, flag := range flags {
		if !strings.Contains(string(help), flag+" ") {
			t.Errorf("README.md uses %s, which init does not have", flag)
		}
	}
	if len(flags) < 5 {
		t.Errorf("README.md shows init with the flags %v", flags)
	}

	out := filepath.Join(dir, "fleet", "towpath")
	said, err := exec.CommandContext(t.Context(), towpath, "init", "--out", out, "--secrets", filepath.Join(dir, "keys"),
		"--url", "ssh://git@10.1.2.3/platform/fleet.git", "--email", "towpath@example.com", "--towpath-image", towpathImage, "--kaniko-image", kanikoImage,
		"--flux-source", "gitops/fleet", "--git-secret", "sources", "--egress", "10.9.0.0/16",
		"--image", "name=podinfo,source=https://10.1.2.3/apps/podinfo.git,repository=10.1.2.4:5000/apps/podinfo,policy=flux-system:podinfo").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	build := exec.CommandContext(t.Context(), lab.Tool(t, "kustomize"), "build", out)
	var problems strings.Builder
	build.Stderr = &problems
	text, err := build.Output()
	if err != nil || problems.Len() > 0 {
		t.Fatalf("kustomize build: %v\n%s", err, problems.String())
	}

	admin := c.as("root", "system:masters")
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "gitops"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, object := range decode(t, string(text)) {
		name := c.rehearse(t, object)
		seen[name] = true
		switch name {
		case "ConfigMap towpath/towpath":
			data := as[corev1.ConfigMap](t, object).Data
			file := filepath.Join(t.TempDir(), "towpath.yaml")
			if err := os.WriteFile(file, []byte(data["towpath.yaml"]), 0o600); err != nil {
				t.Fatal(err)
			}
			if cfg, err := config.Load(config.Options{File: file}); err != nil || cfg.Image("podinfo") == nil || cfg.Builder.Type != config.BuilderKubernetes {
				t.Errorf("the config in the ConfigMap: %+v, %v", cfg, err)
			}
		case "ConfigMap towpath/towpath-admission":
			if data := as[corev1.ConfigMap](t, object).Data; data["kaniko"] != kanikoImage || data["towpath"] != towpathImage || data["jobController"] != jobController {
				t.Errorf("pins: %v", data)
			}
		case "Deployment towpath/towpath":
			template := as[appsv1.Deployment](t, object).Spec.Template.Spec
			var mounts []string
			for _, m := range template.Containers[0].VolumeMounts {
				if rest, ok := strings.CutPrefix(m.MountPath, "/etc/towpath/secrets/"); ok {
					mounts = append(mounts, rest)
				}
			}
			slices.Sort(mounts)
			if want := []string{"fleet", "registry", "sources", "towpath-provenance", "towpath-signing"}; !slices.Equal(mounts, want) || template.Containers[0].Image != towpathImage {
				t.Errorf("mounts %v, image %s", mounts, template.Containers[0].Image)
			}
		case "Secret":
			t.Errorf("%s is among what is committed", name)
		}
	}
	for _, name := range []string{"Role gitops/towpath", "RoleBinding gitops/towpath", "NetworkPolicy towpath-builds/egress", "NetworkPolicy towpath/ports", "Role towpath/towpath"} {
		if !seen[name] {
			t.Errorf("there is no %s among %v", name, seen)
		}
	}
}

// TestInitOddNames: names that YAML reads as numbers, and the longest that there
// are, are what they are in what init writes.
func TestInitOddNames(t *testing.T) {
	c := install(t)
	dir := t.TempDir()
	towpath, err := lab.BuildTowpath(dir)
	if err != nil {
		t.Fatal(err)
	}
	out, longest := filepath.Join(dir, "fleet", "towpath"), strings.Repeat("s", 63)
	said, err := exec.CommandContext(t.Context(), towpath, "init", "--out", out, "--secrets", filepath.Join(dir, "keys"),
		"--url", "ssh://git@10.1.2.3/platform/fleet.git", "--email", "towpath@example.com", "--towpath-image", towpathImage, "--kaniko-image", kanikoImage,
		"--flux-source", "1234/5678", "--fleet-secret", "1e3", "--git-secret", longest, "--registry-secret", "0",
		"--image", "name=null,source=https://10.1.2.3/apps/podinfo.git,repository=10.1.2.4/apps/podinfo,policy=1234:5678").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	text, err := exec.CommandContext(t.Context(), lab.Tool(t, "kustomize"), "build", out).Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.as("root", "system:masters").CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "1234"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, object := range decode(t, string(text)) {
		name := c.rehearse(t, object)
		seen[name] = true
		switch name {
		case "Role 1234/towpath":
			if names := as[rbacv1.Role](t, object).Rules[0].ResourceNames; !slices.Equal(names, []string{"5678"}) {
				t.Errorf("it may patch %q", names)
			}
		case "Deployment towpath/towpath":
			var secrets []string
			for _, volume := range as[appsv1.Deployment](t, object).Spec.Template.Spec.Volumes {
				if volume.Secret != nil {
					secrets = append(secrets, volume.Secret.SecretName)
				}
			}
			slices.Sort(secrets)
			if want := []string{"0", "1e3", longest, "towpath-provenance", "towpath-signing"}; !slices.Equal(secrets, want) {
				t.Errorf("it mounts %q", secrets)
			}
		}
	}
	if !seen["Role 1234/towpath"] || !seen["Deployment towpath/towpath"] {
		t.Errorf("there is neither Role nor Deployment among %v", seen)
	}
}

// rehearse has the API server judge an object as if it were applied, and returns
// "KIND NAMESPACE/NAME".
func (c *cluster) rehearse(t *testing.T, object *unstructured.Unstructured) (name string) {
	t.Helper()
	name = object.GetKind() + " " + object.GetNamespace() + "/" + object.GetName()
	resource, err := c.resource(c.admin, object)
	if err != nil {
		t.Fatal(err)
	}
	options := metav1.ApplyOptions{FieldManager: "kustomize-controller", Force: true, DryRun: []string{metav1.DryRunAll}}
	if _, err := resource.Apply(t.Context(), object.GetName(), object, options); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return name
}
