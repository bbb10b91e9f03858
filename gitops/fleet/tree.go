package fleet

import (
	"bytes"
	"context"
	"fmt"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/store"
)

// treeScan is what one tree holds, with names relative to it. What its directories
// hold is in their own treeScans and not repeated here: by nesting the same tree a few
// times, a small repository can hold one file a billion times.
type treeScan struct {
	marked []node // files that mention a marker
	links  []node // symbolic links that look like YAML
	others []node // other symbolic links, which may lead to directories
	notes  []Problem
	dirs   []subtree // those that hold any of these

	// How many there are, here and below.
	files      int // of marked
	names      int // bytes of the names of marked
	oddCount   int // of links and notes; no more than maxNamed+1
	otherCount int // of others; no more than maxNamed
}

type subtree struct {
	name string
	scan *treeScan
}

type node struct {
	name string
	hash gitops.Hash
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
	if t.oddCount++; t.oddCount <= maxNamed {
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
		if sub.files > 0 || sub.oddCount > 0 || sub.otherCount > 0 {
			t.dirs = append(t.dirs, subtree{e.Name, sub})
			t.files += sub.files
			t.names += sub.names + sub.files*(len(e.Name)+1)
			t.oddCount = min(t.oddCount+sub.oddCount, maxNamed+1)
			t.otherCount = min(t.otherCount+sub.otherCount, maxNamed)
		}
	case store.ModeSymlink:
		if isYAML(e.Name) {
			if t.oddCount++; t.oddCount <= maxNamed {
				t.links = append(t.links, node{e.Name, e.Hash})
			}
		} else if len(e.Name) <= maxName && len(t.others) < maxNamed {
			t.otherCount = min(t.otherCount+1, maxNamed)
			t.others = append(t.others, node{e.Name, e.Hash})
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
