package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/term"
)

// stage stands where a test stands: it lets the demo use the same real parts
// as the tests, and ends the play at the first thing that is not as it should
// be.
type stage struct {
	testing.TB // never called: what the lab uses is below
	cleanups   []func()
	logs       string // the daemon's log, shown when the play fails
	colour     bool
}

// fall ends the play.
type fall struct{ reason string }

// perform runs a play, cleans up and returns the exit code.
func perform(play func(*stage)) (code int) {
	s := &stage{colour: term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""}
	defer func() {
		switch end := recover().(type) {
		case nil:
		case fall:
			fmt.Fprintf(os.Stderr, "\ndemo: error: %s\n", end.reason)
			if log, err := os.ReadFile(s.logs); err == nil {
				fmt.Fprintf(os.Stderr, "\nthe daemon's log:\n%s\n", log)
			}
			code = 1
		default:
			panic(end)
		}
		for i := len(s.cleanups) - 1; i >= 0; i-- {
			s.cleanups[i]()
		}
	}()
	play(s)
	return 0
}

// scene prints a headline.
func (s *stage) scene(title string) {
	if s.colour {
		title = "\x1b[1m" + title + "\x1b[0m"
	}
	fmt.Printf("\n── %s\n\n", title)
}

func (s *stage) say(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }

// show prints a text under a caption.
func (s *stage) show(caption, text string) {
	fmt.Printf("   %s:\n", strings.TrimSuffix(caption, ":"))
	for line := range strings.Lines(strings.TrimSpace(text) + "\n") {
		fmt.Print("   │ ", line)
	}
	fmt.Println()
}

// until waits for something to become true, a minute at most.
func (s *stage) until(what string, done func() bool) {
	deadline := time.Now().Add(time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			s.Fatalf("a minute passed before %s", what)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// What the lab uses of a test.

func (s *stage) Helper()                   {}
func (s *stage) Name() string              { return "demo" }
func (s *stage) Context() context.Context  { return context.Background() }
func (s *stage) Cleanup(f func())          { s.cleanups = append(s.cleanups, f) }
func (s *stage) Log(...any)                {}
func (s *stage) Logf(string, ...any)       {}
func (s *stage) Fatal(args ...any)         { panic(fall{strings.TrimSpace(fmt.Sprintln(args...))}) }
func (s *stage) Fatalf(f string, a ...any) { panic(fall{fmt.Sprintf(f, a...)}) }
func (s *stage) Error(args ...any)         { s.Fatal(args...) }
func (s *stage) Errorf(f string, a ...any) { s.Fatalf(f, a...) }
func (s *stage) Failed() bool              { return false }

func (s *stage) TempDir() string {
	dir, err := os.MkdirTemp("", "towpath-demo-")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
