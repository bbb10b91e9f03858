package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/lab"
)

// patience is how long a daemon may take for what it does within seconds on an
// idle machine.
const patience = 90 * time.Second

// TestTwoDaemons runs two copies at once. They know nothing of each other but
// what the repositories and the registry say, and promote each commit once.
func TestTwoDaemons(t *testing.T) {
	for name, cache := range map[string]string{"caches of their own": "cache2", "one cache": "cache"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory})
			one := w.Daemon(t, nil)
			two := w.Daemon(t, []string{"TOWPATH_CACHE=" + filepath.Join(w.Dir, cache)})
			commits := []string{w.App.Head()}
			for n := range 4 {
				promotes(t, w, one, commits[n])
				commits = append(commits, paint(w, fmt.Sprint("shade-", n)))
			}
			promotes(t, w, two, commits[4])
			for _, d := range []*lab.Daemon{one, two} {
				if code := d.Stop(); code != 0 {
					t.Errorf("a daemon ended with %d\n%s", code, d.Logs())
				}
			}
			if got := bumps(t, w); len(got) != len(commits) {
				t.Errorf("%d bumps for %d commits\none:\n%s\ntwo:\n%s", len(got), len(commits), one.Logs(), two.Logs())
			}
			intact(t, w)
		})
	}
}

// TestTwentyPushesInARow has somebody else push to the GitOps branch just
// before each of the first twenty pushes of ours: ours are refused, nothing is
// forced, and the bump arrives on top of all of theirs.
func TestTwentyPushesInARow(t *testing.T) {
	t.Parallel()
	var w *lab.World
	var armed atomic.Bool
	var theirs atomic.Int64
	w = lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory, Git: lab.GitOptions{
		Middleware: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				if armed.Load() && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "fleet.git/git-receive-pack") && theirs.Load() < 20 {
					dir := w.Git.Dir("fleet.git")
					commit, err := lab.TryGit(dir, "commit-tree", "-p", "main", "-m", fmt.Sprint("Push ", theirs.Add(1)), "main^{tree}")
					if err == nil {
						_, err = lab.TryGit(dir, "update-ref", "refs/heads/main", strings.TrimSpace(commit))
					}
					if err != nil {
						t.Error(err)
					}
				}
				next.ServeHTTP(rw, r)
			})
		},
	}})
	armed.Store(true)
	d := w.Daemon(t, nil)
	promotes(t, w, d, w.App.Head())
	if got := theirs.Load(); got != 20 {
		t.Errorf("they pushed %d times, want 20", got)
	}
	if n := strings.TrimSpace(lab.RunGit(t, w.Git.Dir("fleet.git"), "rev-list", "--count", "main")); n != "22" {
		t.Errorf("main has %s commits, want the first, twenty of theirs and one bump", n)
	}
	if code := d.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
	intact(t, w)
}

// TestTermDuringRun ends the daemon while a RUN step is at work.
func TestTermDuringRun(t *testing.T) {
	t.Parallel()
	seconds := unique("86311")
	w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory, Files: sleepy(seconds)})
	d := w.Daemon(t, nil)
	group := groupOf(t, running(t, d, "sleep", seconds))
	if code := d.Stop(); code != 0 { // it is where its time was up, or where it was killed
		t.Errorf("the daemon ended with %d\n%s", code, d.Logs())
	}
	cleared(t, w, group, seconds)
	if bump, _ := w.Ledger("podinfo"); bump != "" {
		t.Errorf("something was promoted: %s", bump)
	}
}

// TestKillDuringRun kills the daemon while a RUN step is at work: the next
// start clears up behind it and promotes.
func TestKillDuringRun(t *testing.T) {
	t.Parallel()
	seconds := unique("6")
	w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory, Files: sleepy(seconds)})
	d := w.Daemon(t, nil)
	group := groupOf(t, running(t, d, "sleep", seconds))
	if err := d.Process.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if code := d.Stop(); code != -1 {
		t.Fatalf("the daemon ended with %d, want a kill", code)
	}
	again := w.Daemon(t, nil)
	promotes(t, w, again, w.App.Head())
	if code := again.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d\n%s", code, again.Logs())
	}
	cleared(t, w, group, seconds)
	if got := bumps(t, w); len(got) != 1 {
		t.Errorf("%d bumps, want 1", len(got))
	}
	intact(t, w)
}

