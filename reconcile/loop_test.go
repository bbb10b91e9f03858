package reconcile

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/kaniko"
)

// stubSource answers as told, after a while.
type stubSource struct {
	asked atomic.Int64
	takes time.Duration
	err   error
}

func (s *stubSource) Choose(ctx context.Context, _ source.Query) (source.Choice, error) {
	s.asked.Add(1)
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return source.Choice{}, ctx.Err()
	}
	commit := gitops.Commit{Hash: gitops.Hash{1}}
	return source.Choice{Head: commit, Commit: commit, Relation: gitops.Same}, s.err
}

// doneFleet has promoted what the source has.
type doneFleet struct{ Fleet }

func (doneFleet) Promoted(context.Context, fleet.Image) (fleet.State, error) {
	return fleet.State{Standing: fleet.Holds, Entry: &fleet.Entry{Source: gitops.Hash{1}}}, nil
}

func delivery(name string, s Source) *Delivery {
	return &Delivery{Image: fleet.Image{Name: name}, Target: "production", Source: s, Fleet: doneFleet{}, Current: func() bool { return true }}
}

func runLoop(t *testing.T, lasts time.Duration, groups ...Group) []Outcome {
	t.Helper()
	var outcomes []Outcome
	loop := Loop{Report: func(o Outcome) { outcomes = append(outcomes, o) }}
	ctx, cancel := context.WithTimeout(t.Context(), lasts)
	defer cancel()
	snapshots := make(chan []Group, 1)
	snapshots <- groups
	loop.Run(ctx, snapshots)
	return outcomes
}

func TestEverySourceIsPolledByTheInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stubSource{}
		runLoop(t, time.Hour, Group{"one", time.Minute, []*Delivery{delivery("a", s)}})
		if n := s.asked.Load(); n < 54 || n > 67 {
			t.Errorf("an hour of minutes, jittered by a tenth, had %d polls", n)
		}
	})
}

func TestOneSlowSourceDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, quick := &stubSource{takes: time.Hour}, &stubSource{}
		runLoop(t, 30*time.Minute, Group{"slow", time.Minute, []*Delivery{delivery("a", slow)}}, Group{"quick", time.Minute, []*Delivery{delivery("b", quick)}})
		if n := quick.asked.Load(); n < 27 {
			t.Errorf("the quick source had %d polls in half an hour", n)
		}
		if n := slow.asked.Load(); n != 1 {
			t.Errorf("the slow source was asked %d times at once", n)
		}
	})
}

func TestErrorsBackOffToAQuarterOfAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken, sound := &stubSource{err: errors.New("no route")}, &stubSource{}
		runLoop(t, 24*time.Hour, Group{"one", time.Minute, []*Delivery{delivery("a", broken), delivery("b", sound)}})
		if n := broken.asked.Load(); n < 24*4-10 || n > 24*4+25 {
			t.Errorf("a day of errors had %d polls", n)
		}
		if n := sound.asked.Load(); n < 24*54 {
			t.Errorf("its neighbour had %d polls", n)
		}
	})
}

func TestWhoPollsOftenLearnsSoonThatAFaultIsOver(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 5: 15 * time.Second, 100: 15 * time.Second} {
		if got := backOff(failures, time.Second, nil); got < want*9/10 || got > want*11/10 {
			t.Errorf("after %d failures with an interval of a second: %s, want %s", failures, got, want)
		}
	}
	if got := backOff(1, time.Minute, nil); got > 6*time.Second {
		t.Errorf("the first failure waits %s", got)
	}
}

// patience is an error that says when to ask again.
type patience time.Duration

func (patience) Error() string               { return "come back later" }
func (p patience) RetryAfter() time.Duration { return time.Duration(p) }

func TestRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stubSource{err: patience(time.Hour)}
		runLoop(t, 9*time.Hour+30*time.Minute, Group{"one", time.Minute, []*Delivery{delivery("a", s)}})
		if n := s.asked.Load(); n != 10 {
			t.Errorf("asked %d times in nine and a half hours, want 10", n)
		}
	})
}

func TestANewSnapshotReplacesTheOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before, after := &stubSource{}, &stubSource{}
		loop := Loop{}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		snapshots := make(chan []Group)
		go func() {
			snapshots <- []Group{{"one", time.Minute, []*Delivery{delivery("a", before)}}}
			time.Sleep(10*time.Minute + time.Second)
			snapshots <- []Group{{"two", time.Minute, []*Delivery{delivery("a", after)}}}
		}()
		loop.Run(ctx, snapshots)
		if n := before.asked.Load(); n > 12 {
			t.Errorf("the old snapshot was polled %d times", n)
		}
		if n := after.asked.Load(); n < 45 {
			t.Errorf("the new snapshot was polled %d times", n)
		}
	})
}

// TestASourceWithoutAnEndIsGivenUp, and delays nobody meanwhile.
func TestASourceWithoutAnEndIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		endless, quick := &stubSource{takes: 1000 * time.Hour}, &stubSource{}
		group := Group{"one", time.Minute, []*Delivery{delivery("endless", endless), delivery("quick", quick)}}
		outcomes := runLoop(t, 90*time.Minute, group)
		if n := quick.asked.Load(); n < 80 {
			t.Errorf("the other one was asked %d times in 90 minutes", n)
		}
		at := slices.IndexFunc(outcomes, func(o Outcome) bool { return o.Image == "endless" })
		if at < 0 {
			t.Fatal("it was never given up")
		}
		if o := outcomes[at]; o.State != Failed || o.Class != Retry || o.Reason != "observe: source: given up after 1h0m0s: context deadline exceeded" {
			t.Errorf("outcome %+v", o)
		}
	})
}

// TestOnlyTheNewestAreAtWork: what a snapshot before used is let go only when its
// last round has ended, and not at all by one that is itself replaced.
func TestOnlyTheNewestAreAtWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := &stubSource{takes: 30 * time.Minute}
		var settled []string
		began := time.Now()
		loop := Loop{Settled: func(groups []Group) {
			settled = append(settled, groups[0].Name+" "+time.Since(began).String())
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Hour)
		defer cancel()
		snapshots := make(chan []Group)
		go func() {
			for _, group := range []Group{
				{"one", 2 * time.Hour, []*Delivery{delivery("a", long)}},
				{"two", time.Minute, []*Delivery{delivery("a", &stubSource{})}},
				{"three", time.Minute, []*Delivery{delivery("a", &stubSource{})}},
			} {
				snapshots <- []Group{group}
				time.Sleep(time.Minute)
			}
		}()
		loop.Run(ctx, snapshots)
		if diff := cmp.Diff([]string{"one 0s", "three 30m0s"}, settled); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAnOrderIsWorkedOnOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		builds := NewBuilds(4)
		var ran atomic.Int64
		order := kaniko.Order{Source: kaniko.Source{Commit: "c"}}
		for range 5 {
			go func() {
				result, err := builds.Once(t.Context(), order, func(context.Context) (kaniko.Result, error) {
					ran.Add(1)
					time.Sleep(time.Minute)
					return kaniko.Result{Image: kaniko.Image{Digest: "sha256:1"}}, nil
				})
				if err != nil || result.Digest != "sha256:1" {
					t.Errorf("Once = %v, %v", result, err)
				}
			}()
		}
		synctest.Wait()
		time.Sleep(2 * time.Minute)
		if n := ran.Load(); n != 1 {
			t.Errorf("worked %d times", n)
		}
	})
}

func TestWorkEndsWithItsLastWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		builds := NewBuilds(1)
		ended := make(chan struct{})
		work := func(ctx context.Context) (kaniko.Result, error) {
			<-ctx.Done()
			close(ended)
			return kaniko.Result{}, ctx.Err()
		}
		first, stopFirst := context.WithCancel(t.Context())
		second, stopSecond := context.WithCancel(t.Context())
		results := make(chan error, 2)
		for _, ctx := range []context.Context{first, second} {
			go func() {
				_, err := builds.Once(ctx, kaniko.Order{}, work)
				results <- err
			}()
			synctest.Wait()
		}
		stopFirst()
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("the first waiter got %v", err)
		}
		select {
		case <-ended:
			t.Error("work ended although somebody waited")
		default:
		}
		stopSecond()
		<-results
		<-ended
	})
}

func TestAFaultIsNotRepeatedAndAFailureIs(t *testing.T) {
	builds := NewBuilds(1)
	for _, test := range []struct {
		err  error
		want int
	}{
		{&kaniko.BuildError{Step: "build", Err: errors.New("exit status 1")}, 1},
		{errors.New("registry away"), 3},
	} {
		ran := 0
		order := kaniko.Order{Source: kaniko.Source{Commit: test.err.Error()}}
		for range 3 {
			if _, err := builds.Once(t.Context(), order, func(context.Context) (kaniko.Result, error) {
				ran++
				return kaniko.Result{}, test.err
			}); !errors.Is(err, test.err) {
				t.Errorf("Once = %v", err)
			}
		}
		if ran != test.want {
			t.Errorf("%v: worked %d times, want %d", test.err, ran, test.want)
		}
	}
}

