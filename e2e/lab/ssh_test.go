package lab_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

func TestGitOverSSH(t *testing.T) {
	t.Parallel()
	for _, o := range []lab.SSHOptions{{}, {NoProtocol: true, HostKeys: []string{"ecdsa", "rsa"}}} {
		server := lab.NewSSH(t, o)
		url := server.Create("fleet.git")
		dir := t.TempDir()
		lab.WriteFile(t, filepath.Join(dir, "id"), server.Identity)
		lab.WriteFile(t, filepath.Join(dir, "known"), server.KnownHosts)
		trace := filepath.Join(dir, "trace")
		env := []string{
			"GIT_SSH_COMMAND=ssh -F none -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -i " + dir + "/id -o UserKnownHostsFile=" + dir + "/known",
			"GIT_TRACE_PACKET=" + trace,
		}
		work := lab.NewWork(t, url)
		head := work.Commit(lab.Commit{})
		if _, err := lab.TryGitEnv(work.Dir, env, "push", "origin", "HEAD"); err != nil {
			t.Fatal(err)
		}
		out, err := lab.TryGitEnv("", env, "ls-remote", url, "refs/heads/main")
		if err != nil || !strings.HasPrefix(out, head) {
			t.Errorf("ls-remote: %q %v", out, err)
		}
		packets, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		if v2 := strings.Contains(string(packets), "< version 2"); v2 == o.NoProtocol {
			t.Errorf("version 2: %v with %+v", v2, o)
		}
		if server.Conns() != 2 {
			t.Errorf("%d connections", server.Conns())
		}
	}
}