// TestReloadDuringBuild changes the config while an image is built: what was
// built by the old config is not promoted, what the new one says is.
func TestReloadDuringBuild(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{
		Binary: daemonBinary(t), Registry: memory,
		Files: func(w *lab.World, files map[string]string) {
			files["Dockerfile"] = "FROM " + w.Base + "\nARG COLOUR=old\nRUN mkdir /site && echo shade-$COLOUR > /site/index.html && if [ $COLOUR = old ]; then : > /kaniko/.out/waits; until [ -e /kaniko/.out/go ]; do sleep 0.1; done; fi\n"
		},
	})
	d := w.Daemon(t, nil)
	waits := ""
	d.Wait("the old build waits", patience, func() bool {
		found, err := filepath.Glob(filepath.Join(w.Dir, "cache", "builds", "builds", "*", "box", "out", "waits"))
		if err == nil && len(found) == 1 {
			waits = found[0]
		}
		return waits != ""
	})
	edit(t, w, "    build:\n", "    build:\n      args: {COLOUR: new}\n")
	promotes(t, w, d, w.App.Head())
	lab.WriteFile(t, filepath.Join(filepath.Dir(waits), "go"), nil)
	d.Wait("the old build ends", patience, func() bool {
		return strings.Contains(d.Logs(), "the config of the image changed meanwhile")
	})
	if code := d.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d\n%s", code, d.Logs())
	}
	bump, _ := w.Ledger("podinfo")
	ref := strings.TrimSpace(lab.RunGit(t, w.Git.Dir("fleet.git"), "show", "-s", "--format=%(trailers:key=Towpath-Ref,valueonly)", bump))
	if page := lab.ReadImageFile(t, ref, "site/index.html"); page != "shade-new\n" {
		t.Errorf("what was promoted holds %q", page)
	}
	if got := bumps(t, w); len(got) != 1 {
		t.Errorf("%d bumps, want 1", len(got))
	}
	intact(t, w)
}

// TestReloadOfWhatTakesARestart changes what a running daemon cannot follow: it
// says so, with what to do, and goes on as it was; and once that is set back it
// follows again. What it can follow beside a part that it cannot, it does.
func TestReloadOfWhatTakesARestart(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory})
	d := w.Daemon(t, nil)
	promotes(t, w, d, w.App.Head())
	cache, other := "cache: "+filepath.Join(w.Dir, "cache")+"\n", "cache: "+filepath.Join(w.Dir, "elsewhere")+"\n"
	edit(t, w, cache, other)
	d.Wait("it says that this takes a restart", patience, func() bool {
		for line := range strings.Lines(d.Logs()) {
			if strings.Contains(line, "level=ERROR") && strings.Contains(line, "the one before it stays in force") &&
				strings.Contains(line, filepath.Join(w.Dir, "elsewhere")) && strings.Contains(line, `hint="restart towpath`) {
				return true
			}
		}
		return false
	})
	promotes(t, w, d, paint(w, "shade-1"))
	if lab.Exists(filepath.Join(w.Dir, "elsewhere")) {
		t.Error("it works in both places")
	}
	edit(t, w, other, cache+"leaderElection: {enabled: false}\nevents: {address: \"http://127.0.0.1:1/\"}\nsuspend: true\n")
	d.Wait("it follows what it can", patience, func() bool { return strings.Contains(d.Logs(), "state=suspended") })
	if !strings.Contains(d.Logs(), `keys="events.address, leaderElection"`) {
		t.Error("it does not say what it cannot follow")
	}
	if code := d.Stop(); code != 0 || t.Failed() {
		t.Errorf("the daemon ended with %d\n%s", code, d.Logs())
	}
	// Started anew, it works where the config says.
	edit(t, w, cache, other)
	edit(t, w, "suspend: true", "suspend: false")
	again := w.Daemon(t, nil)
	promotes(t, w, again, paint(w, "shade-2"))
	if code := again.Stop(); code != 0 || !lab.Exists(filepath.Join(w.Dir, "elsewhere", "sources")) {
		t.Errorf("the daemon ended with %d\n%s", code, again.Logs())
	}
}

