package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/kaniko/job"
)

func newLogs(g *globals) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs IMAGE",
		Short: "What the newest build of an image printed: fetch, kaniko, publish",
		Long: `Prints what the three steps of an image's newest build Job printed, in their
order. With --follow it waits for each step and ends when the build has. Changes
nothing.`,
		Args: oneImage("logs"),
		RunE: func(cmd *cobra.Command, args []string) error {
			jobs, _, err := g.jobs(args[0], "logs")
			if errors.Is(err, errNoJobs) {
				return hinted{err, "the output of each build is in a file: " + g.logFiles(args[0])}
			}
			if err != nil {
				return err
			}
			defer jobs.Close()
			ctx, cancel := cmd.Context(), context.CancelFunc(func() {})
			if !follow {
				ctx, cancel = context.WithTimeout(ctx, patienceWithLogs)
			}
			defer cancel()
			err = jobs.Logs(ctx, args[0], follow, g.printLine())
			if cmd.Context().Err() != nil {
				return nil // whoever follows ends it so
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the build has ended")
	return cmd
}

// oneImage is the one argument of a command.
func oneImage(command string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{fmt.Errorf("%s takes one argument", command), "towpath " + command + " IMAGE"}
		}
		return nil
	}
}

// printLine prints lines of a build as they come.
func (g *globals) printLine() func(job.Line) {
	if g.output == "json" {
		encoder := json.NewEncoder(g.out)
		return func(line job.Line) { _ = encoder.Encode(line) } // a reader that is gone is noticed by the next signal
	}
	said := ""
	return func(line job.Line) {
		if line.Job != said {
			said = line.Job
			fmt.Fprintf(g.out, "Job %s\n", line.Job)
		}
		if line.Step == "" {
			fmt.Fprintf(g.out, "towpath │ %s\n", line.Text)
			return
		}
		fmt.Fprintf(g.out, "%-7s │ %s\n", line.Step, line.Text)
	}
}

// logFiles is where the sandbox keeps what an image's builds printed.
func (g *globals) logFiles(image string) string {
	cfg, err := config.Load(config.Options{File: g.config})
	if err != nil {
		return "below the cache"
	}
	return filepath.Join(cfg.Cache, "builds", "logs", image+"-*.log")
}
