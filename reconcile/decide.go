package reconcile

import (
	"fmt"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/source"
)

// Action is what a verdict asks for.
type Action int

const (
	// Rest: there is nothing to do, or nothing that may be done.
	Rest Action = iota
	// Promote: build the chosen commit unless that was done, and commit its
	// image to the GitOps repository.
	Promote
	// Watch: write a ledger entry for the chosen commit and promote nothing,
	// because the image starts with the next change.
	Watch
	// Fill: the image that the ledger names goes where it is missing: into
	// markers that never held a value of ours, or onto the newest base of a
	// review branch that conflicts. Nothing is built.
	Fill
	// Mend: the bump is on the branch and the ledger does not name it yet.
	Mend
)

// Verdict is a decision and why it was taken.
type Verdict struct {
	Action Action
	State  State
	Reason string
	Hint   string // what a person can do to change it; empty where there is nothing to do
	// Review is the branch on which what is asked for waits for a person. Empty:
	// it goes to the branch that Flux applies, or nowhere.
	Review string
	// Accepted is the reason that a person gave in the config, where it was
	// what allowed the promotion.
	Accepted string
}

// Plan says what a verdict asks for, before it is done.
func (v Verdict) Plan() string {
	if v.Review == "" {
		return v.Reason
	}
	return "to be proposed for review on branch " + v.Review + ": " + v.Reason
}

// reviewHint is what a person does about a proposal.
const reviewHint = "merge the branch to deploy it, or delete the branch to reject it"

// Rules are the words of the config that a decision heeds.
type Rules struct {
	Observe         bool // start: observe
	HoldAfterRevert bool // afterRevert: hold

	Branch string // of the target, which Flux applies: what goes to another is proposed there
	Policy string // of the image's markers, for hints
}

// Decide compares what was promoted with what may be built. It is the whole of
// the decision: it asks nobody and remembers nothing, so every copy of Towpath
// that sees the same repositories decides alike.
func Decide(rules Rules, promoted fleet.State, choice source.Choice) Verdict {
	verdict := decide(rules, promoted, choice)
	if verdict.Action == Promote || verdict.Action == Fill {
		verdict.Review = rules.review(promoted)
	}
	return verdict
}

// review is the branch on which the next bump waits; empty: it does not wait.
func (r Rules) review(promoted fleet.State) string {
	if promoted.Branch == r.Branch {
		return ""
	}
	return promoted.Branch
}

// Fate is what became of the newest bump, in a word for people: promoted, proposed,
// rejected, unmerged, undone, overwritten or observed. Empty: there is no bump.
func Fate(promoted fleet.State) string {
	switch {
	case promoted.Entry == nil:
		return ""
	case promoted.Standing == fleet.Proposed:
		return "proposed"
	case promoted.Standing == fleet.Undone && promoted.Rejected:
		return "rejected"
	case promoted.Standing == fleet.Undone && promoted.Unmerged:
		return "unmerged"
	case promoted.Standing == fleet.Undone:
		return "undone"
	case promoted.Standing == fleet.TakenOver:
		return "overwritten"
	case promoted.Standing == fleet.Observed:
		return "observed"
	default:
		return "promoted"
	}
}

func decide(rules Rules, promoted fleet.State, choice source.Choice) Verdict {
	entry := promoted.Entry
	candidate := gitops.Short(choice.Commit.Hash)
	if stranger := promoted.Stranger; stranger != nil {
		return Verdict{
			State: Held, Reason: fmt.Sprintf("%s holds %s, which is not Towpath's: %s", stranger.Branch, gitops.Short(stranger.Commit.Hash), stranger.Reason),
			Hint: "merge that branch or delete it: Towpath does not write over it",
		}
	}
	if promoted.Standing == fleet.NoMarker {
		return Verdict{
			State: Broken, Reason: "no marker of its policy in the GitOps repository",
			Hint: "add the comment # {\"$imagepolicy\": \"" + rules.Policy + "\"} behind the image in a manifest below update.path",
		}
	}
	if lost := promoted.Lost; lost != nil {
		if choice.Accepted == "" {
			return Verdict{State: Refused, Reason: lost.Error(), Hint: lost.Hint() + ": " + choice.Commit.Hash.String()}
		}
		return Verdict{Action: Promote, State: Promoted, Reason: candidate + " is accepted by the config", Accepted: choice.Accepted}
	}
	if entry == nil {
		if rules.Observe {
			return Verdict{Action: Watch, State: Watching, Reason: "starts with the commit after " + candidate}
		}
		first := "the first promotion"
		if rules.review(promoted) != "" {
			first = "the first proposal"
		}
		return Verdict{Action: Promote, State: Promoted, Reason: first}
	}

	base := gitops.Short(entry.Source)
	named := "the " + Fate(promoted) + " " + base
	if accepted(promoted, choice) {
		return Verdict{Action: Promote, State: Promoted, Reason: candidate + " is accepted by the config", Accepted: choice.Accepted}
	}
	if promoted.Standing == fleet.Unfilled && choice.Relation != gitops.Ahead {
		return Verdict{Action: Fill, State: Promoted, Reason: "a marker that never held a value of ours gets the image of " + base}
	}
	switch choice.Relation {
	case gitops.Same:
		return decideSame(promoted, choice, base)
	case gitops.Ahead:
		return decideAhead(rules, promoted, candidate, base)
	case gitops.Behind:
		return Verdict{
			State: Behind, Reason: fmt.Sprintf("the branch is at %s, which is older than %s", candidate, named),
			Hint: orAccept("push a commit on top of "+base, entry, choice.Commit.Hash),
		}
	case gitops.Unrelated:
		return Verdict{
			State: Refused, Reason: fmt.Sprintf("%s does not descend from %s: the branch was rewritten", candidate, named),
			Hint: orAccept("restore the branch", entry, choice.Commit.Hash),
		}
	default:
		return Verdict{State: Failed, Reason: fmt.Sprintf("the history at hand does not say how %s stands to %s", candidate, named)}
	}
}

