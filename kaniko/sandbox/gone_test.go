package sandbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/sandbox"
)

// empty removes what is in a directory, as a person does who wants the room.
func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			t.Error(err)
		}
	}
}

// TestRemovedDuringABuild: the work directory is disposable at any time. What that
// does to a build is not the commit's fault, and is undone by the next one.
func TestRemovedDuringABuild(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{"all of it": "", "the places": "builds", "one place": filepath.Join("builds", "0")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.dockerfile(t, "FROM BASE\nRUN echo now waiting && while test -e /bin/busybox; do sleep 0.05; done; exit 3\n")
			w.builder.Progress = func(line string) {
				if line == "now waiting" {
					empty(t, filepath.Join(w.builder.Dir, dir))
				}
			}
			_, err := w.builder.Run(t.Context(), w.job())
			var fault *kaniko.BuildError
			if err == nil || errors.As(err, &fault) || !strings.Contains(err.Error(), "was removed while the build was at work") {
				t.Fatalf("it is said to be the commit's fault: %v", err)
			}
			w.builder.Progress = nil
			w.dockerfile(t, "FROM BASE\nRUN echo well > /well\n")
			if _, err := w.builder.Run(t.Context(), w.job()); err != nil {
				t.Error(err)
			}
			w.nothingLeft(t)
		})
	}
}

// TestRemovedUnderTwoBuilds: with its lock a build loses its place. Who takes that
// next ends the one before, and is not ended or cleared away by it.
func TestRemovedUnderTwoBuilds(t *testing.T) {
	t.Parallel()
	first, second := newWorld(t, nil), newWorld(t, nil)
	second.builder.Dir = first.builder.Dir
	first.dockerfile(t, spinning)
	second.dockerfile(t, "FROM BASE\nRUN echo now waiting && while ! test -e /kaniko/.out/go; do sleep 0.05; done; echo went on\n")
	spins, ended, waits := make(chan struct{}), make(chan error, 1), make(chan struct{})
	signal := func(word string, at chan struct{}) func(string) {
		return func(line string) {
			if line == word {
				close(at)
			}
		}
	}
	first.builder.Progress, second.builder.Progress = signal("now spinning", spins), signal("now waiting", waits)
	go func() {
		_, err := first.builder.Run(t.Context(), first.job())
		ended <- err
	}()
	<-spins
	empty(t, filepath.Join(first.builder.Dir, "builds"))
	done := make(chan error, 1)
	var built sandbox.Built
	go func() {
		var err error
		built, err = second.builder.Run(t.Context(), second.job())
		done <- err
	}()
	var fault *kaniko.BuildError
	if err := <-ended; err == nil || errors.As(err, &fault) {
		t.Errorf("the first ended with %v", err)
	}
	select {
	case <-waits:
	case err := <-done:
		t.Fatalf("the second ended before its time: %v", err)
	}
	if err := os.WriteFile(filepath.Join(first.builder.Dir, "builds", "0", "box", "out", "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil || built.Digest == "" {
		t.Errorf("the second ended with %v", err)
	}
	first.nothingLeft(t)
}
