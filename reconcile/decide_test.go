package reconcile

import (
	"strings"
	"testing"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/source"
)

// TestDecide is the table of the six cases, by relation, standing and the
// words of the config.
func TestDecide(t *testing.T) {
	b, c := gitops.Hash{0xb}, gitops.Hash{0xc}
	entry := func(change func(*fleet.Entry)) *fleet.Entry {
		e := &fleet.Entry{Source: b, Bump: gitops.Hash{1}, Ref: "registry.example.com/app:b@sha256:00"}
		if change != nil {
			change(e)
		}
		return e
	}
	choice := func(commit gitops.Hash, relation gitops.Relation) source.Choice {
		return source.Choice{Head: gitops.Commit{Hash: commit}, Commit: gitops.Commit{Hash: commit}, Relation: relation}
	}
	accepted := func(chosen source.Choice) source.Choice {
		chosen.Accepted = "we know"
		return chosen
	}
	state := func(e *fleet.Entry, standing fleet.Standing) fleet.State {
		return fleet.State{Entry: e, Standing: standing}
	}
	usedBefore := func(e *fleet.Entry) { e.AcceptedBefore = c.String() }
	hold := Rules{HoldAfterRevert: true}
	observe := Rules{Observe: true}
	foreign := state(entry(nil), fleet.TakenOver)
	foreign.Foreign = &fleet.Foreign{File: "a.yaml", Value: "evil:1", Author: gitops.Person{Name: "Bot", Email: "bot@example.com"}, Commit: gitops.Hash{7}}
	stale := state(entry(nil), fleet.Proposed)
	stale.Stale = true
	rejected := state(entry(nil), fleet.Undone)
	rejected.Rejected = true
	unmerged := state(entry(nil), fleet.Undone)
	unmerged.Branch, unmerged.Unmerged = "main", true
	behind := state(entry(nil), fleet.Holds)
	behind.LedgerBehind = true
	stranger := state(entry(nil), fleet.Proposed)
	stranger.Stranger = &fleet.Stranger{Branch: "towpath/app", Commit: gitops.Commit{Hash: gitops.Hash{8}}, Reason: "not signed"}

	lost := state(nil, fleet.Unpromoted)
	lost.Lost = &fleet.LostError{Image: "app", Ref: "refs/towpath/production/app", Branch: "main"}

	for _, test := range []struct {
		name     string
		rules    Rules
		promoted fleet.State
		choice   source.Choice
		action   Action
		state    State
		says     string
	}{
		{"1 nothing was promoted", Rules{}, state(nil, fleet.Unpromoted), choice(c, gitops.NoBase), Promote, Promoted, "first"},
		{"1 nothing was promoted, observe", observe, state(nil, fleet.Unpromoted), choice(c, gitops.NoBase), Watch, Watching, "after"},
		{"1 whether anything was is not known", Rules{}, lost, choice(c, gitops.NoBase), Rest, Refused, "cannot be told"},
		{"1 whether anything was is not known, observe", observe, lost, choice(c, gitops.NoBase), Rest, Refused, "cannot be told"},
		{"1 whether anything was is not known, accepted", observe, lost, accepted(choice(c, gitops.NoBase)), Promote, Promoted, "accepted"},
		{"1 no marker", Rules{}, state(nil, fleet.NoMarker), choice(c, gitops.NoBase), Rest, Broken, "no marker"},
		{"2 same, held by the markers", Rules{}, state(entry(nil), fleet.Holds), choice(b, gitops.Same), Rest, Done, "is promoted"},
		{"2 same, ledger behind", Rules{}, behind, choice(b, gitops.Same), Mend, Done, "is promoted"},
		{"2 same, observed", observe, state(entry(nil), fleet.Observed), choice(b, gitops.Same), Rest, Watching, "after"},
		{"2 same, proposed", Rules{}, state(entry(nil), fleet.Proposed), choice(b, gitops.Same), Rest, Proposed, "waits"},
		{"2 same, proposed, conflict", Rules{}, stale, choice(b, gitops.Same), Fill, Proposed, "newest base"},
		{"2 same, undone, and what followed changes nothing watched", Rules{}, state(entry(nil), fleet.Undone), source.Choice{Head: gitops.Commit{Hash: c}, Commit: gitops.Commit{Hash: b}, Relation: gitops.Same}, Rest, Held, "nothing watched has changed since"},
		{"2 same, undone", Rules{}, state(entry(nil), fleet.Undone), choice(b, gitops.Same), Rest, Held, "undone"},
		{"2 same, rejected in review", Rules{}, rejected, choice(b, gitops.Same), Rest, Held, "was proposed for review and rejected by a person"},
		{"2 same, taken over", Rules{}, foreign, choice(b, gitops.Same), Rest, Held, "evil:1 by Bot"},
		{"2 same, placeholder", Rules{}, state(entry(nil), fleet.Unfilled), choice(b, gitops.Same), Fill, Promoted, "never held"},
		{"2 same, undone, accepted", Rules{}, state(entry(nil), fleet.Undone), accepted(choice(b, gitops.Same)), Promote, Promoted, "accepted"},
		{"2 same, taken over, accepted", Rules{}, foreign, accepted(choice(b, gitops.Same)), Promote, Promoted, "accepted"},
		{"2 same, holds, accepted: nothing to do", Rules{}, state(entry(nil), fleet.Holds), accepted(choice(b, gitops.Same)), Rest, Done, "is promoted"},
		{
			"2 same, undone, accepted, but that word was used", Rules{},
			state(entry(func(e *fleet.Entry) { e.Accepted = "we know" }), fleet.Undone), accepted(choice(b, gitops.Same)), Rest, Held, "undone",
		},
		{"4 behind, accepted, but that word was used before this entry", Rules{}, state(entry(usedBefore), fleet.Holds), accepted(choice(c, gitops.Behind)), Rest, Behind, "older"},
		{"5 unrelated, accepted, but that word was used before this entry", Rules{}, state(entry(usedBefore), fleet.Holds), accepted(choice(c, gitops.Unrelated)), Rest, Refused, "does not descend"},
		{"3 ahead, undone, hold, accepted, but that word was used before this entry", hold, state(entry(usedBefore), fleet.Undone), accepted(choice(c, gitops.Ahead)), Rest, Held, "afterRevert"},
		{"3 ahead", Rules{}, state(entry(nil), fleet.Holds), choice(c, gitops.Ahead), Promote, Promoted, "follows"},
		{"3 ahead of an observed start", observe, state(entry(nil), fleet.Observed), choice(c, gitops.Ahead), Promote, Promoted, "follows"},
		{"3 ahead of a proposal", Rules{}, state(entry(nil), fleet.Proposed), choice(c, gitops.Ahead), Promote, Promoted, "follows"},
		{"3 ahead of a placeholder", Rules{}, state(entry(nil), fleet.Unfilled), choice(c, gitops.Ahead), Promote, Promoted, "follows"},
		{"3 ahead, undone, next", Rules{}, state(entry(nil), fleet.Undone), choice(c, gitops.Ahead), Promote, Promoted, "follows"},
		{"3 ahead, undone, hold", hold, state(entry(nil), fleet.Undone), choice(c, gitops.Ahead), Rest, Held, "afterRevert"},
		{"2 same, not merged while there were reviews", Rules{}, unmerged, choice(b, gitops.Same), Rest, Held, "is not on branch main: a person did not merge its review"},
		{"3 ahead, not merged, next", Rules{Branch: "main"}, unmerged, choice(c, gitops.Ahead), Promote, Promoted, "follows the unmerged"},
		{"3 ahead, not merged, hold", hold, unmerged, choice(c, gitops.Ahead), Rest, Held, "was not merged by a person, and afterRevert"},
		{"3 ahead, rejected in review, hold", hold, rejected, choice(c, gitops.Ahead), Rest, Held, "was rejected in review by a person, and afterRevert"},
		{"3 ahead, undone, hold, accepted", hold, state(entry(nil), fleet.Undone), accepted(choice(c, gitops.Ahead)), Promote, Promoted, "accepted"},
		{"3 ahead, taken over", Rules{}, foreign, choice(c, gitops.Ahead), Rest, Held, "evil:1 by Bot"},
		{"3 ahead, taken over, accepted", Rules{}, foreign, accepted(choice(c, gitops.Ahead)), Promote, Promoted, "accepted"},
		{"3 ahead, a stranger's commit on the review branch", Rules{}, stranger, choice(c, gitops.Ahead), Rest, Held, "not Towpath's"},
		{"4 behind", Rules{}, state(entry(nil), fleet.Holds), choice(c, gitops.Behind), Rest, Behind, "older"},
		{"4 behind, accepted", Rules{}, state(entry(nil), fleet.Holds), accepted(choice(c, gitops.Behind)), Promote, Promoted, "accepted"},
		{"4 behind, placeholder", Rules{}, state(entry(nil), fleet.Unfilled), choice(c, gitops.Behind), Fill, Promoted, "never held"},
		{"5 unrelated", Rules{}, state(entry(nil), fleet.Holds), choice(c, gitops.Unrelated), Rest, Refused, "does not descend"},
		{"5 unrelated, accepted", Rules{}, state(entry(nil), fleet.Holds), accepted(choice(c, gitops.Unrelated)), Promote, Promoted, "accepted"},
		{"6 unknown is never no", Rules{}, state(entry(nil), fleet.Holds), choice(c, gitops.Unknown), Rest, Failed, "does not say"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Decide(test.rules, test.promoted, test.choice)
			if got.Action != test.action || got.State != test.state || !strings.Contains(got.Reason, test.says) {
				t.Errorf("Decide = action %d, state %s, reason %q; want action %d, state %s, reason with %q",
					got.Action, got.State, got.Reason, test.action, test.state, test.says)
			}
			if wants := test.choice.Accepted != "" && got.Action == Promote; wants != (got.Accepted != "") {
				t.Errorf("accepted reason %q", got.Accepted)
			}
			if !got.OK() && got.State != Failed && got.Hint == "" {
				t.Error("a person must act, and there is no hint")
			}
		})
	}
}

