package metrics

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"towpath.dev/towpath/reconcile"
)

const (
	one    = "1111111111111111111111111111111111111111"
	two    = "2222222222222222222222222222222222222222"
	source = "https://git.example.com/apps/podinfo.git"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func round(minute int, state reconcile.State, commit string, change ...func(*reconcile.Outcome)) reconcile.Outcome {
	o := reconcile.Outcome{
		Time: start.Add(time.Duration(minute) * time.Minute), Image: "podinfo", Target: "production", Source: source,
		State: state, Head: commit, Commit: commit,
	}
	for _, c := range change {
		c(&o)
	}
	return o
}

func behind(n int) func(*reconcile.Outcome) {
	return func(o *reconcile.Outcome) { o.Behind = n }
}

func step(name string) func(*reconcile.Outcome) {
	return func(o *reconcile.Outcome) { o.Step = name }
}

func at(target string) func(*reconcile.Outcome) {
	return func(o *reconcile.Outcome) { o.Target = target }
}

func took(build, promotion time.Duration) func(*reconcile.Outcome) {
	return func(o *reconcile.Outcome) {
		if build > 0 {
			o.Build = &reconcile.Span{Started: start, Finished: start.Add(build)}
		}
		if promotion > 0 {
			o.Promote = &reconcile.Span{Started: start, Finished: start.Add(promotion)}
		}
	}
}

func built(o *reconcile.Outcome) { o.Ref = "registry.example.com/podinfo:1@sha256:abc" }

func all(string, string) bool { return true }

// collected is what a Recorder says after a number of rounds, a line for each
// point: "name{attributes} value".
func collected(t *testing.T, known func(image, target string) bool, past []reconcile.Outcome, rounds ...reconcile.Outcome) []string {
	t.Helper()
	reader := sdk.NewManualReader()
	r, err := New(sdk.NewMeterProvider(sdk.WithReader(reader)), "test", known, past)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range rounds {
		r.Report(o)
	}
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	if len(data.ScopeMetrics) == 0 {
		return nil
	}
	var lines []string
	line := func(name string, set attribute.Set, value any) {
		lines = append(lines, fmt.Sprintf("%s{%s} %v", name, set.Encoded(attribute.DefaultEncoder()), value))
	}
	// since says how many minutes after the start a time is.
	since := func(seconds float64) string {
		return fmt.Sprintf("minute %v", (seconds-float64(start.Unix()))/60)
	}
	for _, m := range data.ScopeMetrics[0].Metrics {
		switch points := m.Data.(type) {
		case metricdata.Gauge[float64]:
			for _, p := range points.DataPoints {
				line(m.Name, p.Attributes, since(p.Value))
			}
		case metricdata.Gauge[int64]:
			for _, p := range points.DataPoints {
				line(m.Name, p.Attributes, p.Value)
			}
		case metricdata.Sum[int64]:
			for _, p := range points.DataPoints {
				line(m.Name, p.Attributes, p.Value)
			}
		case metricdata.Histogram[float64]:
			for _, p := range points.DataPoints {
				line(m.Name, p.Attributes, fmt.Sprintf("%d in %vs", p.Count, p.Sum))
			}
		default:
			t.Errorf("%s is a %T", m.Name, m.Data)
		}
	}
	slices.Sort(lines)
	return lines
}

func TestWhatRoundsComeTo(t *testing.T) {
	t.Parallel()
	const (
		of   = "towpath.image=podinfo,towpath.target=production"
		poll = "towpath.source.last_poll{vcs.repository.url.full=" + source + "} minute "
		zero = "towpath.image.behind{" + of + "} 0"
	)
	refusedTip := func(o *reconcile.Outcome) { o.Head, o.Refused, o.Behind = two, []string{"22222222 no signature"}, 1 }
	problem := func(o *reconcile.Outcome) { o.Problems = []string{"a.yaml: it does not parse"} }
	for name, c := range map[string]struct {
		known  func(image, target string) bool
		past   []reconcile.Outcome
		rounds []reconcile.Outcome
		want   []string
	}{
		"at rest": {
			rounds: []reconcile.Outcome{round(0, reconcile.Done, one), round(1, reconcile.Done, one)},
			want:   []string{zero, poll + "1"},
		},
		"built and promoted": {
			rounds: []reconcile.Outcome{round(0, reconcile.Promoted, one, built, took(time.Minute, time.Second)), round(1, reconcile.Done, one)},
			want: []string{
				"towpath.build.duration{towpath.image=podinfo} 1 in 60s", zero,
				"towpath.promotion.duration{towpath.target=production} 1 in 1s", poll + "1",
			},
		},
		"one build for two targets": {
			rounds: []reconcile.Outcome{
				round(0, reconcile.Promoted, one, built, took(time.Minute, time.Second)),
				round(0, reconcile.Promoted, one, built, took(time.Minute, 2*time.Second), at("staging")),
			},
			want: []string{
				"towpath.build.duration{towpath.image=podinfo} 1 in 60s", zero, "towpath.image.behind{towpath.image=podinfo,towpath.target=staging} 0",
				"towpath.promotion.duration{towpath.target=production} 1 in 1s", "towpath.promotion.duration{towpath.target=staging} 1 in 2s", poll + "0",
			},
		},
		"does not build, which is counted once": {
			rounds: []reconcile.Outcome{
				round(0, reconcile.Faulty, one, behind(3), took(30*time.Second, 0)), round(1, reconcile.Faulty, one, behind(3)),
				round(2, reconcile.Faulty, two, behind(4), func(o *reconcile.Outcome) {
					o.Build = &reconcile.Span{Started: start.Add(time.Hour), Finished: start.Add(time.Hour + time.Second)}
				}),
			},
			want: []string{
				"towpath.build.duration{error.type=faulty,towpath.image=podinfo} 2 in 31s",
				"towpath.failures{error.type=faulty," + of + "} 2", "towpath.image.behind{" + of + "} 4",
				"towpath.image.frozen_since{towpath.image=podinfo,towpath.state=faulty,towpath.target=production} minute 0", poll + "2",
			},
		},
		"fails, which is counted each time": {
			rounds: []reconcile.Outcome{
				round(0, reconcile.Done, one), round(1, reconcile.Failed, "", step("observe")), round(2, reconcile.Failed, "", step("observe")),
				round(3, reconcile.Failed, two, step("promote"), behind(1), took(0, 5*time.Second)),
			},
			want: []string{
				"towpath.failures{error.type=observe," + of + "} 2", "towpath.failures{error.type=promote," + of + "} 1",
				"towpath.image.behind{" + of + "} 1",
				"towpath.image.frozen_since{towpath.image=podinfo,towpath.state=failed,towpath.target=production} minute 1",
				"towpath.promotion.duration{error.type=promote,towpath.target=production} 1 in 5s", poll + "3",
			},
		},
		"the source is away: its last good poll stays": {
			rounds: []reconcile.Outcome{round(0, reconcile.Done, one, behind(0)), round(9, reconcile.Failed, "", step("observe"))},
			want: []string{
				"towpath.failures{error.type=observe," + of + "} 1", zero,
				"towpath.image.frozen_since{towpath.image=podinfo,towpath.state=failed,towpath.target=production} minute 9", poll + "0",
			},
		},
		"it went on": {
			rounds: []reconcile.Outcome{round(0, reconcile.Held, one), round(1, reconcile.Outdated, ""), round(2, reconcile.Promoted, two)},
			want:   []string{zero, poll + "2"},
		},
		"frozen at the last good commit": {
			rounds: []reconcile.Outcome{round(0, reconcile.Done, one), round(1, reconcile.Done, one, refusedTip), round(2, reconcile.Done, one, refusedTip)},
			want: []string{
				"towpath.image.behind{" + of + "} 1",
				"towpath.image.frozen_since{towpath.image=podinfo,towpath.state=done,towpath.target=production} minute 1", poll + "2",
			},
		},
		"suspended": {
			rounds: []reconcile.Outcome{{Time: start, Image: "podinfo", Target: "production", State: reconcile.Suspended}},
			want:   []string{"towpath.image.frozen_since{towpath.image=podinfo,towpath.state=suspended,towpath.target=production} minute 0"},
		},
		"a file that a person must mend": {
			rounds: []reconcile.Outcome{round(0, reconcile.Done, one, problem)},
			want:   []string{zero, "towpath.image.frozen_since{towpath.image=podinfo,towpath.state=done,towpath.target=production} minute 0", poll + "0"},
		},
		"a restart forgets nothing": {
			past:   []reconcile.Outcome{round(0, reconcile.Done, one), round(1, reconcile.Faulty, two, behind(2)), round(3, reconcile.Failed, "", step("observe"))},
			rounds: []reconcile.Outcome{round(60, reconcile.Faulty, two, behind(2))},
			want: []string{
				"towpath.failures{error.type=faulty," + of + "} 1", "towpath.image.behind{" + of + "} 2",
				"towpath.image.frozen_since{towpath.image=podinfo,towpath.state=faulty,towpath.target=production} minute 1", poll + "60",
			},
		},
		"an image that the config has no more": {
			known:  func(_, target string) bool { return target != "production" },
			rounds: []reconcile.Outcome{round(0, reconcile.Held, one)},
			want:   nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			known := c.known
			if known == nil {
				known = all
			}
			if diff := cmp.Diff(c.want, collected(t, known, c.past, c.rounds...)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
