package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/reconcile"
)

// grace is how long what is in flight has to end after SIGTERM.
const grace = 9 * time.Second

func newRun(g *globals) *cobra.Command {
	var once bool
	var image string
	cmd := &cobra.Command{
		Use: "run", Args: noArguments,
		Short: "Poll, build and promote until SIGTERM",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if image != "" && !once {
				return usageError{errors.New("--image goes with --once"), "to stop single images, set suspend in the config"}
			}
			if once {
				return g.runOnce(cmd.Context(), image)
			}
			return g.runDaemon(cmd.Context())
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "one complete pass, waiting for its builds")
	cmd.Flags().StringVar(&image, "image", "", "with --once: this image alone")
	return cmd
}

// runOnce is one pass over every image, or one.
func (g *globals) runOnce(ctx context.Context, image string) error {
	cfg, w, groups, err := g.open(image)
	if err != nil {
		return err
	}
	defer w.close()
	w.sweep(ctx)
	if image == "" { // else what is not open may be another image's
		w.discard(cfg.Cache)
	}
	// What a pass brings is its result, and printed as that: it is not logged,
	// too, unless somebody wants to see everything.
	in := g.cluster(cfg)
	told := g.tell(ctx, cfg, w, in)
	defer told.close()
	report := g.reporter(cfg, slog.LevelDebug)
	loop := reconcile.Loop{Report: func(o reconcile.Outcome) { report(o); told.report(o) }}
	outcomes, err := within(ctx, func() []reconcile.Outcome { return loop.Once(ctx, groups) })
	if err != nil {
		return err
	}
	if err := g.print(outcomes, func(out io.Writer) { printOutcomes(out, outcomes) }); err != nil {
		return err
	}
	return g.verdictOf(outcomes)
}

// runDaemon works until the context ends, and follows changes of the config.
func (g *globals) runDaemon(ctx context.Context) error {
	cfg, w, groups, err := g.open("")
	if err != nil {
		return err
	}
	defer w.close()
	giveBack() // of what reading the config took
	w.warm(cfg)
	w.sweep(ctx)
	g.log.Info("towpath runs", "version", version, "config", cfg.File, "images", len(cfg.Images), "sources", len(groups), "interval", cfg.Interval)

	in := g.cluster(cfg)
	told := g.tell(ctx, cfg, w, in)
	defer told.close()
	report, beat := g.reporter(cfg, slog.LevelError), beater(cfg.Cache, g.log)
	loop := reconcile.Loop{Report: func(o reconcile.Outcome) { report(o); told.report(o) }, Beat: beat, Settled: w.release}
	deliveries := newFeed(groups)
	var watching sync.WaitGroup
	watching.Go(func() { frugal(ctx) })
	watching.Go(func() { w.discardDaily(ctx, cfg.Cache) })
	watching.Go(func() {
		said := ""
		config.Watch(ctx, config.Options{File: g.config}, cfg, func(next *config.Config, err error) error {
			if err == nil && next.Cache != cfg.Cache {
				// Its copies, builds, locks, history and heartbeat are there: half of them
				// in another place would be two daemons in one.
				g.log.Error("the changed config takes a restart: the one before it stays in force", "error", "cache is "+next.Cache+" now, and this daemon works in "+cfg.Cache,
					"hint", "restart towpath, or set cache back for the other changes to be followed at once")
				return nil
			}
			if err == nil {
				groups, err = w.groups(next, "")
			}
			if err != nil {
				if text := oneLine(strings.ReplaceAll(err.Error(), "\n", "; ")); text != said {
					said = text
					g.log.Error("the changed config is wrong: the one before it stays in force", "error", text, "hint", "towpath check says how to mend it")
				}
				return err
			}
			said = ""
			g.log.Info("the config changed", "images", len(next.Images), "sources", len(groups))
			if late := untilRestart(cfg, next); len(late) > 0 {
				g.log.Warn("a part of the changed config is followed from the next start on", "keys", strings.Join(late, ", "), "hint", "restart towpath")
			}
			deliveries.put(groups)
			return nil
		})
	})
	defer g.hangups()()
	_, err = within(ctx, func() struct{} {
		work := whileIdle(ctx, beat, func(ctx context.Context) { loop.Run(ctx, deliveries.begin()) })
		g.lead(ctx, cfg, in, told, work)
		watching.Wait()
		return struct{}{}
	})
	g.log.Info("towpath ends")
	return err
}

// untilRestart names the keys that changed and that only a start heeds.
func untilRestart(running, next *config.Config) []string {
	var late []string
	if next.Events.Address != running.Events.Address {
		late = append(late, "events.address")
	}
	if !reflect.DeepEqual(next.LeaderElection, running.LeaderElection) {
		late = append(late, "leaderElection")
	}
	return late
}

// hangups keeps SIGHUP, by which daemons are told to read their config, from
// ending this one, which reads it whenever it changes. On a terminal it means
// what it always does. The function returned ends that.
func (g *globals) hangups() (stop func()) {
	if terminal(g.err) {
		return func() {}
	}
	received, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(received, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-received:
				g.log.Info("SIGHUP: nothing to do, the config is read whenever it changes")
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(received)
		close(done)
	}
}

// within runs work that ends soon after its context does, and gives up waiting
// for it when the grace is over: the next start finds whatever it leaves.
func within[T any](ctx context.Context, work func() T) (T, error) {
	done := make(chan T, 1)
	go func() { done <- work() }()
	select {
	case result := <-done:
		return result, nil
	case <-ctx.Done():
	}
	select {
	case result := <-done:
		return result, nil
	case <-time.After(grace):
		var none T
		return none, fmt.Errorf("what was in flight did not end within %s of the signal", grace)
	}
}

// open loads the config and wires it.
func (g *globals) open(image string) (*config.Config, *wiring, []reconcile.Group, error) {
	cfg, err := config.Load(config.Options{File: g.config})
	if err != nil {
		return nil, nil, nil, err
	}
	w := newWiring(g.log, g.progress())
	groups, err := w.groups(cfg, image)
	if err != nil {
		return nil, nil, nil, errors.Join(err, w.close())
	}
	return cfg, w, groups, nil
}

// progress shows long steps on a terminal, and is nil elsewhere.
func (g *globals) progress() func(string) {
	if !terminal(g.err) {
		return nil
	}
	return func(line string) { fmt.Fprintln(g.err, "  "+gitops.Line(line, 100)) }
}

// reporter logs outcomes, at no higher a level than most, and keeps their
// history. What has not changed since the last round is logged at debug level.
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

// printOutput prints what a build printed.
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

// strangers are the markers of a target that are not ours.
type strangers struct {
	count int
	first []string // where the first of them are
}

// printOthers counts the markers that are not ours, a line for each target.
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

// verdictOf is an error where a person has something to mend. Beside a result
// in JSON, which says all of it, it is one line.
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

func short(hash string) string {
	if len(hash) < 8 {
		return "-"
	}
	return hash[:8]
}
