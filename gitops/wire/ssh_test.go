package wire_test

import (
	"testing"

	"github.com/fluxcd/pkg/git"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops/wire"
)

func serveSSH(t *testing.T, o lab.SSHOptions) (*lab.SSH, served) {
	t.Helper()
	server := lab.NewSSH(t, o)
	url := server.Create("apps/it's one.git")
	work, heads := fill(t, server.Dir("apps/it's one.git"), 8)
	remote := dial(t, wire.Options{URL: url, Auth: as(git.AuthOptions{Identity: server.Identity, KnownHosts: server.KnownHosts})})
	return server, served{remote: remote, dir: server.Dir("apps/it's one.git"), work: work, heads: heads}
}

func TestSSH(t *testing.T) {
	t.Parallel()
	server, s := serveSSH(t, lab.SSHOptions{})
	story(t, s, true)
	if server.Conns() != 1 {
		t.Errorf("%d connections, want 1", server.Conns())
	}
}

func TestSSHVersion0(t *testing.T) {
	t.Parallel()
	server, s := serveSSH(t, lab.SSHOptions{NoProtocol: true, HostKeys: []string{"rsa"}})
	story(t, s, false)
	if server.Conns() != 1 {
		t.Errorf("%d connections, want 1", server.Conns())
	}
}
