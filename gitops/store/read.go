package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"

	"towpath.dev/towpath/gitops"
)

// emptyTree exists in every repository, whether it is stored or not.
var emptyTree = plumbing.NewHash("4b825dc642cb6eb9a060e54bf8d69288fbee4904")

// Has says whether a commit is in the copy.
func (s *Store) Has(commit gitops.Hash) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.parentsOf(commit)
	return err == nil
}

// Object reads an object, hashed again.
func (s *Store) Object(h gitops.Hash) (plumbing.ObjectType, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.object(h, maxObject)
}

// Blob reads a blob.
func (s *Store) Blob(h gitops.Hash) ([]byte, error) { return s.typed(h, plumbing.BlobObject) }

// BlobUpTo reads a blob of at most limit bytes, and takes no more memory for a larger
// one: that is ErrLarge.
func (s *Store) BlobUpTo(h gitops.Hash, limit int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.typedUpTo(h, plumbing.BlobObject, limit)
}

// RawCommit reads a commit as it is stored, for those who must judge every byte.
func (s *Store) RawCommit(h gitops.Hash) ([]byte, error) { return s.typed(h, plumbing.CommitObject) }

// Commit reads a commit to tell of it.
func (s *Store) Commit(h gitops.Hash) (gitops.Commit, error) {
	raw, err := s.RawCommit(h)
	if err != nil {
		return gitops.Commit{}, err
	}
	return parseCommit(h, raw)
}

// Tree reads a tree's entries as they are stored: order, odd modes and odd
// names kept.
func (s *Store) Tree(h gitops.Hash) ([]Entry, error) {
	content, err := s.typed(h, plumbing.TreeObject)
	if err != nil {
		return nil, err
	}
	entries, err := ParseTree(content)
	if err != nil {
		return nil, fmt.Errorf("tree %s: %w", h, err)
	}
	return entries, nil
}

func (s *Store) typed(h gitops.Hash, want plumbing.ObjectType) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.typedLocked(h, want)
}

func (s *Store) typedLocked(h gitops.Hash, want plumbing.ObjectType) ([]byte, error) {
	return s.typedUpTo(h, want, maxObject)
}

func (s *Store) typedUpTo(h gitops.Hash, want plumbing.ObjectType, limit int64) ([]byte, error) {
	typ, content, err := s.object(h, limit)
	if err != nil {
		return nil, err
	}
	if typ != want {
		return nil, fmt.Errorf("%w: %s is a %s, not a %s", ErrType, h, typ, want)
	}
	return content, nil
}

// object is Object for callers that hold the lock.
func (s *Store) object(h gitops.Hash, limit int64) (plumbing.ObjectType, []byte, error) {
	if err := s.touch(); err != nil {
		return 0, nil, err
	}
	p, offset, err := s.locate(h)
	if err != nil {
		return 0, nil, err
	}
	if p == nil {
		if h == emptyTree {
			return plumbing.TreeObject, nil, nil
		}
		return 0, nil, missing(h)
	}
	typ, content, err := readChecked(s.reader, p, offset, h, limit)
	if err != nil {
		return 0, nil, err
	}
	return typ, bytes.Clone(content), nil // the cache may hold it too
}

// missing is damage: an object that should be here is not.
func missing(h gitops.Hash) error { return fmt.Errorf("%w: %w: %s", ErrCorrupt, ErrMissing, h) }

// readChecked reads an object and hashes what came.
func readChecked(r *reader, p *pack, offset int64, h gitops.Hash, limit int64) (plumbing.ObjectType, []byte, error) {
	typ, content, err := r.object(p, offset, limit)
	if errors.Is(err, ErrLarge) {
		return 0, nil, fmt.Errorf("%w: %s has more than %d bytes", err, h, limit)
	}
	if err != nil {
		return 0, nil, damaged(h, err)
	}
	got, err := hashObject(typ, content)
	if err != nil {
		return 0, nil, err
	}
	if got != h {
		return 0, nil, damaged(h, fmt.Errorf("it hashes to %s", got))
	}
	return typ, content, nil
}

// damaged is ErrCorrupt where an object could not be read because the copy is damaged.
// Where the machine cannot read just now, it is the plain error: to wipe the copy would
// mend nothing.
func damaged(h gitops.Hash, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read object %s: %w", h, err)
	}
	return fmt.Errorf("%w: object %s: %w", ErrCorrupt, h, err)
}

