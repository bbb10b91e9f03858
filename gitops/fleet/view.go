package fleet

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/store"
)

// view is what one tree of the repository says in markers below a path.
type view struct {
	sites map[marker.Policy][]Found
	files map[string]gitops.Hash // every file that mentions a marker → its blob
	scans map[string]*blobScan   // the same files
	notes []Problem              // what cannot be scanned at all
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

// assemble parses the files that a tree was found to hold and makes a view of them.
func (s *scanner) assemble(r reader, root gitops.Hash, scan *treeScan, prefix string) (*view, error) {
	v := &view{
		sites: map[marker.Policy][]Found{},
		files: map[string]gitops.Hash{},
		scans: map[string]*blobScan{},
	}
	var found gathered
	found.gather(scan, "")
	light, heavy := s.weigh(found.marked)
	for _, n := range heavy {
		s.drop(s.blobs[n.hash])
		v.notes = append(v.notes, Problem{File: path.Join(prefix, n.name), Text: "left alone: the files with markers are too much YAML altogether, and this is one of the largest"})
		if len(v.notes) > maxNamed {
			v.notes = append(v.notes, Problem{File: path.Join(".", prefix), Text: fmt.Sprintf("left alone: %d files with markers altogether, too much YAML", len(heavy))})
			break
		}
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
	for _, n := range found.links {
		v.notes = append(v.notes, Problem{File: path.Join(prefix, n.name), Text: "a symbolic link: never followed, so a marker behind it is not seen here"})
	}
	for _, n := range found.others {
		file := path.Join(prefix, n.name)
		inside, err := leadsToDirectory(r, root, file, n.hash)
		if err != nil {
			return nil, err
		}
		if inside {
			v.notes = append(v.notes, Problem{File: file, Text: "a symbolic link to a directory: never followed, so a marker behind it is not seen here"})
		}
	}
	for _, p := range found.notes {
		p.File = path.Join(prefix, p.File)
		v.notes = append(v.notes, p)
	}
	if scan.oddCount > maxNamed {
		v.notes = append(v.notes, Problem{File: path.Join(".", prefix), Text: "more symbolic links, or entries of odd names, than are named here"})
	}
	return v, nil
}

// gathered is what a tree holds in all, with whole names.
type gathered struct {
	marked, links, others []node
	notes                 []Problem
}

// gather collects from a tree and those below it, up to the numbers that are named.
// It enters no directory in which nothing is left to collect.
func (g *gathered) gather(t *treeScan, dir string) {
	for _, n := range t.marked {
		g.marked = append(g.marked, node{dir + n.name, n.hash})
	}
	for _, n := range t.links {
		if len(g.links)+len(g.notes) < maxNamed {
			g.links = append(g.links, node{dir + n.name, n.hash})
		}
	}
	for _, n := range t.others {
		if len(g.others) < maxNamed {
			g.others = append(g.others, node{dir + n.name, n.hash})
		}
	}
	for _, p := range t.notes {
		if len(g.links)+len(g.notes) < maxNamed {
			p.File = dir + p.File
			g.notes = append(g.notes, p)
		}
	}
	for _, sub := range t.dirs {
		scan := sub.scan
		if scan.files > 0 || scan.oddCount > 0 && len(g.links)+len(g.notes) < maxNamed || scan.otherCount > 0 && len(g.others) < maxNamed {
			g.gather(sub.scan, dir+sub.name+"/")
		}
	}
}
