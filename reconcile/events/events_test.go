package events

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/reconcile"
)

const (
	one = "1111111111111111111111111111111111111111"
	two = "2222222222222222222222222222222222222222"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// round is an outcome of podinfo, so many minutes after the start.
func round(minute int, state reconcile.State, commit string, change ...func(*reconcile.Outcome)) reconcile.Outcome {
	o := reconcile.Outcome{
		Time: start.Add(time.Duration(minute) * time.Minute), Image: "podinfo", Target: "production",
		State: state, Reason: "because", Head: commit, Commit: commit, Subject: "Change it",
	}
	for _, c := range change {
		c(&o)
	}
	return o
}

func withBuild(o *reconcile.Outcome) {
	o.Ref = "registry.example.com/podinfo:1@sha256:abc"
	o.Build = &reconcile.Span{Started: start, Finished: start.Add(62 * time.Second)}
}

func pushed(o *reconcile.Outcome) {
	o.Branch, o.Pushed, o.Bump = "main", "3333333333333333333333333333333333333333", "4444444444444444444444444444444444444444"
}

func toReview(o *reconcile.Outcome) { o.Branch, o.Bump = "towpath/podinfo", two }

func because(reason string) func(*reconcile.Outcome) {
	return func(o *reconcile.Outcome) { o.Reason = reason }
}

func at(target string) func(*reconcile.Outcome) {
	return func(o *reconcile.Outcome) { o.Target = target }
}

// TestEachThingIsToldOnce: what is told of a sequence of rounds.
func TestEachThingIsToldOnce(t *testing.T) {
	t.Parallel()
	refusedHead := func(o *reconcile.Outcome) { o.Head, o.Refused = two, []string{"22222222 no good signature"} }
	problem := func(o *reconcile.Outcome) { o.Problems = []string{"a.yaml:1: it does not parse"} }
	for name, c := range map[string]struct {
		rounds []reconcile.Outcome
		want   []string
	}{
		"nothing changes": {[]reconcile.Outcome{round(0, reconcile.Done, one), round(1, reconcile.Done, one)}, nil},
		"built and promoted": {
			[]reconcile.Outcome{round(0, reconcile.Promoted, one, withBuild, pushed), round(1, reconcile.Done, one)},
			[]string{"ImageBuilt 11111111", "Promoted 11111111"},
		},
		"two targets": {
			[]reconcile.Outcome{round(0, reconcile.Promoted, one, withBuild, pushed), round(0, reconcile.Promoted, one, withBuild, pushed, at("staging"))},
			[]string{"ImageBuilt 11111111", "Promoted 11111111", "Promoted 11111111"},
		},
		"proposed": {
			[]reconcile.Outcome{round(0, reconcile.Proposed, one, toReview), round(1, reconcile.Proposed, one), round(2, reconcile.Proposed, one, toReview), round(3, reconcile.Proposed, two, toReview), round(4, reconcile.Done, two)},
			[]string{"Proposed 11111111", "Proposed 22222222"},
		},
		"proposed, and a file is broken": {
			[]reconcile.Outcome{round(0, reconcile.Proposed, one, toReview, problem), round(1, reconcile.Proposed, one, problem), round(2, reconcile.Proposed, one, toReview, problem)},
			[]string{"Proposed 11111111", "Failed!"},
		},
		"waits for review when Towpath begins": {
			[]reconcile.Outcome{round(0, reconcile.Proposed, one), round(1, reconcile.Done, one)},
			nil,
		},
		"built, and not promoted at once": {
			[]reconcile.Outcome{round(0, reconcile.Failed, one, withBuild), round(1, reconcile.Promoted, one, pushed)},
			[]string{"ImageBuilt 11111111", "Promoted 11111111"},
		},
		"does not build": {
			[]reconcile.Outcome{round(0, reconcile.Faulty, one), round(1, reconcile.Faulty, one), round(1, reconcile.Faulty, one, at("staging")), round(2, reconcile.Faulty, two), round(3, reconcile.Promoted, two, pushed)},
			[]string{"BuildFailed! 11111111", "BuildFailed! 22222222", "Promoted 22222222"},
		},
		"refused": {
			[]reconcile.Outcome{round(0, reconcile.Refused, one), round(1, reconcile.Refused, one), round(2, reconcile.Done, two), round(3, reconcile.Done, two)},
			[]string{"CommitRefused! 11111111", "Recovered"},
		},
		"the tip refused, its parent promoted": {
			[]reconcile.Outcome{round(0, reconcile.Promoted, one, pushed, refusedHead), round(1, reconcile.Done, one, refusedHead)},
			[]string{"CommitRefused! 22222222", "Promoted 11111111"},
		},
		"fails and works again soon": {
			[]reconcile.Outcome{round(0, reconcile.Failed, one), round(4, reconcile.Failed, one), round(5, reconcile.Done, one), round(6, reconcile.Failed, one), round(10, reconcile.Done, one)},
			nil,
		},
		"fails for long": {
			[]reconcile.Outcome{round(0, reconcile.Failed, ""), round(3, reconcile.Failed, "", because("another")), round(6, reconcile.Failed, ""), round(20, reconcile.Failed, ""), round(21, reconcile.Done, one), round(22, reconcile.Done, one)},
			[]string{"Failed!", "Recovered"},
		},
		"outdated rounds say nothing": {
			[]reconcile.Outcome{round(0, reconcile.Failed, ""), round(3, reconcile.Outdated, ""), round(5, reconcile.Failed, "")},
			[]string{"Failed!"},
		},
		"broken": {
			[]reconcile.Outcome{round(0, reconcile.Broken, one), round(1, reconcile.Broken, one), round(2, reconcile.Promoted, one, pushed)},
			[]string{"Failed!", "Promoted 11111111"},
		},
		"a file of the GitOps repository is broken": {
			[]reconcile.Outcome{round(0, reconcile.Done, one, problem), round(1, reconcile.Done, one, problem), round(2, reconcile.Done, one)},
			[]string{"Failed!", "Recovered"},
		},
		"reverted": {
			[]reconcile.Outcome{round(0, reconcile.Done, one), round(1, reconcile.Held, one), round(2, reconcile.Held, one), round(3, reconcile.Held, one, because("another")), round(4, reconcile.Promoted, two, pushed)},
			[]string{"Held", "Held", "Promoted 22222222"},
		},
		"held, and then failing": {
			[]reconcile.Outcome{round(0, reconcile.Held, one), round(1, reconcile.Failed, one), round(9, reconcile.Failed, one), round(10, reconcile.Held, one), round(11, reconcile.Held, one)},
			[]string{"Held", "Failed!", "Held"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			var got []string
			for _, o := range c.rounds {
				for _, event := range m.note(o, "flux-system/fleet") {
					text := event.reason
					if event.wrong {
						text += "!"
					}
					if event.commit != "" {
						text += " " + event.commit[:8]
					}
					got = append(got, text)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestARestartTellsNothingAgain: what the history has was told.
func TestARestartTellsNothingAgain(t *testing.T) {
	t.Parallel()
	about := func(string) string { return "flux-system/fleet" }
	for name, last := range map[string]reconcile.Outcome{
		"faulty": round(0, reconcile.Faulty, one), "refused": round(0, reconcile.Refused, one), "held": round(0, reconcile.Held, one),
		"broken": round(0, reconcile.Broken, one), "failed": round(0, reconcile.Failed, one),
	} {
		m := newMemory()
		m.recall([]reconcile.Outcome{round(-1, reconcile.Done, two), last}, about, start.Add(time.Hour))
		again := last
		again.Time = start.Add(time.Hour)
		if told := m.note(again, about("")); len(told) != 0 {
			t.Errorf("%s: told again: %+v", name, told)
		}
		if told := m.note(round(61, reconcile.Done, two), about("")); len(told) != 1 || told[0].reason != Recovered {
			t.Errorf("%s: of the recovery is told %+v", name, told)
		}
	}
}

// TestTextsFromOutsideAreData: nobody is called and nothing is closed by what a
// commit's author or a build wrote.
func TestTextsFromOutsideAreData(t *testing.T) {
	t.Parallel()
	hostile := "Fixes #12 <!channel> @team\u001b[31m\nCo-authored-by: x"
	o := round(0, reconcile.Faulty, one, because("build: "+hostile))
	o.Subject, o.Output = hostile, []string{hostile, strings.Repeat("x", 10_000)}
	for range 100 {
		o.Output = append(o.Output, "more")
	}
	o.Output = append(o.Output, hostile)
	text := buildFailed(o).message
	lines := strings.Split(text, "\n")
	if len(lines) != 1+maxLines || len(text) > 39_000 {
		t.Errorf("%d lines, %d bytes", len(lines), len(text))
	}
	for _, bad := range []string{"<!channel>", "\u001b", "\r"} {
		if strings.Contains(text, bad) {
			t.Errorf("%q in %q", bad, text)
		}
	}
	if last := lines[len(lines)-1]; !strings.HasPrefix(last, "| ") || strings.Contains(last, "#12") || strings.Contains(last, "@team") {
		t.Errorf("the build's output is not defused: %q", last)
	}
	if first := lines[0]; !strings.HasPrefix(first, "podinfo: build failed at 11111111 Fixes # 12") || strings.Contains(first, "#12") || strings.Contains(first, "@team") {
		t.Errorf("the subject, or the reason, is not defused: %q", first)
	}
}

// receiver is what notification-controller's event server is to a client. (The
// real one is asked in e2e.)
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	answer func(n int) int // status code of the n-th request
	n      int
	got    []eventv1.Event
}

func newReceiver(t *testing.T, answer func(n int) int) *receiver {
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var e eventv1.Event
		decoder := json.NewDecoder(req.Body)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&e); err != nil || req.Method != http.MethodPost {
			t.Errorf("%s: %v", req.Method, err)
		}
		r.mu.Lock()
		code := r.answer(r.n)
		r.n++
		if code < 300 {
			r.got = append(r.got, e)
		}
		r.mu.Unlock()
		if code >= 300 && code < 400 {
			w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
		}
		w.WriteHeader(code)
	}))
	t.Cleanup(r.Close)
	return r
}

func accept(int) int { return http.StatusAccepted }

func fleetOnly(target string) (types.NamespacedName, bool) {
	return types.NamespacedName{Namespace: "flux-system", Name: "fleet"}, target == "production"
}

func TestEventsArriveWhole(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, accept)
	teller := New(Options{Address: r.URL, Repository: fleetOnly, Instance: "towpath-0", Log: slog.New(slog.DiscardHandler)}, nil)
	o := round(0, reconcile.Promoted, one, withBuild, pushed)
	o.Source = "https://git.example.com/podinfo.git"
	teller.Report(o)
	teller.Report(round(0, reconcile.Promoted, one, withBuild, pushed, at("elsewhere"))) // no GitRepository watches it
	teller.Report(round(1, reconcile.Proposed, two, toReview))
	teller.Close(t.Context())
	if len(r.got) != 3 {
		t.Fatalf("%d events", len(r.got))
	}
	if got := r.got[2]; got.Reason != Proposed || got.Message != "podinfo: proposed for review on branch towpath/podinfo of production: 22222222 Change it: bump 22222222" {
		t.Errorf("%s: %s", got.Reason, got.Message)
	}
	built, promoted := r.got[0], r.got[1]
	if built.Reason != ImageBuilt || built.Message != "podinfo: built 11111111 Change it in 1m2s: registry.example.com/podinfo:1@sha256:abc" {
		t.Errorf("%s: %s", built.Reason, built.Message)
	}
	want := eventv1.Event{
		Severity: "info", Reason: Promoted, ReportingController: "towpath", ReportingInstance: "towpath-0",
		Message: "podinfo: promoted 11111111 Change it to production: bump 44444444, registry.example.com/podinfo:1@sha256:abc",
		Metadata: map[string]string{
			"event.toolkit.fluxcd.io/commit": one, "event.toolkit.fluxcd.io/image": "podinfo", "event.toolkit.fluxcd.io/target": "production",
			"event.toolkit.fluxcd.io/ref":    "registry.example.com/podinfo:1@sha256:abc",
			"event.toolkit.fluxcd.io/bump":   "4444444444444444444444444444444444444444",
			"event.toolkit.fluxcd.io/source": "https://git.example.com/podinfo.git",
			keyToken:                         promoted.Metadata[keyToken],
		},
		Timestamp: promoted.Timestamp,
	}
	want.InvolvedObject.APIVersion, want.InvolvedObject.Kind = "source.toolkit.fluxcd.io/v1", "GitRepository"
	want.InvolvedObject.Namespace, want.InvolvedObject.Name = "flux-system", "fleet"
	if diff := cmp.Diff(want, promoted); diff != "" {
		t.Error(diff)
	}
	if len(promoted.Metadata[keyToken]) != 32 || promoted.Metadata[keyToken] == built.Metadata[keyToken] {
		t.Errorf("tokens %q and %q", built.Metadata[keyToken], promoted.Metadata[keyToken])
	}
}

// loopback carries requests inside a bubble of faked time.
type loopback func(*http.Request) (int, error)

func (l loopback) RoundTrip(request *http.Request) (*http.Response, error) {
	if _, err := io.Copy(io.Discard, request.Body); err != nil {
		return nil, err
	}
	code, err := l(request)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Body: http.NoBody, Request: request}, nil
}

