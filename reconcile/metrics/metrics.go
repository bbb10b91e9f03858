// Package metrics counts and measures what becomes of images, and pushes that
// by OTLP where OpenTelemetry's standard variables ask for it.
//
// Everything is made of the Outcomes of rounds. Names follow OpenTelemetry's
// conventions: what is Towpath's own begins with towpath, units are UCUM's, and
// attributes that the conventions have are theirs. docs/metrics.md lists them.
//
// Nothing listens, nothing waits: a collector that is away costs a log line.
// Headers and endpoints, which may hold credentials, are never logged.
package metrics

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"towpath.dev/towpath/reconcile"
)

// Attributes that are Towpath's own.
const (
	keyImage  = attribute.Key("towpath.image")
	keyTarget = attribute.Key("towpath.target")
	keyState  = attribute.Key("towpath.state") // a reconcile.State
)

// scope names the instruments' library.
const scope = "towpath.dev/towpath"

// Recorder takes outcomes in. It is safe for concurrent use.
type Recorder struct {
	known func(image, target string) bool

	build, promote metric.Float64Histogram
	failures       metric.Int64Counter

	mu         sync.Mutex
	deliveries map[delivery]*standing
	builds     map[string]time.Time // by image: the build that was measured last
	leading    *bool
}

// delivery is one image on its way to one target.
type delivery struct{ image, target string }

// standing is how a delivery was found last.
type standing struct {
	state  reconcile.State
	commit string
	source string
	polled time.Time // when its source was read last; zero: not yet
	frozen time.Time // since when it stands still; zero: it does not
	behind int
}

// Buckets in seconds: builds take from some seconds to an hour, promotions from
// some milliseconds to what a slow server takes.
var (
	buildBuckets   = []float64{1, 2, 5, 10, 20, 30, 60, 120, 180, 300, 600, 900, 1800, 3600}
	promoteBuckets = []float64{0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60}
)

// New makes a Recorder of a provider. known tells which images and targets the
// config has: what it has no more is reported no more. The past is what the
// history has of earlier rounds, oldest first, so that a restart forgets neither
// when a source was read nor since when an image stands still.
func New(provider metric.MeterProvider, version string, known func(image, target string) bool, past []reconcile.Outcome) (*Recorder, error) {
	r := &Recorder{known: known, deliveries: map[delivery]*standing{}, builds: map[string]time.Time{}}
	meter := provider.Meter(scope, metric.WithInstrumentationVersion(version), metric.WithSchemaURL(semconv.SchemaURL))
	var err error
	fail := func(e error) {
		if err == nil && e != nil {
			err = fmt.Errorf("metrics: %w", e)
		}
	}
	var e error
	r.build, e = meter.Float64Histogram("towpath.build.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to build an image and push it"), metric.WithExplicitBucketBoundaries(buildBuckets...))
	fail(e)
	r.promote, e = meter.Float64Histogram("towpath.promotion.duration", metric.WithUnit("s"),
		metric.WithDescription("Time to commit and push a bump, until it was read back"), metric.WithExplicitBucketBoundaries(promoteBuckets...))
	fail(e)
	r.failures, e = meter.Int64Counter("towpath.failures", metric.WithUnit("{failure}"),
		metric.WithDescription("What went wrong, by kind"))
	fail(e)
	poll, e := meter.Float64ObservableGauge("towpath.source.last_poll", metric.WithUnit("s"),
		metric.WithDescription("Unix time at which a source was last read well"))
	fail(e)
	frozen, e := meter.Float64ObservableGauge("towpath.image.frozen_since", metric.WithUnit("s"),
		metric.WithDescription("Unix time since when an image stands still; absent while it does not"))
	fail(e)
	behind, e := meter.Int64ObservableGauge("towpath.image.behind", metric.WithUnit("{commit}"),
		metric.WithDescription("Commits of the source branch that follow the one promoted or proposed last"))
	fail(e)
	leader, e := meter.Int64ObservableGauge("towpath.leader", metric.WithUnit("1"),
		metric.WithDescription("1 where this copy holds the Lease, 0 where it waits; absent without leader election"))
	fail(e)
	if err != nil {
		return nil, err
	}
	for _, o := range past {
		r.take(o)
	}
	_, e = meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		r.observe(to, poll, frozen, behind, leader)
		return nil
	}, poll, frozen, behind, leader)
	fail(e)
	return r, err
}

