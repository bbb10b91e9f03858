package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

const (
	maxTips = 16 // told to the server as ours; each costs 50 bytes per fetch
	// A copy that grows past these is begun anew by the next fetch: what it
	// holds is mostly what nobody asks for any more.
	maxShallow    = 2000
	overgrown     = 256 << 20 // bytes, and …
	overgrownFold = 8         // … so many times what it was when it was small
)

// Fetch makes commits present, with all of their trees and blobs, and with them
// depth generations of their history (1: the commits alone). A depth of 0 asks
// for all the history down to what is here already; into an empty copy that is
// all there is. What is here is not asked for again, and where all is here the
// server is not asked at all. Damage that shows on the way is mended.
//
// An error that wraps wire.ErrNotAdvertised says that the server does not have
// one of the commits, or does not hand it out.
func (s *Store) Fetch(ctx context.Context, tips []gitops.Hash, depth int) error {
	s.fetching.Lock()
	defer s.fetching.Unlock()
	if s.isOvergrown() {
		if err := s.reset(); err != nil {
			return err
		}
	}
	return s.mended(func() error { return s.fetch(ctx, tips, depth) })
}

// mended runs a step that the fetching lock is held for, and once again after
// a reset where it found damage.
func (s *Store) mended(step func() error) error {
	err := step()
	if !errors.Is(err, ErrCorrupt) {
		return err
	}
	if err := s.reset(); err != nil {
		return err
	}
	return step()
}

// View fetches like Fetch and then calls read, which reads what was fetched.
// Where read returns ErrCorrupt the copy is wiped, fetched again and read once
// more: read must be able to start over.
func (s *Store) View(ctx context.Context, tips []gitops.Hash, depth int, read func() error) error {
	for mended := 0; ; {
		if err := s.Fetch(ctx, tips, depth); err != nil {
			return err
		}
		epoch := s.currentEpoch()
		err := read()
		if !errors.Is(err, ErrCorrupt) || ctx.Err() != nil || mended >= maxMends {
			return err
		}
		mended++
		if err := s.resetAfter(epoch); err != nil {
			return err
		}
	}
}

// maxMends is more than one, since others may reset the copy while it is read.
const maxMends = 3

// Deepen brings some more generations of a tip's history: by is how many below
// those that are here. It reports whether the history is complete now. Where
// nothing came although there is more, the error is ErrHistoryCut.
func (s *Store) Deepen(ctx context.Context, tip gitops.Hash, by int) (complete bool, err error) {
	if by < 1 {
		return false, fmt.Errorf("deepen by %d generations", by)
	}
	s.fetching.Lock()
	defer s.fetching.Unlock()
	err = s.mended(func() error {
		if err := s.fetch(ctx, []gitops.Hash{tip}, 1); err != nil {
			return err
		}
		have, whole, err := s.reachOf(tip)
		if err != nil || whole {
			complete = whole
			return err
		}
		if err := s.fetch(ctx, []gitops.Hash{tip}, min(have+by, maxGenerations)); err != nil {
			return err
		}
		now, whole, err := s.reachOf(tip)
		if err == nil && !whole && now == have {
			err = ErrHistoryCut
			if have == maxGenerations {
				err = ErrTooFar
			}
		}
		complete = whole
		return err
	})
	if err != nil {
		return false, err
	}
	s.settle()
	return complete, nil
}

func (s *Store) reachOf(tip gitops.Hash) (have int, whole bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reach(tip, maxGenerations)
}

// fetch is Fetch for callers that hold the fetching lock. It mends no damage: that is
// ErrCorrupt.
func (s *Store) fetch(ctx context.Context, tips []gitops.Hash, depth int) error {
	request, err := s.request(tips, depth)
	if err != nil || len(request.Wants) == 0 {
		return err
	}
	short, err := s.exchange(ctx, request)
	if err != nil || short == nil {
		return err
	}
	// The server believed that we have what we have not, or cut the pack. A
	// copy without a past has no such doubt in it.
	if err := s.reset(); err != nil {
		return err
	}
	request = wire.FetchRequest{Wants: unique(tips), Depth: depth}
	if short, err = s.exchange(ctx, request); err != nil {
		return err
	}
	if short != nil {
		return fmt.Errorf("the server sent less than it was asked for: %w", short)
	}
	return nil
}

