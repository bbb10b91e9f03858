package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"towpath.dev/towpath/e2e/lab"
)

// traffic is what a server saw since it was last asked.
type traffic struct {
	URL      string
	Sent     int64 // bytes at the socket, headers included
	Requests []request
}

// request is one HTTP request of git's smart protocol.
type request struct {
	What  what
	Began time.Time
	Ended time.Time // the answer was written
}

// what a request is for.
type what string

const (
	offer what = "offer" // GET info/refs
	list  what = "ls-refs"
	fetch what = "fetch"
	push  what = "push"
)

// count is how many requests were for something.
func (t traffic) count(kind what) int {
	n := 0
	for _, r := range t.Requests {
		if r.What == kind {
			n++
		}
	}
	return n
}

// acknowledged is when the last push was answered.
func (t traffic) acknowledged(s *stand) time.Time {
	for i := len(t.Requests) - 1; i >= 0; i-- {
		if t.Requests[i].What == push {
			return t.Requests[i].Ended
		}
	}
	s.Fatal("the server saw no push")
	return time.Time{}
}

// answering is how long the server was at work on requests until a moment.
func (t traffic) answering(until time.Time) time.Duration {
	var sum time.Duration
	for _, r := range t.Requests {
		if !r.Ended.After(until) {
			sum += r.Ended.Sub(r.Began)
		}
	}
	return sum
}

const served = "repository.git"

// serve is the worker that is a git server: one copy of a repository behind git
// http-backend. Its argument is the repository to copy.
func serve(s *stand, args []string) func(order) any {
	watch := &watcher{}
	git := lab.NewGit(s, lab.GitOptions{Middleware: watch.wrap})
	s.must(os.CopyFS(git.Dir(served), os.DirFS(args[0])))
	sent := int64(0)
	return func(o order) any {
		if o.Commit != 0 {
			commitAsColleague(s, git.Dir(served), o.Commit)
		}
		before := sent
		requests := watch.take()
		sent = git.Sent()
		return traffic{URL: git.RepoURL(served), Sent: sent - before, Requests: requests}
	}
}

// watcher writes down every request.
type watcher struct {
	inFlight sync.WaitGroup
	mu       sync.Mutex
	requests []request
}

func (w *watcher) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.inFlight.Add(1)
		defer w.inFlight.Done()
		it := request{Began: time.Now()}
		opening := &head{}
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(r.Body, opening), r.Body}
		next.ServeHTTP(rw, r)
		it.Ended = time.Now()
		it.What = purpose(r, opening.kept)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.requests = append(w.requests, it)
	})
}

// purpose reads a request's purpose from its path and how its body begins.
func purpose(r *http.Request, opening []byte) what {
	switch {
	case strings.HasSuffix(r.URL.Path, "/info/refs"):
		return offer
	case strings.HasSuffix(r.URL.Path, "/git-receive-pack"):
		return push
	case bytes.Contains(opening, []byte("command=ls-refs")):
		return list
	}
	return fetch
}

// take returns what was seen, once every request is answered.
func (w *watcher) take() []request {
	w.inFlight.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	taken := w.requests
	w.requests = nil
	return taken
}

// head keeps the first bytes that are written to it.
type head struct{ kept []byte }

func (h *head) Write(p []byte) (int, error) {
	const enough = 64
	if room := enough - len(h.kept); room > 0 {
		h.kept = append(h.kept, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// commitAsColleague puts a commit upon main that touches one file without a
// marker: the branch has moved whenever somebody comes to bump.
func commitAsColleague(s *stand, dir string, number int) {
	var in bytes.Buffer
	path, content := fleetFile(1 + number%(markerEvery-1))
	fmt.Fprintf(&in, "commit refs/heads/main\ncommitter Pat <pat@example.com> %d +0000\ndata 6\nchange\nfrom refs/heads/main^0\n", time.Now().Unix())
	writeFile(&in, path, fmt.Sprintf("%s# looked at %d times\n", content, number))
	fastImport(s, dir, &in)
}

func fastImport(s *stand, dir string, in io.Reader) {
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Stdin, cmd.Stderr = dir, in, os.Stderr
	if err := cmd.Run(); err != nil {
		s.Fatalf("git fast-import: %v", err)
	}
}