// Report takes an outcome in. It never waits.
func (r *Recorder) Report(o reconcile.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	image, target := keyImage.String(o.Image), keyTarget.String(o.Target)
	failure := failureOf(o)
	// Deliveries of one image share a build.
	if o.Build != nil && !o.Build.Started.Equal(r.builds[o.Image]) {
		r.builds[o.Image] = o.Build.Started
		attributes := []attribute.KeyValue{image}
		if o.Ref == "" {
			attributes = append(attributes, semconv.ErrorTypeKey.String(failure))
		}
		r.build.Record(context.Background(), o.Build.Took().Seconds(), metric.WithAttributes(attributes...))
	}
	if o.Promote != nil {
		attributes := []attribute.KeyValue{target}
		if failure != "" {
			attributes = append(attributes, semconv.ErrorTypeKey.String(failure))
		}
		r.promote.Record(context.Background(), o.Promote.Took().Seconds(), metric.WithAttributes(attributes...))
	}
	before := r.take(o)
	// What is tried again fails anew each time; the rest stands as it is.
	news := o.State == reconcile.Failed || before.state != o.State || before.commit != o.Commit
	if failure != "" && news {
		r.failures.Add(context.Background(), 1, metric.WithAttributes(image, target, semconv.ErrorTypeKey.String(failure)))
	}
}

// Leading tells whether this copy holds the Lease.
func (r *Recorder) Leading(leads bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leading = &leads
}

// take remembers an outcome and returns how things stood before.
func (r *Recorder) take(o reconcile.Outcome) standing {
	d := delivery{o.Image, o.Target}
	s := r.deliveries[d]
	if s == nil {
		s = &standing{}
		r.deliveries[d] = s
	}
	before := *s
	if o.State == reconcile.Outdated {
		return before // decided anew at once
	}
	s.state, s.commit = o.State, o.Commit
	if o.Source != "" {
		s.source = o.Source
	}
	if o.Head != "" {
		s.polled, s.behind = o.Time, o.Behind
	}
	switch {
	case !standsStill(o):
		s.frozen = time.Time{}
	case s.frozen.IsZero():
		s.frozen = o.Time
	}
	return before
}

// standsStill: the newest commit is not where it should be, and will not be
// before something else happens.
func standsStill(o reconcile.Outcome) bool {
	switch o.State {
	case reconcile.Held, reconcile.Behind, reconcile.Suspended:
		return true
	}
	return !o.OK() || len(o.Refused) > 0
}

// failureOf is the kind of a failure, for error.type; empty: it is none.
func failureOf(o reconcile.Outcome) string {
	switch o.State {
	case reconcile.Failed:
		return o.Step
	case reconcile.Faulty, reconcile.Broken, reconcile.Refused:
		return string(o.State)
	}
	return ""
}

func (r *Recorder) observe(to metric.Observer, poll, frozen metric.Float64Observable, behind, leader metric.Int64Observable) {
	r.mu.Lock()
	defer r.mu.Unlock()
	polls := map[string]time.Time{}
	for d, s := range r.deliveries {
		if !r.known(d.image, d.target) {
			delete(r.deliveries, d)
			continue
		}
		image, target := keyImage.String(d.image), keyTarget.String(d.target)
		if s.polled.After(polls[s.source]) {
			polls[s.source] = s.polled
		}
		if !s.polled.IsZero() {
			to.ObserveInt64(behind, int64(s.behind), metric.WithAttributes(image, target))
		}
		if !s.frozen.IsZero() {
			to.ObserveFloat64(frozen, unix(s.frozen), metric.WithAttributes(image, target, keyState.String(string(s.state))))
		}
	}
	for source, when := range polls {
		to.ObserveFloat64(poll, unix(when), metric.WithAttributes(semconv.VCSRepositoryURLFull(source)))
	}
	if r.leading != nil {
		value := int64(0)
		if *r.leading {
			value = 1
		}
		to.ObserveInt64(leader, value)
	}
}

// unix is a time in seconds since 1970.
func unix(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
