package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/source"
)

// outage is a source whose host is away until a moment.
type outage struct {
	until time.Time
	err   error
	tries []time.Time
}

func (s *outage) Choose(context.Context, source.Query) (source.Choice, error) {
	s.tries = append(s.tries, time.Now())
	if time.Now().Before(s.until) {
		return source.Choice{}, s.err
	}
	commit := gitops.Commit{Hash: gitops.Hash{1}}
	return source.Choice{Head: commit, Commit: commit, Relation: gitops.Same}, nil
}

// through is when it was first reached after the outage.
func (s *outage) through(t *testing.T) time.Time {
	t.Helper()
	for _, try := range s.tries {
		if !try.Before(s.until) {
			return try
		}
	}
	t.Fatal("never reached again")
	return time.Time{}
}

// TestOneSuccessWakesWhoWaitsForTheHost: after a long outage everybody waits up
// to a quarter of an hour, until the first gets through. The others follow
// within an interval, not all at once; who was asked to stay away stays away,
// and whoever needs another host is left alone.
func TestOneSuccessWakesWhoWaitsForTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		healed := began.Add(6 * time.Hour)
		away := errors.New("no route to host")
		group := func(name string, s Source, hosts ...string) Group {
			d := delivery(name, s)
			d.Hosts = hosts
			return Group{name, time.Minute, []*Delivery{d}}
		}
		var groups []Group
		var waiting []*outage
		for i := range 40 {
			waiting = append(waiting, &outage{until: healed, err: away})
			groups = append(groups, group(fmt.Sprint("waiting", i), waiting[i], "git.example.com", "registry.example.com"))
		}
		asked := &outage{until: healed, err: patience(4 * time.Hour)}
		elsewhere := &outage{until: began.Add(20 * time.Hour), err: away}
		groups = append(groups, group("asked", asked, "git.example.com"), group("elsewhere", elsewhere, "git.example.org"))
		runLoop(t, 10*time.Hour, groups...)

		var through []time.Time
		for _, s := range waiting {
			through = append(through, s.through(t))
		}
		slices.SortFunc(through, time.Time.Compare)
		first, last := through[0], through[len(through)-1]
		if first.Sub(healed) > 16*time.Minute {
			t.Errorf("the first was through after %s", first.Sub(healed))
		}
		if spread := last.Sub(first); spread > time.Minute || spread < 20*time.Second {
			t.Errorf("the others followed within %s", spread)
		}
		for i := range through[:len(through)-8] {
			if through[i+8].Sub(through[i]) < time.Second {
				t.Errorf("nine of them at once, %s after the first", through[i].Sub(first))
			}
		}
		if len(asked.tries) < 2 || asked.tries[1].Sub(asked.tries[0]) < 4*time.Hour || asked.through(t).Before(asked.tries[1].Add(4*time.Hour)) {
			t.Errorf("asked to stay away for four hours, it came at %v", asked.tries)
		}
		for i, try := range elsewhere.tries {
			if i > 10 && try.Sub(elsewhere.tries[i-1]) < 13*time.Minute {
				t.Errorf("a host that is still away was asked after %s", try.Sub(elsewhere.tries[i-1]))
			}
		}
	})
}

// TestRecoveriesAreOfAHostAndAMoment: a try that began before the host came back
// and failed after that is told of it, a later one is not.
func TestRecoveriesAreOfAHostAndAMoment(t *testing.T) {
	var told recoveries
	began := time.Now()
	told.tell([]string{"git.example.com"})
	if !told.since([]string{"other.example.com", "git.example.com"}, began) {
		t.Error("the recovery is not known")
	}
	if told.since([]string{"git.example.com"}, time.Now().Add(time.Second)) || told.since([]string{"other.example.com"}, began) || told.since(nil, began) {
		t.Error("a recovery is known that was none")
	}
}
