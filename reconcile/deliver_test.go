package reconcile

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/source"
)

// unevenFleet promotes, but for one file that cannot be edited.
type unevenFleet struct{ Fleet }

func (unevenFleet) Promoted(context.Context, fleet.Image) (fleet.State, error) {
	return fleet.State{Problems: []fleet.Problem{{File: "b.yaml", Line: 3, Text: "almost a marker", Ours: true}}}, nil
}

func (unevenFleet) Promote(context.Context, fleet.Bump) (fleet.Promotion, error) {
	return fleet.Promotion{Problems: []fleet.Problem{
		{File: "a.yaml", Text: "no YAML", Ours: true},
		{File: "b.yaml", Line: 3, Text: "almost a marker", Ours: true},
	}}, nil
}

// TestFilesThatAPromotionLeftAlone: the others were edited, and a person has to
// mend these, so the outcome names them and is not well.
func TestFilesThatAPromotionLeftAlone(t *testing.T) {
	t.Parallel()
	d := delivery("a", &stubSource{})
	d.Fleet, d.Rules.Observe = unevenFleet{}, true
	o := d.Deliver(t.Context())
	if diff := cmp.Diff([]string{"b.yaml:3: almost a marker", "a.yaml: no YAML"}, o.Problems); diff != "" {
		t.Error(diff)
	}
	if o.State != Watching || o.OK() {
		t.Errorf("state %s, all well: %v", o.State, o.OK())
	}
}

// spoiltFleet is one of which somebody has spoilt very many files.
type spoiltFleet struct{ Fleet }

func (spoiltFleet) problems() []fleet.Problem {
	problems := make([]fleet.Problem, 0, 50_001)
	for n := range 50_000 {
		problems = append(problems, fleet.Problem{File: fmt.Sprintf("%05d.yaml", n), Line: 1, Text: "almost a marker", Ours: true})
	}
	return append(problems, fleet.Problem{File: strings.Repeat("ü/", 1<<20), Text: "no YAML"})
}

func (f spoiltFleet) Promoted(context.Context, fleet.Image) (fleet.State, error) {
	return fleet.State{Problems: f.problems()}, nil
}

func (f spoiltFleet) Promote(context.Context, fleet.Bump) (fleet.Promotion, error) {
	return fleet.Promotion{Problems: f.problems()}, nil
}

// TestManySpoiltFiles: an outcome stays of a size that can be logged and kept.
func TestManySpoiltFiles(t *testing.T) {
	t.Parallel()
	d := delivery("a", &stubSource{})
	d.Fleet, d.Rules.Observe = spoiltFleet{}, true
	o := d.Deliver(t.Context())
	if len(o.Problems) != 101 || o.Problems[99] != "00099.yaml:1: almost a marker" || o.Problems[100] != "and so on, 49900 more" {
		t.Errorf("%d problems, the last: %v", len(o.Problems), o.Problems[len(o.Problems)-1:])
	}
	if len(o.Notices) != 1 || len(o.Notices[0]) > 2000 {
		t.Errorf("%d notices", len(o.Notices))
	}
}

// rewrittenFleet is one whose branch somebody has forced.
type rewrittenFleet struct{ doneFleet }

func (r rewrittenFleet) Promoted(ctx context.Context, image fleet.Image) (fleet.State, error) {
	s, err := r.doneFleet.Promoted(ctx, image)
	s.Rewritten = "branch main was rewritten"
	return s, err
}

// TestARewrittenBranchIsTold: nothing depends on it, and a person should know.
func TestARewrittenBranchIsTold(t *testing.T) {
	t.Parallel()
	d := delivery("a", &stubSource{})
	d.Fleet = rewrittenFleet{}
	o := d.Deliver(t.Context())
	if diff := cmp.Diff([]string{"branch main was rewritten"}, o.Notices); diff != "" || o.State != Done || !o.OK() {
		t.Errorf("state %s\n%s", o.State, diff)
	}
}

// askedSource keeps what it was asked.
type askedSource struct {
	stubSource
	query source.Query
}

func (s *askedSource) Choose(ctx context.Context, q source.Query) (source.Choice, error) {
	s.query = q
	return s.stubSource.Choose(ctx, q)
}

// usedFleet has promoted two commits by a person's word.
type usedFleet struct{ Fleet }

func (usedFleet) Promoted(context.Context, fleet.Image) (fleet.State, error) {
	return fleet.State{Standing: fleet.Holds, Entry: &fleet.Entry{
		Source: gitops.Hash{1}, Accepted: "yes", AcceptedBefore: gitops.Hash{2}.String(),
	}}, nil
}

// TestAWordThatWasUsedChoosesNothing: the config is left as it is, and the
// source hears only of words that still have something to say.
func TestAWordThatWasUsedChoosesNothing(t *testing.T) {
	t.Parallel()
	s := &askedSource{}
	d := delivery("a", s)
	d.Fleet = usedFleet{}
	d.Query.Accept = map[gitops.Hash]string{{1}: "yes", {2}: "yes", {3}: "yes"}
	d.Deliver(t.Context())
	if diff := cmp.Diff(map[gitops.Hash]string{{3}: "yes"}, s.query.Accept); diff != "" {
		t.Error(diff)
	}
	if len(d.Query.Accept) != 3 {
		t.Errorf("the config's words became %v", d.Query.Accept)
	}
}
