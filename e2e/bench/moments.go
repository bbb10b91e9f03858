package main

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
)

// moments is when things were first seen, by what they are.
type moments struct {
	mu   sync.Mutex
	seen map[string]time.Time
	told chan struct{} // closed at the next one
}

func newMoments() *moments {
	return &moments{seen: map[string]time.Time{}, told: make(chan struct{})}
}

func (m *moments) note(what string) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.seen[what]; !known {
		m.seen[what] = now
		close(m.told)
		m.told = make(chan struct{})
	}
}

// of waits for a moment.
func (m *moments) of(here *site, what string) time.Time {
	limit := time.After(patience)
	for {
		m.mu.Lock()
		at, known := m.seen[what]
		told := m.told
		m.mu.Unlock()
		if known {
			return at
		}
		select {
		case <-told:
		case <-limit:
			here.s.Fatalf("not within %s: %s\n%s", patience, what, here.logs())
		}
	}
}

// What moments are called.
func jobMade(commit string) string      { return "a Job of " + commit }
func publishEnded(commit string) string { return "the end of publish of " + commit }
func jobEnded(name string) string       { return "the end of Job " + name }
func applied(bump string) string        { return "Flux has applied " + bump }

// watchCluster takes note of what builds and Flux do, as the API server tells
// everybody who watches.
func (here *site) watchCluster() *moments {
	m := newMoments()
	client, err := dynamic.NewForConfig(here.Config)
	here.s.must(err)
	for _, of := range []struct {
		resource  schema.GroupVersionResource
		namespace string
		note      func(object *unstructured.Unstructured)
	}{
		{schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}, "", func(object *unstructured.Unstructured) {
			m.note(jobMade(object.GetAnnotations()["towpath.dev/commit"]))
			if succeeded, _, _ := unstructured.NestedInt64(object.Object, "status", "succeeded"); succeeded > 0 {
				m.note(jobEnded(object.GetName()))
			}
		}},
		{schema.GroupVersionResource{Version: "v1", Resource: "pods"}, buildsNamespace, func(object *unstructured.Unstructured) {
			containers, _, _ := unstructured.NestedSlice(object.Object, "status", "containerStatuses")
			for _, container := range containers {
				status, _ := container.(map[string]any)
				if _, ended, _ := unstructured.NestedMap(status, "state", "terminated"); ended && status["name"] == "publish" {
					m.note(publishEnded(object.GetAnnotations()["towpath.dev/commit"]))
				}
			}
		}},
		{schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}, fluxNamespace, func(object *unstructured.Unstructured) {
			revision, _, _ := unstructured.NestedString(object.Object, "status", "lastAppliedRevision")
			_, bump, _ := strings.Cut(revision, "sha1:")
			m.note(applied(bump))
		}},
	} {
		note := func(object any) {
			if object, ok := object.(*unstructured.Unstructured); ok {
				of.note(object)
			}
		}
		factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(client, 0, of.namespace, nil)
		informer := factory.ForResource(of.resource).Informer()
		_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: note, UpdateFunc: func(_, now any) { note(now) }})
		here.s.must(err)
		stop := make(chan struct{})
		here.s.Cleanup(sync.OnceFunc(func() { close(stop) }))
		factory.Start(stop)
		factory.WaitForCacheSync(stop)
	}
	return m
}

// pushes is what arrives at the registry, and when.
type pushes struct {
	mu  sync.Mutex
	all []arrival
}

// arrival is a request to the registry that was answered.
type arrival struct {
	method, path string
	began, ended time.Time
}

func (p *pushes) watch(w http.ResponseWriter, r *http.Request, next http.Handler) {
	it := arrival{method: r.Method, path: r.URL.Path, began: time.Now()}
	next.ServeHTTP(w, r)
	it.ended = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, it)
}

// of are the requests for a repository since a time, in the order of their ends.
func (p *pushes) of(repository string, since time.Time) []arrival {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(p.all), func(it arrival) bool {
		return it.began.Before(since) || !strings.HasPrefix(it.path, "/v2/"+repository+"/")
	})
}
