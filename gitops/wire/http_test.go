package wire_test

import (
	"testing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops/wire"
)

func serveHTTP(t *testing.T, o lab.GitOptions) served {
	t.Helper()
	server := lab.NewGit(t, o)
	url := server.Create("apps/podinfo.git")
	work, heads := fill(t, server.Dir("apps/podinfo.git"), 8)
	return served{remote: dial(t, wire.Options{URL: url}), dir: server.Dir("apps/podinfo.git"), work: work, heads: heads}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	story(t, serveHTTP(t, lab.GitOptions{}), true)
}

func TestHTTPVersion0(t *testing.T) {
	t.Parallel()
	story(t, serveHTTP(t, lab.GitOptions{V0: true}), false)
}
