package main

import (
	"fmt"
	"io"
	"sync"

	"github.com/spf13/cobra"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/reconcile"
)

func newPlan(g *globals) *cobra.Command {
	var image string
	cmd := &cobra.Command{
		Use: "plan", Args: noArguments,
		Short: "What run --once would do, and the diff it would commit; changes nothing",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, w, groups, err := g.open(image)
			if err != nil {
				return err
			}
			defer w.close()
			type plan struct {
				reconcile.Outcome
				Diff string `json:"diff,omitempty"`
			}
			plans := each(groups, func(d *reconcile.Delivery) plan {
				o, diff := d.Plan(cmd.Context(), d.Fleet.(reconcile.Previewer))
				return plan{o, diff}
			})
			var outcomes []reconcile.Outcome
			for _, p := range plans {
				outcomes = append(outcomes, p.Outcome)
			}
			err = g.print(plans, func(out io.Writer) {
				printOutcomes(out, outcomes)
				for _, p := range plans {
					for _, refused := range p.Refused {
						fmt.Fprintf(out, "%s: refused %s\n", p.Image, gitops.Line(refused, 400))
					}
					if p.Diff != "" {
						fmt.Fprintf(out, "\n%s → %s would commit:\n\n%s", p.Image, p.Target, paint(out, p.Diff))
					}
				}
			})
			if err != nil {
				return err
			}
			return g.verdictOf(outcomes)
		},
	}
	cmd.Flags().StringVar(&image, "image", "", "this image alone")
	return cmd
}

// each does something for every delivery, side by side, and returns the
// results in the config's order.
func each[T any](groups []reconcile.Group, do func(*reconcile.Delivery) T) []T {
	var deliveries []*reconcile.Delivery
	for _, group := range groups {
		deliveries = append(deliveries, group.Deliveries...)
	}
	results := make([]T, len(deliveries))
	var all sync.WaitGroup
	for i, d := range deliveries {
		all.Go(func() { results[i] = do(d) })
	}
	all.Wait()
	return results
}