// TestAFaultOfTheConfigBeforeIsForgotten, also if it comes to light only after
// the change.
func TestAFaultOfTheConfigBeforeIsForgotten(t *testing.T) {
	builds := NewBuilds(2)
	order := kaniko.Order{Source: kaniko.Source{Commit: "8b07d4aa"}}
	begun, end, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		_, err := builds.Once(t.Context(), order, func(context.Context) (kaniko.Result, error) {
			close(begun)
			<-end
			return kaniko.Result{}, &kaniko.BuildError{Step: "fetch", Err: errors.New("not allowed")}
		})
		ended <- err
	}()
	<-begun
	builds.Forget()
	close(end)
	if err := <-ended; err == nil {
		t.Error("the old work did not fail")
	}
	mended := func(context.Context) (kaniko.Result, error) { return kaniko.Result{Notices: []string{"new"}}, nil }
	if result, err := builds.Once(t.Context(), order, mended); err != nil || len(result.Notices) != 1 {
		t.Errorf("got %+v, %v", result, err)
	}
}

func TestSoManyBuildsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		builds := NewBuilds(2)
		var now, most atomic.Int64
		for range 6 {
			go func() {
				_, _ = builds.Slot(t.Context(), func() (kaniko.Result, error) {
					most.Store(max(most.Load(), now.Add(1)))
					time.Sleep(time.Minute)
					now.Add(-1)
					return kaniko.Result{}, nil
				})
			}()
		}
		time.Sleep(10 * time.Minute)
		if n := most.Load(); n != 2 {
			t.Errorf("%d builds ran at once, want 2", n)
		}
	})
}

// TestBeats: a loop that is well says so, with or without images, while sources
// are slow and while they are broken. One whose report never ends is silent from
// then on, however long it would have rested.
func TestBeats(t *testing.T) {
	for name, test := range map[string]struct {
		groups []Group
		hang   bool
		least  int
		most   int
	}{
		"no images": {nil, false, 360, 361},
		"slow, broken and quick sources": {[]Group{
			{"slow", time.Minute, []*Delivery{delivery("a", &stubSource{takes: 50 * time.Minute})}},
			{"broken", time.Minute, []*Delivery{delivery("b", &stubSource{err: errors.New("away")})}},
			{"quick", time.Second, []*Delivery{delivery("c", &stubSource{})}},
			{"rare", 24 * time.Hour, []*Delivery{delivery("d", &stubSource{})}},
		}, false, 360, 361},
		"a report that hangs": {[]Group{
			{"hangs", 24 * time.Hour, []*Delivery{delivery("a", &stubSource{takes: 30 * time.Minute})}},
		}, true, 180, 188}, // the last as the hour ends, and with it the report
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				beats, stuck := 0, make(chan struct{})
				loop := Loop{Beat: func() { beats++ }}
				if test.hang {
					loop.Report = func(o Outcome) {
						if o.Image == "a" {
							<-stuck
						}
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				snapshots := make(chan []Group, 1)
				snapshots <- test.groups
				time.AfterFunc(time.Hour, func() {
					if test.hang {
						close(stuck)
					}
				})
				loop.Run(ctx, snapshots)
				if beats < test.least || beats > test.most {
					t.Errorf("%d beats in an hour, want %d to %d", beats, test.least, test.most)
				}
			})
		})
	}
}

// TestBeatsAfterAReload: groups of the config before are nobody's business, even
// if one of them never ends.
func TestBeatsAfterAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		beats := 0
		loop := Loop{Beat: func() { beats++ }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		snapshots := make(chan []Group, 1)
		snapshots <- []Group{{"old", time.Minute, []*Delivery{delivery("a", &stubSource{takes: 59 * time.Minute})}}}
		time.AfterFunc(time.Minute, func() { snapshots <- []Group{{"new", time.Minute, []*Delivery{delivery("b", &stubSource{})}}} })
		loop.Run(ctx, snapshots)
		if beats < 360 {
			t.Errorf("%d beats in an hour", beats)
		}
	})
}
