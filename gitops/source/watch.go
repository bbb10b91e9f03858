package source

import (
	"context"
	"fmt"
	"path"
	"strings"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
)

// watch is a list of gitignore patterns (git's gitignore(5)), of which the last
// that matches a path wins. A pattern that matches a directory covers what is
// beneath it. Unlike in a .gitignore file, a later pattern can always take back
// what an earlier one said, and "/" is the whole repository.
//
// It is not go-git's: that one lets "/**" match nothing, reads "[!a]" as "a or
// !", and a file whose change is not seen is an image that is not built.
type watch []pattern

type pattern struct {
	not      bool
	dirOnly  bool
	all      bool     // "/"
	anchored bool     // segments begin at the root, else there is one, of any depth
	segments []string // for path.Match; "**" stands for any number of them
}

func parseWatch(patterns []string) (watch, error) {
	w := make(watch, 0, len(patterns))
	for _, text := range patterns {
		p, err := parsePattern(text)
		if err != nil {
			return nil, fmt.Errorf("watch pattern %q: %w", gitops.Line(text, 100), err)
		}
		w = append(w, p)
	}
	return w, nil
}

func parsePattern(text string) (p pattern, err error) {
	text = trimSpaces(text)
	if strings.HasPrefix(text, "#") {
		return p, fmt.Errorf(`a comment; write \# for a name that begins so`)
	}
	text, p.not = strings.CutPrefix(text, "!")
	if text == "/" {
		p.all = true
		return p, nil
	}
	text, p.dirOnly = strings.CutSuffix(text, "/")
	p.anchored = strings.Contains(text, "/")
	text = strings.TrimPrefix(text, "/")
	if text == "" {
		return p, fmt.Errorf("empty")
	}
	for segment := range strings.SplitSeq(text, "/") {
		if len(segment) > 1 && strings.Trim(segment, "*") == "" && p.anchored {
			if n := len(p.segments); n == 0 || p.segments[n-1] != "**" {
				p.segments = append(p.segments, "**")
			}
			continue
		}
		if strings.Contains(segment, "**") && strings.Trim(segment, "*") != "" {
			return p, fmt.Errorf("** beside other characters, which git reads in two ways: write *")
		}
		if segment, err = globSegment(segment); err != nil {
			return p, err
		}
		p.segments = append(p.segments, segment)
	}
	return p, nil
}

// trimSpaces removes spaces at the end that no backslash quotes.
func trimSpaces(text string) string {
	for strings.HasSuffix(text, " ") {
		slashes := 0
		for i := len(text) - 2; i >= 0 && text[i] == '\\'; i-- {
			slashes++
		}
		if slashes%2 == 1 {
			break
		}
		text = text[:len(text)-1]
	}
	return text
}

// globSegment turns one segment of a pattern into one for path.Match, which
// knows "[^a]" for git's "[!a]", and refuses what the two read differently.
func globSegment(segment string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(segment); i++ {
		b.WriteByte(segment[i])
		switch segment[i] {
		case '\\':
			if i++; i < len(segment) {
				b.WriteByte(segment[i])
			}
		case '[':
			if i+1 < len(segment) && segment[i+1] == '!' {
				b.WriteByte('^')
				i++
			}
			for i++; i < len(segment) && segment[i] != ']'; i++ {
				if segment[i] == '[' {
					return "", fmt.Errorf("character classes such as [[:alpha:]] are not supported")
				}
				b.WriteByte(segment[i])
				if segment[i] == '\\' && i+1 < len(segment) {
					i++
					b.WriteByte(segment[i])
				}
			}
			if i < len(segment) {
				b.WriteByte(']')
			}
		}
	}
	if _, err := path.Match(b.String(), ""); err != nil {
		return "", fmt.Errorf("malformed")
	}
	return b.String(), nil
}

// covers says whether a change of a path counts.
func (w watch) covers(parts []string, isDir bool) bool {
	for i := len(w) - 1; i >= 0; i-- {
		if w[i].covers(parts, isDir) {
			return !w[i].not
		}
	}
	return false
}

// covers tells whether the pattern matches the path or a directory above it.
func (p pattern) covers(parts []string, isDir bool) bool {
	if p.all {
		return true
	}
	for n := 1; n <= len(parts); n++ {
		if p.dirOnly && n == len(parts) && !isDir {
			break
		}
		if p.matches(parts[:n]) {
			return true
		}
	}
	return false
}