// exchange asks the server and takes what it sends. short says why what came
// was not enough, and was not taken.
func (s *Store) exchange(ctx context.Context, request wire.FetchRequest) (short, err error) {
	told := &telling{say: s.Progress, every: s.pace, last: time.Now()}
	request.Progress = told.server()
	reply, err := s.remote.Fetch(ctx, request)
	if err != nil {
		return nil, err
	}
	in, err := receive(ctx, told.count(reply), s.temp())
	closeErr := reply.Close()
	if err != nil {
		return nil, fmt.Errorf("receive pack: %w", vanished(err))
	}
	if closeErr != nil {
		in.discard()
		return nil, fmt.Errorf("receive pack: %w", closeErr)
	}
	defer in.discard()
	if err := in.index(); err != nil {
		return nil, fmt.Errorf("receive pack: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	return s.take(in, reply.Shallow, request.Wants)
}

// request says what to ask for so that tips are here to a depth; without wants
// they are.
func (s *Store) request(tips []gitops.Hash, depth int) (wire.FetchRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := wire.FetchRequest{Depth: depth}
	if err := s.touch(); err != nil {
		return r, err
	}
	for _, tip := range unique(tips) {
		here, err := s.here(tip)
		if err != nil {
			return r, err
		}
		if here && depth > 1 {
			generations, whole, err := s.reach(tip, depth)
			if err != nil {
				return r, err
			}
			here = whole || generations >= depth
		}
		if !here {
			r.Wants = append(r.Wants, tip)
		}
	}
	if len(r.Wants) == 0 {
		return r, nil
	}
	for _, tip := range s.state.tips {
		here, err := s.here(tip)
		if err != nil {
			return r, err
		}
		if here {
			r.Haves = append(r.Haves, tip)
		}
	}
	if len(r.Haves) > 0 {
		r.Shallows = sortedHashes(s.state.shallow)
	}
	return r, nil
}

// here tells whether an object is in the copy. Callers hold the lock.
func (s *Store) here(h gitops.Hash) (bool, error) {
	p, _, err := s.locate(h)
	return p != nil, err
}

// take makes a received pack a part of the copy, if nothing is missing then.
// Callers hold the lock.
func (s *Store) take(in *received, edge, wants []gitops.Hash) (short, err error) {
	if err := s.touch(); err != nil {
		return nil, err
	}
	shallow, short, err := s.closure(in, edge)
	if short != nil || err != nil {
		return short, err
	}
	for _, want := range wants {
		if !in.has(want) {
			here, err := s.here(want)
			if err != nil {
				return nil, err
			}
			if !here {
				return hole(want), nil
			}
		}
	}
	next := state{
		packs:   s.state.packs,
		shallow: shallow,
		tips:    newest(wants, s.state.tips),
		born:    s.state.born,
	}
	if len(in.entries) > 0 {
		if err := in.install(s.dir); err != nil {
			_ = s.sweep() // makes room again on a full disk
			return nil, fmt.Errorf("store pack: %w", vanished(err))
		}
		s.letGo(in.name())
		next.packs = slices.Concat([]packState{{in.name(), in.size}}, slices.DeleteFunc(slices.Clone(next.packs),
			func(p packState) bool { return p.name == in.name() }))
	}
	if next.born == 0 {
		next.born = next.bytes()
	}
	if err := writeState(s.dir, next); err != nil {
		_ = s.sweep()
		return nil, fmt.Errorf("store pack: %w", vanished(err))
	}
	s.adopt(next)
	s.merge()
	return nil, nil
}

// newest puts commits before those that were fetched earlier.
func newest(wants, tips []gitops.Hash) []gitops.Hash {
	all := unique(slices.Concat(wants, tips))
	return all[:min(len(all), maxTips)]
}

func unique(hashes []gitops.Hash) []gitops.Hash {
	seen := make(map[gitops.Hash]bool, len(hashes))
	var out []gitops.Hash
	for _, h := range hashes {
		if !seen[h] {
			seen[h] = true
			out = append(out, h)
		}
	}
	return out
}

// closure checks that everything that received objects point to is in the pack
// or in the copy. Parents may be missing where the server said so (edge), or
// had said so before. It returns the new edge of the history.
func (s *Store) closure(in *received, edge []gitops.Hash) (shallow map[gitops.Hash]struct{}, short, err error) {
	present := func(h gitops.Hash) (bool, error) {
		if in.has(h) || h == emptyTree {
			return true, nil
		}
		return s.here(h)
	}
	for h := range in.needs.objects {
		here, err := present(h)
		if err != nil {
			return nil, nil, err
		}
		if !here {
			return nil, hole(h), nil
		}
	}
	allowed := make(map[gitops.Hash]struct{}, len(edge))
	for _, h := range edge {
		allowed[h] = struct{}{}
	}
	shallow = map[gitops.Hash]struct{}{}
	for _, c := range in.needs.commits {
		for _, parent := range c.parents {
			here, err := present(parent)
			if err != nil {
				return nil, nil, err
			}
			if here {
				continue
			}
			_, known := s.state.shallow[c.hash]
			if _, said := allowed[c.hash]; !said && !known {
				return nil, hole(parent), nil
			}
			shallow[c.hash] = struct{}{}
		}
	}
	// What was at the edge stays there until its parents have come.
	for h := range s.state.shallow {
		parents, err := s.parentsOf(h)
		if err != nil {
			return nil, nil, err
		}
		for _, parent := range parents {
			here, err := present(parent)
			if err != nil {
				return nil, nil, err
			}
			if !here {
				shallow[h] = struct{}{}
			}
		}
	}
	return shallow, nil, nil
}

// hole is an object that a received pack lacks. Unlike missing, it is the server's
// fault and not damage of ours.
func hole(h gitops.Hash) error { return fmt.Errorf("%w: %s", ErrMissing, h) }

// isOvergrown tells whether the copy is to be begun anew, see maxShallow and overgrown.
func (s *Store) isOvergrown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := s.state.bytes()
	return len(s.state.shallow) > maxShallow || size > overgrown && size > overgrownFold*s.state.born
}

// settle notes that the copy's size now is what its users need. Where that
// cannot be written, the copy is begun anew sooner than it had to be.
func (s *Store) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if size := s.state.bytes(); size != s.state.born && !s.closed {
		next := s.state
		next.born = size
		if writeState(s.dir, next) == nil {
			s.state = next
		}
	}
}

// name of the pack: its checksum, as git names packs.
func (in *received) name() string { return fmt.Sprintf("pack-%x", in.checksum) }

// install moves the pack and writes its index. Until the state names them they
// count for nothing.
func (in *received) install(dir string) error {
	if err := os.Rename(in.path, packPath(dir, in.name(), ".pack")); err != nil {
		return err
	}
	return os.WriteFile(packPath(dir, in.name(), ".idx"), in.names.raw, 0o600)
}
