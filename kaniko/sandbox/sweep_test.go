package sandbox_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/sandbox"
)

// doomedMain is a builder that will be killed. It builds what the directory
// holds, forever, and passes on what the build prints.
func doomedMain(world string) {
	b := &sandbox.Builder{
		Self:     os.Args[0],
		Executor: os.Getenv("SANDBOX_TEST_EXECUTOR"),
		Runtime:  os.Getenv("SANDBOX_TEST_RUNTIME"),
		Slirp:    os.Getenv("SANDBOX_TEST_SLIRP"),
		Dir:      os.Getenv("SANDBOX_TEST_DIR"),
		Progress: func(line string) { fmt.Println(line) },
	}
	_, err := b.Run(context.Background(), jobOf(world))
	fmt.Println("ended:", err)
	os.Exit(1)
}

// startDoomed starts such a builder and waits until its build prints a line.
func (w *world) startDoomed(t *testing.T, line string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(w.builder.Self)
	cmd.Env = append(os.Environ(), "SANDBOX_TEST_DOOMED="+w.dir, "SANDBOX_TEST_EXECUTOR="+w.builder.Executor, "SANDBOX_TEST_RUNTIME="+w.builder.Runtime,
		"SANDBOX_TEST_SLIRP="+w.builder.Slirp, "SANDBOX_TEST_DIR="+w.builder.Dir)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var seen []string
	for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
		seen = append(seen, scanner.Text())
		if strings.Contains(scanner.Text(), line) {
			return cmd
		}
	}
	t.Fatalf("the build never printed %q:\n%s", line, strings.Join(seen, "\n"))
	return nil
}

const spinning = "FROM BASE\nRUN cp /bin/busybox /su && chmod 6777 /su && mkdir -p /var/a/b && chmod 0 /var/a && echo now spinning && probe spin\n"

// TestSweepAfterKill kills a builder in the middle of a build, with and without
// the processes that would have noticed, and has another one clear up.
func TestSweepAfterKill(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		kill func(t *testing.T, w *world, builder *exec.Cmd)
	}{
		{"the builder", func(t *testing.T, _ *world, builder *exec.Cmd) {
			killBuilder(t, builder)
		}},
		{"the runtime, then the builder", func(t *testing.T, w *world, builder *exec.Cmd) {
			stop(t, builder)
			kill(t, pidOf(t, w.builder.Runtime, w.builder.Dir))
			killBuilder(t, builder)
		}},
		{"the builder while fetch hangs", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.dockerfile(t, spinning)
			if c.kill == nil {
				w.say(t, "fetch", "hang")
				killBuilder(t, w.startDoomed(t, "hanging"))
			} else {
				c.kill(t, w, w.startDoomed(t, "now spinning"))
			}
			if left, _ := filepath.Glob(filepath.Join(w.builder.Dir, "builds", "*", "private")); len(left) != 1 {
				t.Errorf("the killed builder left %s: this test tests nothing", left)
			}
			if err := w.builder.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool { return len(processesOf(t, w.builder.Dir)) == 0 })
			w.nothingLeft(t)
		})
	}
}

// TestSweepOutlastsAChild: what a killed builder was about to start holds its lock
// for a moment longer.
func TestSweepOutlastsAChild(t *testing.T) {
	t.Parallel()
	b := &sandbox.Builder{Dir: filepath.Join(t.TempDir(), "builds")}
	left := filepath.Join(b.Dir, "builds", "0", "box")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	child := exec.Command("flock", filepath.Join(b.Dir, "builds", "0.lock"), "sh", "-c", "echo; read line; sleep 0.1")
	in, inErr := child.StdinPipe()
	out, outErr := child.StdoutPipe()
	if err := errors.Join(inErr, outErr, child.Start()); err != nil {
		t.Fatal(err)
	}
	defer child.Wait()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	in.Close()
	// As long as a busy machine takes to end three processes.
	if err := b.SweepAfter(t.Context(), 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
}

// TestNextBuildClearsUp does without Sweep: the place is taken again.
func TestNextBuildClearsUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.dockerfile(t, spinning)
	doomed := w.startDoomed(t, "now spinning")
	stop(t, doomed)
	kill(t, pidOf(t, w.builder.Runtime, w.builder.Dir))
	killBuilder(t, doomed)
	w.dockerfile(t, "FROM BASE\nRUN ! test -e /su\n")
	if _, err := w.builder.Run(t.Context(), w.job()); err != nil {
		t.Errorf("%v\n%s", err, end(w.log(t)))
	}
	w.nothingLeft(t)
}

