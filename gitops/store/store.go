// Package store keeps a bare copy of a part of a repository: some commits with
// all of their trees and blobs, and as much history as was asked for.
//
// The copy is a cache, disposable and distrusted. It is brought from the server
// by hash, every object is hashed again whenever it is read (sha1cd), and what
// does not match is ErrCorrupt: Reset wipes the copy, and the next Fetch brings
// it back. No answer depends on what the copy held before.
//
// It knows no ref, no branch and no credential, and never writes to a server.
//
// What always holds: every object of the copy has all that it points to in the
// copy too, but for the parents of commits at the edge of the history that was
// fetched (git's "shallow" commits). A pack that would break this, because a
// server cut it or believed that we had more, is not taken.
//
// On disk it is packs and indexes in git's formats and one file, state, that
// says which of them count. state is replaced last and at once, so a process
// that dies at any point leaves the copy before or the copy after; strays are
// swept by the next Open. Nothing is synced to the disk: a crash of the machine
// may leave damage, which the hashes show.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

var (
	// ErrCorrupt: the copy is damaged, or does not hold an object that it was
	// asked for. Reset and fetch again, or let View do both.
	ErrCorrupt = errors.New("the cached copy of the repository is damaged or incomplete")
	// ErrMissing is the kind of ErrCorrupt where an object is not there.
	ErrMissing = errors.New("object not found")
	// ErrType: the object is there and whole, and of another type than asked for.
	ErrType = errors.New("object of the wrong type")
	// ErrLarge: the object is larger than was asked for, or to read it takes one that is.
	ErrLarge = errors.New("object too large")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("the cached copy is closed")
)

// fetcher is what a store asks of a *wire.Remote.
type fetcher interface {
	Fetch(context.Context, wire.FetchRequest) (*wire.Pack, error)
}

// Store is a copy of a part of one repository. It is safe for concurrent use:
// fetches queue, reads go on meanwhile. Idle, it holds no file but its lock and
// next to no memory.
type Store struct {
	// Progress takes how a fetch that lasts goes, a clean line now and then; nil:
	// nobody wants to know. It is set before the first fetch.
	Progress func(string)
	pace     time.Duration // between its lines

	home   string // where copies are, one for each store that has it open
	remote fetcher

	fetching sync.Mutex // held through a fetch; taken before mu

	mu      sync.Mutex
	dir     string // the copy that is ours, as long as lock says so
	lock    *os.File
	state   state
	packs   []*pack // the newest first; as state lists them
	reader  *reader
	parents map[gitops.Hash][]gitops.Hash // of commits read lately
	epoch   int                           // counts resets
	idle    *time.Timer
	used    time.Time
	closed  bool
}

const (
	// cacheBytes bounds the objects kept in memory while a store is in use.
	cacheBytes = 8 << 20
	// idleAfter is how long files and memory are kept after the last use.
	idleAfter = 3 * time.Second
	// maxCopies bounds the processes that share one directory.
	maxCopies = 32
)

// Open opens the copy that dir holds, or begins an empty one there. Damage that
// shows at once is wiped. One store owns a copy at a time: where another, of
// this or of another process, has dir open, this one keeps a copy of its own
// beside it (dir/0, dir/1, …).
func Open(dir string, remote *wire.Remote) (*Store, error) { return open(dir, remote) }

