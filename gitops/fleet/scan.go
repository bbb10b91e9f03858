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
	maxWeight = 1 << 21 // of what is parsed of one tree (marker.Weight): ten thousand large manifests
	maxMemory = 300_000 // remembered blobs and trees, before all is forgotten
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
}

type viewKey struct {
	root gitops.Hash
	path string
}

// reader is where trees and blobs are read.
type reader interface {
	Tree(gitops.Hash) ([]store.Entry, error)
	Blob(gitops.Hash) ([]byte, error)
	Blobs(ctx context.Context, hashes []gitops.Hash, visit func(gitops.Hash, []byte) error) error
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
	src    []byte // not parsed yet; nil: read it again
	weight int    // of parsing it
	parsed bool

	// file tells of problems; nil: it has none. A parsed file is large, and most
	// of those that are remembered are long past. One that does not parse has no
	// sites, and says in its problems whom that concerns.
	file *marker.File
}

// treeScan is what one tree holds, names relative to it.
type treeScan struct {
	marked []node // files that mention a marker
	links  []node // symbolic links that look like YAML
	notes  []Problem
	more   bool // links or notes than are kept
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
	if len(s.blobs)+len(s.trees) > maxMemory {
		clear(s.blobs)
		clear(s.trees)
		clear(s.views)
	}
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
	if v, err = s.assemble(r, scan, prefix); err != nil {
		return nil, false, err
	}
	if len(s.views) >= maxViews {
		clear(s.views)
	}
	s.views[key] = v
	return v, true, nil
}

func (s *scanner) assemble(r reader, scan *treeScan, prefix string) (*view, error) {
	v := &view{
		sites: map[marker.Policy][]Found{},
		files: map[string]gitops.Hash{},
		scans: map[string]*blobScan{},
	}
	light, heavy := s.weigh(scan.marked)
	for _, n := range heavy {
		s.blobs[n.hash].src = nil
		v.notes = append(v.notes, Problem{File: path.Join(prefix, n.name), Text: "left alone: the files with markers are too much YAML altogether, and this is one of the largest"})
	}
	for _, n := range light {
		file := path.Join(prefix, n.name)
		b, err := s.parse(r, n.hash)
		if err != nil {
			return nil, err
		}
		v.files[file], v.scans[file] = n.hash, b
		for _, site := range b.sites {
			v.sites[site.Policy] = append(v.sites[site.Policy], Found{File: file, Site: site})
		}
	}
	for _, n := range scan.links {
		v.notes = append(v.notes, Problem{File: path.Join(prefix, n.name), Text: "a symbolic link: never followed, so a marker behind it is not seen here"})
	}
	for _, p := range scan.notes {
		p.File = path.Join(prefix, p.File)
		v.notes = append(v.notes, p)
	}
	if scan.more {
		v.notes = append(v.notes, Problem{File: path.Join(".", prefix), Text: "more symbolic links, or entries of one name, than are named here"})
	}
	return v, nil
}

// weigh parts the files that are parsed from those that are left alone so that a
// tree costs seconds at most, whoever made it: the largest. It goes by the tree
// alone, so that every copy of Towpath leaves the same ones.
func (s *scanner) weigh(marked []node) (light, heavy []node) {
	weights, total := map[gitops.Hash]int{}, 0
	for _, n := range marked {
		if _, counted := weights[n.hash]; !counted {
			weights[n.hash] = s.blobs[n.hash].weight
			total += weights[n.hash]
		}
	}
	if total <= s.limit {
		return marked, nil
	}
	largest := slices.SortedFunc(maps.Keys(weights), func(a, b gitops.Hash) int {
		return cmp.Or(weights[b]-weights[a], bytes.Compare(a[:], b[:]))
	})
	for _, h := range largest {
		if total <= s.limit {
			break
		}
		total -= weights[h]
		delete(weights, h)
	}
	for _, n := range marked {
		if _, small := weights[n.hash]; small {
			light = append(light, n)
		} else {
			heavy = append(heavy, n)
		}
	}
	return light, heavy
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
	return r.Blobs(ctx, wanted, func(h gitops.Hash, content []byte) error {
		if marker.Mentions(content) {
			content = bytes.Clone(content) // a File keeps it; the reader takes it back
		}
		s.read(h, content)
		return nil
	})
}

