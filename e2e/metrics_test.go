package e2e

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"

	"towpath.dev/towpath/e2e/lab"
)

// TestMetricsArePushed: the daemon pushes to a collector what it measured, while
// it works and when it ends; the credential for the collector is in no log.
func TestMetricsArePushed(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string]string{"headers as they should be": "authorization=Bearer%20canary-4711", "headers that cannot be read": "canary-4711,a=b"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sent := &names{seen: map[string]bool{}}
			server := httptest.NewServer(lab.Collector(sent.take))
			defer server.Close()
			w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory})
			d := w.Daemon(t, []string{
				"OTEL_EXPORTER_OTLP_ENDPOINT=" + server.URL, "OTEL_EXPORTER_OTLP_HEADERS=" + headers, "OTEL_METRIC_EXPORT_INTERVAL=200",
			}, "--log-level", "debug")
			promotes(t, w, d, w.App.Head())
			want := []string{"towpath.build.duration", "towpath.image.behind", "towpath.promotion.duration", "towpath.source.last_poll"}
			d.Wait("the collector has all of it", patience, func() bool { return slices.Equal(sent.sorted(), want) })
			if code := d.Stop(); code != 0 {
				t.Errorf("the daemon ended with %d", code)
			}
			if strings.Contains(d.Logs(), "canary") {
				t.Errorf("the collector's credential was logged:\n%s", d.Logs())
			}
		})
	}
}

// names of metrics that a collector was sent.
type names struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (n *names) sorted() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Sorted(maps.Keys(n.seen))
}

func (n *names) take(sent *collector.ExportMetricsServiceRequest, _ http.Header) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, resource := range sent.ResourceMetrics {
		for _, scope := range resource.ScopeMetrics {
			for _, m := range scope.Metrics {
				n.seen[m.Name] = true
			}
		}
	}
}