// locate finds an object; without a pack it is not here.
func (s *Store) locate(h gitops.Hash) (*pack, int64, error) {
	for _, p := range s.packs {
		if err := p.open(s.dir); err != nil {
			return nil, 0, damaged(h, err)
		}
		offset, err := p.index.find(h)
		if err != nil {
			return nil, 0, damaged(h, err)
		}
		if offset >= 0 {
			return p, offset, nil
		}
	}
	return nil, 0, nil
}

// parentsOf reads a commit's parents. Callers hold the lock.
func (s *Store) parentsOf(h gitops.Hash) ([]gitops.Hash, error) {
	if parents, ok := s.parents[h]; ok {
		return parents, nil
	}
	content, err := s.typedLocked(h, plumbing.CommitObject)
	if err != nil {
		return nil, err
	}
	l, _, err := parseLinks(content)
	if err != nil {
		return nil, fmt.Errorf("commit %s: %w", h, err)
	}
	s.parents[h] = l.parents
	return l.parents, nil
}

// Blobs reads many blobs in the order in which they lie on disk, on several
// processors, which is far faster than one by one. visit is called for each,
// once, never concurrently; content is valid during the call and must not be
// changed. An object that is not there or damaged is ErrCorrupt; an error of
// visit ends it.
func (s *Store) Blobs(ctx context.Context, hashes []gitops.Hash, visit func(h gitops.Hash, content []byte) error) error {
	return s.BlobsUpTo(ctx, hashes, maxObject, visit, nil)
}

// BlobsUpTo is Blobs where those of more than limit bytes, or that take one of more
// to be read, are not read but told to large, as visit is called for the others.
func (s *Store) BlobsUpTo(ctx context.Context, hashes []gitops.Hash, limit int64, visit func(h gitops.Hash, content []byte) error, large func(h gitops.Hash)) error {
	reads, release, err := s.plan(hashes)
	if err != nil {
		return err
	}
	defer release()

	workers := min(runtime.GOMAXPROCS(0), 4, 1+len(reads)/256)
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan []blob, workers)
	var reading sync.WaitGroup
	for worker := range workers {
		part := reads[worker*len(reads)/workers : (worker+1)*len(reads)/workers]
		reading.Go(func() { readBlobs(ctx, part, limit, results) })
	}
	go func() {
		reading.Wait()
		close(results)
	}()
	// The files must stay open until the last worker is done.
	defer reading.Wait()
	defer cancel()
	for batch := range results {
		for _, b := range batch {
			if large != nil && errors.Is(b.err, ErrLarge) {
				large(b.hash)
				continue
			}
			if b.err != nil {
				return b.err
			}
			if err := visit(b.hash, b.content); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

type blobRead struct {
	hash   gitops.Hash
	pack   *pack
	offset int64
}

type blob struct {
	hash    gitops.Hash
	content []byte
	err     error
}

// plan finds the objects and keeps their packs open until release is called.
func (s *Store) plan(hashes []gitops.Hash) (reads []blobRead, release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.touch(); err != nil {
		return nil, nil, err
	}
	reads = make([]blobRead, len(hashes))
	for i, h := range hashes {
		p, offset, err := s.locate(h)
		if err == nil && p == nil {
			err = missing(h)
		}
		if err != nil {
			return nil, nil, err
		}
		reads[i] = blobRead{h, p, offset}
	}
	order := map[*pack]int{}
	for i, p := range s.packs {
		order[p] = i
	}
	slices.SortFunc(reads, func(a, b blobRead) int {
		if a.pack != b.pack {
			return order[a.pack] - order[b.pack]
		}
		return int(min(max(a.offset-b.offset, -1), 1))
	})
	users := slices.Clone(s.packs)
	for _, p := range users {
		p.users++
	}
	return reads, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, p := range users {
			p.users--
			if p.gone || s.closed {
				p.close()
			}
		}
	}, nil
}

func readBlobs(ctx context.Context, reads []blobRead, limit int64, results chan<- []blob) {
	const batchCount, batchBytes = 256, 1 << 20
	r := newReader(cacheBytes / 2)
	var batch []blob
	size := 0
	send := func() bool {
		select {
		case results <- batch:
			batch, size = nil, 0
			return true
		case <-ctx.Done():
			return false
		}
	}
	for _, read := range reads {
		typ, content, err := readChecked(r, read.pack, read.offset, read.hash, limit)
		if err == nil && typ != plumbing.BlobObject {
			err = fmt.Errorf("%w: %s is a %s, not a blob", ErrType, read.hash, typ)
		}
		batch = append(batch, blob{read.hash, content, err})
		size += len(content)
		if err != nil && !errors.Is(err, ErrLarge) {
			break
		}
		if (len(batch) == batchCount || size > batchBytes) && !send() {
			return
		}
	}
	if len(batch) > 0 {
		send()
	}
}