// attempts tells of an event and counts how often that was tried until it was
// told or given up.
func attempts(t *testing.T, answers func(n int) (int, error)) (n int, logged string, took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		began := time.Now()
		teller := New(Options{
			Address: "http://notification.example.com/", Repository: fleetOnly, Log: slog.New(slog.NewTextHandler(&log, nil)),
			Transport: loopback(func(*http.Request) (int, error) { n++; return answers(n) }),
		}, nil)
		teller.Report(round(0, reconcile.Promoted, one, pushed))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		teller.Close(ctx)
		took, logged = time.Since(began), log.String()
	})
	return n, logged, took
}

func TestTellingIsTriedForSomeMinutes(t *testing.T) {
	t.Parallel()
	away := errors.New("connection refused")
	if n, logged, _ := attempts(t, func(n int) (int, error) {
		if n < 4 {
			return 0, away
		}
		return http.StatusAccepted, nil
	}); n != 4 || logged != "" {
		t.Errorf("away for a moment: %d attempts, logged %q", n, logged)
	}
	n, logged, took := attempts(t, func(int) (int, error) { return 0, away })
	if n < 8 || n > 30 || took < maxAge || took > 2*maxAge || strings.Count(logged, "level=WARN") != 1 || !strings.Contains(logged, "connection refused") {
		t.Errorf("away for good: %d attempts in %s, logged %q", n, took, logged)
	}
	for _, code := range []int{http.StatusBadRequest, http.StatusNotFound, http.StatusMovedPermanently} {
		if n, logged, _ := attempts(t, func(int) (int, error) { return code, nil }); n != 1 || !strings.Contains(logged, "it answered") {
			t.Errorf("%d: %d attempts, logged %q", code, n, logged)
		}
	}
	if n, logged, _ := attempts(t, func(int) (int, error) { return http.StatusTooManyRequests, nil }); n != 1 || logged != "" {
		t.Errorf("a duplicate: %d attempts, logged %q", n, logged)
	}
	if n, _, _ := attempts(t, func(n int) (int, error) {
		if n == 1 {
			return http.StatusInternalServerError, nil
		}
		return http.StatusAccepted, nil
	}); n != 2 {
		t.Errorf("an error of the server: %d attempts", n)
	}
}

