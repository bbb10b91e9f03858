package job_test

import (
	"context"
	"net/http"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

// watches knows the watches that a client has begun.
type watches struct {
	mu   sync.Mutex
	open []context.Context
}

func (w *watches) of(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Query().Get("watch") != "" {
				w.mu.Lock()
				w.open = append(w.open, r.Context())
				w.mu.Unlock()
			}
			return next.RoundTrip(r)
		})
	})
	return config
}

type roundTripper func(*http.Request) (*http.Response, error)

func (r roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return r(request) }

// last is how many watches have not ended, of how many that were begun.
func (w *watches) last() (open, begun int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range w.open {
		if one.Err() == nil {
			open++
		}
	}
	return open, len(w.open)
}

// TestRetire: a builder whose place another has taken watches no longer than its
// last build needs it.
func TestRetire(t *testing.T) {
	t.Parallel()
	for name, working := range map[string]bool{"at rest": false, "at work": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, s, what := world(t)
			seen := &watches{}
			b := builder(t, seen.of(daemon(t, s.Namespace)), s)
			done := run(t.Context(), b, what)
			live := cluster.made(what.Order)
			if working {
				b.Retire()
				<-cluster.quiet()
			}
			cluster.succeed(cluster.pod(live, nil), digest("d"))
			if o := result(t, done); o.err != nil || o.built.Digest != digest("d") {
				t.Fatalf("got %+v, %v", o.built, o.err)
			}
			if !working {
				if open, _ := seen.last(); open == 0 {
					t.Error("nothing is watched although the next build would need it")
				}
				b.Retire()
			}
			eventually(t, "the end of the watches", func() bool {
				open, begun := seen.last()
				return open == 0 && begun > 1
			})
		})
	}
}
