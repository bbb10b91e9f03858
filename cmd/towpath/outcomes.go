package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/reconcile"
)

// reporter returns a function that logs outcomes and appends them to the history.
// No outcome is logged at a higher level than most; one that says the same as the
// round before is logged at debug level.
func (g *globals) reporter(cfg *config.Config, most slog.Level) func(reconcile.Outcome) {
	kept := openHistory(cfg.Cache)
	last := map[string]reconcile.Outcome{}
	return func(o reconcile.Outcome) {
		name := o.Image + " " + o.Target
		level := slog.LevelInfo
		switch {
		case same(last[name], o):
			level = slog.LevelDebug
		case !o.OK():
			level = slog.LevelError
		case o.State == reconcile.Held || o.State == reconcile.Behind:
			level = slog.LevelWarn
		}
		last[name] = o
		logOutcome(g.log, min(level, most), o)
		if err := kept.append(o); err != nil {
			g.log.Warn("no history is kept", "error", err)
		}
	}
}

func logOutcome(log *slog.Logger, level slog.Level, o reconcile.Outcome) {
	fields := []any{"image", o.Image, "target", o.Target, "state", o.State}
	for _, field := range [][2]string{
		{"reason", o.Reason}, {"commit", o.Commit}, {"subject", o.Subject}, {"ref", o.Ref}, {"bump", o.Bump}, {"hint", o.Hint},
	} {
		if field[1] != "" {
			fields = append(fields, field[0], field[1])
		}
	}
	if len(o.Output) > 0 {
		fields = append(fields, "output", strings.Join(o.Output, "\n"))
	}
	fields = append(fields, "took", time.Duration(o.Took).Round(time.Millisecond))
	log.Log(context.Background(), level, "round", fields...)
	for _, problem := range o.Problems {
		log.Log(context.Background(), level, "problem", "image", o.Image, "target", o.Target, "text", problem)
	}
	for _, notice := range o.Notices {
		log.Log(context.Background(), max(level, slog.LevelDebug), "notice", "image", o.Image, "target", o.Target, "text", notice)
	}
}

const noImages = "the config names no image"

// printOutcomes prints what became of each image, with what a person can do.
// Why something failed is left to verdictOf, whose lines follow on stderr.
func printOutcomes(out io.Writer, outcomes []reconcile.Outcome) {
	if len(outcomes) == 0 {
		fmt.Fprintln(out, noImages)
		return
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "IMAGE\tTARGET\tSTATE\tCOMMIT\tREASON")
	for _, o := range outcomes {
		reason := gitops.Line(o.Reason, 400)
		if o.Stopped() {
			reason = "see the error"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", o.Image, o.Target, o.State, short(o.Commit), reason)
	}
	table.Flush()
	for _, o := range outcomes {
		if len(o.Output) > 0 {
			fmt.Fprintf(out, "%s → %s: the last lines of the build:\n", o.Image, o.Target)
			printOutput(out, o.Output)
		}
		if o.Hint != "" && !o.Stopped() {
			fmt.Fprintf(out, "%s → %s: %s\n", o.Image, o.Target, gitops.Line(o.Hint, 400))
		}
		printNotes(out, o.Image, o.Target, nil, o.Notices)
	}
	others := map[string]strangers{}
	for _, o := range outcomes {
		if o.Others > 0 { // a round that failed has not looked
			others[o.Target] = strangers{o.Others, o.OthersAt}
		}
	}
	printOthers(out, others)
}

// printOutput prints the last lines of a build, marked as such.
func printOutput(out io.Writer, lines []string) {
	for _, line := range lines {
		fmt.Fprintf(out, "  | %s\n", gitops.Line(line, 400))
	}
}

// printNotes prints what a person must mend, and what they should know.
func printNotes(out io.Writer, image, target string, problems, notices []string) {
	for _, note := range slices.Concat(problems, notices) {
		fmt.Fprintf(out, "%s → %s: %s\n", image, target, gitops.Line(note, 400))
	}
}

// strangers are the markers of a target that belong to no image of the config.
type strangers struct {
	count int
	first []string // where the first of them are
}

// printOthers prints a line for each target that has such markers.
func printOthers(out io.Writer, others map[string]strangers) {
	for _, target := range slices.Sorted(maps.Keys(others)) {
		found := others[target]
		text := "1 marker belongs to no image here and is left alone"
		if found.count > 1 {
			text = fmt.Sprintf("%d markers belong to no image here and are left alone", found.count)
		}
		if len(found.first) > 0 {
			text += ": " + strings.Join(found.first, ", ")
		}
		if more := found.count - len(found.first); more > 0 && len(found.first) > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
		fmt.Fprintf(out, "%s: %s\n", target, gitops.Line(text, 600))
	}
}

// verdictOf is the error that a command ends with after these outcomes; nil: nobody
// has to mend anything. With --output json the result on stdout says what is wrong,
// so the error is one line that counts.
func (g *globals) verdictOf(outcomes []reconcile.Outcome) error {
	var failed several
	wrong := 0
	for _, o := range outcomes {
		if !o.OK() {
			wrong++
		}
		if o.Stopped() {
			failed = append(failed, hinted{fmt.Errorf("%s → %s: %s: %s", o.Image, o.Target, o.State, gitops.Line(o.Reason, 1000)), o.Hint})
		}
		for i, problem := range o.Problems {
			hint := ""
			if i == len(o.Problems)-1 {
				hint = "mend it in the GitOps repository: what is wrong is not edited meanwhile"
			}
			failed = append(failed, hinted{fmt.Errorf("%s → %s: %s", o.Image, o.Target, gitops.Line(problem, 1000)), hint})
		}
	}
	switch {
	case wrong == 0:
		return nil
	case g.output == "json":
		return fmt.Errorf("%d of %d need a person: see their reason, hint and problems", wrong, len(outcomes))
	default:
		return failed
	}
}

// short is the beginning of a hash for a table, and - where there is none.
func short(hash string) string {
	if len(hash) < 8 {
		return "-"
	}
	return hash[:8]
}
