package flux

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
)

const commit = "5394cb7f48332b2de7c17dd8b8384bbc84b7e738"

// place is a namespace of a real API server with Flux's definitions.
type place struct {
	t      *testing.T
	admin  *rest.Config
	name   string
	object dynamic.Interface
	fleet  types.NamespacedName
}

func newPlace(t *testing.T, namespace string) *place {
	t.Helper()
	config := lab.ControlPlane(t)
	lab.FluxDefinitions(t, config, "source", "kustomize")
	admin := kubernetes.NewForConfigOrDie(config)
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return &place{t, config, namespace, dynamic.NewForConfigOrDie(config), types.NamespacedName{Namespace: namespace, Name: "fleet"}}
}

// create makes an object of YAML, with its status.
func (p *place) create(kind schema.GroupVersionResource, text string) {
	p.t.Helper()
	var object unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
		p.t.Fatal(err)
	}
	status := object.Object["status"]
	made, err := p.object.Resource(kind).Namespace(p.name).Create(p.t.Context(), &object, metav1.CreateOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	made.Object["status"] = status
	if status != nil {
		if _, err := p.object.Resource(kind).Namespace(p.name).UpdateStatus(p.t.Context(), made, metav1.UpdateOptions{}); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *place) gitRepository(status string) {
	p.t.Helper()
	p.create(gitRepositories, `
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: fleet, annotations: {kept: "yes"}}
spec: {interval: 1h, url: "https://git.example.com/fleet.git", ref: {branch: main}}
`+status)
}

// as is a client of an account that has these rights and no others.
func (p *place) as(user string, rules ...rbacv1.PolicyRule) *Client {
	p.t.Helper()
	client, err := New(lab.Account(p.t, p.admin, p.name, user, rules...))
	if err != nil {
		p.t.Fatal(err)
	}
	return client
}

func mayRepository(verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{gitRepositories.Group}, Resources: []string{gitRepositories.Resource}, ResourceNames: []string{"fleet"}, Verbs: verbs}
}

func mayKustomizations(verbs ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{kustomizations.Group}, Resources: []string{kustomizations.Resource}, Verbs: verbs}
}

func TestNudgeSetsOneAnnotation(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "nudge")
	p.gitRepository("")
	read := func() *unstructured.Unstructured {
		found, err := p.object.Resource(gitRepositories).Namespace(p.name).Get(t.Context(), "fleet", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	before := read()
	client := p.as("patcher", mayRepository("patch"))
	if err := client.TryNudge(t.Context(), p.fleet); err != nil {
		t.Errorf("to try it: %v", err)
	}
	if diff := cmp.Diff(before.Object, read().Object); diff != "" {
		t.Errorf("to try it has changed something: %s", diff)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)
	for range 2 {
		if err := client.Nudge(t.Context(), p.fleet, at); err != nil {
			t.Fatal(err)
		}
	}
	after := read()
	want := map[string]string{"kept": "yes", "reconcile.fluxcd.io/requestedAt": "2026-01-02T03:04:05.0000006Z"}
	if diff := cmp.Diff(want, after.GetAnnotations()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(before.Object["spec"], after.Object["spec"]); diff != "" || after.GetGeneration() != before.GetGeneration() {
		t.Errorf("more than an annotation has changed: %s", diff)
	}
}

func TestNudgeThatIsRefused(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "refused")
	p.gitRepository("")
	hint := func(err error) string {
		var hinted *Error
		if !errors.As(err, &hinted) {
			t.Fatalf("%v", err)
		}
		return hinted.Hint()
	}
	if err := p.as("reader", mayRepository("get")).Nudge(t.Context(), p.fleet, time.Now()); !Refused(err) || !strings.Contains(hint(err), "patch GitRepository in namespace refused") {
		t.Errorf("without the right: %v", err)
	}
	other := types.NamespacedName{Namespace: p.name, Name: "other"}
	if err := p.as("patcher", mayRepository("patch")).Nudge(t.Context(), other, time.Now()); !Refused(err) {
		t.Errorf("another repository: %v", err)
	}
	admin, err := New(p.admin)
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.Nudge(t.Context(), other, time.Now()); !Refused(err) || !strings.Contains(hint(err), "gitops[].flux.gitRepository") {
		t.Errorf("one that is not there: %v", err)
	}
	away := rest.CopyConfig(p.admin)
	away.Wrap(func(http.RoundTripper) http.RoundTripper { return gone{} })
	client, err := New(away)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Nudge(t.Context(), p.fleet, time.Now()); err == nil || Refused(err) {
		t.Errorf("the API server is away: %v", err)
	}
}

// gone is a network without an API server.
type gone struct{}

func (gone) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("connection refused")
}

