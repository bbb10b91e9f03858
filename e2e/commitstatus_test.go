//go:build cluster

package e2e

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"towpath.dev/towpath/e2e/lab"
)

// forge takes commit statuses as Gitea does.
type forge struct {
	*httptest.Server
	mu       sync.Mutex
	statuses []forgeStatus
}

type forgeStatus struct{ Commit, State, Context, Description string }

func newForge(t *testing.T) *forge {
	f := &forge{}
	routes := http.NewServeMux()
	routes.HandleFunc("GET /api/v1/version", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"version": "1.24.0"}`)) })
	routes.HandleFunc("GET /api/v1/repos/apps/podinfo/commits/{commit}/statuses", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		found := []map[string]string{}
		for i := len(f.statuses) - 1; i >= 0; i-- {
			if s := f.statuses[i]; s.Commit == r.PathValue("commit") {
				found = append(found, map[string]string{"status": s.State, "context": s.Context, "description": s.Description})
			}
		}
		_ = json.NewEncoder(w).Encode(found)
	})
	routes.HandleFunc("POST /api/v1/repos/apps/podinfo/statuses/{commit}", func(w http.ResponseWriter, r *http.Request) {
		s := forgeStatus{Commit: r.PathValue("commit")}
		if err := json.NewDecoder(r.Body).Decode(&s); err != nil || r.Header.Get("Authorization") != "token of-the-forge" {
			t.Errorf("a status: %v, authorization %q", err, r.Header.Get("Authorization"))
		}
		f.mu.Lock()
		f.statuses = append(f.statuses, s)
		f.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte("{}"))
	})
	routes.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("the forge was asked for %s %s", r.Method, r.URL)
		http.NotFound(w, r)
	})
	f.Server = httptest.NewServer(routes)
	t.Cleanup(f.Close)
	return f
}

func (f *forge) has(s forgeStatus) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range f.statuses {
		if one == s {
			return true
		}
	}
	return false
}

// documented makes the objects that docs/events.md shows, for this forge in place
// of another, and lets the API server judge the others.
func (b *beside) documented(f *forge) {
	b.t.Helper()
	text, err := os.ReadFile("../docs/events.md")
	if err != nil {
		b.t.Fatal(err)
	}
	kinds := map[string]string{"Provider": "providers", "Alert": "alerts"}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 2 {
		b.t.Fatalf("docs/events.md has %d examples", len(blocks))
	}
	for i, block := range blocks {
		for _, part := range strings.Split(block[1], "---\n") {
			var object unstructured.Unstructured
			if err := yaml.UnmarshalStrict([]byte(part), &object.Object); err != nil {
				b.t.Fatalf("%v in\n%s", err, part)
			}
			object.SetNamespace(b.namespace)
			spec := object.Object["spec"].(map[string]any)
			how := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
			switch {
			case i > 0:
				how.DryRun = []string{metav1.DryRunAll}
			case object.GetKind() == "Provider":
				spec["type"], spec["address"], spec["secretRef"] = "gitea", f.URL+"/apps/podinfo.git", map[string]any{"name": "forge"}
			case object.GetKind() == "Alert":
				spec["eventSources"].([]any)[0].(map[string]any)["name"] = "fleet"
			}
			if _, err := b.resource("notification.toolkit.fluxcd.io", "v1beta3", kinds[object.GetKind()]).Create(b.t.Context(), &object, how); err != nil {
				b.t.Fatalf("%v in\n%s", err, part)
			}
		}
	}
}

// TestABuildThatFailsIsSeenOnItsCommit: notification-controller, the real one,
// sets a status on the application's commits, and no other part holds the
// forge's token.
func TestABuildThatFailsIsSeenOnItsCommit(t *testing.T) {
	t.Parallel()
	b := newBeside(t, "commit-status")
	lab.FluxDefinitions(t, b.admin, "notification")
	f := newForge(t)
	address := freeAddress(t)
	w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory, Config: func(w *lab.World, config string) string {
		return b.watched(w, config) + "events: {address: \"http://" + address + "/\"}\n"
	}})
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "forge"}, StringData: map[string]string{"token": "of-the-forge"}}
	if _, err := kubernetes.NewForConfigOrDie(b.admin).CoreV1().Secrets(b.namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.documented(f)
	b.controller("notification-controller", "--events-addr="+address, "--receiverAddr=127.0.0.1:0")

	d := w.Daemon(t, nil) // no KUBECONFIG: events need no right
	first := w.App.Head()
	promotes(t, w, d, first)
	const context = "towpath/podinfo"
	d.Wait("the first commit is promoted, says the forge", patience, func() bool {
		return f.has(forgeStatus{first, "success", context, "promoted"})
	})
	w.App.Commit(lab.Commit{Message: "Break the build", Files: map[string]string{"Dockerfile": "FROM " + w.Base + "\nRUN echo it cannot be; exit 3\n"}})
	w.App.Push("HEAD:master")
	broken := w.App.Head()
	d.Wait("the second does not build, says the forge", patience, func() bool {
		return f.has(forgeStatus{broken, "failure", context, "build failed"})
	})
	w.App.Git("revert", "--no-edit", "HEAD")
	mended := paint(w, "blue")
	promotes(t, w, d, mended)
	d.Wait("the third is promoted, says the forge", patience, func() bool {
		return f.has(forgeStatus{mended, "success", context, "promoted"})
	})
	if code := d.Stop(); code != 0 || strings.Contains(d.Logs(), "not told") {
		t.Errorf("the daemon ended with %d\n%s", code, d.Logs())
	}
	allowed := map[forgeStatus]bool{
		{first, "success", context, "image built"}: true, {first, "success", context, "promoted"}: true,
		{broken, "failure", context, "build failed"}: true,
		{mended, "success", context, "image built"}:  true, {mended, "success", context, "promoted"}: true,
	}
	seen := map[forgeStatus]int{}
	for _, s := range f.statuses {
		if seen[s]++; !allowed[s] || seen[s] > 1 {
			t.Errorf("the forge was told %+v, %d times", s, seen[s])
		}
	}
}
