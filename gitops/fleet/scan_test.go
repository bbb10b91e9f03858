package fleet

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// Files that were made to be as slow to parse as can be do not keep a reading
// for as long as somebody likes: beyond a bound the largest are left alone and
// named, and every copy of Towpath leaves the same ones. The others' markers are
// edited as ever.
func TestSlowYAML(t *testing.T) {
	t.Parallel()
	files := plainFiles()
	for i := range 8 {
		var slow strings.Builder
		fmt.Fprintf(&slow, "a%d: x # {\"$imagepolicy\": \"flux-system:other\"}\n", i)
		for n := 0; slow.Len() < 4<<10; n++ {
			fmt.Fprintf(&slow, "k%d: y\n", n)
		}
		files[fmt.Sprintf("clusters/production/a%02d.yaml", i)] = slow.String()
	}
	y := newYard(t, files)
	light := func(f *Fleet) *Fleet {
		f.scanner.limit = 2000
		return f
	}
	f := light(y.fleet())
	for _, f := range []*Fleet{f, light(y.fleet())} {
		s := y.state(f, podinfo)
		left := 0
		for _, p := range s.Problems {
			if strings.Contains(p.Text, "left alone") {
				left++
			}
		}
		if left == 0 || left == 8 || s.Others != 8-left || s.Standing != Unpromoted {
			t.Errorf("%d files are left alone, %d others' markers seen, podinfo's are %s", left, s.Others, s.Standing)
		}
	}
	y.promote(f, podinfo, 1)
	if s := y.state(light(y.fleet()), podinfo); s.Standing != Holds {
		t.Errorf("a cold cache says %s", s.Standing)
	}
}

// tenfold is a tree of ten trees of ten trees and so on, ten deep, with one entry
// in the last.
func (y *yard) tenfold(entry string) (tree string) {
	tree = y.mktree(entry)
	for range 10 {
		var lines []string
		for i := range 10 {
			lines = append(lines, fmt.Sprintf("40000 tree %s\td%d", tree, i))
		}
		tree = y.mktree(lines...)
	}
	return tree
}

// Ten trees in ten trees, and so on, hold one symbolic link ten billion times.
func TestABombOfLinks(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	tree := y.tenfold("120000 blob " + y.hashObject("elsewhere") + "\tlink.yaml")
	blob := y.run("rev-parse", "main:"+podinfoFile)
	production := y.mktree("40000 tree "+tree+"\ta", "100644 blob "+blob+"\tpodinfo.yaml")
	root := y.mktree("40000 tree " + y.mktree("40000 tree "+production+"\tproduction") + "\tclusters")
	y.run("update-ref", "refs/heads/main", y.run("commit-tree", "-m", "links", "-p", "main", root))

	f := y.fleet()
	s := y.state(f, podinfo)
	if last := len(s.Problems) - 1; last != maxNamed || !strings.Contains(s.Problems[last].Text, "more symbolic links") {
		t.Errorf("%d problems, the last is %+v", last+1, s.Problems[last])
	}
	y.promote(f, podinfo, 1)
}

// So they can hold one that does not look like YAML, and might lead to a directory.
func TestABombOfWays(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	tree := y.tenfold("120000 blob " + y.hashObject("elsewhere") + "\tway")
	blob := y.run("rev-parse", "main:"+podinfoFile)
	way := y.hashObject("a/d0/d1")
	production := y.mktree("40000 tree "+tree+"\ta", "100644 blob "+blob+"\tpodinfo.yaml", "120000 blob "+way+"\tway")
	root := y.mktree("40000 tree " + y.mktree("40000 tree "+production+"\tproduction") + "\tclusters")
	y.run("update-ref", "refs/heads/main", y.run("commit-tree", "-m", "ways", "-p", "main", root))
	f := y.fleet()
	s := y.state(f, podinfo)
	if len(s.Problems) != 1 || s.Problems[0].File != "clusters/production/way" || !strings.Contains(s.Problems[0].Text, "a symbolic link to a directory") {
		t.Errorf("problems %+v", s.Problems)
	}
	y.promote(f, podinfo, 1)
}

// One file with many markers can be in a tree under any number of names, and
// names can be of any length: neither fills the memory. What is too much is left
// alone and named, and podinfo is promoted all the same.
func TestOneFileUnderManyNames(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	var many strings.Builder
	for n := range 1000 {
		fmt.Fprintf(&many, "k%d: x # {\"$imagepolicy\": \"flux-system:other\"}\n", n)
	}
	bomb := y.hashObject(many.String())
	var entries []string
	for n := range 500 {
		entries = append(entries, fmt.Sprintf("100644 blob %s\t%d.yaml", bomb, n))
	}
	entries = append(entries, fmt.Sprintf("100644 blob %s\t%s.yaml", bomb, strings.Repeat("long", 100)))
	blob := y.run("rev-parse", "main:"+podinfoFile)
	production := y.mktree("40000 tree "+y.mktree(entries...)+"\tbomb", "100644 blob "+blob+"\tpodinfo.yaml")
	root := y.mktree("40000 tree " + y.mktree("40000 tree "+production+"\tproduction") + "\tclusters")
	y.run("update-ref", "refs/heads/main", y.run("commit-tree", "-m", "bomb", "-p", "main", root))

	f := y.fleet()
	s := y.state(f, podinfo)
	if s.Others > maxWeight/perMarker {
		t.Errorf("%d markers are kept of one tree", s.Others)
	}
	left, long := 0, 0
	for _, p := range s.Problems {
		if strings.Contains(p.Text, "too much YAML") {
			left++
		}
		if strings.Contains(p.Text, "longer than") {
			long++
		}
	}
	if left == 0 || left > maxNamed+2 || long != 1 {
		t.Errorf("%d files are named as too much, %d for their names: %v", left, long, s.Problems[:min(3, len(s.Problems))])
	}
	y.promote(f, podinfo, 1)
	if s := y.state(y.fleet(), podinfo); s.Standing != Holds {
		t.Errorf("a cold cache says %s", s.Standing)
	}
}