// TestNobodyWaitsForEvents: reports return at once, whatever happens to what
// they tell; what waits is bounded.
func TestNobodyWaitsForEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		teller := New(Options{
			Address: "http://notification.example.com/", Repository: fleetOnly, Log: slog.New(slog.NewTextHandler(&log, nil)),
			Transport: loopback(func(r *http.Request) (int, error) { <-r.Context().Done(); return 0, r.Context().Err() }),
		}, nil)
		began := time.Now()
		for i := range 3 * queued {
			teller.Report(round(i, reconcile.Promoted, one, pushed))
			if i == 0 {
				synctest.Wait() // it is on its way, so that what follows finds the queue as full as it becomes
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %s", took)
		}
		if n := len(teller.queue); n > queued {
			t.Errorf("%d events wait", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		teller.Close(ctx)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("closing took %s", took)
		}
		if lines := strings.Split(strings.TrimSpace(log.String()), "\n"); len(lines) != 1 || !strings.Contains(lines[0], "lost") {
			t.Errorf("logged %q", lines)
		}
	})
}

// TestOrderIsKept: the last status of a commit is the one that counts.
func TestOrderIsKept(t *testing.T) {
	t.Parallel()
	r := newReceiver(t, func(n int) int {
		if n == 0 {
			return http.StatusServiceUnavailable
		}
		return http.StatusAccepted
	})
	teller := New(Options{Address: r.URL, Repository: fleetOnly, Log: slog.New(slog.DiscardHandler)}, nil)
	teller.Report(round(0, reconcile.Faulty, one))
	teller.Report(round(1, reconcile.Promoted, two, withBuild, pushed))
	teller.Close(t.Context())
	var reasons []string
	for _, e := range r.got {
		reasons = append(reasons, e.Reason)
	}
	if !slices.Equal(reasons, []string{BuildFailed, ImageBuilt, Promoted}) {
		t.Errorf("%q", reasons)
	}
}
