package store

import (
	"bytes"
	"context"
	"syscall"
	"time"

	"towpath.dev/towpath/gitops"
)

// OpenFor opens a store over something else than a *wire.Remote.
func OpenFor(dir string, f fetcher) (*Store, error) { return open(dir, f) }

// Rest does at once what a store does when it has been idle.
func (s *Store) Rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest()
}

// Inherit is what a program has that is being started: the lock's open file, until
// it runs and that is closed.
func (s *Store) Inherit() (fd int, err error) { return syscall.Dup(int(s.lock.Fd())) }

// Pace is how long a fetch is silent between two lines of progress.
func (s *Store) Pace(d time.Duration) { s.pace = d }

// Claim locks the first free copy in a directory.
var Claim = claim

// Received names the objects of a pack, received in so much room; all zero: in as
// much as packs have.
func Received(pack []byte, dir string, large, memory, files int64) (names []gitops.Hash, err error) {
	r := room{large, memory, files}
	if r == (room{}) {
		r = plenty()
	}
	in, err := receiveWith(context.Background(), bytes.NewReader(pack), dir, r)
	if err != nil {
		return nil, err
	}
	defer in.discard()
	for _, e := range in.entries {
		names = append(names, e.hash)
	}
	return names, nil
}

// IsShallow says whether a commit of the copy stands at the edge of its
// history: not all of its parents are here.
func (s *Store) IsShallow(commit gitops.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, shallow := s.state.shallow[commit]
	return shallow
}
