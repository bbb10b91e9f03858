package lab_test

import (
	"net/http"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

func TestGitOverHTTP(t *testing.T) {
	t.Parallel()
	server := lab.NewGit(t)
	url := server.Create("apps/podinfo.git")
	work := lab.NewWork(t, url)
	head := work.Commit(lab.Commit{Message: "first", Files: map[string]string{"a/b": "c\n", "run.sh!": "true\n"}})
	work.Push()
	if got := lab.RunGit(t, "", "ls-remote", url, "refs/heads/main"); !strings.HasPrefix(got, head) {
		t.Errorf("ls-remote says %q, want %s", got, head)
	}
	if got := lab.RunGit(t, server.Dir("apps/podinfo.git"), "log", "--format=%s %an %ct", "main"); got != "first Ada 1767323045\n" {
		t.Errorf("log says %q", got)
	}
	clone := lab.Clone(t, url)
	if clone.Head() != head {
		t.Errorf("clone is at %s, want %s", clone.Head(), head)
	}
	if server.Conns() == 0 || server.Requests() == 0 || server.Sent() == 0 || server.Received() == 0 {
		t.Error("the server counted nothing")
	}

	server.RefuseRefs("apps/podinfo.git", "refs/towpath/")
	if _, err := lab.TryGit(work.Dir, "push", "origin", "HEAD:refs/towpath/x/y"); err == nil {
		t.Error("refs/towpath was not refused")
	}
	work.Commit(lab.Commit{Message: "second"})
	work.Push("HEAD:refs/heads/other")
}

func TestGitWithEverything(t *testing.T) {
	t.Parallel()
	var seen []string
	server := lab.NewGit(t, lab.GitOptions{
		TLS: true, ClientCert: true, Username: "user", Password: "canary",
		Middleware: func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				seen = append(seen, r.URL.Path)
				next.ServeHTTP(w, r)
			})
		},
	})
	url := server.Create("fleet.git")
	if _, err := lab.TryGit("", "-c", "http.sslVerify=false", "ls-remote", url); err == nil {
		t.Error("no client certificate was asked for")
	}
	dir := t.TempDir()
	cert, key := server.CA.Issue(t, "client")
	lab.WriteFile(t, dir+"/ca", server.CA.PEM)
	lab.WriteFile(t, dir+"/cert", cert)
	lab.WriteFile(t, dir+"/key", key)
	authed := strings.Replace(url, "https://", "https://user:canary@", 1)
	lab.RunGit(t, "", "-c", "http.sslCAInfo="+dir+"/ca", "-c", "http.sslCert="+dir+"/cert", "-c", "http.sslKey="+dir+"/key", "ls-remote", authed)
	if len(seen) == 0 {
		t.Error("the middleware saw nothing")
	}
}
