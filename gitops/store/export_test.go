package store

import "time"

// OpenFor opens a store over something else than a *wire.Remote.
func OpenFor(dir string, f fetcher) (*Store, error) { return open(dir, f) }

// Rest does at once what a store does when it has been idle.
func (s *Store) Rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest()
}

// Pace is how long a fetch is silent between two lines of progress.
func (s *Store) Pace(d time.Duration) { s.pace = d }

// Claim locks the first free copy in a directory.
var Claim = claim