// TestSweepSparesTheLiving sweeps below a build at work, of another process.
func TestSweepSparesTheLiving(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.dockerfile(t, "FROM BASE\nRUN echo now waiting && while ! test -e /kaniko/.out/go; do sleep 0.05; done; echo went on\n")
	living := w.startDoomed(t, "now waiting")
	first := ownerOf(t, filepath.Join(w.builder.Dir, "builds", "0", "box"))
	if err := w.builder.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Two builds at once have different places, and so different ids.
	other := newWorld(t, nil)
	other.builder.Dir = w.builder.Dir
	other.dockerfile(t, "FROM BASE\nRUN echo the other one has ids from $(awk '{print $2}' /proc/self/uid_map)\n")
	if _, err := other.builder.Run(t.Context(), other.job()); err != nil {
		t.Fatalf("%v\n%s", err, end(w.log(t)))
	}
	if said := grep(w.log(t), "has ids from 1"); said == "" || strings.Contains(said, strconv.Itoa(first)) {
		t.Errorf("the first has ids from %d:\n%s", first, said)
	}
	if err := os.WriteFile(filepath.Join(w.builder.Dir, "builds", "0", "box", "out", "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	state, err := living.Process.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.log(t), "went on") {
		t.Errorf("the living build was swept: %s\n%s", state, end(w.log(t)))
	}
	w.nothingLeft(t)
}

// ownerOf is the user that a file belongs to.
func ownerOf(t *testing.T, path string) int {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return int(stat.Uid)
}

// TestTwoWorkDirectories: builds of two processes that share no directory have
// different ids all the same.
func TestTwoWorkDirectories(t *testing.T) {
	t.Parallel()
	w, other := newWorld(t, nil), newWorld(t, nil)
	w.dockerfile(t, "FROM BASE\nRUN echo now waiting && while ! test -e /kaniko/.out/go; do sleep 0.05; done\n")
	living := w.startDoomed(t, "now waiting")
	first := ownerOf(t, filepath.Join(w.builder.Dir, "builds", "0", "box"))
	other.dockerfile(t, "FROM BASE\nRUN echo the other one has ids from $(awk '{print $2}' /proc/self/uid_map)\n")
	if _, err := other.builder.Run(t.Context(), other.job()); err != nil {
		t.Fatalf("%v\n%s", err, end(other.log(t)))
	}
	if said := grep(other.log(t), "has ids from 1"); said == "" || strings.Contains(said, strconv.Itoa(first)) {
		t.Errorf("the first has ids from %d:\n%s", first, said)
	}
	if err := os.WriteFile(filepath.Join(w.builder.Dir, "builds", "0", "box", "out", "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := living.Process.Wait(); err != nil {
		t.Fatal(err)
	}
	w.nothingLeft(t)
	other.nothingLeft(t)
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

// stop stops a builder where it is, until it is killed: it shall not clear up
// behind what is killed before it.
func stop(t *testing.T, builder *exec.Cmd) {
	t.Helper()
	if err := builder.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", builder.Process.Pid))
		if err != nil || len(threads) == 0 {
			t.Fatalf("the builder's threads: %d, %v", len(threads), err)
		}
		for _, thread := range threads {
			stat, err := os.ReadFile(thread)
			if err == nil && !strings.Contains(string(stat), ") T ") {
				return false
			}
		}
		return true
	})
}

// killBuilder kills a builder and waits until its last thread, and with it its locks,
// is gone.
func killBuilder(t *testing.T, builder *exec.Cmd) {
	t.Helper()
	if err := builder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := builder.Process.Wait(); err != nil {
		t.Fatal(err)
	}
}

// pidOf finds a program by its path and a directory it was told of.
func pidOf(t *testing.T, program, dir string) int {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err == nil && strings.HasPrefix(string(content), program+"\x00") && strings.Contains(string(content), dir) {
			var pid int
			if _, err := fmt.Sscanf(path, "/proc/%d/cmdline", &pid); err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no process of %s", program)
	return 0
}

// eventually asks again until it is so. It waits for the kernel alone.
func eventually(t *testing.T, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within two minutes")
		}
	}
}

// TestCancel cancels each step and expects the end long before its time is up.
func TestCancel(t *testing.T) {
	t.Parallel()
	for step, sign := range map[string]string{"fetch": "hanging", "build": "now spinning", "publish": "hanging"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.dockerfile(t, "FROM BASE\nRUN true\n")
			if step == "build" {
				w.dockerfile(t, spinning)
			} else {
				w.say(t, step, "hang")
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			stopped := errors.New("the daemon stops")
			var once sync.Once
			var at time.Time
			w.builder.Progress = func(line string) {
				if strings.Contains(line, sign) {
					once.Do(func() { at = time.Now(); cancel(stopped) })
				}
			}
			_, err := w.builder.Run(ctx, w.job())
			var fault *kaniko.BuildError
			if !errors.Is(err, stopped) || errors.As(err, &fault) {
				t.Errorf("got %v, want the reason that it was cancelled for\n%s", err, end(w.log(t)))
			}
			if took := time.Since(at); took > w.builder.Timeout/2 {
				t.Errorf("it took %s to stop", took)
			}
			w.nothingLeft(t)
		})
	}
}
