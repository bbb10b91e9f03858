package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"towpath.dev/towpath/reconcile"
)

// history is the file that the daemon appends outcomes to, a JSON object a
// line, for `status` and `why` to read. It is disposable: nothing is decided by
// it. An outcome that says the same as the one before it is not written again.
type history struct {
	path string
	mu   sync.Mutex
	last map[string]reconcile.Outcome
}

// The file is turned over when it is this long; one older file is kept.
const historyLimit = 4 << 20

func openHistory(cache string) *history {
	return &history{path: filepath.Join(cache, "outcomes.jsonl"), last: map[string]reconcile.Outcome{}}
}

// append adds an outcome. An error costs the history a line and nothing else.
func (h *history) append(o reconcile.Outcome) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	name := o.Image + " " + o.Target
	if same(h.last[name], o) {
		return nil
	}
	h.last[name] = o
	if info, err := os.Stat(h.path); err == nil && info.Size() > historyLimit {
		if err := os.Rename(h.path, h.path+".old"); err != nil {
			return fmt.Errorf("turn the history over: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(h.path), 0o755); err != nil {
		return fmt.Errorf("write the history: %w", err)
	}
	file, err := os.OpenFile(h.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the history: %w", err)
	}
	defer file.Close()
	line, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("write the history: %w", err)
	}
	_, err = file.Write(append(line, '\n')) // one write, so that two daemons do not mix their lines
	return err
}

// same tells whether two outcomes tell the same story.
func same(a, b reconcile.Outcome) bool {
	return a.State == b.State && a.Reason == b.Reason && a.Commit == b.Commit && a.Head == b.Head && a.Bump == b.Bump &&
		slices.Equal(a.Problems, b.Problems)
}

// readHistory returns the outcomes that a daemon wrote, oldest first. Lines
// that do not parse (a daemon died within one) are passed over.
func readHistory(cache string) ([]reconcile.Outcome, error) {
	var all []reconcile.Outcome
	path := filepath.Join(cache, "outcomes.jsonl")
	for _, name := range []string{path + ".old", path} {
		file, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the history: %w", err)
		}
		for lines := bufio.NewReader(file); err == nil; {
			var line []byte // the last has no end where a daemon died within it
			var o reconcile.Outcome
			if line, err = lines.ReadBytes('\n'); json.Unmarshal(line, &o) == nil {
				all = append(all, o)
			}
		}
		file.Close()
		if !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read the history: %w", err)
		}
	}
	return all, nil
}
