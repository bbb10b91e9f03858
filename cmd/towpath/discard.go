package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"towpath.dev/towpath/gitops/store"
)

// unusedFor is how long a cached copy of a repository must have been unused before it
// is removed. Such copies are left by a changed config, or by commands with another
// config. Four days, so that a command on Monday still finds what Friday's has left.
const unusedFor = 4 * 24 * time.Hour

// discard removes the cached copies of repositories that nobody has used for long.
// A copy that is open is never touched: that of a repository which the config names,
// and that which another process works with.
func (w *wiring) discard(cache string) {
	for _, kind := range []string{"targets", "sources"} {
		entries, err := os.ReadDir(filepath.Join(cache, kind))
		if err != nil {
			continue // there is no such cache yet, or what is wrong with it was told when it was opened
		}
		for _, entry := range entries {
			if !entry.IsDir() {
				continue
			}
			dir := filepath.Join(cache, kind, entry.Name())
			copies, err := store.Discard(dir, time.Now().Add(-unusedFor))
			if err != nil {
				w.log.Warn("a cached copy that nobody uses was not removed", "error", err)
			}
			if copies > 0 {
				w.log.Info("a cached copy that nobody uses was removed", "directory", dir)
			}
		}
	}
}

// discardDaily is discard now and every day, until the context ends.
func (w *wiring) discardDaily(ctx context.Context, cache string) {
	daily := time.NewTicker(24 * time.Hour)
	defer daily.Stop()
	for {
		w.discard(cache)
		select {
		case <-daily.C:
		case <-ctx.Done():
			return
		}
	}
}
