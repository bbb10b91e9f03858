package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"sync"
	"syscall"
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
	if image == "" { // with one image alone, the other images' copies are not open and would count as unused
		w.discard(cfg.Cache)
	}
	// The outcomes of a pass are its result, which is printed. They are logged as
	// well only at debug level.
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

// untilRestart names the changed keys that are read at the start alone.
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

// hangups keeps SIGHUP from ending the daemon. Other daemons read their config on
// that signal; this one reads it whenever it changes. On a terminal SIGHUP ends the
// process, as usual. stop restores what the signal does.
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

// within runs work that should end soon after its context does. If it has not when
// the grace is over, within returns an error and leaves it behind: the process ends,
// and the next start finds whatever the work has left.
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

// open loads the config and wires all its images, or the one named. The wiring must
// be closed.
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
