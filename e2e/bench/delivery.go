package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"towpath.dev/towpath/e2e/lab"
)

// rest is how long the daemon is left idle before its memory is looked at. Go's
// runtime gives memory back that was used once (a passphrase's key derivation
// takes 64 MiB) after two minutes in which nothing is allocated.
const rest = 150 * time.Second

// patience is how long a delivery may take before it cannot be measured.
const patience = 2 * time.Minute

// measureDelivery drives the built towpath: from the answer to the poll that
// names a new commit to the answer to the push of its bump. What is left when
// kaniko's own run time is taken away is Towpath's: fetching, the sandbox around
// kaniko, publishing, sealing, tagging, promoting.
func measureDelivery(s *stand) []row {
	seen := newWitness()
	w := lab.NewWorld(s, lab.WorldOptions{Binary: s.options.towpath, Git: lab.GitOptions{Middleware: seen.wrap}})
	d := startDaemon(s, w)

	// The first build is another: it brings the executor to its place.
	seen.await(w.App.Head())
	within(s, d, "the first bump", seen.pushed)
	kaniko := watchRuns(s, filepath.Join(w.Dir, "cache", "builds", "executors"))

	var whole, own, before, after samples
	for n := range s.options.runs {
		w.App.Commit(lab.Commit{
			Message: fmt.Sprintf("Paint it %d", n), Files: map[string]string{"colour": fmt.Sprintf("#%06x\n", n)},
			Author: "Dana Developer <dana@example.com>",
		})
		seen.await(w.App.Head())
		w.App.Push("HEAD:master")
		polled := within(s, d, "the poll that sees the commit", seen.polled)
		pushed := within(s, d, "the push of its bump", seen.pushed)
		ran := kaniko.longest(s)
		// All clocks are one machine's, so spans of several processes compare.
		if ran.began.Before(polled) || ran.ended.After(pushed) {
			s.Fatalf("kaniko ran from %s to %s: not between poll %s and push %s", ran.began, ran.ended, polled, pushed)
		}
		whole = append(whole, pushed.Sub(polled).Seconds())
		own = append(own, (pushed.Sub(polled) - ran.ended.Sub(ran.began)).Seconds())
		before = append(before, ran.began.Sub(polled).Seconds())
		after = append(after, pushed.Sub(ran.ended).Seconds())
	}
	resident := func() samples { return samples{float64(memoryOf(s, strconv.Itoa(d.pid), "VmRSS"))} }
	busy := resident()
	s.say("idle for %s", rest)
	for began := time.Now(); time.Since(began) < rest; {
		within(s, d, "an idle poll", seen.idle)
	}
	return []row{
		{what: "from the poll that sees a commit to the push's acknowledgement, less kaniko's run", ours: own, unit: seconds, goal: "under 0.5 s", reached: reached(own.median() < 0.5)},
		{what: "— until kaniko runs: fetch, sandbox", ours: before, unit: seconds},
		{what: "— after kaniko's end: publish, seal, tag, promote", ours: after, unit: seconds},
		{what: "— with kaniko's run", ours: whole, unit: seconds},
		{what: "towpath run, idle: resident memory", ours: resident(), unit: byteSize},
		{what: "— right after these builds", ours: busy, unit: byteSize},
	}
}

// witness sees a commit become known to the daemon and its bump arrive.
type witness struct {
	mu     sync.Mutex
	commit string // awaited; empty: none
	polled chan time.Time
	pushed chan time.Time
	idle   chan struct{} // every poll of the application
}

func newWitness() *witness {
	return &witness{polled: make(chan time.Time, 1), pushed: make(chan time.Time, 1), idle: make(chan struct{}, 1)}
}

// await looks out for a commit from now on.
func (w *witness) await(commit string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.commit = commit
	for _, c := range []chan time.Time{w.polled, w.pushed} {
		select {
		case <-c:
		default:
		}
	}
}

func (w *witness) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/apps/podinfo.git/git-upload-pack"):
			answer := &listening{ResponseWriter: rw}
			next.ServeHTTP(answer, r)
			w.answered(answer.heard.Bytes(), time.Now())
		case strings.HasSuffix(r.URL.Path, "/fleet.git/git-receive-pack"):
			next.ServeHTTP(rw, r)
			offerTo(w.pushed, time.Now())
		default:
			next.ServeHTTP(rw, r)
		}
	})
}

// answered takes note of the first answer that names the commit: refs are sent
// as text, and objects are not.
func (w *witness) answered(answer []byte, at time.Time) {
	offerTo(w.idle, struct{}{})
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.commit != "" && bytes.Contains(answer, []byte(w.commit)) {
		w.commit = ""
		offerTo(w.polled, at)
	}
}

// offerTo sends where somebody waits or will.
func offerTo[T any](c chan T, value T) {
	select {
	case c <- value:
	default:
	}
}

// listening keeps what a handler answers.
type listening struct {
	http.ResponseWriter
	heard bytes.Buffer
}

func (l *listening) Write(p []byte) (int, error) {
	l.heard.Write(p)
	return l.ResponseWriter.Write(p)
}

// within waits for something the daemon is to bring about.
func within[T any](s *stand, d *daemon, what string, c chan T) T {
	select {
	case value := <-c:
		return value
	case <-d.ended:
		s.Fatalf("towpath run ended before %s\n%s", what, read(s, d.log))
	case <-time.After(patience):
		s.Fatalf("%s did not come within %s\n%s", what, patience, read(s, d.log))
	}
	panic("unreachable")
}

// daemon is a `towpath run`.
type daemon struct {
	pid   int
	log   string
	ended chan struct{}
}

func startDaemon(s *stand, w *lab.World) *daemon {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := w.Command(ctx, "run")
	d := &daemon{log: filepath.Join(w.Dir, "towpath.log"), ended: make(chan struct{})}
	log, err := os.Create(d.log)
	s.must(err)
	cmd.Stderr = log
	s.must(cmd.Start())
	d.pid = cmd.Process.Pid
	go func() {
		_ = cmd.Wait() // that it ended is what counts
		log.Close()
		close(d.ended)
	}()
	s.Cleanup(func() {
		cancel()
		<-d.ended
	})
	return d
}
