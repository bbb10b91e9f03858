package job_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/job"
)

var update = flag.Bool("update", false, "write the golden files anew")

func digest(digit string) string { return "sha256:" + strings.Repeat(digit, 64) }

// minimal is the least that a Job is rendered from.
func minimal() (job.Settings, job.Job) {
	return job.Settings{
			Namespace: "towpath-builds",
			Image:     "registry.example.com/towpath@" + digest("a"),
			Kaniko:    "registry.example.com/kaniko@" + digest("b"),
		}, job.Job{Order: kaniko.Order{
			Image:      "podinfo",
			Source:     kaniko.Source{URL: "https://git.example.com/podinfo.git", Ref: "refs/heads/master", Commit: strings.Repeat("8b07d4aa", 5), Time: time.Unix(1763750000, 0).UTC()},
			Path:       ".",
			Dockerfile: "Dockerfile",
			Platform:   "linux/amd64",
			Executor:   digest("b"),
			Policy:     digest("f"),
			Destination: kaniko.Destination{
				Repository: "registry.example.com/apps/podinfo", Tag: "master-8b07d4aa8b07-1763750000",
			},
		}}
}

// everything has every setting that changes a Job.
func everything() (job.Settings, job.Job) {
	s, what := minimal()
	s.Timeout, s.TTL, s.Concurrency = 10*time.Minute, 2*time.Hour, 3
	s.Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourceEphemeralStorage: resource.MustParse("2Gi")},
		Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourceEphemeralStorage: resource.MustParse("10Gi")},
	}
	s.HostUsers, s.RuntimeClassName = new(false), "gvisor"
	s.NodeSelector = map[string]string{"kubernetes.io/arch": "amd64"}
	s.Tolerations = []corev1.Toleration{{Key: "builds", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}
	s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "builds", Operator: corev1.NodeSelectorOpExists}}}},
	}}}
	s.PriorityClassName = "builds"
	s.Annotations = map[string]string{"example.com/team": "platform"}
	s.CABundle = "authorities"
	s.Proxy = job.Proxy{HTTP: "http://proxy.internal:3128", HTTPS: "http://proxy.internal:3128", No: ".svc,10.0.0.0/8"}
	s.FetchToken = job.Token{Audience: "git.example.com", Path: "/var/run/secrets/towpath.dev/identity/token"}
	s.PublishToken = job.Token{Audience: "sts.amazonaws.com", Path: "/var/run/secrets/eks.amazonaws.com/serviceaccount/token"}
	what.GitSecret, what.PullSecret, what.PushSecret = "git-apps", "bases", "registry"
	what.Order.Target, what.Order.Path, what.Order.Dockerfile = "release", "services/app", "docker/Dockerfile"
	what.Order.Args = map[string]string{"GREETING": "hello $(HOME) $$ $PATH", "HTTP_PROXY": "http://other.internal:1"}
	what.Order.KanikoArgs = []string{"--label=team=platform"}
	what.Order.Pull = kaniko.Pull{Secret: "bases", Allow: []string{"registry.example.com/bases/go"}}
	what.Order.Destination.Insecure = true
	return s, what
}

// TestRender compares whole Jobs with what a person has read.
func TestRender(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]func() (job.Settings, job.Job){"minimal": minimal, "everything": everything} {
		rendered, err := job.Render(settings())
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.MarshalIndent(rendered, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, '\n')
		file := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(file, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		again, err := job.Render(settings())
		if err != nil {
			t.Fatal(err)
		}
		if second, _ := json.MarshalIndent(again, "", "  "); !bytes.Equal(append(second, '\n'), got) {
			t.Errorf("%s is rendered another way the second time", name)
		}
	}
}

