package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"towpath.dev/towpath/reconcile"
)

// heartbeatName is the file below the cache whose age tells whether the daemon's
// loop is well: a probe can look at it where nothing listens.
const heartbeatName = "heartbeat"

// silence is how old the heartbeat may be: twelve beats. A node under load or a
// slow disk delays a few; a loop that is stuck stays so, and to end it costs time
// and nothing else, as kill -9 does.
const silence = 12 * reconcile.BeatEvery

func newHeartbeat() *cobra.Command {
	return &cobra.Command{
		Use:    "heartbeat FILE",
		Short:  "Tell by the age of the daemon's heartbeat whether it is well",
		Hidden: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("heartbeat takes the file, " + heartbeatName + " below the cache"), "as in towpath heartbeat /var/cache/towpath/" + heartbeatName}
			}
			return nil
		},
		// It reads no config: one that is wrong leaves the daemon at work with the
		// one before it, and must not have it killed.
		RunE: func(_ *cobra.Command, args []string) error { return judge(args[0], time.Now()) },
	}
}

// judge is an error unless the file was touched lately. A time to come is as bad
// as one long ago: the clock was set back, and the next beat mends it.
func judge(file string, now time.Time) error {
	found, err := os.Stat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("heartbeat: %s: no daemon beats yet", file)
	}
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	if age := now.Sub(found.ModTime()); age.Abs() > silence {
		return fmt.Errorf("heartbeat: the last was %s ago: the daemon is stuck, or gone", age.Round(time.Second))
	}
	return nil
}

// beater touches the heartbeat. What goes wrong is logged once, until it goes
// right again.
func beater(cache string, log *slog.Logger) func() {
	file := filepath.Join(cache, heartbeatName)
	failing := false
	return func() {
		err := touch(file)
		if err != nil && !failing {
			log.Warn("no heartbeat: whoever watches it believes that towpath is stuck", "error", err)
		}
		failing = err != nil
	}
}

// touch sets a file's time, and makes the file where there is none: the cache may
// be deleted at any time. A full disk refuses neither.
func touch(file string) error {
	now := time.Now()
	err := os.Chtimes(file, now, now)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	made, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return made.Close()
}
