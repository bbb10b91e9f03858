package reconcile

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/kaniko"
)

// aheadSource has three commits more than what was promoted.
type aheadSource struct{}

func (aheadSource) Choose(context.Context, source.Query) (source.Choice, error) {
	head := gitops.Commit{Hash: gitops.Hash{4}}
	return source.Choice{Head: head, Commit: head, Relation: gitops.Ahead, Commits: []gitops.Commit{head, {Hash: gitops.Hash{3}}}, More: 1}, nil
}

// openFleet promotes whatever it is given, to a branch.
type openFleet struct {
	Fleet
	to string
}

func (openFleet) Promoted(context.Context, fleet.Image) (fleet.State, error) {
	return fleet.State{Standing: fleet.Holds, Entry: &fleet.Entry{Source: gitops.Hash{1}, Ref: "registry.example.com/a:1"}}, nil
}

func (f openFleet) Promote(context.Context, fleet.Bump) (fleet.Promotion, error) {
	return fleet.Promotion{Bump: gitops.Hash{8}, Branch: f.to, Head: gitops.Hash{9}}, nil
}

// oneBuild has no image and builds one, or fails.
type oneBuild struct {
	Images
	began time.Time
	err   error
}

func (b oneBuild) Find(context.Context, kaniko.Order) (kaniko.Result, bool, error) {
	return kaniko.Result{}, false, nil
}

func (b oneBuild) Build(context.Context, kaniko.Order) (kaniko.Result, error) {
	return kaniko.Result{Started: b.began, Finished: b.began.Add(time.Minute)}, b.err
}

func (b oneBuild) Seal(_ context.Context, _ kaniko.Order, built kaniko.Result) (kaniko.Result, error) {
	return built, nil
}

func (b oneBuild) Size(context.Context, string) (int64, error) { return 0, nil }

// endless is a registry that never comes to an end with one of its answers.
type endless struct {
	oneBuild
	at string
}

func (e endless) wait(ctx context.Context, step string) error {
	if e.at != step {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (e endless) Find(ctx context.Context, _ kaniko.Order) (kaniko.Result, bool, error) {
	return kaniko.Result{}, false, e.wait(ctx, "find")
}

func (e endless) Seal(ctx context.Context, _ kaniko.Order, built kaniko.Result) (kaniko.Result, error) {
	return built, e.wait(ctx, "seal")
}

func (e endless) Size(ctx context.Context, _ string) (int64, error) { return 0, e.wait(ctx, "size") }

// TestARegistryWithoutAnEndIsGivenUp: one that sends a byte now and then, for ever, is
// given up, and what only people like to know holds up nothing.
func TestARegistryWithoutAnEndIsGivenUp(t *testing.T) {
	for at, c := range map[string]struct {
		state State
		takes time.Duration
	}{"find": {Failed, stepPatience}, "seal": {Failed, stepPatience}, "size": {Promoted, sizePatience}} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			o := buildAndPromote(t, endless{oneBuild{began: began}, at}, "main")
			if took := time.Since(began); o.State != c.state || took != c.takes {
				t.Errorf("%s: %s after %s: %s", at, o.State, took, o.Reason)
			}
			if o.State == Failed && !strings.Contains(o.Reason, "given up after 1h0m0s") {
				t.Errorf("%s: %s", at, o.Reason)
			}
		})
	}
}

func buildAndPromote(t *testing.T, images Images, branch string) Outcome {
	t.Helper()
	d := delivery("a", aheadSource{})
	d.SourceURL, d.Rules.Branch = "https://git.example.com/a.git", "main"
	d.Fleet, d.Images, d.Builds = openFleet{to: branch}, images, NewBuilds(1)
	d.Order = func(gitops.Commit) (kaniko.Order, error) { return kaniko.Order{}, nil }
	return d.Deliver(t.Context())
}

func TestOutcomeTellsWhatWasDoneAndHowLongItTook(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	o := buildAndPromote(t, oneBuild{began: began}, "main")
	switch {
	case o.State != Promoted:
		t.Fatalf("%s: %s", o.State, o.Reason)
	case o.Build == nil || !o.Build.Started.Equal(began) || o.Build.Took() != time.Minute:
		t.Errorf("the build: %v", o.Build)
	case o.Promote == nil || o.Promote.Took() < 0:
		t.Errorf("the promotion: %v", o.Promote)
	case o.Behind != 0:
		t.Errorf("%d behind although promoted", o.Behind)
	case o.Source != "https://git.example.com/a.git":
		t.Errorf("source %q", o.Source)
	case o.Branch != "main" || o.Pushed != (gitops.Hash{9}).String():
		t.Errorf("pushed %q to %q", o.Pushed, o.Branch)
	}
}

func TestOutcomeOfAProposalIsNotPushedToWhatFluxApplies(t *testing.T) {
	o := buildAndPromote(t, oneBuild{began: time.Now()}, "towpath/a")
	if o.Branch != "towpath/a" || o.Pushed != "" {
		t.Errorf("pushed %q to %q", o.Pushed, o.Branch)
	}
	if o.State != Proposed || o.Reason != "proposed for review on branch towpath/a: 04000000 follows 01000000" || o.Hint == "" {
		t.Errorf("%s: %s (%s)", o.State, o.Reason, o.Hint)
	}
}

func TestOutcomeOfAFailedBuildTellsHowLongItTook(t *testing.T) {
	o := buildAndPromote(t, oneBuild{began: time.Now(), err: &kaniko.BuildError{Err: errors.New("exit status 1")}}, "main")
	if o.State != Faulty || o.Build == nil || o.Build.Took() != time.Minute || o.Promote != nil {
		t.Errorf("%s: build %v, promotion %v", o.State, o.Build, o.Promote)
	}
	if o.Behind != 3 {
		t.Errorf("%d behind, of 3", o.Behind)
	}
}