// TestBrokenReload breaks the config under a running daemon, which goes on with
// the one it has, says what is wrong with the new one, and follows once it is
// mended.
func TestBrokenReload(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory})
	d := w.Daemon(t, nil)
	promotes(t, w, d, w.App.Head())
	edit(t, w, "interval: 1s", "intervall: 1s")
	d.Wait("it says what is wrong", patience, func() bool {
		return strings.Contains(d.Logs(), "the changed config is wrong: the one before it stays in force") && strings.Contains(d.Logs(), "intervall: is no key")
	})
	promotes(t, w, d, paint(w, "shade-1"))
	edit(t, w, "intervall: 1s", "interval: 1s\nsuspend: true")
	d.Wait("it is suspended", patience, func() bool { return strings.Contains(d.Logs(), "state=suspended") })
	edit(t, w, "suspend: true", "suspend: false")
	promotes(t, w, d, paint(w, "shade-2"))

	// Taken away, as by a deployment that goes wrong, and brought back.
	if err := os.Rename(w.Config, w.Config+".away"); err != nil {
		t.Fatal(err)
	}
	d.Wait("it says that the config is gone", patience, func() bool { return strings.Contains(d.Logs(), "does not exist") })
	promotes(t, w, d, paint(w, "shade-3"))
	if err := os.Rename(w.Config+".away", w.Config); err != nil {
		t.Fatal(err)
	}
	edit(t, w, "suspend: false", "suspend: true")
	d.Wait("it follows the config again", patience, func() bool { return strings.Count(d.Logs(), "state=suspended") > 1 })
	if code := d.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
}

// TestFaultyCommitIsBuiltOnce waits through several polls of a commit that does
// not build. A changed config is a reason to try once more, as a new commit is.
func TestFaultyCommitIsBuiltOnce(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{
		Binary: daemonBinary(t), Registry: memory,
		Files: func(w *lab.World, files map[string]string) {
			files["Dockerfile"] = "FROM " + w.Base + "\nRUN echo this is wrong && exit 3\n"
		},
	})
	d := w.Daemon(t, nil)
	d.Wait("the build fails", patience, func() bool { return strings.Contains(d.Logs(), "state=faulty") })
	polls := w.Git.Requests() + 12
	d.Wait("more polls", patience, func() bool { return w.Git.Requests() > polls })
	if logs := buildLogs(t, w); len(logs) != 1 {
		t.Errorf("it was built %d times: %v\n%s", len(logs), logs, d.Logs())
	}
	edit(t, w, "interval: 1s", "interval: 2s")
	d.Wait("another try", patience, func() bool { return len(buildLogs(t, w)) == 2 })
	polls = w.Git.Requests() + 8
	d.Wait("more polls", patience, func() bool { return w.Git.Requests() > polls })
	if logs := buildLogs(t, w); len(logs) != 2 {
		t.Errorf("it was built %d times: %v\n%s", len(logs), logs, d.Logs())
	}

	w.App.Commit(lab.Commit{Message: "Mend it", Files: map[string]string{"Dockerfile": "FROM " + w.Base + "\nRUN mkdir /site && echo shade-0 > /site/index.html\n"}})
	w.App.Push("HEAD:master")
	promotes(t, w, d, w.App.Head())
}

// TestDiskFull gives the daemon a cache that is too small, and then one that is
// not.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: daemonBinary(t), Registry: memory})
	cache := filepath.Join(w.Dir, "cache")
	if err := os.Mkdir(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", cache, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(cache, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := w.Daemon(t, nil)
	d.Wait("it says that the disk is full", patience, func() bool {
		return strings.Contains(d.Logs(), "no space left on device") && strings.Contains(d.Logs(), "state=failed")
	})
	if bump, _ := w.Ledger("podinfo"); bump != "" {
		t.Errorf("something was promoted: %s", bump)
	}
	if err := unix.Mount("", cache, "", unix.MS_REMOUNT, "size=1g"); err != nil {
		t.Fatal(err)
	}
	promotes(t, w, d, w.App.Head())
	promotes(t, w, d, paint(w, "shade-1"))
	if code := d.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d\n%s", code, d.Logs())
	}
	intact(t, w)
}

