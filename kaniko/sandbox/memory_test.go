package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestExecutorDigestIsNoted: a second process does not read the file again, and
// whatever is odd about the note makes it read.
func TestExecutorDigestIsNoted(t *testing.T) {
	t.Parallel()
	const wrong = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	dir := t.TempDir()
	work, path := filepath.Join(dir, "builds"), filepath.Join(dir, "executor")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	fresh := func() *Builder { return &Builder{Executor: path, Dir: work} }
	digest := func() string {
		t.Helper()
		got, err := fresh().ExecutorDigest()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	var real string
	for moment := settled; moment >= settled; { // again where the machine was too busy
		must(t, errors.Join(os.RemoveAll(fresh().note()), os.WriteFile(path, []byte("executor"), 0o755)))
		written, err := stateOf(path)
		must(t, err)
		real = digest()
		moment = time.Since(written.changed)
	}
	if _, err := os.Stat(fresh().note()); err == nil {
		t.Fatal("a file that changed a moment ago was noted")
	}

	// What a process notes once the file is old. A wrong digest shows who reads it.
	state, err := stateOf(path)
	if err != nil {
		t.Fatal(err)
	}
	old := state
	old.changed, old.digest = time.Now().Add(-time.Minute), real
	fresh().remember(old)
	if content, err := os.ReadFile(fresh().note()); err != nil || string(content) != old.line() {
		t.Fatalf("noted %q, %v", content, err)
	}
	state.digest = wrong
	note := func(content string) {
		t.Helper()
		if err := os.WriteFile(fresh().note(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	note(state.line())
	if got := digest(); got != wrong {
		t.Fatalf("the note was not looked at: %s", got)
	}
	for name, odd := range map[string]func(){
		"another time of change": func() { s := state; s.changed = s.changed.Add(1); note(s.line()) },
		"another inode":          func() { s := state; s.ino++; note(s.line()) },
		"another size":           func() { s := state; s.size++; note(s.line()) },
		"a flipped byte":         func() { note(strings.Replace(state.line(), "sha256:00", "sha256:01", 1)) },
		"cut":                    func() { note(state.line()[:150]) },
		"empty":                  func() { note("") },
		"somebody else's":        func() { note(state.line()); must(t, os.Chown(fresh().note(), 1, 1)) },
		"writable for all":       func() { note(state.line()); must(t, os.Chmod(fresh().note(), 0o666)) },
		"a link": func() {
			note(state.line())
			must(t, os.Rename(fresh().note(), path+".note"))
			must(t, os.Symlink(path+".note", fresh().note()))
		},
		"a pipe":                func() { must(t, unix.Mkfifo(fresh().note(), 0o600)) },
		"a directory of others": func() { note(state.line()); must(t, os.Chmod(work, 0o777)) },
	} {
		must(t, os.RemoveAll(fresh().note()))
		odd()
		if got := digest(); got != real {
			t.Errorf("%s: the note was believed", name)
		}
		must(t, os.Chmod(work, 0o700))
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
