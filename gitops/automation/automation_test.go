package automation_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/gitops/automation"
	"towpath.dev/towpath/gitops/marker"
)

const fleetURL = "ssh://git@git.example.com/platform/fleet.git"

// objects of a repository as `flux bootstrap` and its guides make it.
const objects = `apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: flux-system, namespace: flux-system}
spec:
  interval: 1m0s
  ref: {branch: main}
  secretRef: {name: flux-system}
  url: ssh://git@git.example.com/platform/fleet
---
apiVersion: image.toolkit.fluxcd.io/v1beta2
kind: ImageRepository
metadata: {name: podinfo, namespace: flux-system}
spec: {image: registry.example.com/apps/podinfo, interval: 5m, secretRef: {name: pull}}
---
apiVersion: image.toolkit.fluxcd.io/v1
kind: ImagePolicy
metadata: {name: podinfo, namespace: flux-system, labels: {team: apps}}
spec: {imageRepositoryRef: {name: podinfo}, policy: {semver: {range: ">=1.0.0"}}}
---
# another kind, whose spec has fields of the same names
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: x}
spec: {interval: 5m, update: true, git: 7, image: [a]}
---
apiVersion: v1
kind: List
items:
  - apiVersion: image.toolkit.fluxcd.io/v1
    kind: ImageUpdateAutomation
    metadata: {name: all, namespace: flux-system}
    spec:
      interval: 30m
      sourceRef: {kind: GitRepository, name: flux-system}
      git:
        checkout: {ref: {branch: main}}
        commit: {author: {email: fluxcdbot@example.com}}
        push: {branch: main}
      update: {path: ./clusters/production, strategy: Setters}
`

func policy(t *testing.T, name string) marker.Policy {
	t.Helper()
	p, err := marker.ParsePolicy(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWriters(t *testing.T) {
	const manifest = "clusters/production/podinfo.yaml"
	more := func(spec string) string {
		return "apiVersion: image.toolkit.fluxcd.io/v1\nkind: ImageUpdateAutomation\nmetadata: {name: more, namespace: flux-system}\nspec: {interval: 1m, sourceRef: {kind: GitRepository, name: flux-system}, " + spec + "}\n"
	}
	resting := map[string][]string{"at rest": {"ImageUpdateAutomation flux-system/more"}}
	for name, test := range map[string]struct {
		add    string // another file
		policy string
		file   string
		url    string
		want   []string
	}{
		"the one there is":             {"", "flux-system:podinfo", manifest, fleetURL, []string{"ImageUpdateAutomation flux-system/all"}},
		"by another spelling":          {"", "flux-system:podinfo", manifest, "git@git.example.com:platform/Fleet.git", []string{"ImageUpdateAutomation flux-system/all"}},
		"another repository":           {"", "flux-system:podinfo", manifest, "ssh://git@git.example.com/platform/other.git", nil},
		"beside its path":              {"", "flux-system:podinfo", "clusters/production-eu/podinfo.yaml", fleetURL, nil},
		"another namespace":            {"", "apps:podinfo", manifest, fleetURL, nil},
		"no ImagePolicy":               {"", "flux-system:other", manifest, fleetURL, nil},
		"the whole repository":         {more("update: {strategy: Setters}"), "flux-system:podinfo", "elsewhere/podinfo.yaml", fleetURL, []string{"ImageUpdateAutomation flux-system/more"}},
		"no update at all":             {more("suspend: false"), "flux-system:podinfo", "elsewhere/podinfo.yaml", fleetURL, []string{"ImageUpdateAutomation flux-system/more"}},
		"at rest":                      {more("suspend: true"), "flux-system:podinfo", "elsewhere/podinfo.yaml", fleetURL, nil},
		"selects it":                   {more("policySelector: {matchLabels: {team: apps}}"), "flux-system:podinfo", "elsewhere/podinfo.yaml", fleetURL, []string{"ImageUpdateAutomation flux-system/more"}},
		"selects others":               {more("policySelector: {matchLabels: {team: web}}"), "flux-system:podinfo", "elsewhere/podinfo.yaml", fleetURL, nil},
		"a namespace nobody knows":     {"apiVersion: image.toolkit.fluxcd.io/v1\nkind: ImageUpdateAutomation\nmetadata: {name: bare}\nspec: {interval: 1m, sourceRef: {kind: GitRepository, name: x}, update: {path: bare}}\n", "flux-system:podinfo", "bare/x.yaml", fleetURL, []string{"ImageUpdateAutomation bare"}},
		"a file that is not all YAML":  {"kind: [\n---\n" + more("update: {path: odd}"), "flux-system:podinfo", "odd/x.yaml", fleetURL, []string{"ImageUpdateAutomation flux-system/more"}},
		"an object without its kind":   {"apiVersion: image.toolkit.fluxcd.io/v1\nspec: {}\n", "flux-system:podinfo", "odd/x.yaml", fleetURL, nil},
		"an automation that is broken": {more("update: broken"), "flux-system:podinfo", "elsewhere/podinfo.yaml", fleetURL, nil},
	} {
		var all automation.Objects
		all.Add("flux.yaml", []byte(objects))
		all.Add("more.yaml", []byte(test.add))
		var got []string
		for _, writer := range all.Writers(policy(t, test.policy), test.file, test.url) {
			got = append(got, writer.String())
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		var rest []string
		for _, update := range all.Resting(policy(t, test.policy), test.file, test.url) {
			rest = append(rest, update.String())
		}
		if diff := cmp.Diff(resting[name], rest); diff != "" {
			t.Errorf("%s, at rest (-want +got):\n%s", name, diff)
		}
	}
}

// TestOf: what serves a policy alone can go with it, what others use stays.
func TestOf(t *testing.T) {
	var all automation.Objects
	all.Add("flux.yaml", []byte(objects))
	names := func() (names []string) {
		for _, o := range all.Of(policy(t, "flux-system:podinfo")) {
			names = append(names, o.String()+" "+o.File)
		}
		return names
	}
	if diff := cmp.Diff([]string{"ImagePolicy flux-system/podinfo flux.yaml", "ImageRepository flux-system/podinfo flux.yaml"}, names()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	all.Add("second.yaml", []byte("apiVersion: image.toolkit.fluxcd.io/v1\nkind: ImagePolicy\nmetadata: {name: staging, namespace: flux-system}\nspec: {imageRepositoryRef: {name: podinfo}}\n"))
	if diff := cmp.Diff([]string{"ImagePolicy flux-system/podinfo flux.yaml"}, names()); diff != "" {
		t.Errorf("with another policy of the repository (-want +got):\n%s", diff)
	}
}

func FuzzAdd(f *testing.F) {
	f.Add([]byte(objects))
	f.Fuzz(func(_ *testing.T, content []byte) {
		var all automation.Objects
		all.Add("f.yaml", content)
		for _, p := range all.Policies {
			all.Of(marker.Policy{Namespace: p.Namespace, Name: p.Name})
			all.Writers(marker.Policy{Namespace: p.Namespace, Name: p.Name}, "f.yaml", fleetURL)
		}
	})
}
