package fleet

import (
	"bytes"
	"cmp"
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
	for _, n := range found.ways {
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
	if scan.odd > maxNamed {
		v.notes = append(v.notes, Problem{File: path.Join(".", prefix), Text: "more symbolic links, or entries of odd names, than are named here"})
	}
	return v, nil
}

// gathered is what a tree holds in all, with whole names.
type gathered struct {
	marked, links, ways []node
	notes               []Problem
}

// gather goes down where there is something to be found: the bounds of a
// treeScan bound it, too.
func (g *gathered) gather(t *treeScan, dir string) {
	for _, n := range t.marked {
		g.marked = append(g.marked, node{dir + n.name, n.hash})
	}
	for _, n := range t.links {
		if len(g.links)+len(g.notes) < maxNamed {
			g.links = append(g.links, node{dir + n.name, n.hash})
		}
	}
	for _, n := range t.ways {
		if len(g.ways) < maxNamed {
			g.ways = append(g.ways, node{dir + n.name, n.hash})
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
		if scan.files > 0 || scan.odd > 0 && len(g.links)+len(g.notes) < maxNamed || scan.turns > 0 && len(g.ways) < maxNamed {
			g.gather(sub.scan, dir+sub.name+"/")
		}
	}
}

// leadsToDirectory tells whether a symbolic link of the tree leads to a directory of
// it, by whatever other links.
func leadsToDirectory(r reader, root gitops.Hash, file string, link gitops.Hash) (bool, error) {
	to, err := r.BlobUpTo(link, maxTarget)
	if errors.Is(err, store.ErrLarge) {
		return false, nil
	}
	if err != nil || path.IsAbs(string(to)) {
		return false, err
	}
	at := path.Join(path.Dir(file), string(to))
	if at == ".." || strings.HasPrefix(at, "../") {
		return false, nil
	}
	var segments []string
	if at != "." {
		segments = strings.Split(at, "/")
	}
	there, err := resolve(r, root, segments)
	var further *LinkError
	if errors.As(err, &further) {
		return true, nil // or to a file: that is not looked into either
	}
	return err == nil && there.Kind() == store.ModeTree, err
}

// maxTarget is how long the path in a symbolic link may be, as in Linux.
const maxTarget = 4096

// weigh parts the files that are parsed from those that are left alone so that a
// tree costs seconds at most, whoever made it: the largest. It goes by the tree
// alone, so that every copy of Towpath leaves the same ones.
func (s *scanner) weigh(marked []node) (light, heavy []node) {
	weights, total := map[gitops.Hash]int{}, 0
	for _, n := range marked {
		b := s.blobs[n.hash]
		more := perMarker * b.marks
		if _, counted := weights[n.hash]; !counted {
			more += b.weight
		}
		weights[n.hash] += more
		total += more
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
