package fleet

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
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

// view is what one tree of the repository says in markers below a path.
type view struct {
	sites map[marker.Policy][]Found
	files map[string]gitops.Hash // every file that mentions a marker → its blob
	scans map[string]*blobScan   // the same files
	notes []Problem              // what cannot be scanned at all
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

// treeScan is what one tree holds, names relative to it. What is below its
// directories stands there alone: trees in trees can hold one file a billion
// times, and its name in as many lengths.
type treeScan struct {
	marked []node // files that mention a marker
	links  []node // symbolic links that look like YAML
	ways   []node // other symbolic links, which may lead to directories
	notes  []Problem
	dirs   []subtree // those that hold any of these

	files int // marked ones, here and below
	names int // bytes of their names
	odd   int // links and notes, here and below; no more than maxNamed+1
	turns int // ways, here and below; no more than maxNamed
}

type subtree struct {
	name string
	scan *treeScan
}

type node struct {
	name string
	hash gitops.Hash
}

// view scans a whole tree. A path that is not there makes an empty view: found
// is false then. A path through a symbolic link is an error, since Flux would
// follow it and we would not.
func (s *scanner) view(ctx context.Context, r reader, root gitops.Hash, dir []string) (v *view, found bool, err error) {
	key := viewKey{root, strings.Join(dir, "/")}
	if v, ok := s.views[key]; ok {
		return v, true, nil
	}
	s.makeRoom()
	top, err := resolve(r, root, dir)
	if err != nil || top.Hash.IsZero() {
		return &view{}, false, err
	}
	scan := &treeScan{}
	prefix := key.path
	if top.Kind() == store.ModeTree {
		if err := s.readAhead(ctx, r, top.Hash); err != nil {
			return nil, false, fmt.Errorf("%s: %w", gitops.Line(key.path, 200), err)
		}
		if scan, err = s.tree(r, top.Hash, 0); err != nil {
			return nil, false, fmt.Errorf("%s: %w", gitops.Line(key.path, 200), err)
		}
	} else { // Flux takes a single file as a path, too
		prefix = path.Dir(key.path)
		if err := s.entry(r, scan, top, 0); err != nil {
			return nil, false, fmt.Errorf("%s: %w", gitops.Line(key.path, 200), err)
		}
	}
	if v, err = s.assemble(r, root, scan, prefix); err != nil {
		return nil, false, err
	}
	if len(s.views) >= maxViews || s.seen > maxSeen {
		clear(s.views)
		s.seen = 0
	}
	s.views[key] = v
	for _, sites := range v.sites {
		s.seen += len(sites)
	}
	return v, true, nil
}

// makeRoom forgets everything before it is too much.
func (s *scanner) makeRoom() {
	if len(s.blobs)+len(s.trees) > maxMemory || s.held > maxHeld || s.ahead > maxAhead/2 {
		clear(s.blobs)
		clear(s.trees)
		clear(s.views)
		s.held, s.seen, s.ahead = 0, 0, 0
	}
}

// readAhead reads the files of a tree that were never seen, all at once: the
// first scan of a repository is a walk through its pack, not ten thousand
// look-ups.
func (s *scanner) readAhead(ctx context.Context, r reader, top gitops.Hash) error {
	var wanted []gitops.Hash
	seen := map[gitops.Hash]bool{}
	var walk func(h gitops.Hash, depth int) error
	walk = func(h gitops.Hash, depth int) error {
		if s.trees[h] != nil || seen[h] || depth > maxDepth {
			return nil
		}
		seen[h] = true
		entries, err := r.Tree(h)
		if err != nil {
			return err
		}
		for _, e := range entries {
			switch e.Kind() {
			case store.ModeTree:
				if err := walk(e.Hash, depth+1); err != nil {
					return err
				}
			case store.ModeFile, store.ModeExecutable:
				if _, known := s.blobs[e.Hash]; !known && !seen[e.Hash] && isYAML(e.Name) {
					seen[e.Hash] = true
					wanted = append(wanted, e.Hash)
				}
			}
		}
		return nil
	}
	if err := walk(top, 0); err != nil || len(wanted) == 0 {
		return err
	}
	return r.BlobsUpTo(ctx, wanted, maxFile, func(h gitops.Hash, content []byte) error {
		if marker.Mentions(content) {
			content = bytes.Clone(content) // a File keeps it; the reader takes it back
		}
		s.read(h, content)
		return nil
	}, s.leave)
}

func (s *scanner) tree(r reader, h gitops.Hash, depth int) (*treeScan, error) {
	if t, ok := s.trees[h]; ok {
		return t, nil
	}
	if depth > maxDepth {
		return nil, &TooMuchError{fmt.Sprintf("more than %d directories inside each other", maxDepth)}
	}
	entries, err := r.Tree(h)
	if err != nil {
		return nil, err
	}
	t, seen := &treeScan{}, make(map[string]bool, len(entries))
	for _, e := range entries {
		if seen[e.Name] {
			t.note(e.Name, "two entries of this name in one directory: the second is left alone")
			continue
		}
		seen[e.Name] = true
		if err := s.entry(r, t, e, depth); err != nil {
			return nil, err
		}
		if t.files > maxMarked {
			return nil, &TooMuchError{fmt.Sprintf("more than %d files with markers", maxMarked)}
		}
		if t.names > maxNames {
			return nil, &TooMuchError{fmt.Sprintf("the names of the files with markers are longer than %d MiB", maxNames>>20)}
		}
	}
	s.trees[h] = t
	return t, nil
}

// note names an entry that is left alone.
func (t *treeScan) note(name, text string) {
	if t.odd++; t.odd <= maxNamed {
		t.notes = append(t.notes, Problem{File: gitops.Line(name, maxName), Text: text})
	}
}

func (s *scanner) entry(r reader, t *treeScan, e store.Entry, depth int) error {
	if len(e.Name) > maxName && (e.Kind() == store.ModeTree || isYAML(e.Name)) {
		t.note(e.Name, fmt.Sprintf("left alone: its name is longer than %d bytes", maxName))
		return nil
	}
	switch e.Kind() {
	case store.ModeTree:
		sub, err := s.tree(r, e.Hash, depth+1)
		if err != nil {
			return err
		}
		if sub.files > 0 || sub.odd > 0 || sub.turns > 0 {
			t.dirs = append(t.dirs, subtree{e.Name, sub})
			t.files += sub.files
			t.names += sub.names + sub.files*(len(e.Name)+1)
			t.odd = min(t.odd+sub.odd, maxNamed+1)
			t.turns = min(t.turns+sub.turns, maxNamed)
		}
	case store.ModeSymlink:
		if isYAML(e.Name) {
			if t.odd++; t.odd <= maxNamed {
				t.links = append(t.links, node{e.Name, e.Hash})
			}
		} else if len(e.Name) <= maxName && len(t.ways) < maxNamed {
			t.turns = min(t.turns+1, maxNamed)
			t.ways = append(t.ways, node{e.Name, e.Hash})
		}
	case store.ModeFile, store.ModeExecutable:
		if !isYAML(e.Name) {
			return nil
		}
		b, err := s.blob(r, e.Hash)
		if err != nil {
			return err
		}
		if b != nil && b.large {
			t.note(e.Name, fmt.Sprintf("left alone: larger than %d MiB, so a marker in it is not seen", maxFile>>20))
			return nil
		}
		if b != nil {
			t.marked = append(t.marked, node{e.Name, e.Hash})
			t.files++
			t.names += len(e.Name)
		}
	}
	return nil // submodules and what git does not know are not ours to enter
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

// leave notes a file that is too large to be looked into.
func (s *scanner) leave(h gitops.Hash) { s.blobs[h] = &blobScan{large: true, parsed: true} }

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

// drop takes back a file that was read ahead.
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

// value is what one marker holds in a tree of the past. found is false where
// the file or the marker is not there.
// pay is asked before that file is parsed, whether or not it has been before.
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

// problems tells of an image's policy what a person must mend, first what
// concerns that policy, then what may hide markers of any.
func (v *view) problems(policy marker.Policy) []Problem {
	var all []Problem
	ours := marker.Among(policy)
	for _, file := range slices.Sorted(maps.Keys(v.scans)) {
		scan := v.scans[file]
		if scan.file == nil {
			continue
		}
		for _, p := range scan.file.Problems(ours) {
			all = append(all, Problem{File: file, Line: p.Line, Text: p.Text, Ours: true})
		}
	}
	return append(all, v.notes...)
}

// namedOthers is how many of the markers that are not ours a person is told of.
const namedOthers = 3

// others counts the markers of policies that nobody here edits, and names the
// first of them.
func (v *view) others(ours func(marker.Policy) bool) (n int, first []Found) {
	for policy, sites := range v.sites {
		if ours(policy) {
			continue
		}
		n += len(sites)
		// Each policy's are in the order of files: its first are enough.
		for _, site := range sites[:min(len(sites), namedOthers)] {
			at, _ := slices.BinarySearchFunc(first, site, Found.compare)
			if at == namedOthers {
				break
			}
			first = slices.Insert(first[:min(len(first), namedOthers-1)], at, site)
		}
	}
	return n, first
}

// compare orders markers by file and line.
func (f Found) compare(g Found) int {
	return cmp.Or(strings.Compare(f.File, g.File), f.Line-g.Line, placeOf(f).compare(placeOf(g)))
}

// resolve walks to a path. A zero entry: it is not there.
func resolve(r reader, root gitops.Hash, segments []string) (store.Entry, error) {
	at := store.Entry{Mode: store.ModeTree, Hash: root}
	for i, name := range segments {
		switch at.Kind() {
		case store.ModeTree:
		case store.ModeSymlink:
			return store.Entry{}, &LinkError{Path: strings.Join(segments, "/"), Link: strings.Join(segments[:i], "/")}
		default:
			return store.Entry{}, nil
		}
		entries, err := r.Tree(at.Hash)
		if err != nil {
			return store.Entry{}, err
		}
		at = store.Entry{}
		for _, e := range entries {
			if e.Name == name {
				at = e
				break
			}
		}
		if at.Hash.IsZero() {
			return store.Entry{}, nil
		}
	}
	if at.Kind() == store.ModeSymlink {
		whole := strings.Join(segments, "/")
		return store.Entry{}, &LinkError{Path: whole, Link: whole}
	}
	return at, nil
}

// isYAML: Flux's automation looks into these files and no others.
func isYAML(name string) bool {
	ext := path.Ext(name)
	return ext == ".yaml" || ext == ".yml" || name == "Kustomization"
}
