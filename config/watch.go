package config

import (
	"context"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch reads the config again whenever its files change and hands every new
// snapshot to onChange, until the context ends. A config that is wrong is
// handed over as an error, once, and whoever runs keeps the snapshot they have;
// the one that mends it is handed over even if it says what the running one
// says. So is one that onChange could not put to work, at every later look,
// until it can. onChange is called by one goroutine, Watch's own; of an error it
// was handed, what it returns does not matter.
//
// It sees the swapped symlink of a mounted ConfigMap, the rename by which
// editors save, and files that appear or vanish under include. Viper's own
// watcher is not used: it ends at the first removal of the file, and ends the
// process where inotify has no more to give. Here a look every half minute
// serves then, and on file systems that announce nothing.
func Watch(ctx context.Context, options Options, running *Config, onChange func(*Config, error) error) {
	watch(ctx, options, running, 30*time.Second, onChange)
}

func watch(ctx context.Context, options Options, running *Config, every time.Duration, onChange func(*Config, error) error) {
	options.File = running.File
	var changed <-chan fsnotify.Event
	var missed <-chan error
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer watcher.Close()
		changed, missed = watcher.Events, watcher.Errors
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	wrong := ""
	for {
		if watcher != nil {
			for _, directory := range directories(running) {
				_ = watcher.Add(directory) // the tick serves where this cannot
			}
		}
		// Read after the watch is set: no change can fall between the two.
		next, err := Load(options)
		switch {
		case err != nil && err.Error() != wrong:
			wrong = err.Error()
			_ = onChange(nil, err)
		case err == nil && (wrong != "" || next.Digest() != running.Digest()):
			if err := onChange(next, nil); err != nil {
				wrong = err.Error() // a full disk, perhaps, which is so no longer at the next look
				break
			}
			wrong, running = "", next
			continue // it may include other directories, which are not watched yet
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-missed:
		case event := <-changed:
			if event.Op == fsnotify.Chmod {
				continue
			}
		}
		if !quiet(ctx, changed) {
			return
		}
	}
}

// quiet waits until a burst of changes is over: a ConfigMap's swap and an
// editor's save are several each. False: the context ended.
func quiet(ctx context.Context, changed <-chan fsnotify.Event) bool {
	const pause, longest = 50 * time.Millisecond, time.Second
	end := time.After(longest)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		case <-time.After(pause):
			return true
		case <-end:
			return true
		}
	}
}

// directories are those in which a change may concern the config: of its files,
// of what they are symlinks to, and of what include may come to match.
func directories(c *Config) []string {
	files := []string{c.File}
	var all []string
	for _, pattern := range c.Include {
		found, err := included(c.File, pattern)
		if err != nil {
			continue
		}
		files = append(files, found...)
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(literal(filepath.Dir(c.File)), pattern)
		}
		// Where there is no such directory yet, the one above announces it.
		for above := filepath.Dir(pattern); ; above = filepath.Dir(above) {
			matches, err := filepath.Glob(above)
			all = append(all, matches...)
			if err != nil || len(matches) > 0 || above == filepath.Dir(above) {
				break
			}
		}
	}
	for _, file := range files {
		all = append(all, filepath.Dir(file))
		if real, err := filepath.EvalSymlinks(file); err == nil {
			all = append(all, filepath.Dir(real))
		}
	}
	return all
}
