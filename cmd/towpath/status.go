package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/reconcile"
)

// row is how one image stands in one target.
type row struct {
	Image    string          `json:"image"`
	Target   string          `json:"target"`
	Head     string          `json:"head"`           // tip of the source branch
	LastGood string          `json:"lastGood"`       // newest commit that may be built, whether or not it builds
	Built    string          `json:"built"`          // its image is built and sealed: yes, no, unknown where the registry does not say, or building; failed as its Job or the history says
	Bump     string          `json:"bump"`           // newest bump commit
	Promoted string          `json:"promoted"`       // source commit of the newest bump; Fate says what became of that
	Fate     string          `json:"fate,omitempty"` // promoted, proposed, rejected, unmerged, undone, overwritten or observed; empty: there is no bump
	State    reconcile.State `json:"state"`
	Reason   string          `json:"reason,omitempty"`
	Hint     string          `json:"hint,omitempty"`
	Since    time.Time       `json:"since,omitzero"`     // when the newest bump was made
	Problems []string        `json:"problems,omitempty"` // files of the GitOps repository that a person must mend
	Notices  []string        `json:"notices,omitempty"`
	Others   int             `json:"others,omitempty"`   // markers in the target that belong to no image here
	OthersAt []string        `json:"othersAt,omitempty"` // where the first of them are
	Applied  *applied        `json:"flux,omitempty"`     // what Flux has made of it; absent: it is not asked
}

func newStatus(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "status", Args: noArguments,
		Short: "How every image stands in every target",
		Long: `Reads the repositories, the ledger and the registry, and the history that the
daemon left in its cache, and prints a line for each image and target. Changes
nothing.

  HEAD       tip of the source branch
  CANDIDATE  newest commit that may be built, whether or not it builds
  BUILT      yes: its image is built and sealed; no, building, failed, or unknown
             where the registry does not say
  PROMOTED   source commit of the newest bump, and what became of that unless it is
             promoted: proposed, rejected, unmerged, undone, overwritten or observed
  BUMP       that commit in the GitOps repository, and BUMP AGE how old it is
  STATE      what a round would come to; the lines below the table say why
  LIVE       whether Flux has applied the bump, where the target names flux`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, w, groups, err := g.open("")
			if err != nil {
				return err
			}
			defer w.close()
			past, err := readHistory(cfg.Cache)
			if err != nil {
				return err
			}
			inCluster, building := g.fluxView(cfg), w.jobView(cmd.Context())
			rows := each(groups, func(d *reconcile.Delivery) row {
				s := d.Look(cmd.Context())
				now := building.last(s, newest(past, d.Image.Name, d.Target))
				r := rowOf(s, now)
				r.Notices = append(r.Notices, now.notices...)
				r.Applied = inCluster.of(cmd.Context(), d, s.Promoted)
				r.Notices = append(r.Notices, gone(cmd.Context(), d, s)...)
				return r
			})
			return g.print(rows, func(out io.Writer) { printRows(out, rows, len(past) > 0) })
		},
	}
}

// newest is the last outcome that the history has of a delivery.
func newest(past []reconcile.Outcome, image, target string) reconcile.Outcome {
	for i := len(past) - 1; i >= 0; i-- {
		if past[i].Image == image && past[i].Target == target {
			return past[i]
		}
	}
	return reconcile.Outcome{}
}

func rowOf(s reconcile.Sight, build soFar) row {
	o, last := s.Outcome, build.last
	r := row{
		Image: o.Image, Target: o.Target, Head: o.Head, LastGood: o.Commit, Built: "no", Bump: o.Bump,
		Promoted: o.Base, Fate: reconcile.Fate(s.Promoted), State: o.State, Reason: o.Reason, Hint: o.Hint, Problems: o.Problems, Notices: o.Notices, Others: o.Others, OthersAt: o.OthersAt,
	}
	if s.Built || s.Promoted.Standing == fleet.Holds && o.Commit == o.Base {
		r.Built = "yes"
	}
	if r.Built == "no" && s.Unasked {
		r.Built = "unknown"
	}
	if entry := s.Promoted.Entry; entry != nil {
		r.Since = entry.When
	}
	switch {
	case r.State == reconcile.Planned && build.again != "":
		r.Reason = build.again
	case r.State == reconcile.Planned && last.Commit == o.Commit && last.Stopped():
		r.State, r.Reason, r.Hint = last.State, last.Reason, last.Hint
		if last.State == reconcile.Faulty {
			r.Built = "failed"
		}
	}
	if build.building != "" {
		r.Built, r.Reason = "building", build.building
	}
	return r
}

func printRows(out io.Writer, rows []row, past bool) {
	if len(rows) == 0 {
		fmt.Fprintln(out, noImages)
		return
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	columns := []string{"IMAGE", "TARGET", "HEAD", "CANDIDATE", "BUILT", "PROMOTED", "BUMP", "STATE", "BUMP AGE"}
	asked := slices.ContainsFunc(rows, func(r row) bool { return r.Applied != nil })
	if asked {
		columns = append(columns, "LIVE")
	}
	fmt.Fprintln(table, strings.Join(columns, "\t"))
	for _, r := range rows {
		cells := []string{
			r.Image, r.Target, short(r.Head), short(r.LastGood), r.Built,
			promotedColumn(r), short(r.Bump), string(r.State), age(r.Since),
		}
		if asked {
			cells = append(cells, r.Applied.column())
		}
		fmt.Fprintln(table, strings.Join(cells, "\t"))
	}
	table.Flush()
	for _, r := range rows {
		if r.State == reconcile.Done {
			continue
		}
		fmt.Fprintf(out, "%s → %s: %s\n", r.Image, r.Target, gitops.Line(r.Reason, 400))
		if r.Hint != "" {
			fmt.Fprintf(out, "  %s\n", gitops.Line(r.Hint, 400))
		}
	}
	for _, r := range rows {
		printNotes(out, r.Image, r.Target, r.Problems, r.Notices)
	}
	others := map[string]strangers{}
	for _, r := range rows {
		if r.Others > 0 { // a row that failed has not looked
			others[r.Target] = strangers{r.Others, r.OthersAt}
		}
	}
	printOthers(out, others)
	printUnknown(out, rows)
	if !past {
		fmt.Fprintln(out, "no history here: no daemon has written to this cache")
	}
}

// promotedColumn names the source commit of the newest bump, and what became of
// that unless it is promoted.
func promotedColumn(r row) string {
	if r.Fate == "" || r.Fate == "promoted" {
		return short(r.Promoted)
	}
	return short(r.Promoted) + " (" + r.Fate + ")"
}

// age is how long ago something was, in its largest unit.
func age(when time.Time) string {
	if when.IsZero() {
		return "-"
	}
	d := max(time.Since(when), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
