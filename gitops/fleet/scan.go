package fleet

import (
	"context"
	"errors"
	"slices"
	"strings"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/store"
)

// Bounds on what a tree may make us do. The Linux kernel has 11 levels; a tree
// beyond these was made to hurt.
const (
	maxDepth  = 100     // directories inside each other
	maxMarked = 50_000  // marked files in one tree
	maxNamed  = 100     // symbolic links in one tree that are named, and faults
	maxFile   = 1 << 25 // bytes of a file that is looked into
	maxName   = 255     // bytes of a name, as in every file system
	maxNames  = 1 << 24 // bytes of the names of all marked files in one tree, with their directories
	maxWeight = 1 << 21 // of what is parsed of one tree (marker.Weight): ten thousand large manifests
	perMarker = 32      // what a marker adds to that, each time that its file is in the tree
	maxMemory = 300_000 // remembered blobs and trees, before all is forgotten
	maxHeld   = 1 << 18 // remembered markers of blobs, before all is forgotten
	maxSeen   = 1 << 17 // markers of remembered whole trees
	maxAhead  = 1 << 26 // bytes of files that were read ahead and not parsed yet
	maxViews  = 64      // remembered whole trees
)

// scanner finds markers in trees. What it found in a blob or a tree it
// remembers by hash, so the cost of the next tree follows what differs from
// those before. Nothing it says depends on what it remembers.
type scanner struct {
	blobs map[gitops.Hash]*blobScan // nil: mentions no marker
	trees map[gitops.Hash]*treeScan
	views map[viewKey]*view
	limit int // of weight: maxWeight

	held  int // markers in blobs
	seen  int // markers in views
	ahead int // bytes in blobs that were not parsed yet
}

type viewKey struct {
	root gitops.Hash
	path string
}

// reader is where trees and blobs are read.
type reader interface {
	Tree(gitops.Hash) ([]store.Entry, error)
	BlobUpTo(h gitops.Hash, limit int64) ([]byte, error)
	BlobsUpTo(ctx context.Context, hashes []gitops.Hash, limit int64, visit func(gitops.Hash, []byte) error, large func(gitops.Hash)) error
}

func newScanner() *scanner {
	return &scanner{
		limit: maxWeight,
		blobs: map[gitops.Hash]*blobScan{},
		trees: map[gitops.Hash]*treeScan{},
		views: map[viewKey]*view{},
	}
}

// blobScan is what one file says in markers, wherever it lies.
type blobScan struct {
	sites  []marker.Site
	places map[place]int // of sites, without their file; nil: not asked for yet
	src    []byte        // not parsed yet; nil: read it again
	weight int           // of parsing it
	marks  int           // how many markers it has at most
	parsed bool
	large  bool // and therefore not looked into: it says nothing

	// file tells of problems; nil: it has none. It is no more than that of what
	// was parsed, which is large. One that does not parse has no sites, and says
	// in its problems whom that concerns.
	file *marker.File
}

// cost is what a file costs a tree that it is in once.
func (b *blobScan) cost() int { return b.weight + perMarker*b.marks }

// makeRoom forgets everything before it is too much.
func (s *scanner) makeRoom() {
	if len(s.blobs)+len(s.trees) > maxMemory || s.held > maxHeld || s.ahead > maxAhead/2 {
		clear(s.blobs)
		clear(s.trees)
		clear(s.views)
		s.held, s.seen, s.ahead = 0, 0, 0
	}
}

// blob screens one file's content; nil: it mentions no marker.
func (s *scanner) blob(r reader, h gitops.Hash) (*blobScan, error) {
	if b, ok := s.blobs[h]; ok {
		return b, nil
	}
	src, err := r.BlobUpTo(h, maxFile)
	if errors.Is(err, store.ErrLarge) {
		s.leave(h)
		return s.blobs[h], nil
	}
	if err != nil {
		return nil, err
	}
	return s.read(h, src), nil
}

// leave remembers that a file is too large to be looked into.
func (s *scanner) leave(h gitops.Hash) { s.blobs[h] = &blobScan{large: true, parsed: true} }

// read screens a file's content, and keeps it for parse if there is room.
func (s *scanner) read(h gitops.Hash, src []byte) *blobScan {
	var b *blobScan
	if marker.Mentions(src) {
		b = &blobScan{weight: marker.Weight(src), marks: marker.AtMost(src)}
		if s.ahead+len(src) <= maxAhead {
			b.src = src
			s.ahead += len(src)
		}
	}
	s.blobs[h] = b
	return b
}

// drop lets go of the content that read kept of a file.
func (s *scanner) drop(b *blobScan) {
	s.ahead -= len(b.src)
	b.src = nil
}

// parse reads the markers of a file; nil: it mentions none.
func (s *scanner) parse(r reader, h gitops.Hash) (*blobScan, error) {
	b, err := s.blob(r, h)
	if err != nil || b == nil || b.parsed {
		return b, err
	}
	src := b.src
	if src == nil {
		if src, err = r.BlobUpTo(h, maxFile); err != nil {
			return nil, err
		}
	}
	file, _ := marker.Parse(src) // the error is among the problems of those it concerns
	s.drop(b)
	b.sites, b.file, b.parsed = file.Sites(), file.Problematic(), true
	s.held += b.marks
	return b, nil
}

// value is what one marker holds in a tree of the past. found is false where the
// file or the marker is not there. pay is called before the file is parsed, with what
// that costs, also where the file is remembered and need not be parsed; its error ends
// the look-up.
func (s *scanner) value(r reader, root gitops.Hash, p place, pay func(blob gitops.Hash, cost int) error) (value string, found bool, err error) {
	e, err := resolve(r, root, strings.Split(p.File, "/"))
	var link *LinkError
	if errors.As(err, &link) {
		return "", false, nil // not there, as far as we are concerned
	}
	if err != nil || e.Kind() != store.ModeFile && e.Kind() != store.ModeExecutable {
		return "", false, err
	}
	s.makeRoom()
	b, err := s.blob(r, e.Hash)
	if err != nil || b == nil || b.cost() > s.limit {
		return "", false, err // that is left alone in any tree
	}
	if err := pay(e.Hash, b.cost()); err != nil {
		return "", false, err
	}
	if b, err = s.parse(r, e.Hash); err != nil {
		return "", false, err
	}
	if b.places == nil {
		b.places = make(map[place]int, len(b.sites))
		for i, site := range slices.Backward(b.sites) {
			b.places[placeOf(Found{Site: site})] = i
		}
	}
	p.File = ""
	i, found := b.places[p]
	if !found {
		return "", false, nil
	}
	return b.sites[i].Value, true, nil
}