// A tree with more files than are looked through is an error for its target, with
// what a person can do about it; a target with a path of its own in the same
// repository goes on.
func TestTooManyMarkedFiles(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	blob := y.hashObject("x: y # {\"$imagepolicy\": \"flux-system:other\"}\n")
	var entries []string
	for n := range 251 {
		entries = append(entries, fmt.Sprintf("100644 blob %s\t%d.yaml", blob, n))
	}
	leaf, entries := y.mktree(entries...), nil
	for n := range 200 { // more than 50,000 files
		entries = append(entries, fmt.Sprintf("40000 tree %s\td%d", leaf, n))
	}
	production := y.run("rev-parse", "main:clusters/production")
	root := y.mktree("40000 tree " + y.mktree("40000 tree "+y.mktree(entries...)+"\tmany", "40000 tree "+production+"\tproduction") + "\tclusters")
	y.run("update-ref", "refs/heads/main", y.run("commit-tree", "-m", "many", "-p", "main", root))

	_, err := y.fleet(func(o *Options) { o.Path = "clusters" }).Promoted(t.Context(), podinfo)
	var much *TooMuchError
	if !errors.As(err, &much) || !strings.Contains(err.Error(), "scan: clusters: more than 50000 files with markers") || !strings.Contains(much.Hint(), "update.path") {
		t.Errorf("error %v", err)
	}
	y.promote(y.fleet(func(o *Options) { o.Path = "clusters/production" }), podinfo, 1)
}

// Long names of directories inside each other count for every file below them.
func TestNamesThatAreTooLong(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	blob := y.hashObject("x: y # {\"$imagepolicy\": \"flux-system:other\"}\n")
	var entries []string
	for n := range 1000 {
		entries = append(entries, fmt.Sprintf("100644 blob %s\t%d.yaml", blob, n))
	}
	tree := y.mktree(entries...)
	for range 80 { // twenty thousand bytes before each of a thousand names
		tree = y.mktree("40000 tree " + tree + "\t" + strings.Repeat("n", 250))
	}
	root := y.mktree("40000 tree " + tree + "\tclusters")
	y.run("update-ref", "refs/heads/main", y.run("commit-tree", "-m", "names", "-p", "main", root))
	_, err := y.fleet(func(o *Options) { o.Path = "clusters" }).Promoted(t.Context(), podinfo)
	var much *TooMuchError
	if !errors.As(err, &much) || !strings.Contains(err.Error(), "longer than 16 MiB") {
		t.Errorf("error %v", err)
	}
}

// TestFilesThatAreTooLarge: a file of hundreds of megabytes, which takes a few hundred
// kilobytes in git, is named and left alone, and so is a link of that length; the
// other markers are edited.
func TestFilesThatAreTooLarge(t *testing.T) {
	t.Parallel()
	files := plainFiles()
	files["clusters/production/large.yaml"] = deployment("podinfo", placeholder) + strings.Repeat("#"+strings.Repeat(" ", 1<<20-2)+"\n", maxFile>>20)
	y := newYard(t, files)
	blob := strings.TrimSpace(y.run("rev-parse", "main:clusters/production/large.yaml"))
	y.pat.Git("fetch", "--quiet", "origin", "main")
	y.works("main", []string{"update-index", "--add", "--cacheinfo", "120000," + blob + ",clusters/production/link.yaml"},
		[]string{"update-index", "--add", "--cacheinfo", "120000," + blob + ",clusters/production/way"}, []string{"commit", "-q", "-m", "links"})
	f := y.fleet()
	y.promote(f, podinfo, 1)
	s := y.stands(f, podinfo, Holds)
	told := false
	for _, p := range s.Problems {
		told = told || p.File == "clusters/production/large.yaml" && strings.Contains(p.Text, "larger than 32 MiB")
	}
	if !told || len(s.Sites) != 1 {
		t.Errorf("%d markers, problems %+v", len(s.Sites), s.Problems)
	}
	if got := strings.TrimSpace(y.run("rev-parse", "main:clusters/production/large.yaml")); got != blob {
		t.Error("it was edited")
	}
	if err := f.Manifests(t.Context(), func(file string, content []byte) {
		if len(content) > maxFile {
			t.Errorf("%s was read", file)
		}
	}); err != nil {
		t.Error(err)
	}
}