func (s *scanner) tree(r reader, h gitops.Hash, depth int) (*treeScan, error) {
	if t, ok := s.trees[h]; ok {
		return t, nil
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("more than %d directories inside each other", maxDepth)
	}
	entries, err := r.Tree(h)
	if err != nil {
		return nil, err
	}
	t, seen := &treeScan{}, make(map[string]bool, len(entries))
	for _, e := range entries {
		if seen[e.Name] {
			t.notes = append(t.notes, Problem{File: e.Name, Text: "two entries of this name in one directory: the second is left alone"})
			continue
		}
		seen[e.Name] = true
		if err := s.entry(r, t, e, depth); err != nil {
			return nil, err
		}
		// Trees in trees can hold one link a billion times.
		if len(t.links) > maxNamed || len(t.notes) > maxNamed {
			t.more = true
			t.links, t.notes = t.links[:min(len(t.links), maxNamed)], t.notes[:min(len(t.notes), maxNamed)]
		}
		if len(t.marked) > maxMarked {
			return nil, fmt.Errorf("more than %d files with markers", maxMarked)
		}
	}
	s.trees[h] = t
	return t, nil
}

func (s *scanner) entry(r reader, t *treeScan, e store.Entry, depth int) error {
	switch e.Kind() {
	case store.ModeTree:
		sub, err := s.tree(r, e.Hash, depth+1)
		if err != nil {
			return err
		}
		t.marked = append(t.marked, below(e.Name, sub.marked)...)
		t.links = append(t.links, below(e.Name, sub.links)...)
		t.more = t.more || sub.more
		for _, p := range sub.notes {
			p.File = e.Name + "/" + p.File
			t.notes = append(t.notes, p)
		}
	case store.ModeSymlink:
		if isYAML(e.Name) {
			t.links = append(t.links, node{e.Name, e.Hash})
		}
	case store.ModeFile, store.ModeExecutable:
		if !isYAML(e.Name) {
			return nil
		}
		b, err := s.blob(r, e.Hash)
		if err != nil {
			return err
		}
		if b != nil {
			t.marked = append(t.marked, node{e.Name, e.Hash})
		}
	}
	return nil // submodules and what git does not know are not ours to enter
}

// blob screens one file's content; nil: it mentions no marker.
func (s *scanner) blob(r reader, h gitops.Hash) (*blobScan, error) {
	if b, ok := s.blobs[h]; ok {
		return b, nil
	}
	src, err := r.Blob(h)
	if err != nil {
		return nil, err
	}
	return s.read(h, src), nil
}

func (s *scanner) read(h gitops.Hash, src []byte) *blobScan {
	var b *blobScan
	if marker.Mentions(src) {
		b = &blobScan{src: src, weight: marker.Weight(src)}
	}
	s.blobs[h] = b
	return b
}

// parse reads the markers of a file; nil: it mentions none.
func (s *scanner) parse(r reader, h gitops.Hash) (*blobScan, error) {
	b, err := s.blob(r, h)
	if err != nil || b == nil || b.parsed {
		return b, err
	}
	src := b.src
	if src == nil {
		if src, err = r.Blob(h); err != nil {
			return nil, err
		}
	}
	file, _ := marker.Parse(src) // the error is among the problems of those it concerns
	b.sites, b.src, b.parsed = file.Sites(), nil, true
	if anybody := func(marker.Policy) bool { return true }; len(file.Problems(anybody)) > 0 {
		b.file = file
	}
	return b, nil
}

// value is what one marker holds in a tree of the past. found is false where
// the file or the marker is not there.
func (s *scanner) value(r reader, root gitops.Hash, p place) (value string, found bool, err error) {
	e, err := resolve(r, root, strings.Split(p.File, "/"))
	var link *LinkError
	if errors.As(err, &link) {
		return "", false, nil // not there, as far as we are concerned
	}
	if err != nil || e.Kind() != store.ModeFile && e.Kind() != store.ModeExecutable {
		return "", false, err
	}
	b, err := s.parse(r, e.Hash)
	if err != nil || b == nil {
		return "", false, err
	}
	for _, site := range b.sites {
		if placeOf(Found{File: p.File, Site: site}) == p {
			return site.Value, true, nil
		}
	}
	return "", false, nil
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

// others counts the markers of policies that nobody here edits.
func (v *view) others(ours func(marker.Policy) bool) int {
	n := 0
	for policy, sites := range v.sites {
		if !ours(policy) {
			n += len(sites)
		}
	}
	return n
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

func below(dir string, nodes []node) []node {
	moved := make([]node, len(nodes))
	for i, n := range nodes {
		moved[i] = node{dir + "/" + n.name, n.hash}
	}
	return moved
}