// promotes waits until the ledger names a source commit.
func promotes(t *testing.T, w *lab.World, d *lab.Daemon, commit string) {
	t.Helper()
	d.Wait("the ledger names "+commit, patience, func() bool {
		_, source := w.Ledger("podinfo")
		return source == commit
	})
}

// paint pushes a commit that changes the application's colour.
func paint(w *lab.World, colour string) (commit string) {
	w.App.Commit(lab.Commit{Message: "Choose " + colour, Files: map[string]string{"colour": colour + "\n"}})
	w.App.Push("HEAD:master")
	return w.App.Head()
}

// edit changes the config as an editor does: by a rename.
func edit(t *testing.T, w *lab.World, before, after string) {
	t.Helper()
	content, err := os.ReadFile(w.Config)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(content), before) {
		t.Fatalf("the config does not hold %q", before)
	}
	lab.WriteFile(t, w.Config+".new", []byte(strings.Replace(string(content), before, after, 1)))
	if err := os.Rename(w.Config+".new", w.Config); err != nil {
		t.Fatal(err)
	}
}

// sleepy makes a build that sleeps for so many seconds, a number that tells its
// process from others.
func sleepy(seconds string) func(*lab.World, map[string]string) {
	return func(w *lab.World, files map[string]string) {
		files["Dockerfile"] = "FROM " + w.Base + "\nRUN mkdir /site && cp /bin/busybox /site/su && chmod 6755 /site/su && sleep " + seconds + "\nCOPY colour /site/index.html\n"
	}
}

// unique makes so many seconds some more that are written as nobody else's on this
// machine are.
func unique(seconds string) string { return fmt.Sprintf("%s.%07d", seconds, os.Getpid()) }

// running waits for a process whose command line ends so.
func running(t *testing.T, d *lab.Daemon, words ...string) (pid string) {
	t.Helper()
	d.Wait(strings.Join(words, " ")+" runs", patience, func() bool {
		found := processes(t, words...)
		if len(found) > 0 {
			pid = found[0]
		}
		return len(found) > 0
	})
	return pid
}

// processes lists those whose command line ends with the words.
func processes(t *testing.T, words ...string) (pids []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		content, err := os.ReadFile(path)
		if err == nil && strings.HasSuffix(string(content), strings.Join(words, "\x00")+"\x00") {
			pids = append(pids, strings.Split(path, "/")[2])
		}
	}
	return pids
}

// groupOf is the name of the control group that a build's process is in.
func groupOf(t *testing.T, pid string) string {
	t.Helper()
	content, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if i := strings.Index(line, "/towpath-"); i >= 0 {
			return strings.TrimSpace(strings.Split(line[i+1:], "/")[0])
		}
	}
	t.Fatalf("process %s is in no group of a build:\n%s", pid, content)
	return ""
}

// cleared checks that a build left no process, no container and no directory.
func cleared(t *testing.T, w *lab.World, group, seconds string) {
	t.Helper()
	if left := processes(t, "sleep", seconds); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + group)
	if err != nil || len(groups) > 0 || lab.Exists("/sys/fs/cgroup/"+group) {
		t.Errorf("groups are left: %v %v", groups, err)
	}
	out, err := exec.CommandContext(t.Context(), "pgrep", "-a", "-f", w.Dir).Output()
	if err == nil {
		t.Errorf("processes that know the world are left:\n%s", out)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), w.Dir+"/cache") {
		t.Errorf("mounts are left: %v\n%s", err, mounts)
	}
	builds, err := os.ReadDir(filepath.Join(w.Dir, "cache", "builds", "builds"))
	if err != nil {
		t.Error(err)
	}
	for _, entry := range builds {
		if entry.IsDir() {
			t.Errorf("the build's directory %s is left", entry.Name())
		}
	}
	err = filepath.WalkDir(filepath.Join(w.Dir, "cache"), func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := entry.Info(); err == nil && info.Sys().(*syscall.Stat_t).Mode&(syscall.S_ISUID|syscall.S_ISGID) != 0 {
			t.Errorf("%s is left with mode %s", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// buildLogs lists the logs of builds, one for each.
func buildLogs(t *testing.T, w *lab.World) []string {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(w.Dir, "cache", "builds", "logs", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return logs
}
