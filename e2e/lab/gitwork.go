package lab

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"
)

// Epoch is when the first commit of every Work is made, unless the test says
// otherwise: each further one is a minute younger, so hashes are the same in
// every run.
var Epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// RunGit runs the real git in a directory ("": where the test runs) apart from
// every configuration of the machine, and returns its standard output. A
// failure ends the test with git's words.
func RunGit(t testing.TB, dir string, args ...string) string {
	t.Helper()
	out, err := TryGit(dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TryGit is RunGit for a command that may fail; the error holds git's words.
func TryGit(dir string, args ...string) (string, error) {
	return TryGitEnv(dir, nil, args...)
}

// TryGitEnv is TryGit with more environment variables ("NAME=value").
func TryGitEnv(dir string, env []string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(append(plainEnv(), gitEnv()...), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// plainEnv is the test's own environment without what would steer git.
func plainEnv() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return strings.HasPrefix(name, "GIT_") || strings.HasSuffix(strings.ToLower(name), "_proxy")
	})
}

// gitEnv keeps git apart from the machine's and the user's configuration.
func gitEnv() []string {
	env := []string{
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=" + os.DevNull,
		"GIT_CONFIG_SYSTEM=" + os.DevNull,
		"GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com",
		"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com",
		"GIT_AUTHOR_DATE=" + gitDate(Epoch), "GIT_COMMITTER_DATE=" + gitDate(Epoch),
		"LC_ALL=C", "TZ=UTC",
	}
	settings := [][2]string{
		{"init.defaultBranch", "main"},
		{"gc.auto", "0"},
		{"maintenance.auto", "false"},
		{"commit.gpgSign", "false"},
		{"core.fsync", "none"},
		{"advice.detachedHead", "false"},
		{"safe.directory", "*"},
	}
	env = append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(settings)))
	for i, s := range settings {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, s[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, s[1]))
	}
	return env
}

func gitDate(when time.Time) string { return fmt.Sprintf("@%d +0000", when.Unix()) }

// Work is a repository with a work tree, where a test plays the developer.
type Work struct {
	Dir string

	t     testing.TB
	clock time.Time
}

// Commit is what a test's developer commits.
type Commit struct {
	Message string            // default: "change"
	Files   map[string]string // path → content, written before; a path that ends in "!" is made executable
	Remove  []string          // paths removed before
	When    time.Time         // author's and committer's time; zero: a minute after the last one
	Author  string            // "Name <email>"; default: Ada
	Args    []string          // more arguments for git commit: "--amend", "--allow-empty" is always given

	SSHKey string // path of a private key: sign with it
	GPGKey string // key id: sign with it, in GNUPGHome
	// GNUPGHome is the directory of the keyring that holds GPGKey.
	GNUPGHome string
}

// NewWork makes an empty repository on branch main, with url as its remote
// "origin" where one is given.
func NewWork(t testing.TB, url string) *Work {
	t.Helper()
	w := &Work{Dir: t.TempDir(), t: t, clock: Epoch}
	w.Git("init", "--quiet")
	if url != "" {
		w.Git("remote", "add", "origin", url)
	}
	return w
}

// Clone clones a repository, all of its history.
func Clone(t testing.TB, url string) *Work {
	t.Helper()
	w := &Work{Dir: t.TempDir(), t: t, clock: Epoch.Add(24 * time.Hour)}
	w.Git("clone", "--quiet", url, ".")
	return w
}

// Git runs git in the work tree and returns its output without the final
// newline.
func (w *Work) Git(args ...string) string {
	w.t.Helper()
	return strings.TrimRight(RunGit(w.t, w.Dir, args...), "\n")
}

// Write writes a file below the work tree; the path uses slashes.
func (w *Work) Write(path, content string) {
	w.t.Helper()
	mode := os.FileMode(0o644)
	if strings.HasSuffix(path, "!") {
		path, mode = strings.TrimSuffix(path, "!"), 0o755
	}
	full := filepath.Join(w.Dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), mode); err != nil {
		w.t.Fatal(err)
	}
}

// Commit writes the files, commits everything in the work tree and returns the
// commit's hash.
func (w *Work) Commit(c Commit) string {
	w.t.Helper()
	paths := make([]string, 0, len(c.Files))
	for path := range c.Files {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	for _, path := range paths {
		w.Write(path, c.Files[path])
	}
	for _, path := range c.Remove {
		if err := os.RemoveAll(filepath.Join(w.Dir, filepath.FromSlash(path))); err != nil {
			w.t.Fatal(err)
		}
	}
	w.Git("add", "--all")

	when := c.When
	if when.IsZero() {
		when = w.clock
		w.clock = w.clock.Add(time.Minute)
	}
	env := []string{"GIT_AUTHOR_DATE=" + gitDate(when), "GIT_COMMITTER_DATE=" + gitDate(when)}
	message := c.Message
	if message == "" {
		message = "change"
	}
	var args []string
	switch {
	case c.SSHKey != "":
		args = append(args, "-c", "gpg.format=ssh", "-c", "user.signingKey="+c.SSHKey)
	case c.GPGKey != "":
		args = append(args, "-c", "gpg.format=openpgp", "-c", "user.signingKey="+c.GPGKey)
		env = append(env, "GNUPGHOME="+c.GNUPGHome)
	}
	args = append(args, "commit", "--quiet", "--allow-empty", "--cleanup=verbatim", "-m", message)
	if c.SSHKey != "" || c.GPGKey != "" {
		args = append(args, "--gpg-sign")
	}
	if c.Author != "" {
		args = append(args, "--author="+c.Author)
	}
	args = append(args, c.Args...)
	if _, err := TryGitEnv(w.Dir, env, args...); err != nil {
		w.t.Fatal(err)
	}
	return w.Head()
}

// Head is the hash of the commit that HEAD names.
func (w *Work) Head() string {
	w.t.Helper()
	return w.Git("rev-parse", "HEAD")
}

// Push pushes refspecs to origin; without any, HEAD to the branch of its name.
func (w *Work) Push(refspecs ...string) {
	w.t.Helper()
	if len(refspecs) == 0 {
		refspecs = []string{"HEAD"}
	}
	w.Git(append([]string{"push", "--quiet", "origin"}, refspecs...)...)
}

// WriteFile writes a file that only its owner may read, as ssh wants its keys.
func WriteFile(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
