package main

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops/flux"
	"towpath.dev/towpath/reconcile"
)

// patches counts what is asked of the API server.
type patches struct {
	next http.RoundTripper
	mu   sync.Mutex
	n    int
	read int // GitRepositories
}

func (p *patches) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPatch {
		p.mu.Lock()
		p.n++
		p.mu.Unlock()
	} else {
		p.mu.Lock()
		p.read++
		p.mu.Unlock()
	}
	return p.next.RoundTrip(r)
}

func (p *patches) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// newNudged are nudges of GitRepository fleet in a namespace of a real API
// server, for every target but "elsewhere".
func newNudged(t *testing.T, namespace string, log *slog.Logger) (*nudges, *patches) {
	t.Helper()
	config := lab.ControlPlane(t)
	lab.FluxDefinitions(t, config, "source")
	if _, err := kubernetes.NewForConfigOrDie(config).CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	repository := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository", "metadata": map[string]any{"name": "fleet"},
		"spec": map[string]any{"interval": "1h", "url": "https://git.example.com/fleet.git"},
	}}
	of := schema.GroupVersionResource{Group: "source.toolkit.fluxcd.io", Version: "v1", Resource: "gitrepositories"}
	if _, err := dynamic.NewForConfigOrDie(config).Resource(of).Namespace(namespace).Create(t.Context(), repository, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	counted := &patches{}
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		counted.next = next
		return counted
	})
	client, err := flux.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return newNudges(log, client, func(target string) (types.NamespacedName, bool) {
		switch target {
		case "elsewhere":
			return types.NamespacedName{}, false
		case "gone":
			return types.NamespacedName{Namespace: namespace, Name: "gone"}, true
		}
		return types.NamespacedName{Namespace: namespace, Name: "fleet"}, true
	}), counted
}

// settle waits for what is under way.
func settle(t *testing.T, n *nudges) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	n.close(ctx)
	if ctx.Err() != nil {
		t.Fatal("a nudge did not end")
	}
}

func promoted(image, target, pushed string) reconcile.Outcome {
	return reconcile.Outcome{Image: image, Target: target, State: reconcile.Promoted, Branch: "main", Pushed: pushed}
}

func TestOneNudgeForEachPush(t *testing.T) {
	t.Parallel()
	n, asked := newNudged(t, "one-nudge", slog.New(slog.DiscardHandler))
	for _, step := range []struct {
		what     string
		outcomes []reconcile.Outcome
		want     int
	}{
		{"three images in one push", []reconcile.Outcome{promoted("a", "production", "1"), promoted("b", "production", "1"), promoted("c", "production", "1")}, 1},
		{"what was not pushed to Flux's branch", []reconcile.Outcome{{Image: "a", Target: "production", State: reconcile.Done}, {Image: "a", Target: "production", State: reconcile.Promoted, Branch: "towpath/a"}}, 1},
		{"the next push", []reconcile.Outcome{promoted("a", "production", "2")}, 2},
		{"a target that Flux does not watch", []reconcile.Outcome{promoted("a", "elsewhere", "3")}, 2},
		{"another target", []reconcile.Outcome{promoted("a", "staging", "2")}, 3},
	} {
		for _, o := range step.outcomes {
			n.report(t.Context(), o)
		}
		settle(t, n)
		if got := asked.count(); got != step.want {
			t.Errorf("after %s: %d nudges, want %d", step.what, got, step.want)
		}
	}
}

// TestANudgeThatIsRefusedIsToldOnce, and is not tried again for the same push.
func TestANudgeThatIsRefusedIsToldOnce(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	n, asked := newNudged(t, "refused-once", slog.New(slog.NewTextHandler(&log, nil)))
	for _, pushed := range []string{"1", "2", "3"} {
		n.report(t.Context(), promoted("a", "gone", pushed))
		settle(t, n)
	}
	if asked.count() != 3 || strings.Count(log.String(), "level=WARN") != 1 || !strings.Contains(log.String(), "gitops[].flux.gitRepository") {
		t.Errorf("%d nudges, logged:\n%s", asked.count(), log.String())
	}
}

// TestANudgeOutlivesTheSignal: the push is done, and Flux is asked even if the
// process is to end.
func TestANudgeOutlivesTheSignal(t *testing.T) {
	t.Parallel()
	n, asked := newNudged(t, "outlives", slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n.report(ctx, promoted("a", "production", "1"))
	settle(t, n)
	if asked.count() != 1 {
		t.Errorf("%d nudges", asked.count())
	}
}

// TestWhatNobodyAskedForIsMadeUpFor: a process that begins asks Flux for what is
// promoted and not fetched yet, once, and asks nothing where it is.
func TestWhatNobodyAskedForIsMadeUpFor(t *testing.T) {
	t.Parallel()
	fetched, pushed := strings.Repeat("a", 40), strings.Repeat("b", 40)
	done := func(image, tip string) reconcile.Outcome {
		return reconcile.Outcome{Image: image, Target: "production", State: reconcile.Done, Tip: tip}
	}
	for name, test := range map[string]struct {
		outcomes []reconcile.Outcome
		want     int
	}{
		"fetched":            {[]reconcile.Outcome{done("a", fetched), done("b", fetched)}, 0},
		"not fetched":        {[]reconcile.Outcome{done("a", pushed), done("b", pushed), done("a", pushed)}, 1},
		"nothing promoted":   {[]reconcile.Outcome{done("a", ""), done("b", "")}, 0},
		"promoted meanwhile": {[]reconcile.Outcome{promoted("a", "production", pushed), done("b", pushed)}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			namespace := "made-up-for-" + strings.ReplaceAll(name, " ", "-")
			n, asked := newNudged(t, namespace, slog.New(slog.DiscardHandler))
			objects := dynamic.NewForConfigOrDie(lab.ControlPlane(t)).Resource(schema.GroupVersionResource{Group: "source.toolkit.fluxcd.io", Version: "v1", Resource: "gitrepositories"}).Namespace(namespace)
			repository, err := objects.Get(t.Context(), "fleet", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			repository.Object["status"] = map[string]any{"artifact": map[string]any{
				"revision": "main@sha1:" + fetched, "path": "p", "url": "http://source-controller/p", "digest": "sha256:" + strings.Repeat("0", 64), "lastUpdateTime": "2026-01-01T00:00:00Z",
			}}
			if _, err := objects.UpdateStatus(t.Context(), repository, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			for _, o := range test.outcomes {
				n.report(t.Context(), o)
				settle(t, n)
			}
			if asked.count() != test.want || asked.read > 1 {
				t.Errorf("%d nudges and %d readings, want %d and at most 1", asked.count(), asked.read, test.want)
			}
		})
	}
}
