package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// TestReadme does what README.md says under "Using it on one machine", word by word, with a
// forge, a registry and a home directory of the test's own in the places of
// those that its examples name.
func TestReadme(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, using, ok := strings.Cut(string(text), "\n## Using it on one machine\n")
	if !ok {
		t.Fatal("README.md has no section of that name")
	}
	setUp, rest := block(t, using, "sh")
	config, rest := block(t, rest, "yaml")
	marked, rest := block(t, rest, "yaml")
	commands, _ := block(t, rest, "sh")

	git, ssh := lab.NewGit(t, lab.GitOptions{}), lab.NewSSH(t)
	registry := lab.NewMemoryRegistry(t, lab.RegistryOptions{Username: "pusher", Password: "push it"})
	app := lab.NewWork(t, git.Create("apps/podinfo.git"))
	app.Commit(lab.Commit{Message: "Say hello", Files: map[string]string{"Dockerfile": "FROM scratch\nCOPY page.html /\n", "page.html": "hello\n"}})
	app.Push("HEAD:master")
	fleet := lab.NewWork(t, git.Create("platform/fleet.git"))
	fleet.Commit(lab.Commit{Message: "Deploy podinfo", Files: map[string]string{"clusters/production/podinfo.yaml": "spec:\n  template:\n    spec:\n      containers:\n        - name: podinfo\n" + marked}})
	fleet.Push("HEAD:main")

	clone, home := t.TempDir(), t.TempDir()
	secret := ssh.Secret()
	for path, content := range map[string][]byte{
		filepath.Join(clone, "DEPLOY_KEY"):             secret["identity"],
		filepath.Join(clone, "KNOWN_HOSTS"):            secret["known_hosts"],
		filepath.Join(home, ".docker", "config.json"):  registry.DockerConfig(),
		filepath.Join(clone, "towpath.yaml"):           []byte(placed(t, config, git, ssh, registry)),
		filepath.Join(clone, "Makefile"):               []byte("build:\n\tmkdir -p bin && cp " + binary + " bin/towpath\n"),
		filepath.Join(home, ".cache/towpath/bin/none"): nil,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		lab.WriteFile(t, path, content)
	}
	if err := os.Symlink(lab.Tool(t, "executor"), filepath.Join(home, ".cache/towpath/bin/executor")); err != nil {
		t.Fatal(err)
	}
	daemon, once, ok := strings.Cut(commands, "bin/towpath run --once")
	if !ok || !strings.Contains(once, "bin/towpath run ") {
		t.Fatalf("README.md runs other commands:\n%s", commands)
	}
	once, _, _ = strings.Cut(once, "\n")
	shell := exec.CommandContext(t.Context(), "bash", "-eux", "-c", setUp+daemon+"bin/towpath run --once"+once+"\nbin/towpath status\n")
	shell.Dir = clone
	shell.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}
	said, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	manifest := lab.RunGit(t, git.Dir("platform/fleet.git"), "show", "main:clusters/production/podinfo.yaml")
	if !strings.Contains(manifest, "image: "+registry.Repository("apps/podinfo")+":master-") {
		t.Errorf("after all of it the manifest is\n%s\n%s", manifest, said)
	}
}

// block is the first code block of a language in a text, and what follows it.
func block(t *testing.T, text, language string) (content, rest string) {
	t.Helper()
	_, text, ok := strings.Cut(text, "\n```"+language+"\n")
	content, rest, ended := strings.Cut(text, "```\n")
	if !ok || !ended {
		t.Fatalf("README.md has no further block of %s", language)
	}
	return content, rest
}

// placed puts the test's own servers into the example's places.
func placed(t *testing.T, config string, git *lab.Git, ssh *lab.SSH, registry *lab.Registry) string {
	t.Helper()
	for example, own := range map[string]string{
		"ssh://git@git.example.com/platform/fleet.git":  ssh.Door(git, "platform/fleet.git"),
		"https://git.example.com/apps/podinfo.git":      git.RepoURL("apps/podinfo.git"),
		"repository: registry.example.com/apps/podinfo": "repository: " + registry.Repository("apps/podinfo"),
	} {
		if !strings.Contains(config, example) {
			t.Fatalf("the example does not hold %s:\n%s", example, config)
		}
		config = strings.Replace(config, example, own, 1)
	}
	return config
}
