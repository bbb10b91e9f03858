package e2e

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

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
)

// beside is a namespace of a real API server in which Flux's objects are, and
// accounts with few rights.
type beside struct {
	t         *testing.T
	admin     *rest.Config
	namespace string
}

func newBeside(t *testing.T, namespace string) *beside {
	t.Helper()
	b := &beside{t, lab.ControlPlane(t), namespace}
	lab.FluxDefinitions(t, b.admin, "source", "kustomize")
	made := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	if _, err := kubernetes.NewForConfigOrDie(b.admin).CoreV1().Namespaces().Create(t.Context(), made, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// kubeconfig is for an account that has these rights in the namespace.
func (b *beside) kubeconfig(rules ...rbacv1.PolicyRule) string {
	b.t.Helper()
	return lab.Kubeconfig(b.t, lab.Account(b.t, b.admin, b.namespace, "towpath", rules...), b.namespace)
}

func (b *beside) resource(group, version, resource string) dynamic.ResourceInterface {
	return dynamic.NewForConfigOrDie(b.admin).Resource(schema.GroupVersionResource{Group: group, Version: version, Resource: resource}).Namespace(b.namespace)
}

func (b *beside) repositories() dynamic.ResourceInterface {
	return b.resource("source.toolkit.fluxcd.io", "v1", "gitrepositories")
}

func (b *beside) kustomizations() dynamic.ResourceInterface {
	return b.resource("kustomize.toolkit.fluxcd.io", "v1", "kustomizations")
}

func (b *beside) create(to dynamic.ResourceInterface, text string) {
	b.t.Helper()
	var object unstructured.Unstructured
	if err := yaml.Unmarshal([]byte(text), &object.Object); err != nil {
		b.t.Fatal(err)
	}
	if _, err := to.Create(b.t.Context(), &object, metav1.CreateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// report sets an object's status, as Flux's controllers do.
func (b *beside) report(of dynamic.ResourceInterface, name, status string) {
	b.t.Helper()
	found, err := of.Get(b.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		b.t.Fatal(err)
	}
	var said map[string]any
	if err := yaml.Unmarshal([]byte(status), &said); err != nil {
		b.t.Fatal(err)
	}
	found.Object["status"] = said
	if _, err := of.UpdateStatus(b.t.Context(), found, metav1.UpdateOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

// fleet makes the objects that watch and apply a world's GitOps repository.
func (b *beside) fleet(w *lab.World) {
	b.t.Helper()
	b.create(b.repositories(), `{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: fleet}, spec: {interval: 10h, url: "`+w.Git.RepoURL("fleet.git")+`", ref: {branch: main}}}`)
	b.create(b.kustomizations(), `{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: apps}, spec: {interval: 10h, prune: true, path: ./clusters/production, sourceRef: {kind: GitRepository, name: fleet}}}`)
}

// watched adds to a config that a GitRepository of Flux watches the target.
func (b *beside) watched(_ *lab.World, config string) string {
	return strings.Replace(config, "    update: {", "    flux: {gitRepository: {namespace: "+b.namespace+", name: fleet}}\n    update: {", 1)
}

func fluxRights(verbs ...string) []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		{APIGroups: []string{"source.toolkit.fluxcd.io"}, Resources: []string{"gitrepositories"}, ResourceNames: []string{"fleet"}, Verbs: verbs},
		{APIGroups: []string{"kustomize.toolkit.fluxcd.io"}, Resources: []string{"kustomizations"}, Verbs: []string{"list"}},
	}
}

// TestFluxIsAskedAndBelieved: after a push Flux is asked to pull, and status and
// why tell what it has applied, by the history and not by the words.
func TestFluxIsAskedAndBelieved(t *testing.T) {
	t.Parallel()
	b := newBeside(t, "asked-and-believed")
	w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory, Config: b.watched})
	b.fleet(w)
	kubeconfig := "KUBECONFIG=" + b.kubeconfig(fluxRights("get", "patch")...)
	asked := func() string {
		found, err := b.repositories().Get(t.Context(), "fleet", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return found.GetAnnotations()["reconcile.fluxcd.io/requestedAt"]
	}
	d := w.Daemon(t, []string{kubeconfig})
	promotes(t, w, d, w.App.Head())
	pushed := time.Now()
	d.Wait("Flux is asked to pull", patience, func() bool { return asked() != "" })
	t.Logf("asked %s after the bump was seen", time.Since(pushed))
	first := asked()

	shows := func(live string) (why string) {
		t.Helper()
		run := func(args ...string) string {
			cmd := w.Command(t.Context(), args...)
			cmd.Env = append(cmd.Env, kubeconfig)
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%q: %v", args, err)
			}
			return string(out)
		}
		if out := run("status"); !regexp.MustCompile(`(?m)^podinfo .* ` + live + `$`).MatchString(out) {
			t.Errorf("status does not end in %q:\n%s", live, out)
		}
		var rows []struct{ Flux struct{ Live *bool } }
		if err := json.Unmarshal([]byte(run("status", "--output", "json")), &rows); err != nil {
			t.Fatal(err)
		}
		if got := rows[0].Flux.Live; (live == "-") != (got == nil) || got != nil && *got != (live == "yes") {
			t.Errorf("live is %v, want %s", got, live)
		}
		return run("why", "podinfo")
	}
	head := func() string {
		return strings.TrimSpace(lab.RunGit(t, w.Git.Dir("fleet.git"), "rev-parse", "main"))
	}
	bump := head()
	before := strings.TrimSpace(lab.RunGit(t, w.Git.Dir("fleet.git"), "rev-parse", "main~1"))

	shows("no") // nothing is applied yet
	b.report(b.kustomizations(), "apps", "{lastAppliedRevision: main@sha1:"+before+"}")
	if why := shows("no"); !strings.Contains(why, "which does not hold the bump") || !strings.Contains(why, "live     waiting") {
		t.Errorf("why:\n%s", why)
	}
	b.report(b.kustomizations(), "apps", "{lastAppliedRevision: main@sha1:"+bump+"}")
	if why := shows("yes"); !strings.Contains(why, "live     passed") {
		t.Errorf("why:\n%s", why)
	}
	// The branch moves on; what is applied is another commit, and holds the bump.
	w.Fleet.Git("pull", "--quiet", "--ff-only", "origin", "main")
	later := w.Fleet.Commit(lab.Commit{Message: "meanwhile", Files: map[string]string{"README.md": "# moved on\n"}})
	w.Fleet.Push("HEAD:main")
	b.report(b.kustomizations(), "apps", "{lastAppliedRevision: main@sha1:"+later+"}")
	shows("yes")

	// The next commit is another push, and asked for once more.
	promotes(t, w, d, paint(w, "blue"))
	d.Wait("Flux is asked again", patience, func() bool { return asked() != first })
	shows("no")
	if code := d.Stop(); code != 0 || strings.Contains(d.Logs(), "level=WARN") {
		t.Errorf("the daemon ended with %d\n%s", code, d.Logs())
	}
	checks(t, w, kubeconfig, "ok       flux of production: GitRepository asked-and-believed/fleet may be asked to pull")
	suspend := func(of dynamic.ResourceInterface, name string) {
		t.Helper()
		if _, err := of.Patch(t.Context(), name, types.MergePatchType, []byte(`{"spec":{"suspend":true}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	suspend(b.repositories(), "fleet")
	suspend(b.kustomizations(), "apps")
	checks(t, w, kubeconfig, "warning  flux of production: GitRepository asked-and-believed/fleet fetches no bump: suspended\n         flux resume source git fleet -n asked-and-believed")
	checks(t, w, kubeconfig, "warning  flux of production: Kustomization asked-and-believed/apps applies no bump: suspended")
	found, err := b.repositories().Get(t.Context(), "fleet", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found.Object["spec"] = map[string]any{"interval": "10h", "url": "https://git.example.com/other.git", "ref": map[string]any{"branch": "next"}}
	if _, err := b.repositories().Update(t.Context(), found, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	checks(t, w, kubeconfig, "warning  flux of production: GitRepository asked-and-believed/fleet watches git.example.com/other, and bumps go to 127.0.0.1/fleet")
	checks(t, w, kubeconfig, "warning  flux of production: GitRepository asked-and-believed/fleet watches branch next, and this target is branch main")
}

// checks runs check, which finds no problem and says a line.
func checks(t *testing.T, w *lab.World, kubeconfig, says string) {
	t.Helper()
	cmd := w.Command(t.Context(), "check")
	cmd.Env = append(cmd.Env, kubeconfig)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), says) {
		t.Errorf("check: %v, want %q in\n%s", err, says, out)
	}
}

// TestFluxMayNotBeAsked: that is said once, and nothing fails for it.
func TestFluxMayNotBeAsked(t *testing.T) {
	t.Parallel()
	b := newBeside(t, "may-not-be-asked")
	w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory, Config: b.watched})
	b.fleet(w)
	kubeconfig := "KUBECONFIG=" + b.kubeconfig()
	d := w.Daemon(t, []string{kubeconfig})
	promotes(t, w, d, w.App.Head())
	promotes(t, w, d, paint(w, "blue"))
	d.Wait("it is said", patience, func() bool { return strings.Contains(d.Logs(), "Flux was not asked") })
	if code := d.Stop(); code != 0 || strings.Count(d.Logs(), "Flux was not asked") != 1 || !strings.Contains(d.Logs(), "deploy/") {
		t.Errorf("the daemon ended with %d\n%s", code, d.Logs())
	}
	checks(t, w, kubeconfig, "warning  flux of production: ask Flux to pull at once")
	cmd := w.Command(t.Context(), "status")
	cmd.Env = append(cmd.Env, kubeconfig)
	out, err := cmd.Output()
	if err != nil || !regexp.MustCompile(`(?m)^podinfo .* done .* -$`).Match(out) || strings.Count(string(out), "what Flux has applied is not known") != 1 {
		t.Errorf("status: %v\n%s", err, out)
	}
}

// TestCopiesTakeTurns: of two copies with a Lease one works; when it ends the
// other goes on at once.
func TestCopiesTakeTurns(t *testing.T) {
	t.Parallel()
	b := newBeside(t, "take-turns")
	b.create(b.resource("coordination.k8s.io", "v1", "leases"), "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: towpath}}")
	w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory, Config: func(_ *lab.World, config string) string {
		return config + "leaderElection: {enabled: true}\n"
	}})
	env := []string{"KUBECONFIG=" + b.kubeconfig(rbacv1.PolicyRule{
		APIGroups: []string{"coordination.k8s.io"}, Resources: []string{"leases"}, ResourceNames: []string{"towpath"}, Verbs: []string{"get", "watch", "update"},
	})}
	checks(t, w, env[0], "ok       leader election: Lease take-turns/towpath may be held")
	one := w.Daemon(t, env)
	commits := []string{w.App.Head()}
	promotes(t, w, one, commits[0])
	two := w.Daemon(t, append(env, "TOWPATH_CACHE="+filepath.Join(w.Dir, "cache2")))
	two.Wait("the second waits", patience, func() bool { return strings.Contains(two.Logs(), "another copy works") })
	commits = append(commits, paint(w, "blue"))
	promotes(t, w, one, commits[1])
	if strings.Contains(two.Logs(), "msg=round") {
		t.Errorf("the copy that waits has worked:\n%s", two.Logs())
	}

	handed := time.Now()
	if code := one.Stop(); code != 0 {
		t.Errorf("it ended with %d\n%s", code, one.Logs())
	}
	// Long before the Lease of one that died would run out.
	two.Wait("the second goes on", patience, func() bool { return strings.Contains(two.Logs(), "holds the Lease") })
	t.Logf("the other went on %s after SIGTERM", time.Since(handed))
	commits = append(commits, paint(w, "red"))
	promotes(t, w, two, commits[2])
	if code := two.Stop(); code != 0 {
		t.Errorf("it ended with %d\n%s", code, two.Logs())
	}
	if got := bumps(t, w); len(got) != len(commits) {
		t.Errorf("%d bumps for %d commits", len(got), len(commits))
	}
	intact(t, w)
}
