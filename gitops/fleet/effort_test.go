package fleet

import (
	"fmt"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// tired is a fleet that looks at little of the past.
func (y *yard) tired(effort int) *Fleet {
	f := y.fleet()
	f.effort = effort
	return f
}

// However many versions of a file somebody has made, and however slow each is to
// parse, what is looked at of them is bounded. What is not found until then is
// somebody else's value, on which nothing is written; and a cold cache agrees.
func TestLongHistoryIsNotReadForever(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	version := func(image string, n int) string {
		return deployment("podinfo", image) + fmt.Sprintf("---\na%d: [%sx]\n", n, strings.Repeat("x,", 1000))
	}
	const versions = 40
	for n := range versions {
		y.pat.Commit(lab.Commit{Message: "tune", Files: map[string]string{podinfoFile: version(fmt.Sprintf("registry.example.com/apps/podinfo:v%d", n), n)}, Author: "Pat <pat@example.com>"})
	}
	y.pat.Push("HEAD:main")
	f := y.tired(10_000)
	y.promote(f, podinfo, 1)
	y.person("main", lab.Commit{Message: "back to the first", Files: map[string]string{podinfoFile: version("registry.example.com/apps/podinfo:v0", versions)}})
	s := y.state(f, podinfo)
	if s.Standing != TakenOver {
		t.Errorf("%s, want %s", s.Standing, TakenOver)
	}
	if parsed := len(f.scanner.blobs); parsed > versions/2 {
		t.Errorf("%d files were looked at", parsed)
	}
	if s := y.state(y.tired(10_000), podinfo); s.Standing != TakenOver {
		t.Errorf("a cold cache says %s", s.Standing)
	}
	if s := y.state(y.fleet(), podinfo); s.Standing != Undone {
		t.Errorf("with all of history: %s, want %s", s.Standing, Undone)
	}
}

// Thousands of markers of one policy, each of which has to be followed back to
// where it began, do not keep the target busy: beyond a bound nothing is known of
// them, and so nothing is written.
func TestManyMarkersAreNotFollowedForever(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.tired(20_000)
	y.promote(f, podinfo, 1)
	var many strings.Builder
	for i := range 200 {
		fmt.Fprintf(&many, "k%d: x # {\"$imagepolicy\": \"flux-system:podinfo\"}\n", i)
	}
	for i := range 10 {
		y.person("main", lab.Commit{Message: "more", Files: map[string]string{"clusters/production/many.yaml": many.String() + fmt.Sprintf("# %d\n", i)}})
	}
	for _, f := range []*Fleet{f, y.tired(20_000)} {
		if s := y.state(f, podinfo); s.Standing != TakenOver {
			t.Errorf("%s, want %s", s.Standing, TakenOver)
		}
	}
	if s := y.state(y.fleet(), podinfo); s.Standing != Unfilled {
		t.Errorf("with all of history: %s, want %s", s.Standing, Unfilled)
	}
}

// A history of ever so many commits that never touch the marker's file costs
// nothing to parse, and yet is not looked at without end.
func TestManyCommitsAreNotLookedAtForever(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	const old = "registry.example.com/apps/podinfo:v0"
	y.write(old)
	y.write("registry.example.com/apps/podinfo:v1")
	for n := range 100 {
		y.pat.Commit(lab.Commit{Message: "elsewhere", Files: map[string]string{"README.md": fmt.Sprint(n)}, Author: "Pat <pat@example.com>"})
	}
	y.pat.Push("HEAD:main")
	y.promote(y.fleet(), podinfo, 1)
	y.write(old)
	const effort = 50 * perLook
	for _, f := range []*Fleet{y.tired(effort), y.tired(effort)} {
		if s := y.state(f, podinfo); s.Standing != TakenOver {
			t.Errorf("%s, want %s", s.Standing, TakenOver)
		}
	}
	if s := y.state(y.fleet(), podinfo); s.Standing != Undone {
		t.Errorf("with all of history: %s, want %s", s.Standing, Undone)
	}
}

// Hundreds of markers that one commit moved are each compared with all that were
// there before: that counts, too, though not one more file is parsed.
func TestManyMovesAreNotComparedForever(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	y.promote(y.fleet(), podinfo, 1)
	const markers = 200
	many := func(key string) string {
		var text strings.Builder
		for i := range markers {
			fmt.Fprintf(&text, "%s%d: x # {\"$imagepolicy\": \"flux-system:podinfo\"}\n", key, i)
		}
		return text.String()
	}
	for _, key := range []string{"a", "b"} {
		y.person("main", lab.Commit{Message: "call them " + key, Files: map[string]string{"clusters/production/many.yaml": many(key)}})
	}
	// Two looks for each, and some for the files; and not for each of them the others.
	const effort = markers*2*perLook + markers*markers/2
	for _, f := range []*Fleet{y.tired(effort), y.tired(effort)} {
		if s := y.state(f, podinfo); s.Standing != TakenOver {
			t.Errorf("%s, want %s", s.Standing, TakenOver)
		}
	}
	if s := y.state(y.fleet(), podinfo); s.Standing != Unfilled {
		t.Errorf("with all of history: %s, want %s", s.Standing, Unfilled)
	}
}
