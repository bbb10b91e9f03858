package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/reconcile"
)

// gate is one thing that has to be passed on the way to production.
type gate struct {
	Gate    string    `json:"gate"`
	Verdict string    `json:"verdict"` // passed, waiting, stopped, or unknown
	Detail  string    `json:"detail,omitempty"`
	When    time.Time `json:"when,omitzero"`
}

// answer is what `why` says of one image in one target.
type answer struct {
	Image    string              `json:"image"`
	Target   string              `json:"target"`
	State    reconcile.State     `json:"state"`
	Gates    []gate              `json:"gates"`
	Next     string              `json:"next,omitempty"`   // what to do
	Output   []string            `json:"output,omitempty"` // the last lines of a failed build
	Problems []string            `json:"problems,omitempty"`
	Notices  []string            `json:"notices,omitempty"`
	History  []reconcile.Outcome `json:"history,omitempty"`
	Applied  *applied            `json:"flux,omitempty"` // what Flux has made of it; absent: it is not asked
	// What was asked about, where it is older than what the gates are about.
	Promotions []promotion   `json:"promotions,omitempty"`
	Commit     *sourceCommit `json:"commit,omitempty"`

	err error
}

func newWhy(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "why IMAGE|COMMIT|DIGEST|BUMP",
		Short: "Every gate on the way to production, its verdict, and what to do next",
		Long: `Says why an image stands as it does. X is an image's name, a source commit, an
image's digest or a bump commit; hashes may be cut to 7 digits or more. Changes
nothing.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || strings.TrimSpace(args[0]) == "" {
				return usageError{errors.New("why takes one argument"), "towpath why IMAGE, or a commit, a digest or a bump"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return g.why(cmd.Context(), args[0]) },
	}
}

// why answers what stands where, and why, for an image's name or for a hash.
func (g *globals) why(ctx context.Context, what string) error {
	cfg, w, groups, err := g.open("")
	if err != nil {
		return err
	}
	defer w.close()
	past, err := readHistory(cfg.Cache)
	if err != nil {
		return err
	}
	q := inquiry{what: what, image: cfg.Image(what) != nil, past: past, flux: g.fluxView(cfg), jobs: w.jobView(ctx)}
	answers := each(groups, func(d *reconcile.Delivery) *answer { return q.about(ctx, d) })
	var found []*answer
	var failed several
	for _, a := range answers {
		switch {
		case a == nil:
		case a.err != nil:
			failed = append(failed, a.err)
		default:
			found = append(found, a)
		}
	}
	if len(failed) > 0 {
		return failed
	}
	if len(found) == 0 {
		return hinted{fmt.Errorf("why %s: no image, commit, digest or bump of that name is known", gitops.Line(what, 80)),
			"towpath status lists the images; hashes need 7 digits or more"}
	}
	return g.print(found, func(out io.Writer) {
		for i, a := range found {
			if i > 0 {
				fmt.Fprintln(out)
			}
			printAnswer(out, a)
		}
	})
}

// inquiry is what somebody asks about, and where the answers are read.
type inquiry struct {
	what  string
	image bool // what is an image's name; else a commit, a digest or a bump, perhaps cut
	past  []reconcile.Outcome
	flux  *fluxView
	jobs  *jobView
}

// about answers for one delivery; nil: it has nothing to do with what was asked about.
func (q inquiry) about(ctx context.Context, d *reconcile.Delivery) *answer {
	if q.image && d.Image.Name != q.what {
		return nil
	}
	s := d.Look(ctx)
	var history []reconcile.Outcome
	for _, o := range q.past {
		if o.Image == d.Image.Name && o.Target == d.Target && (q.image || mentions(o, q.what)) {
			history = append(history, o)
		}
	}
	a := answerOf(s, history, q.jobs)
	if applied := q.flux.of(ctx, d, s.Promoted); applied != nil {
		a.Gates, a.Applied = append(a.Gates, liveGate(applied)), applied
	}
	a.Notices = append(a.Notices, gone(ctx, d, s)...)
	if q.image {
		return a
	}
	a.Promotions, a.Commit, a.err = pastOf(ctx, d, s.Promoted, q.what)
	if a.err == nil && !mentions(s.Outcome, q.what) && len(history) == 0 && len(a.Promotions) == 0 && a.Commit == nil {
		return nil
	}
	return a
}

// mentions tells whether an outcome is about a commit, a digest or a bump,
// which may be cut to 7 digits.
func mentions(o reconcile.Outcome, what string) bool {
	what = strings.TrimPrefix(strings.ToLower(what), "sha256:")
	if len(what) < 7 {
		return false
	}
	for _, hash := range []string{o.Head, o.Commit, o.Base, o.Bump} {
		if strings.HasPrefix(hash, what) {
			return true
		}
	}
	for _, ref := range []string{o.Ref, o.Promoted} {
		if _, digest, ok := strings.Cut(ref, "@sha256:"); ok && strings.HasPrefix(digest, what) {
			return true
		}
	}
	return false
}

// Verdicts of gates.
const (
	passed  = "passed"
	waiting = "waiting"
	stopped = "stopped"
	unknown = "unknown"
)

func answerOf(s reconcile.Sight, history []reconcile.Outcome, jobs *jobView) *answer {
	o := s.Outcome
	a := &answer{Image: o.Image, Target: o.Target, State: o.State, Next: o.Hint, Problems: o.Problems, Notices: o.Notices, History: history}
	if o.Err != nil && s.Choice.Commit.Hash.IsZero() {
		a.Gates = append(a.Gates, gate{Gate: "observe", Verdict: unknown, Detail: o.Reason})
		return a
	}
	var last reconcile.Outcome
	for _, one := range history {
		if one.Commit == o.Commit {
			last = one
		}
	}
	build := jobs.last(s, last)
	a.Notices = append(a.Notices, build.notices...)
	a.Gates = []gate{sourceGate(s), verifyGate(s), descentGate(s), buildGate(s, build), promoteGate(s)}
	if last = build.last; a.State == reconcile.Planned && last.Stopped() && build.again == "" {
		a.State, a.Next, a.Output = last.State, last.Hint, last.Output
	}
	return a
}

func sourceGate(s reconcile.Sight) gate {
	head := s.Choice.Head
	return gate{"source", passed, fmt.Sprintf("the branch is at %s %s, by %s", gitops.Short(head.Hash), head.Subject, head.Author.Name), head.Committer.When}
}

func verifyGate(s reconcile.Sight) gate {
	if len(s.Choice.Refused) > 0 {
		var texts []string
		for _, refusal := range s.Choice.Refused {
			texts = append(texts, gitops.Short(refusal.Commit.Hash)+" "+refusal.Reason)
		}
		return gate{Gate: "verify", Verdict: stopped, Detail: strings.Join(texts, "; ")}
	}
	detail := "mode none: anything on the branch may be built"
	if s.Choice.Accepted != "" {
		detail = "accepted by the config: " + s.Choice.Accepted
	}
	return gate{Gate: "verify", Verdict: passed, Detail: detail}
}

func descentGate(s reconcile.Sight) gate {
	commit := gitops.Short(s.Choice.Commit.Hash)
	if lost := s.Promoted.Lost; lost != nil && s.Verdict.Accepted == "" {
		return gate{Gate: "descent", Verdict: stopped, Detail: lost.Error()}
	}
	if s.Promoted.Entry == nil {
		return gate{Gate: "descent", Verdict: passed, Detail: "nothing was promoted before " + commit}
	}
	base, fate := gitops.Short(s.Promoted.Entry.Source), reconcile.Fate(s.Promoted)
	switch s.Choice.Relation {
	case gitops.Same:
		return gate{Gate: "descent", Verdict: passed, Detail: fmt.Sprintf("%s is the %s commit, and nothing watched has changed since", base, fate)}
	case gitops.Ahead:
		return gate{Gate: "descent", Verdict: passed, Detail: fmt.Sprintf("%s descends from the %s %s", commit, fate, base)}
	default:
		verdict := stopped
		if s.Verdict.Accepted != "" {
			verdict = passed
		}
		stands := "is of unknown relation to"
		switch s.Choice.Relation {
		case gitops.Behind:
			stands = "comes before"
		case gitops.Unrelated:
			stands = "does not descend from"
		}
		return gate{Gate: "descent", Verdict: verdict, Detail: fmt.Sprintf("%s %s the %s %s", commit, stands, fate, base)}
	}
}

func buildGate(s reconcile.Sight, build soFar) gate {
	switch last := build.last; {
	case build.building != "":
		return gate{Gate: "build", Verdict: waiting, Detail: build.building}
	case build.again != "":
		return gate{Gate: "build", Verdict: waiting, Detail: build.again}
	case s.Built:
		return gate{Gate: "build", Verdict: passed, Detail: s.Image.Ref() + ", sealed by us"}
	case s.Choice.Relation == gitops.Same && s.Promoted.Entry != nil && s.Promoted.Entry.Ref != "":
		return gate{Gate: "build", Verdict: passed, Detail: s.Promoted.Entry.Ref, When: s.Promoted.Entry.When}
	case last.State == reconcile.Faulty:
		return gate{Gate: "build", Verdict: stopped, Detail: last.Reason, When: last.Ended()}
	case last.Time.IsZero():
		return gate{Gate: "build", Verdict: waiting, Detail: "not built; no history here of an attempt"}
	default:
		return gate{Gate: "build", Verdict: waiting, Detail: fmt.Sprintf("not built; the last round said %s: %s", last.State, last.Reason), When: last.Ended()}
	}
}

func promoteGate(s reconcile.Sight) gate {
	g := gate{Gate: "promote", Detail: s.Verdict.Plan()}
	if entry := s.Promoted.Entry; entry != nil {
		g.When = entry.When
		g.Detail += fmt.Sprintf(" (bump %s)", gitops.Short(entry.Bump))
	}
	switch s.Verdict.State {
	case reconcile.Done:
		g.Verdict = passed
	case reconcile.Promoted, reconcile.Proposed, reconcile.Watching:
		g.Verdict = waiting
	default:
		g.Verdict = stopped
	}
	return g
}

func printAnswer(out io.Writer, a *answer) {
	fmt.Fprintf(out, "%s → %s: %s\n", a.Image, a.Target, a.State)
	printPast(out, a.Promotions, a.Commit)
	for _, g := range a.Gates {
		when := ""
		if !g.When.IsZero() {
			when = "  " + g.When.UTC().Format("2006-01-02 15:04:05Z")
		}
		fmt.Fprintf(out, "  %-8s %-8s %s%s\n", g.Gate, g.Verdict, gitops.Line(g.Detail, 1000), when)
		if g.Gate == "build" {
			printOutput(out, a.Output)
		}
	}
	if a.Next != "" {
		fmt.Fprintf(out, "  next:    %s\n", gitops.Line(a.Next, 1000))
	}
	for _, note := range slices.Concat(a.Problems, a.Notices) {
		fmt.Fprintf(out, "  note:    %s\n", gitops.Line(note, 1000))
	}
	if len(a.History) == 0 {
		fmt.Fprintln(out, "  no history here: no daemon has written about it to this cache")
		return
	}
	fmt.Fprintln(out, "  history:")
	for _, o := range a.History[max(0, len(a.History)-10):] {
		fmt.Fprintf(out, "    %s  %s %s  %s\n", o.Ended().UTC().Format("2006-01-02 15:04:05Z"), o.State, short(o.Commit), gitops.Line(o.Reason, 300))
	}
}
