package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/kaniko/job"
	"towpath.dev/towpath/kaniko/sandbox"
)

// logsPatience bounds how long logs waits for the API server without --follow.
const logsPatience = time.Minute

func newLogs(g *globals) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs IMAGE",
		Short: "What the newest build of an image printed: fetch, kaniko, publish",
		Long: `Prints what the three steps of an image's newest build printed, in their order.
With --follow it waits for each step of a build Job and ends when the build has.
Changes nothing.`,
		Args: oneImage("logs"),
		RunE: func(cmd *cobra.Command, args []string) error {
			jobs, _, err := g.jobs(args[0], "logs")
			if errors.Is(err, errNoJobs) {
				return g.sandboxLog(args[0], follow)
			}
			if err != nil {
				return err
			}
			defer jobs.Close()
			ctx, cancel := cmd.Context(), context.CancelFunc(func() {})
			if !follow {
				ctx, cancel = context.WithTimeout(ctx, logsPatience)
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

// sandboxLog prints what the newest build of an image printed in the sandbox,
// which keeps it in a file. Nothing there acts on a terminal.
func (g *globals) sandboxLog(image string, follow bool) error {
	cfg, err := config.Load(config.Options{File: g.config})
	if err != nil {
		return err
	}
	logs := sandbox.Logs(filepath.Join(cfg.Cache, "builds"), image)
	if len(logs) == 0 {
		return hinted{fmt.Errorf("logs: no build of %s has printed anything here", image), "towpath why " + image + " says how it stands"}
	}
	if follow {
		return usageError{errors.New("logs: --follow is for builds in Jobs"), "tail -f " + logs[0]}
	}
	file, err := os.Open(logs[0])
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	defer file.Close()
	if g.output != "json" {
		fmt.Fprintln(g.out, "Log "+logs[0])
		_, err := io.Copy(g.out, file)
		return err
	}
	encoder := json.NewEncoder(g.out)
	lines := bufio.NewReader(file)
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			_ = encoder.Encode(struct { // a reader that is gone is noticed by the next signal
				Log  string `json:"log"`
				Text string `json:"text"`
			}{logs[0], strings.TrimSuffix(text, "\n")})
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("logs: %w", err)
		}
	}
}
