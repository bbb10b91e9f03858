package config_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/config"
)

// resources are what a build asks for and is given.
func resources(cpu, memory, storage, memoryLimit, storageLimit string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory), corev1.ResourceEphemeralStorage: resource.MustParse(storage),
		},
		Limits: corev1.ResourceList{
			corev1.ResourceMemory: resource.MustParse(memoryLimit), corev1.ResourceEphemeralStorage: resource.MustParse(storageLimit),
		},
	}
}

const pinned = "@sha256:9f2d4f1c6a3b5e7d8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7"

// TestKubernetes: what a pod's spec can hold arrives as the types that
// Kubernetes has for it, merged with the defaults where those are maps.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	c := load(t, map[string]string{"towpath.yaml": small + podinfo + `builder:
  type: kubernetes
  egress: ["10.1.2.0/24", "git.internal:443", "[fd12::1]:443", fd12::/16, 10.9.9.9]
  kaniko: {image: registry.example.com/kaniko` + pinned + `, executor: "", args: [--verbosity=debug]}
  sandbox: {runtime: ""}
  kubernetes:
    namespace: builds
    image: registry.example.com:5000/towpath:v1` + pinned + `
    resources: {requests: {cpu: 2, memory: 3Gi}, limits: {cpu: "4"}}
    ttl: 10m
    hostUsers: false
    runtimeClassName: gvisor
    nodeSelector: {kubernetes.io/arch: arm64}
    tolerations: [{operator: Exists}, {key: a/b, value: c, effect: NoExecute, tolerationSeconds: 60}]
    affinity:
      podAntiAffinity:
        preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 7
            podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app.kubernetes.io/managed-by: towpath}}}
    priorityClassName: builds
    annotations: {Example.com/Team.Name: "1.10"}
    caBundle: {configMap: authorities}
    proxy: {http: "http://proxy.internal:3128", https: "http://proxy.internal:3128/", no: ".svc, 10.0.0.0/8"}
    identity: {publish: {audience: sts.amazonaws.com}, fetch: {audience: git, path: /var/run/secrets/git/token}}
`})
	want := config.Kubernetes{
		Namespace: "builds", Image: "registry.example.com:5000/towpath:v1" + pinned,
		Resources: resources("2", "3Gi", "2Gi", "4Gi", "20Gi"),
		TTL:       10 * time.Minute, HostUsers: new(false), RuntimeClassName: "gvisor", PriorityClassName: "builds",
		NodeSelector: map[string]string{"kubernetes.io/arch": "arm64"},
		Tolerations: []corev1.Toleration{
			{Operator: corev1.TolerationOpExists}, {Key: "a/b", Value: "c", Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64(60))},
		},
		Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
			Weight: 7, PodAffinityTerm: corev1.PodAffinityTerm{
				TopologyKey: "kubernetes.io/hostname", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/managed-by": "towpath"}},
			},
		}}}},
		Annotations: map[string]string{"Example.com/Team.Name": "1.10"},
		CABundle:    config.CABundle{ConfigMap: "authorities"},
		Proxy:       config.Proxy{HTTP: "http://proxy.internal:3128", HTTPS: "http://proxy.internal:3128/", No: ".svc, 10.0.0.0/8"},
		Identity: config.Identity{
			Fetch: config.Token{Audience: "git", Path: "/var/run/secrets/git/token"}, Publish: config.Token{Audience: "sts.amazonaws.com", Path: config.DefaultTokenPath},
		},
	}
	want.Resources.Limits[corev1.ResourceCPU] = resource.MustParse("4")
	if diff := cmp.Diff(want, c.Builder.Kubernetes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestBuilderElsewhere: the config of a cluster serves the sandbox of somebody's
// machine, once the variable says so.
func TestBuilderElsewhere(t *testing.T) {
	t.Setenv("TOWPATH_BUILDER_TYPE", "sandbox")
	c := load(t, map[string]string{"towpath.yaml": small + podinfo + `builder:
  type: kubernetes
  egress: [10.1.2.0/24]
  kaniko: {image: registry.example.com/kaniko` + pinned + `}
  sandbox: {allow: [10.1.2.0/24]}
  kubernetes: {image: registry.example.com/towpath` + pinned + `}
`})
	if c.Builder.Type != config.BuilderSandbox || c.Builder.Kaniko.Executor != "executor" {
		t.Errorf("%+v", c.Builder)
	}
}

func TestFluxObject(t *testing.T) {
	t.Parallel()
	text := strings.Replace(small, "    git:\n", "    flux: {gitRepository: {namespace: flux-system, name: fleet}}\n    git:\n", 1)
	c := load(t, map[string]string{"towpath.yaml": text + podinfo})
	if diff := cmp.Diff(&config.Flux{GitRepository: config.GitRepository{Namespace: "flux-system", Name: "fleet"}}, c.GitOps[0].Flux); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	without := load(t, map[string]string{"towpath.yaml": small + podinfo})
	if without.GitOps[0].Flux != nil || filepath.Base(without.File) != "towpath.yaml" {
		t.Errorf("%+v", without.GitOps[0])
	}
}
