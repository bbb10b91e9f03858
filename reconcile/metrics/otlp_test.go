package metrics

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	otlp "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/reconcile"
)

// Tests that set variables of the environment run one by one.

const secret = "Bearer%20canary-4711"

// received is what a collector was sent.
type received struct {
	collector.UnimplementedMetricsServiceServer
	mu       sync.Mutex
	requests []*collector.ExportMetricsServiceRequest
	header   string // authorization
}

// Export implements the gRPC service.
func (r *received) Export(ctx context.Context, request *collector.ExportMetricsServiceRequest) (*collector.ExportMetricsServiceResponse, error) {
	sent, _ := metadata.FromIncomingContext(ctx)
	r.take(request, strings.Join(sent.Get("authorization"), ","))
	return &collector.ExportMetricsServiceResponse{}, nil
}

func (r *received) take(request *collector.ExportMetricsServiceRequest, header string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests, r.header = append(r.requests, request), header
}

// http is the same over HTTP.
func (r *received) http() http.Handler {
	return lab.Collector(func(request *collector.ExportMetricsServiceRequest, header http.Header) {
		r.take(request, header.Get("Authorization"))
	})
}

// push records a round and ends, which pushes.
func push(t *testing.T) (logged string) {
	t.Helper()
	var log strings.Builder
	pusher, err := Push(t.Context(), "v1.2.3", "towpath-0", slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(pusher.Provider, "v1.2.3", all, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Leading(true)
	r.Report(round(0, reconcile.Promoted, one, built, took(time.Minute, time.Second)))
	r.Report(round(1, reconcile.Faulty, two, behind(2)))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	pusher.Close(ctx)
	return log.String()
}

// check decodes what a collector was sent.
func (r *received) check(t *testing.T, logged string) {
	t.Helper()
	if len(r.requests) == 0 {
		t.Fatalf("nothing was pushed; logged:\n%s", logged)
	}
	if r.header != "Bearer canary-4711" {
		t.Errorf("authorization %q", r.header)
	}
	if logged != "" {
		t.Errorf("logged:\n%s", logged)
	}
	sent := r.requests[len(r.requests)-1].ResourceMetrics[0]
	about := map[string]string{}
	for _, attribute := range sent.Resource.Attributes {
		about[attribute.Key] = attribute.Value.GetStringValue()
	}
	for key, want := range map[string]string{
		"service.name": "towpath-of-the-test", "service.version": "v1.2.3", "service.instance.id": "towpath-0",
		"deployment.environment.name": "test", "telemetry.sdk.language": "go",
	} {
		if about[key] != want {
			t.Errorf("resource: %s is %q, want %q", key, about[key], want)
		}
	}
	units := map[string]string{}
	for _, m := range sent.ScopeMetrics[0].Metrics {
		units[m.Name] = m.Unit
		switch m.Name {
		case "towpath.build.duration":
			p := m.GetHistogram().DataPoints[0]
			if p.GetSum() != 60 || p.Count != 1 || m.GetHistogram().AggregationTemporality != otlp.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE {
				t.Errorf("%s: %v", m.Name, m)
			}
		case "towpath.failures":
			if p := m.GetSum().DataPoints[0]; p.GetAsInt() != 1 || !m.GetSum().IsMonotonic {
				t.Errorf("%s: %v", m.Name, m)
			}
		case "towpath.leader":
			if m.GetGauge().DataPoints[0].GetAsInt() != 1 {
				t.Errorf("%s: %v", m.Name, m)
			}
		case "towpath.image.frozen_since":
			if got := m.GetGauge().DataPoints[0].GetAsDouble(); got != unix(start.Add(time.Minute)) {
				t.Errorf("%s: %v", m.Name, got)
			}
		}
	}
	for name, unit := range map[string]string{
		"towpath.source.last_poll": "s", "towpath.image.frozen_since": "s", "towpath.image.behind": "{commit}", "towpath.build.duration": "s",
		"towpath.promotion.duration": "s", "towpath.failures": "{failure}", "towpath.leader": "1",
	} {
		if got, ok := units[name]; !ok || got != unit {
			t.Errorf("%s has unit %q, want %q", name, got, unit)
		}
	}
}

func setenv(t *testing.T, variables map[string]string) {
	t.Helper()
	for _, name := range []string{varDisabled, varExporter, varEndpoint, varProtocol, varMetricsEndpoint, varMetricsProtocol, "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"} {
		t.Setenv(name, variables[name])
	}
}

func TestPushedOverHTTP(t *testing.T) {
	for name, path := range map[string]string{varEndpoint: "", varMetricsEndpoint: "/v1/metrics"} {
		t.Run(name, func(t *testing.T) {
			r := &received{}
			server := httptest.NewServer(r.http())
			defer server.Close()
			setenv(t, map[string]string{
				name: server.URL + path, "OTEL_EXPORTER_OTLP_HEADERS": "authorization=" + secret,
				"OTEL_SERVICE_NAME": "towpath-of-the-test", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
			})
			if !Asked() {
				t.Fatal("the environment does not ask for metrics")
			}
			r.check(t, push(t))
		})
	}
}

func TestPushedOverGRPC(t *testing.T) {
	r := &received{}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterMetricsServiceServer(server, r)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	setenv(t, map[string]string{
		varEndpoint: "http://" + listener.Addr().String(), varProtocol: "grpc", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=" + secret,
		"OTEL_SERVICE_NAME": "towpath-of-the-test", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
	})
	r.check(t, push(t))
}

// TestWhatFailsIsLoggedWithoutSecrets: a collector that refuses, and headers
// that cannot be read.
func TestWhatFailsIsLoggedWithoutSecrets(t *testing.T) {
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "who are you?", http.StatusUnauthorized)
	}))
	defer refuses.Close()
	for name, headers := range map[string]string{
		"refused": "authorization=" + secret, "without =": secret, "bad name": "author ization=" + secret, "bad value": "a=b,authorization=%zz" + secret,
	} {
		t.Run(name, func(t *testing.T) {
			setenv(t, map[string]string{varEndpoint: refuses.URL, "OTEL_EXPORTER_OTLP_HEADERS": headers})
			logged := push(t)
			if strings.Contains(logged, "canary") {
				t.Errorf("the secret was logged:\n%s", logged)
			}
			if strings.Count(logged, "level=WARN") != 1 || !strings.Contains(logged, "401") {
				t.Errorf("logged:\n%s", logged)
			}
		})
	}
}