// TestDecideSaysWhatBecameOfTheNewestBump: its commit is called promoted only
// where it is, and what waits for a review is said to.
func TestDecideSaysWhatBecameOfTheNewestBump(t *testing.T) {
	entry := &fleet.Entry{Source: gitops.Hash{0xb}, Bump: gitops.Hash{1}, Ref: "registry.example.com/app:b@sha256:00"}
	next := source.Choice{Head: gitops.Commit{Hash: gitops.Hash{0xc}}, Commit: gitops.Commit{Hash: gitops.Hash{0xc}}}
	rules := Rules{Branch: "main"}
	for _, test := range []struct {
		promoted fleet.State
		relation gitops.Relation
		plan     string
	}{
		{fleet.State{Branch: "main"}, gitops.NoBase, "the first promotion"},
		{fleet.State{Branch: "review"}, gitops.NoBase, "to be proposed for review on branch review: the first proposal"},
		{fleet.State{Branch: "main", Entry: entry, Standing: fleet.Holds}, gitops.Ahead, "0c000000 follows 0b000000"},
		{fleet.State{Branch: "main", Entry: entry, Standing: fleet.Undone}, gitops.Ahead, "0c000000 follows the undone 0b000000"},
		{fleet.State{Branch: "review", Entry: entry, Standing: fleet.Holds}, gitops.Ahead, "to be proposed for review on branch review: 0c000000 follows 0b000000"},
		{fleet.State{Branch: "review", Entry: entry, Standing: fleet.Proposed}, gitops.Ahead, "to be proposed for review on branch review: 0c000000 follows the proposed 0b000000"},
		{fleet.State{Branch: "review", Entry: entry, Standing: fleet.Undone, Rejected: true}, gitops.Ahead, "to be proposed for review on branch review: 0c000000 follows the rejected 0b000000"},
		{fleet.State{Branch: "review", Entry: entry, Standing: fleet.Proposed}, gitops.Behind, "the branch is at 0c000000, which is older than the proposed 0b000000"},
		{fleet.State{Branch: "main", Entry: entry, Standing: fleet.Undone}, gitops.Unrelated, "0c000000 does not descend from the undone 0b000000: the branch was rewritten"},
		{fleet.State{Branch: "main", Entry: entry, Standing: fleet.Observed}, gitops.Behind, "the branch is at 0c000000, which is older than the observed 0b000000"},
		{fleet.State{Branch: "main", Entry: entry, Standing: fleet.TakenOver}, gitops.Behind, "the branch is at 0c000000, which is older than the overwritten 0b000000"},
	} {
		next.Relation = test.relation
		if got := Decide(rules, test.promoted, next).Plan(); got != test.plan {
			t.Errorf("%s, %s: %q, want %q", test.promoted.Standing, test.relation, got, test.plan)
		}
	}
}

// OK tells whether a person has nothing to mend.
func (v Verdict) OK() bool { return Outcome{State: v.State}.OK() }