func open(dir string, remote fetcher) (*Store, error) {
	own, lock, err := claim(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{pace: progressEvery, home: dir, dir: own, remote: remote, lock: lock}
	if err := s.load(); err != nil {
		_ = release(lock)
		return nil, fmt.Errorf("open cache: %w", err)
	}
	return s, nil
}

// vanished makes damage of a file or directory that was deleted under us.
func vanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// load reads the state, or wipes what is not whole.
func (s *Store) load() error {
	if err := s.clearTemp(); err != nil {
		return err
	}
	st, err := readState(s.dir)
	if err != nil {
		return s.wipe()
	}
	for _, p := range st.packs {
		for _, extension := range []string{".pack", ".idx"} {
			info, err := os.Lstat(packPath(s.dir, p.name, extension))
			if err != nil || !info.Mode().IsRegular() || extension == ".pack" && info.Size() != p.size {
				return s.wipe()
			}
		}
	}
	s.adopt(st)
	return s.sweep()
}

func (s *Store) clearTemp() error {
	if err := os.RemoveAll(tempDir(s.dir)); err != nil {
		return err
	}
	return os.MkdirAll(tempDir(s.dir), 0o700)
}

// adopt makes st the state in memory; packs that stay keep their open files.
func (s *Store) adopt(st state) {
	old := s.packs
	s.packs = make([]*pack, 0, len(st.packs))
	for _, p := range st.packs {
		at := slices.IndexFunc(old, func(o *pack) bool { return o.name == p.name && o.size == p.size })
		if at >= 0 {
			s.packs = append(s.packs, old[at])
			old = slices.Delete(old, at, at+1)
		} else {
			s.packs = append(s.packs, &pack{name: p.name, size: p.size})
		}
	}
	for _, p := range old {
		p.gone = true
		p.close()
	}
	s.state = st
}

// letGo drops the open files of a pack that was written anew.
func (s *Store) letGo(name string) {
	s.packs = slices.DeleteFunc(s.packs, func(p *pack) bool {
		if p.name != name {
			return false
		}
		p.gone = true
		p.close()
		return true
	})
}

// sweep removes what the state does not name: what a killed process left.
func (s *Store) sweep() error {
	listed := map[string]bool{}
	for _, p := range s.state.packs {
		listed[p.name+".pack"], listed[p.name+".idx"] = true, true
	}
	entries, err := os.ReadDir(packDir(s.dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !listed[e.Name()] {
			if err := os.RemoveAll(filepath.Join(packDir(s.dir), e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// wipe empties the copy, on disk and in memory.
func (s *Store) wipe() error {
	if !s.holds() {
		if err := s.move(); err != nil {
			return err
		}
	}
	// The state goes first: without it, whatever else is left counts for nothing.
	if err := os.RemoveAll(statePath(s.dir)); err != nil {
		return err
	}
	s.adopt(state{})
	s.reader, s.parents = nil, nil
	s.epoch++
	info, err := os.Lstat(packDir(s.dir))
	if err == nil && !info.IsDir() {
		if err := os.RemoveAll(packDir(s.dir)); err != nil {
			return err
		}
	}
	for _, dir := range []string{packDir(s.dir), tempDir(s.dir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return s.sweep()
}

// Reset wipes the copy. It waits for a fetch that is under way.
func (s *Store) Reset() error {
	s.fetching.Lock()
	defer s.fetching.Unlock()
	return s.reset()
}

// reset is Reset for callers that hold the fetching lock.
func (s *Store) reset() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if err := s.wipe(); err != nil {
		return fmt.Errorf("reset cache: %w", err)
	}
	return nil
}

// resetAfter is reset, unless somebody has reset since epoch.
func (s *Store) resetAfter(epoch int) error {
	s.fetching.Lock()
	defer s.fetching.Unlock()
	if s.currentEpoch() != epoch {
		return nil
	}
	return s.reset()
}

func (s *Store) currentEpoch() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

// Close lets go of the copy. What runs then fails with ErrClosed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.idle != nil {
		s.idle.Stop()
	}
	s.rest()
	if s.holds() {
		touch(s.lock)
	}
	return release(s.lock)
}

// temp is where packs are received.
func (s *Store) temp() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return tempDir(s.dir)
}

// touch notes a use, so that files stay open until the store is idle again.
func (s *Store) touch() error {
	if s.closed {
		return ErrClosed
	}
	s.used = time.Now()
	if s.idle == nil {
		s.idle = time.AfterFunc(idleAfter, s.restIfIdle)
	}
	if s.reader == nil {
		s.reader = newReader(cacheBytes)
	}
	if s.parents == nil {
		s.parents = map[gitops.Hash][]gitops.Hash{}
	}
	return nil
}

func (s *Store) restIfIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if left := idleAfter - time.Since(s.used); left > 0 {
		s.idle = time.AfterFunc(left, s.restIfIdle)
		return
	}
	s.rest()
}

// rest closes files and frees memory.
func (s *Store) rest() {
	s.idle, s.reader, s.parents = nil, nil, nil
	for _, p := range s.packs {
		p.close()
	}
}

// tempDir holds what is being received. Only Open clears it: a reset may come
// while something is received.
func tempDir(dir string) string { return filepath.Join(dir, "tmp") }

func packDir(dir string) string { return filepath.Join(dir, "objects", "pack") }

func packPath(dir, name, extension string) string {
	return filepath.Join(packDir(dir), name+extension)
}