// TestACollectorThatIsAwayIsToldOnce: each push fails, in turn for one reason and
// another, and the log has a line; and one when a push succeeds again. The next
// time is another.
func TestACollectorThatIsAwayIsToldOnce(t *testing.T) {
	const pushes = 8 // the first four fail, one succeeds, the others fail
	tries, n := make(chan struct{}, 100), 0
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n++; n != 5 {
			http.Error(w, "no", []int{http.StatusForbidden, http.StatusBadRequest}[n%2])
		}
		select {
		case tries <- struct{}{}:
		default:
		}
	}))
	defer refuses.Close()
	setenv(t, map[string]string{varEndpoint: refuses.URL})
	t.Setenv("OTEL_METRIC_EXPORT_INTERVAL", "10") // milliseconds
	var log strings.Builder
	pusher, err := Push(t.Context(), "v1", "x", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(pusher.Provider, "v1", all, []reconcile.Outcome{round(0, reconcile.Done, one)}); err != nil {
		t.Fatal(err)
	}
	for range pushes {
		<-tries
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	pusher.Close(ctx)
	if strings.Count(log.String(), "level=WARN") != 2 || strings.Count(log.String(), "level=INFO") != 1 || !strings.Contains(log.String(), "pushed again") {
		t.Errorf("logged:\n%s", log.String())
	}
}

func TestAsked(t *testing.T) {
	for name, c := range map[string]struct {
		variables map[string]string
		asked     bool
		err       string // of Push, where it is asked
	}{
		"nothing said":      {nil, false, ""},
		"an endpoint":       {map[string]string{varEndpoint: "http://127.0.0.1:1"}, true, ""},
		"of metrics":        {map[string]string{varMetricsEndpoint: "http://127.0.0.1:1/x"}, true, ""},
		"otlp":              {map[string]string{varExporter: "otlp"}, true, ""},
		"otlp and others":   {map[string]string{varExporter: "console,otlp"}, true, ""},
		"none":              {map[string]string{varExporter: "none", varEndpoint: "http://127.0.0.1:1"}, false, ""},
		"disabled":          {map[string]string{varDisabled: "true", varExporter: "otlp", varEndpoint: "http://127.0.0.1:1"}, false, ""},
		"what would listen": {map[string]string{varExporter: "prometheus"}, true, "nothing listens"},
		"no protocol":       {map[string]string{varEndpoint: "http://127.0.0.1:1", varProtocol: "http/json"}, true, "http/protobuf or grpc"},
		"no URL":            {map[string]string{varEndpoint: "collector:4317"}, true, "no URL"},
		"a credential":      {map[string]string{varEndpoint: "https://user:canary-4711@collector:4318"}, true, "OTEL_EXPORTER_OTLP_HEADERS"},
	} {
		t.Run(name, func(t *testing.T) {
			setenv(t, c.variables)
			if Asked() != c.asked {
				t.Fatalf("asked: %v", !c.asked)
			}
			if !c.asked {
				return
			}
			pusher, err := Push(t.Context(), "v1", "x", slog.New(slog.DiscardHandler))
			switch {
			case c.err == "" && err != nil:
				t.Error(err)
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "canary")):
				t.Errorf("error %v, want one with %q", err, c.err)
			}
			if pusher != nil {
				ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
				defer cancel()
				pusher.Close(ctx)
			}
		})
	}
}