// TestKanikoGetsNothing: what is a secret's, a token's or an order's is mounted
// into the one step that needs it.
func TestKanikoGetsNothing(t *testing.T) {
	t.Parallel()
	rendered, err := job.Render(everything())
	if err != nil {
		t.Fatal(err)
	}
	pod := rendered.Spec.Template.Spec
	mounts := map[string][]string{}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		for _, m := range c.VolumeMounts {
			mounts[m.Name] = append(mounts[m.Name], c.Name)
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil {
				t.Errorf("%s takes %s from elsewhere", c.Name, e.Name)
			}
		}
		if len(c.EnvFrom) > 0 {
			t.Errorf("%s takes variables from elsewhere", c.Name)
		}
	}
	for volume, want := range map[string][]string{
		"git-secret": {"fetch"}, "pull-secret": {"fetch"}, "registry-secret": {"publish"},
		"fetch-token": {"fetch"}, "publish-token": {"publish"}, "fetch-order": {"fetch"}, "publish-order": {"publish"},
		"kaniko-shm": {"kaniko"}, "publish-shm": {"publish"}, "out": {"kaniko", "publish"}, "work": {"fetch", "kaniko", "kaniko"},
		"network": {"fetch", "kaniko", "kaniko", "kaniko"}, "fetch-tmp": {"fetch"}, "publish-tmp": {"publish"}, "authorities": {"fetch", "kaniko", "publish"},
	} {
		if diff := cmp.Diff(want, mounts[volume]); diff != "" {
			t.Errorf("volume %s is mounted into (-want +got):\n%s", volume, diff)
		}
		delete(mounts, volume)
	}
	if len(mounts) > 0 {
		t.Errorf("and there are %v", mounts)
	}
	for _, m := range pod.InitContainers[1].VolumeMounts {
		if writable := m.Name == "out" || m.Name == "kaniko-shm"; m.ReadOnly == writable {
			t.Errorf("kaniko's %s: read-only is %v", m.MountPath, m.ReadOnly)
		}
	}
	if *pod.AutomountServiceAccountToken || *pod.EnableServiceLinks {
		t.Error("the pod has a token, or service links")
	}
}

// TestRenderRefuses: no Job is made of what nobody could judge later, or what
// would tell every build a credential.
func TestRenderRefuses(t *testing.T) {
	t.Parallel()
	for text, edit := range map[string]func(*job.Settings, *job.Job){
		"want NAME@sha256":                func(s *job.Settings, _ *job.Job) { s.Kaniko = "registry.example.com/kaniko:v1.28.3-slim" },
		"towpath's own image":             func(s *job.Settings, _ *job.Job) { s.Image = "registry.example.com/towpath" },
		"want NAME@sha256:<hex>":          func(s *job.Settings, _ *job.Job) { s.Image += "0" },
		"no namespace":                    func(s *job.Settings, _ *job.Job) { s.Namespace = "" },
		"holds a credential":              func(s *job.Settings, _ *job.Job) { s.Proxy.HTTPS = "http://me:canary@proxy:1" },
		"annotation towpath.dev/fetch is": func(s *job.Settings, _ *job.Job) { s.Annotations = map[string]string{"towpath.dev/fetch": "x"} },
		"and kaniko's image is":           func(_ *job.Settings, what *job.Job) { what.Order.Executor = digest("c") },
		"--destination is not allowed":    func(_ *job.Settings, what *job.Job) { what.Order.KanikoArgs = []string{"--destination=x"} },
		"path \"../Dockerfile\"":          func(_ *job.Settings, what *job.Job) { what.Order.Dockerfile = "../Dockerfile" },
		"the order is larger than a Job may car": func(_ *job.Settings, what *job.Job) {
			what.Order.Args = map[string]string{"A": strings.Repeat("x", 101<<10)}
		},
	} {
		s, what := minimal()
		edit(&s, &what)
		_, err := job.Render(s, what)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q", err, text)
		}
		if err != nil && strings.Contains(err.Error(), "canary") {
			t.Errorf("the error tells the credential: %v", err)
		}
	}
}

// TestName: the name follows from what is built and where it goes, and is one
// that a Job, its pods and their labels may have.
func TestName(t *testing.T) {
	t.Parallel()
	_, what := minimal()
	base := job.Name(what.Order)
	for edited, same := range map[string]bool{"tag": true, "commit": false, "repository": false, "arguments": false} {
		order := what.Order
		switch edited {
		case "tag":
			order.Destination.Tag = "other"
		case "commit":
			order.Source.Commit = strings.Repeat("0", 40)
		case "repository":
			order.Destination.Repository += "2"
		case "arguments":
			order.Args = map[string]string{"A": "1"}
		}
		if got := job.Name(order); (got == base) != same {
			t.Errorf("with another %s: %s and %s", edited, base, got)
		}
	}
	for _, image := range []string{"a", strings.Repeat("x", 63), strings.Repeat("x", 45) + "-" + strings.Repeat("y", 17)} {
		order := what.Order
		order.Image = image
		name := job.Name(order)
		if problems := validation.IsDNS1123Label(name); len(problems) > 0 || strings.Contains(name, "--") {
			t.Errorf("image %s: %s: %v", image, name, problems)
		}
	}
}