func kustomization(name, path, source, status string) string {
	return `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: ` + name + `}
spec: {interval: 1h, prune: true, path: "` + path + `", sourceRef: ` + source + `}
` + status
}

func TestApplied(t *testing.T) {
	t.Parallel()
	p := newPlace(t, "applied")
	p.gitRepository(`
status:
  artifact: {revision: "main@sha1:` + commit + `", digest: "sha256:` + strings.Repeat("0", 64) + `", path: x, url: "http://x/", lastUpdateTime: "2026-01-02T03:04:05Z"}
  conditions: [{type: Ready, status: "False", reason: GitOperationFailed, message: "auth failed\nfor git", lastTransitionTime: "2026-01-02T03:04:05Z"}]
`)
	fleet := "{kind: GitRepository, name: fleet}"
	p.create(kustomizations, kustomization("apps", "./clusters/production/", fleet, `
status:
  lastAppliedRevision: main@sha1:`+commit+`
  conditions: [{type: Ready, status: "True", reason: ReconciliationSucceeded, message: "Applied", lastTransitionTime: "2026-01-02T03:04:05Z"}]
`))
	p.create(kustomizations, kustomization("whole", "", "{kind: GitRepository, name: fleet, namespace: applied}", "status: {}"))
	p.create(kustomizations, kustomization("other", "./", "{kind: GitRepository, name: other}", ""))
	p.create(kustomizations, kustomization("elsewhere", "./", "{kind: GitRepository, name: fleet, namespace: elsewhere}", ""))
	p.create(kustomizations, kustomization("bucket", "./", "{kind: Bucket, name: fleet}", ""))

	name := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "applied", Name: name} }
	want := Applied{
		URL: "https://git.example.com/fleet.git", Branch: "main",
		Artifact: Standing{Revision: "main@sha1:" + commit, Stuck: "auth failed for git"},
		Kustomizations: []Kustomization{
			{name("apps"), "clusters/production", Standing{Revision: "main@sha1:" + commit}},
			{name("whole"), ".", Standing{}},
		},
	}
	got, err := p.as("both", mayRepository("get"), mayKustomizations("list")).Applied(t.Context(), p.fleet)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	got, err = p.as("one", mayRepository("get")).Applied(t.Context(), p.fleet)
	if err != nil || got.Artifact != want.Artifact || got.Kustomizations != nil || !Refused(got.Unknown) {
		t.Errorf("without the right to list: %+v, %v", got, err)
	}
	if _, err := p.as("none").Applied(t.Context(), p.fleet); !Refused(err) {
		t.Errorf("without any right: %v", err)
	}
}

func TestApplies(t *testing.T) {
	t.Parallel()
	var a Applied
	for _, path := range []string{".", "clusters/production", "clusters/production/apps", "clusters/staging"} {
		a.Kustomizations = append(a.Kustomizations, Kustomization{Name: types.NamespacedName{Name: path}, Path: path})
	}
	overlays := Applied{Kustomizations: a.Kustomizations[1:]}
	for _, c := range []struct {
		applied Applied
		files   []string
		want    []string
	}{
		{a, []string{"clusters/production/podinfo.yaml"}, []string{"clusters/production"}},
		{a, []string{"clusters/production/apps/podinfo.yaml"}, []string{"clusters/production/apps"}},
		{a, []string{"clusters/production-old/podinfo.yaml"}, []string{"."}},
		{a, []string{"clusters/production/a.yaml", "clusters/staging/a.yaml"}, []string{"clusters/production", "clusters/staging"}},
		{overlays, []string{"base/podinfo.yaml"}, []string{"clusters/production", "clusters/production/apps", "clusters/staging"}},
		{a, nil, nil},
		{Applied{}, []string{"a.yaml"}, nil},
	} {
		var got []string
		for _, k := range c.applied.Applies(c.files) {
			got = append(got, k.Path)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q: %s", c.files, diff)
		}
	}
}

func TestCommitOfARevision(t *testing.T) {
	t.Parallel()
	for revision, ok := range map[string]bool{
		"main@sha1:" + commit: true, "refs/heads/main@sha1:" + commit: true, "sha1:" + commit: true, "feature/x@sha1:" + commit: true,
		"main/" + commit: true, commit: true, // as Flux wrote before 2.0
		"": false, "main@sha1:": false, "main@sha1:5394cb7f": false, "sha256:" + strings.Repeat("0", 64): false, "main@sha1:" + strings.ToUpper(commit): false,
	} {
		got, is := Standing{Revision: revision}.Commit()
		if is != ok || ok && got.String() != commit || !ok && got != (gitops.Hash{}) {
			t.Errorf("%q: %s, %v", revision, got, is)
		}
	}
}