func (p pattern) matches(parts []string) bool {
	if !p.anchored {
		return matchSegment(p.segments[0], parts[len(parts)-1])
	}
	// ends[i]: the segments so far match the first i parts.
	ends := make([]bool, len(parts)+1)
	ends[0] = true
	for at, segment := range p.segments {
		next := make([]bool, len(parts)+1)
		switch {
		case segment == "**" && at == len(p.segments)-1: // everything beneath, and not the directory itself
			for i, reached := 0, false; i < len(parts); i++ {
				reached = reached || ends[i]
				next[i+1] = reached
			}
		case segment == "**":
			for i, reached := 0, false; i <= len(parts); i++ {
				reached = reached || ends[i]
				next[i] = reached
			}
		default:
			for i, part := range parts {
				next[i+1] = ends[i] && matchSegment(segment, part)
			}
		}
		ends = next
	}
	return ends[len(parts)]
}

func matchSegment(segment, part string) bool {
	matched, err := path.Match(segment, part)
	return err == nil && matched
}

// Bounds on comparing two trees. Past them everything counts as changed: an
// image too many is built rather than one too few.
const (
	maxCompared = 1 << 20
	maxDepth    = 512
)

// touched says whether anything that is watched differs between the trees of
// two commits. Both are in the tip's history.
func (r *Repository) touched(ctx context.Context, w watch, base, tip gitops.Hash) (bool, error) {
	if len(w) == 0 {
		return true, nil
	}
	var touched bool
	err := r.store.View(ctx, []gitops.Hash{tip}, 1, func() error {
		if err := obtainBelow(ctx, r.store, base, tip); err != nil {
			return err
		}
		before, err := r.store.Commit(base)
		if err != nil {
			return err
		}
		after, err := r.store.Commit(tip)
		if err != nil {
			return err
		}
		d := differ{store: r.store, watch: w}
		touched, err = d.trees(before.Tree, after.Tree, nil)
		return err
	})
	return touched, err
}

// differ looks for a watched difference.
type differ struct {
	store    *store.Store
	watch    watch
	compared int
}

// trees compares two trees below a path; a zero hash is no tree.
func (d *differ) trees(before, after gitops.Hash, at []string) (bool, error) {
	if before == after {
		return false, nil
	}
	if len(at) > maxDepth {
		return true, nil
	}
	old, oldOdd, err := d.entries(before)
	if err != nil {
		return false, err
	}
	now, nowOdd, err := d.entries(after)
	if err != nil {
		return false, err
	}
	if oldOdd || nowOdd || d.compared > maxCompared {
		return true, nil
	}
	if len(at) > 0 && (before.IsZero() && len(now) == 0 || after.IsZero() && len(old) == 0) {
		return d.watch.covers(at, true), nil // an empty directory, which git itself does not make
	}
	for name, e := range now {
		if was, ok := old[name]; !ok || was != e {
			if found, err := d.entry(was, e, append(at[:len(at):len(at)], name)); found || err != nil {
				return found, err
			}
		}
	}
	for name, was := range old {
		if _, ok := now[name]; !ok {
			if found, err := d.entry(was, store.Entry{}, append(at[:len(at):len(at)], name)); found || err != nil {
				return found, err
			}
		}
	}
	return false, nil
}

// entry compares two entries of one name; the zero Entry is none.
func (d *differ) entry(before, after store.Entry, at []string) (bool, error) {
	var trees [2]gitops.Hash
	for i, e := range [2]store.Entry{before, after} {
		switch kind := e.Kind(); {
		case e == store.Entry{}:
		case kind == store.ModeTree:
			trees[i] = e.Hash
		default:
			if d.watch.covers(at, kind == store.ModeSubmodule) {
				return true, nil
			}
		}
	}
	return d.trees(trees[0], trees[1], at)
}

// entries reads a tree by name; odd: it holds a name twice.
func (d *differ) entries(tree gitops.Hash) (byName map[string]store.Entry, odd bool, err error) {
	if tree.IsZero() {
		return nil, false, nil
	}
	list, err := d.store.Tree(tree)
	if err != nil {
		return nil, false, err
	}
	d.compared += len(list)
	byName = make(map[string]store.Entry, len(list))
	for _, e := range list {
		byName[e.Name] = e
	}
	return byName, len(byName) != len(list), nil
}