// accepted tells whether a person's word for the chosen commit has an effect now. It
// has one only once, as the ledger's entries remember; and for the commit that was
// promoted last only where that was undone, or somebody else wrote over it.
func accepted(promoted fleet.State, choice source.Choice) bool {
	entry := promoted.Entry
	switch {
	case choice.Accepted == "":
		return false
	case !entry.Accepts(choice.Commit.Hash):
		return false
	case entry.Source != choice.Commit.Hash:
		return true
	default:
		return promoted.Standing == fleet.Undone || promoted.Standing == fleet.TakenOver
	}
}

// orAccept adds to a hint that a person may accept a commit instead, unless their word
// for that commit was used before.
func orAccept(hint string, entry *fleet.Entry, commit gitops.Hash) string {
	if !entry.Accepts(commit) {
		return hint + ": the config's word for " + gitops.Short(commit) + " was used"
	}
	return hint + ", or name " + commit.String() + " in source.accept, with a reason"
}

// decideSame decides where the newest commit that may be built is the one that was
// promoted last.
func decideSame(promoted fleet.State, choice source.Choice, base string) Verdict {
	switch promoted.Standing {
	case fleet.Holds:
		done := Verdict{State: Done, Reason: base + " is promoted"}
		if promoted.LedgerBehind {
			done.Action = Mend
		}
		return done
	case fleet.Observed:
		return Verdict{State: Watching, Reason: "starts with the commit after " + base}
	case fleet.Proposed:
		waits := Verdict{
			State: Proposed, Reason: base + " waits for review on branch " + promoted.Branch,
			Hint: reviewHint,
		}
		if promoted.Stale {
			waits.Action, waits.Hint, waits.Reason = Fill, "", base+" again, on the newest base: the proposal before does not merge any more"
		}
		return waits
	case fleet.TakenOver:
		return takenOver(promoted)
	default:
		held := Verdict{State: Held, Reason: base + " was promoted and undone by a person"}
		if promoted.Rejected {
			held.Reason = base + " was proposed for review and rejected by a person"
		}
		if promoted.Unmerged {
			held.Reason = base + " is not on branch " + promoted.Branch + ": a person did not merge its review, or reset the branch to before it"
		}
		next := "push the next source commit"
		if head := choice.Head.Hash; !head.IsZero() && head != promoted.Entry.Source && len(choice.Refused) == 0 {
			held.Reason += ", and nothing watched has changed since, up to " + gitops.Short(head)
			next = "push a source commit that changes what source.watch names"
		}
		held.Hint = orAccept(next, promoted.Entry, promoted.Entry.Source)
		return held
	}
}

// decideAhead decides where the newest commit that may be built descends from the one
// that was promoted last.
func decideAhead(rules Rules, promoted fleet.State, candidate, base string) Verdict {
	undoing := " was undone by a person"
	if promoted.Rejected {
		undoing = " was rejected in review by a person"
	}
	if promoted.Unmerged {
		undoing = " was not merged by a person"
	}
	switch {
	case promoted.Standing == fleet.TakenOver:
		return takenOver(promoted)
	case promoted.Standing == fleet.Undone && rules.HoldAfterRevert:
		return Verdict{
			State: Held, Reason: base + undoing + ", and afterRevert says hold",
			Hint: "name the commit to go on with in source.accept, with a reason",
		}
	default:
		if fate := Fate(promoted); fate != "promoted" {
			base = "the " + fate + " " + base
		}
		return Verdict{Action: Promote, State: Promoted, Reason: candidate + " follows " + base}
	}
}

// takenOver is the verdict where somebody else writes to our marker.
func takenOver(promoted fleet.State) Verdict {
	verdict := Verdict{
		State: Held, Reason: "somebody else writes to a marker of ours",
		Hint: "stop the other writer and set the marked value back, or name the commit to go on with in source.accept, with a reason",
	}
	if f := promoted.Foreign; f != nil {
		verdict.Reason = fmt.Sprintf("%s was set to %s by %s in %s", f.File, f.Value, f.Author.Name, gitops.Short(f.Commit))
	}
	return verdict
}
