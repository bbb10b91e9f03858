package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

// stand stands where a test stands: it lets the benchmark use the same real
// parts as the tests, and ends it at the first thing that cannot be measured.
type stand struct {
	testing.TB // never called: what the lab uses is below
	options    options
	site       *site // nil until an experiment needs a cluster
	cleanups   []func()
}

// fall ends the benchmark.
type fall struct{ reason string }

// perform does something, cleans up and returns the exit code.
func perform(do func(*stand)) (code int) {
	s := &stand{}
	defer func() {
		switch end := recover().(type) {
		case nil:
		case fall:
			fmt.Fprintf(os.Stderr, "bench: error: %s\n", end.reason)
			code = 1
		default:
			panic(end)
		}
		for len(s.cleanups) > 0 {
			last := s.cleanups[len(s.cleanups)-1]
			s.cleanups = s.cleanups[:len(s.cleanups)-1]
			last()
		}
	}()
	do(s)
	return 0
}

// say tells what is going on: the table alone goes to standard output.
func (s *stand) say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// must ends the benchmark on an error.
func (s *stand) must(err error) {
	if err != nil {
		s.Fatal(err)
	}
}

// What the lab uses of a test.

func (s *stand) Helper()                   {}
func (s *stand) Name() string              { return "bench" }
func (s *stand) Context() context.Context  { return context.Background() }
func (s *stand) Cleanup(f func())          { s.cleanups = append(s.cleanups, f) }
func (s *stand) Log(...any)                {}
func (s *stand) Logf(string, ...any)       {}
func (s *stand) Fatal(args ...any)         { panic(fall{strings.TrimSpace(fmt.Sprintln(args...))}) }
func (s *stand) Fatalf(f string, a ...any) { panic(fall{fmt.Sprintf(f, a...)}) }
func (s *stand) Error(args ...any)         { s.Fatal(args...) }
func (s *stand) Errorf(f string, a ...any) { s.Fatalf(f, a...) }
func (s *stand) Failed() bool              { return false }

func (s *stand) TempDir() string {
	dir, err := os.MkdirTemp("", "towpath-bench-")
	s.must(err)
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
