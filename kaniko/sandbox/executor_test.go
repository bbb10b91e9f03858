package sandbox

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestExecutorDigestFollowsTheFile(t *testing.T) {
	t.Parallel()
	b := &Builder{Executor: filepath.Join(t.TempDir(), "executor"), Dir: t.TempDir()}
	if err := b.makeDirs(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ExecutorDigest(); err == nil {
		t.Error("an executor that is not there has a digest")
	}
	for i, content := range []string{"first", "other"} {
		if err := os.WriteFile(b.Executor, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
		// The clock of a file system is coarse.
		if err := os.Chtimes(b.Executor, time.Time{}, time.Unix(int64(1763750000+i), 0)); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(content)))
		for range 2 {
			got, err := b.ExecutorDigest()
			if err != nil || got != want {
				t.Errorf("got %s, %v, want %s", got, err, want)
			}
		}
		path, err := b.installExecutor(want)
		if err != nil {
			t.Fatal(err)
		}
		if found, err := os.ReadFile(path); err != nil || string(found) != content {
			t.Errorf("installed %q, %v, want %q", found, err, content)
		}
	}
	if copies, _ := filepath.Glob(filepath.Join(b.Dir, "executors", "*")); len(copies) != 1 {
		t.Errorf("copies: %s, want one", copies)
	}

	// The file is replaced between hashing and copying.
	if _, err := b.installExecutor(fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("first")))); err == nil || !strings.Contains(err.Error(), "kaniko executor changed") {
		t.Errorf("got %v, want that it changed", err)
	}
	// A copy of an earlier run has rotted.
	digest, err := b.ExecutorDigest()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.Dir, "executors", strings.TrimPrefix(digest, "sha256:"))
	if err := os.WriteFile(path, []byte("rotten"), 0o755); err != nil {
		t.Fatal(err)
	}
	fresh := &Builder{Executor: b.Executor, Dir: b.Dir}
	if _, err := fresh.installExecutor(digest); err != nil {
		t.Fatal(err)
	}
	if found, _ := os.ReadFile(path); string(found) != "other" {
		t.Errorf("the rotten copy was used: %q", found)
	}
	// One rots while the builder is at work.
	if err := os.WriteFile(path, []byte("foul!"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.installExecutor(digest); err != nil {
		t.Fatal(err)
	}
	if found, _ := os.ReadFile(path); string(found) != "other" {
		t.Errorf("the rotten copy was used: %q", found)
	}
}

// TestAnInstalledExecutorRuns at once, while other builds start programs: those have
// what this process has open until they run, and what somebody may write to does not.
func TestAnInstalledExecutorRuns(t *testing.T) {
	t.Parallel()
	const content = "#!/bin/sh\n"
	source := filepath.Join(t.TempDir(), "executor")
	if err := os.WriteFile(source, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(content)))
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 100 {
				b := &Builder{Executor: source, Dir: t.TempDir()}
				if err := b.makeDirs(); err != nil {
					t.Error(err)
					return
				}
				path, err := b.installExecutor(digest)
				if err == nil {
					err = exec.Command(path).Run()
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}
