package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops"
)

// streams is what a command reads and writes: results go to out, logs and
// errors to err.
type streams struct {
	in  io.Reader
	out io.Writer
	err io.Writer
	env []string
}

// globals are the flags that every command has, and what follows from them.
type globals struct {
	streams
	config    string
	output    string
	logFormat string
	logLevel  string
	log       *slog.Logger
}

// execute runs one command line and returns the exit code.
func execute(ctx context.Context, args []string, std streams) int {
	g := &globals{streams: std}
	root := newRoot(g)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	printError(std.err, err)
	return exitCode(err)
}

// similarCommand is what somebody probably meant who typed the beginning of a
// command, or something near to one; empty: nobody knows.
func similarCommand(root *cobra.Command, typed string) string {
	var names []string
	for _, command := range root.Commands() {
		if !command.IsAvailableCommand() {
			continue
		}
		if len(typed) > 1 && strings.HasPrefix(command.Name(), strings.ToLower(typed)) {
			return command.Name()
		}
		names = append(names, command.Name())
	}
	return config.Similar(typed, names)
}

func newRoot(g *globals) *cobra.Command {
	root := &cobra.Command{
		Use:   "towpath",
		Short: "Pulls code all the way into a cluster: poll, verify, build, publish, signed bump",
		Long: `Towpath polls application repositories, builds what moved with kaniko out of
reach of every secret, publishes and seals the image, and commits
the new tag to the GitOps repository in a signed commit that Flux pulls.`,
		SilenceErrors: true, SilenceUsage: true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			hint := "see towpath --help"
			if near := similarCommand(cmd, args[0]); near != "" {
				hint = "did you mean " + near + "?"
			}
			return usageError{fmt.Errorf("there is no command %q", args[0]), hint}
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := given(cmd); err != nil {
				return err
			}
			return g.prepare()
		},
	}
	root.SetIn(g.in)
	root.SetOut(g.out)
	root.SetErr(g.err)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{err, "see " + cmd.CommandPath() + " --help"}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&g.config, "config", "", "config file (default ./towpath.yaml, then /etc/towpath/towpath.yaml)")
	flags.StringVar(&g.output, "output", "text", "how results are printed: text or json")
	flags.StringVar(&g.logFormat, "log-format", "text", "how logs are printed: text or json")
	flags.StringVar(&g.logLevel, "log-level", "info", "the least that is logged: debug, info, warn or error")
	root.AddCommand(
		newRun(g), newPlan(g), newStatus(g), newWhy(g), newCheck(g),
		newLogs(g), newRetry(g), newKeygen(g), newVersion(g), newFetch(g), newPublish(), newHeartbeat(), newInit(g),
	)
	return root
}

// given refuses a flag that was given without a value: a script whose variable is
// not set means one image, one config or one directory, and would get all images,
// another config, or the directory that it happens to be in.
func given(cmd *cobra.Command) error {
	for _, name := range []string{"config", "image", "secrets"} {
		if flag := cmd.Flags().Lookup(name); flag != nil && flag.Changed && flag.Value.String() == "" {
			return usageError{fmt.Errorf("--%s is empty", name), "give it a value, or leave it out; in a script, is its variable set?"}
		}
	}
	return nil
}

// prepare checks the global flags and sets up the log.
func (g *globals) prepare() error {
	if g.output != "text" && g.output != "json" {
		return usageError{fmt.Errorf("--output %q", g.output), "it is text or json"}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(g.logLevel)); err != nil {
		return usageError{fmt.Errorf("--log-level %q", g.logLevel), "it is debug, info, warn or error"}
	}
	options := &slog.HandlerOptions{Level: level}
	switch g.logFormat {
	case "text":
		g.log = slog.New(slog.NewTextHandler(g.err, options))
	case "json":
		options.ReplaceAttr = durationsAsText
		g.log = slog.New(slog.NewJSONHandler(g.err, options))
	default:
		return usageError{fmt.Errorf("--log-format %q", g.logFormat), "it is text or json"}
	}
	return nil
}

// durationsAsText writes durations with their unit, in JSON as in text.
func durationsAsText(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// oneLine is harmless on a terminal, whoever wrote it, and no longer than people
// read: a command line may hold a hundred kilobytes.
func oneLine(s string) string { return gitops.Line(s, 8000) }
