package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newRetry(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "retry IMAGE",
		Short: "Forget an image's failed builds, so that the same commit is built again",
		Long: `A commit whose build failed by its own fault is not built again until the
commit or its config changes. retry removes the Jobs that record an image's
failed builds: the daemon builds it again with its next poll. Builds at work are
left alone.`,
		Args: oneImage("retry"),
		RunE: func(cmd *cobra.Command, args []string) error {
			image := args[0]
			jobs, cfg, err := g.jobs(image, "retry")
			if errors.Is(err, errNoJobs) {
				return hinted{err, "the sandbox remembers no failure across processes: towpath run --once --image " + image + " builds it again, or restart the daemon"}
			}
			if err != nil {
				return err
			}
			defer jobs.Close()
			forgotten, err := jobs.Retry(cmd.Context(), image)
			if err != nil {
				return err
			}
			removed := []string{}
			for _, one := range forgotten {
				removed = append(removed, one.Job)
			}
			return g.print(struct {
				Image   string   `json:"image"`
				Removed []string `json:"removed"`
			}{image, removed}, func(out io.Writer) {
				for _, one := range forgotten {
					fmt.Fprintf(out, "removed the failed build Job %s of commit %s in namespace %s\n", one.Job, short(one.Commit), cfg.Builder.Kubernetes.Namespace)
				}
				if len(removed) == 0 {
					fmt.Fprintf(out, "no failed build of %s is kept: nothing to forget\n", image)
					return
				}
				fmt.Fprintf(out, "what is still to be promoted of it is built again with the next poll, within %s or so\n", cfg.Interval)
			})
		},
	}
}
