package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// StandIn stands where a test stands, for what outlives one test or runs
// outside of any. What ends a test ends Run.
type StandIn struct {
	testing.TB // never called: what the lab uses is below

	ctx      context.Context
	cancel   context.CancelFunc
	mu       sync.Mutex
	cleanups []func()
}

type ended struct{ reason string }

// NewStandIn makes one whose Context is derived from ctx and ends with Close.
func NewStandIn(ctx context.Context) *StandIn {
	s := &StandIn{}
	s.ctx, s.cancel = context.WithCancel(ctx)
	return s
}

// Run runs a function until it returns or says Fatal, which is the error.
func (s *StandIn) Run(play func(testing.TB)) (err error) {
	defer func() {
		switch end := recover().(type) {
		case nil:
		case ended:
			err = errors.New(end.reason)
		default:
			panic(end)
		}
	}()
	play(s)
	return nil
}

// Close runs what Cleanup took, the last first.
func (s *StandIn) Close() {
	s.cancel()
	for {
		s.mu.Lock()
		n := len(s.cleanups)
		if n == 0 {
			s.mu.Unlock()
			return
		}
		cleanup := s.cleanups[n-1]
		s.cleanups = s.cleanups[:n-1]
		s.mu.Unlock()
		if err := s.Run(func(testing.TB) { cleanup() }); err != nil {
			fmt.Fprintln(os.Stderr, "clean up:", err)
		}
	}
}

// What the lab uses of a test.

func (s *StandIn) Helper()                   {}
func (s *StandIn) Name() string              { return "" }
func (s *StandIn) Context() context.Context  { return s.ctx }
func (s *StandIn) Log(args ...any)           { fmt.Fprintln(os.Stderr, args...) }
func (s *StandIn) Logf(f string, a ...any)   { fmt.Fprintf(os.Stderr, f+"\n", a...) }
func (s *StandIn) Fatal(args ...any)         { panic(ended{strings.TrimSpace(fmt.Sprintln(args...))}) }
func (s *StandIn) Fatalf(f string, a ...any) { panic(ended{fmt.Sprintf(f, a...)}) }
func (s *StandIn) Error(args ...any)         { s.Fatal(args...) }
func (s *StandIn) Errorf(f string, a ...any) { s.Fatalf(f, a...) }
func (s *StandIn) Failed() bool              { return false }

func (s *StandIn) Cleanup(cleanup func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, cleanup)
}

func (s *StandIn) TempDir() string {
	dir, err := os.MkdirTemp("", "towpath-lab-")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
