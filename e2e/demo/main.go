// Command demo runs Towpath's main job for real on one machine and shows it: a
// commit is built, published and promoted by a signed bump, a revert stays
// reverted, and the next commit arrives. It exits with 0 only if it saw all of
// that.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"towpath.dev/towpath/e2e/lab"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: demo TOWPATH")
		os.Exit(2)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: error: the sandbox that builds run in needs root")
		fmt.Fprintln(os.Stderr, `demo: hint: sudo env "PATH=$PATH" make demo`)
		os.Exit(1)
	}
	binary, err := filepath.Abs(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(perform(func(s *stage) { play(s, binary) }))
}

// play is the demo from beginning to end.
func play(s *stage, binary string) {
	s.scene("Setting up: two repositories behind git http-backend, a registry, keys by `towpath keygen`")
	w := lab.NewWorld(s, lab.WorldOptions{Binary: binary})
	s.say("application   %s (branch master)", w.Git.RepoURL("apps/podinfo.git"))
	s.say("GitOps        %s (branch main)", w.Git.RepoURL("fleet.git"))
	s.say("registry      %s", w.Registry.Host)
	s.say("config        %s", w.Config)
	s.show("Dockerfile of the application", w.App.Git("show", "HEAD:Dockerfile"))
	s.show("the manifest that Flux would apply", w.Manifest(manifest))
	s.run(w, "check")
	s.run(w, "plan")

	s.scene("`towpath run` starts: the commit on master is built and promoted")
	stop := s.start(w)
	first := w.App.Head()
	firstBump := s.promoted(w, first)
	s.bump(w, firstBump, "green")

	s.scene("A developer pushes the next commit")
	w.App.Commit(lab.Commit{
		Message: "Paint it blue\n\nFixes #12, and asks @everyone.",
		Files:   map[string]string{"colour": "blue\n"}, Author: "Dana Developer <dana@example.com>",
	})
	w.App.Push("HEAD:master")
	second := w.App.Head()
	secondBump := s.promoted(w, second)
	s.bump(w, secondBump, "blue")

	s.scene("A person reverts the bump: it stays reverted")
	w.Fleet.Git("pull", "--quiet", "origin", "main")
	w.Fleet.Git("revert", "--no-edit", "HEAD")
	w.Fleet.Push("HEAD:main")
	reverted := strings.TrimSpace(lab.RunGit(s, w.Git.Dir("fleet.git"), "rev-parse", "main"))
	s.until("towpath says that it is held", func() bool { return strings.Contains(w.Run("status").Out, "held") })
	s.run(w, "status")
	if head := strings.TrimSpace(lab.RunGit(s, w.Git.Dir("fleet.git"), "rev-parse", "main")); head != reverted {
		s.Fatalf("the revert did not stand: main is at %s", head)
	}
	s.run(w, "why", "podinfo")

	s.scene("The next commit arrives")
	w.App.Commit(lab.Commit{
		Message: "Paint it red", Files: map[string]string{"colour": "red\n"}, Author: "Dana Developer <dana@example.com>",
	})
	w.App.Push("HEAD:master")
	third := w.App.Head()
	s.bump(w, s.promoted(w, third), "red")

	s.scene("SIGTERM: towpath ends cleanly")
	stop()
	s.show("the GitOps repository's history", lab.RunGit(s, w.Git.Dir("fleet.git"), "log", "--oneline", "main"))
	s.say("Seen: three commits built and published, three signed bumps of one line each, one revert that stood.")
}

const manifest = "clusters/production/podinfo.yaml"

// promoted waits until the ledger names a source commit and returns its bump.
func (s *stage) promoted(w *lab.World, commit string) (bump string) {
	began := time.Now()
	s.until("the ledger names "+commit[:8], func() bool {
		found, source := w.Ledger("podinfo")
		bump = found
		return source == commit
	})
	s.say("promoted %s in %.1f s", commit[:8], time.Since(began).Seconds())
	return bump
}

// bump shows a bump commit, checks its signature and that one line changed,
// and looks into the image that it names.
func (s *stage) bump(w *lab.World, bump, colour string) {
	dir := w.Git.Dir("fleet.git")
	signers := filepath.Join(w.Dir, "secrets", "towpath-signing", "allowed_signers")
	signed := lab.RunGit(s, dir, "-c", "gpg.ssh.allowedSignersFile="+signers, "log", "-1", "--show-signature", bump)
	s.show("the bump, as `git log --show-signature` tells it", signed)
	lab.RunGit(s, dir, "-c", "gpg.ssh.allowedSignersFile="+signers, "verify-commit", bump)
	s.show("what it changes", lab.RunGit(s, dir, "diff", "-U0", bump+"^", bump))
	if changed := strings.Fields(lab.RunGit(s, dir, "diff", "--numstat", bump+"^", bump)); len(changed) != 3 || changed[0] != "1" || changed[1] != "1" {
		s.Fatalf("more than one line changed: %v", changed)
	}
	ref := strings.TrimSpace(lab.RunGit(s, dir, "show", "-s", "--format=%(trailers:key=Towpath-Ref,valueonly)", bump))
	page := lab.ReadImageFile(s, ref, "site/index.html")
	s.show("the image pulled back, its /site/index.html", page)
	if !strings.Contains(page, colour) {
		s.Fatalf("%s holds no %s page", ref, colour)
	}
	if !strings.Contains(w.Manifest(manifest), ref) {
		s.Fatalf("%s does not name %s", manifest, ref)
	}
}

// start runs the daemon and returns what ends it.
func (s *stage) start(w *lab.World) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := w.Command(ctx, "run")
	log, err := os.Create(filepath.Join(w.Dir, "towpath.log"))
	if err != nil {
		s.Fatal(err)
	}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.logs = log.Name()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		began := time.Now()
		cancel()
		err := cmd.Wait()
		log.Close()
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			s.Fatalf("towpath run ended with %d: %v", code, err)
		}
		s.say("it ended within %.1f s", time.Since(began).Seconds())
	}
	s.Cleanup(func() {
		if !stopped {
			stopped = true
			cancel()
			_ = cmd.Wait()
		}
	})
	return stop
}

// run runs one command in front of the audience.
func (s *stage) run(w *lab.World, args ...string) {
	result := w.Run(args...)
	s.show("$ towpath "+strings.Join(args, " "), result.Out+result.Err)
	if result.Code != 0 {
		s.Fatalf("towpath %s ended with %d", strings.Join(args, " "), result.Code)
	}
}
