package e2e

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/protobuf/proto"

	"towpath.dev/towpath/e2e/lab"
)

// TestMetricsArePushed: the daemon pushes to a collector what it measured, while
// it works and when it ends; the credential for the collector is in no log.
func TestMetricsArePushed(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string]string{"headers as they should be": "authorization=Bearer%20canary-4711", "headers that cannot be read": "canary-4711,a=b"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &otlpReceiver{names: map[string]bool{}}
			server := httptest.NewServer(c)
			defer server.Close()
			w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory})
			d := w.Daemon(t, []string{
				"OTEL_EXPORTER_OTLP_ENDPOINT=" + server.URL, "OTEL_EXPORTER_OTLP_HEADERS=" + headers, "OTEL_METRIC_EXPORT_INTERVAL=200",
			}, "--log-level", "debug")
			promotes(t, w, d, w.App.Head())
			want := []string{"towpath.build.duration", "towpath.image.behind", "towpath.promotion.duration", "towpath.source.last_poll"}
			d.Wait("the collector has all of it", 30*time.Second, func() bool { return slices.Equal(c.seen(), want) })
			if code := d.Stop(); code != 0 {
				t.Errorf("the daemon ended with %d", code)
			}
			if strings.Contains(d.Logs(), "canary") {
				t.Errorf("the collector's credential was logged:\n%s", d.Logs())
			}
		})
	}
}

// otlpReceiver takes metrics by OTLP over HTTP, and notes their names.
type otlpReceiver struct {
	mu    sync.Mutex
	names map[string]bool
}

func (c *otlpReceiver) seen() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for name := range c.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (c *otlpReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unpacked
	}
	content, err := io.ReadAll(body)
	var sent collector.ExportMetricsServiceRequest
	if err == nil {
		err = proto.Unmarshal(content, &sent)
	}
	if err != nil || r.URL.Path != "/v1/metrics" {
		http.Error(w, "no metrics", http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range sent.ResourceMetrics {
		for _, scope := range resource.ScopeMetrics {
			for _, m := range scope.Metrics {
				c.names[m.Name] = true
			}
		}
	}
}
