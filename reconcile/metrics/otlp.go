package metrics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// variables of OpenTelemetry that are read here; those of the exporters, the
// reader and the resource are read by OpenTelemetry's own packages.
const (
	varDisabled = "OTEL_SDK_DISABLED"
	varExporter = "OTEL_METRICS_EXPORTER"
	varEndpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"
	varProtocol = "OTEL_EXPORTER_OTLP_PROTOCOL"

	varMetricsEndpoint = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
	varMetricsProtocol = "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"
)

// Asked tells whether the environment asks for metrics: an endpoint is named,
// or the exporter otlp, and nothing says no.
func Asked() bool {
	if strings.EqualFold(os.Getenv(varDisabled), "true") {
		return false
	}
	if exporter := os.Getenv(varExporter); exporter != "" {
		return exporter != "none"
	}
	return os.Getenv(varEndpoint) != "" || os.Getenv(varMetricsEndpoint) != ""
}

// Pusher pushes what its Provider's instruments measure.
type Pusher struct {
	Provider *metric.MeterProvider
	errors   *faults
}

// Push makes a Pusher of what the environment says. What goes wrong later is
// logged once, see faults. Close ends it.
func Push(ctx context.Context, version, instance string, log *slog.Logger) (*Pusher, error) {
	if exporters := strings.Split(os.Getenv(varExporter), ","); exporters[0] != "" && !slices.Contains(exporters, "otlp") {
		return nil, fmt.Errorf("metrics: %s asks for %q: only otlp is pushed, and nothing listens", varExporter, strings.Join(exporters, ","))
	}
	if err := checkEndpoint(); err != nil {
		return nil, err
	}
	// The SDK has one of each for the whole process. What it logs may hold the
	// headers, and with them a credential: nobody is to see that.
	seen := &faults{log: log, told: map[string]bool{}}
	otel.SetLogger(logr.Discard())
	otel.SetErrorHandler(seen)

	exporter, err := newExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("metrics: the variables OTEL_EXPORTER_OTLP_… cannot be followed: %w", err)
	}
	about, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName("towpath"), semconv.ServiceVersion(version), semconv.ServiceInstanceID(instance)),
		resource.WithTelemetrySDK(), resource.WithFromEnv())
	if about == nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if err != nil {
		log.Warn("metrics: a part of what describes this process is left out", "error", "OTEL_RESOURCE_ATTRIBUTES is not key=value,…")
	}
	return &Pusher{metric.NewMeterProvider(
		metric.WithReader(metric.NewPeriodicReader(watched{exporter, seen})), metric.WithResource(about),
		// The bound is the config: an image's metrics end with the image.
		metric.WithCardinalityLimit(0),
	), seen}, nil
}

// Close pushes once more, as long as the context lasts, and ends.
func (p *Pusher) Close(ctx context.Context) {
	if err := p.Provider.Shutdown(ctx); err != nil {
		p.errors.Handle(err)
	}
}

// newExporter follows OTEL_EXPORTER_OTLP_PROTOCOL.
func newExporter(ctx context.Context) (metric.Exporter, error) {
	switch protocol := cmp.Or(os.Getenv(varMetricsProtocol), os.Getenv(varProtocol), "http/protobuf"); protocol {
	case "http/protobuf":
		return otlpmetrichttp.New(ctx)
	case "grpc":
		return otlpmetricgrpc.New(ctx)
	default:
		return nil, fmt.Errorf("protocol %q: it is http/protobuf or grpc", protocol)
	}
}

// checkEndpoint refuses what the exporters would take silently for their
// default, or for something else. The URL itself is not told: it may hold a
// credential.
func checkEndpoint() error {
	for _, name := range []string{varMetricsEndpoint, varEndpoint} {
		text := os.Getenv(name)
		if text == "" {
			continue
		}
		parsed, err := url.Parse(text)
		if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
			return fmt.Errorf("metrics: %s is no URL with http or https", name)
		}
		if parsed.User != nil {
			return fmt.Errorf("metrics: %s holds a credential, which is not sent: OTEL_EXPORTER_OTLP_HEADERS is for that", name)
		}
		return nil
	}
	return nil
}

// faults logs what goes wrong: of an outage, during which no push succeeds, its
// first error and its end, whatever the others say; of anything else each error
// once.
type faults struct {
	log *slog.Logger

	mu     sync.Mutex
	outage bool // the last push failed
	said   bool // and that was logged
	told   map[string]bool
}

// maxTold bounds the errors that are remembered: what varies without end is not
// worth a line each.
const maxTold = 16

// watched tells faults how each push went.
type watched struct {
	metric.Exporter
	faults *faults
}

func (w watched) Export(ctx context.Context, measured *metricdata.ResourceMetrics) error {
	err := w.Exporter.Export(ctx, measured)
	if !errors.Is(err, context.Canceled) {
		w.faults.pushed(err == nil)
	}
	return err
}

func (h *faults) pushed(well bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if well && h.said {
		h.log.Info("metrics are pushed again")
	}
	h.outage, h.said = !well, h.said && !well
}

// Handle implements otel.ErrorHandler.
func (h *faults) Handle(err error) {
	if errors.Is(err, context.Canceled) {
		return // a push that Close cut short, and makes anew
	}
	text := err.Error()
	var where *url.Error
	if errors.As(err, &where) {
		text = where.Err.Error()
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.outage && h.said, !h.outage && (h.told[text] || len(h.told) == maxTold):
		return
	case h.outage:
		h.said = true
	default:
		h.told[text] = true
	}
	h.log.Warn("metrics were not pushed", "error", text)
}
