package marker_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"towpath.dev/towpath/gitops/marker"
)

// writer makes up YAML files. It writes two texts at once, the file before an
// edit and the file that must come of it, so that the expectation owes nothing
// to the package under test.
type writer struct {
	t             *rapid.T
	before, after strings.Builder
	newline       []string // the line ends in use
	sites         int
	anchors       int
	comment       string // the marker of the value just written
}

func (w *writer) same(s string) {
	w.before.WriteString(s)
	w.after.WriteString(s)
}

func (w *writer) chance(name string, percent int) bool {
	return rapid.IntRange(0, 99).Draw(w.t, name) < percent
}

func (w *writer) oneOf(name string, of ...string) string {
	return rapid.SampledFrom(of).Draw(w.t, name)
}

// end ends a line, perhaps with blank lines and comments after it. Comments
// are about markers, and none.
func (w *writer) end(indent int) {
	w.same(w.oneOf("newline", w.newline...))
	for w.chance("more lines", 15) {
		w.same(w.oneOf("line between", "",
			strings.Repeat(" ", indent)+"# a note",
			"# image: x:v1 # {\"$imagepolicy\": \"flux-system:podinfo\"}",
			strings.Repeat(" ", indent)+"# see {\"$imagepolicy\": \"flux-system:podinfo\"}") +
			w.oneOf("newline", w.newline...))
	}
}

// scalar writes a value that has no marker, with no line end.
func (w *writer) scalar() {
	w.same(w.oneOf("scalar", "x:v1", "'it''s'", `"a # b"`, "1.10", "true", "~", "ünï", `"\u00e9 # {$imagepolicy}"`, "a#b", "http://x/y:z", "[a, {b: c}]", "{}"))
}

// marked writes a value and, where it is to be edited, what comes of it.
func (w *writer) marked() {
	field := w.oneOf("field", marker.FieldImage, marker.FieldTag, marker.FieldName, marker.FieldDigest)
	policy := rapid.SampledFrom([]marker.Policy{podinfo, numbers, {Namespace: "x", Name: "y"}}).Draw(w.t, "policy")
	if w.chance("anchor", 10) {
		w.anchors++
		w.same(fmt.Sprintf("&a%d ", w.anchors))
	}
	if w.chance("tag", 5) {
		w.same("!!str ")
	}
	quote := w.oneOf("quote", "", "'", `"`)
	old := w.oneOf("old value", "x:v1", "1.10", "latest", "a/b@sha256:00", "é")
	w.before.WriteString(quote + old + quote)
	value, ours := wanted[policy]
	if ours {
		w.sites++
		text := value.Text(field)
		if quote == "" && text == "553640e6" {
			quote = `"`
		}
		w.after.WriteString(quote + text + quote)
	} else {
		w.after.WriteString(quote + old + quote)
	}
	w.comment = fmt.Sprintf(`# {"$imagepolicy": "%s"}`, strings.TrimSuffix(policy.String()+":"+field, ":"))
}

// block writes a mapping or list in block style, on lines of its own.
func (w *writer) block(indent, depth int) {
	pad := strings.Repeat(" ", indent)
	list := w.chance("list", 30)
	for i := range rapid.IntRange(1, 4).Draw(w.t, "entries") {
		w.same(pad)
		if list {
			w.same("-")
		} else {
			w.same(fmt.Sprintf(w.oneOf("key", "k%d", "image%d", `"q # %d"`, "'é%d'", "名%d"), i))
			w.same(w.oneOf("space before colon", "", "", " ") + ":")
		}
		kind := rapid.IntRange(0, 9).Draw(w.t, "kind")
		switch {
		case kind < 4:
			w.same(w.oneOf("gap", " ", " ", "   "))
			w.marked()
			w.same(w.oneOf("gap", " ", "  ", "\t") + w.comment)
			w.end(indent)
		case kind == 4 && depth < 4:
			w.same(w.oneOf("comment behind the key", "", " # note"))
			w.end(indent)
			w.block(indent+rapid.IntRange(1, 4).Draw(w.t, "indent"), depth+1)
		case kind == 5:
			w.text(indent)
		case kind == 6:
			w.flow(indent)
		default:
			w.same(" ")
			w.scalar()
			w.same(w.oneOf("comment", "", "", " # note", ` # {"$openapi": "flux-system:podinfo"}`))
			w.end(indent)
		}
	}
}

// text writes a block scalar that is full of what would be markers elsewhere.
func (w *writer) text(indent int) {
	pad := strings.Repeat(" ", indent+rapid.IntRange(1, 3).Draw(w.t, "indent"))
	w.same(w.oneOf("block scalar", " |", " >-", " |+ # note", " >"))
	newline := w.newline[0]
	w.same(newline)
	for range rapid.IntRange(1, 4).Draw(w.t, "lines") {
		w.same(w.oneOf("text", "",
			pad+`image: x:v1 # {"$imagepolicy": "flux-system:podinfo"}`,
			pad+`# {"$imagepolicy": "flux-system:podinfo"}`,
			pad+`"quoted`) + newline)
	}
	w.same(pad + "end" + newline)
}

// flow writes a flow collection over several lines, with markers behind some
// of its values.
func (w *writer) flow(indent int) {
	pad := strings.Repeat(" ", indent+1)
	list := w.chance("flow list", 50)
	w.same(" " + map[bool]string{true: "[", false: "{"}[list])
	n := rapid.IntRange(1, 3).Draw(w.t, "entries")
	for i := range n {
		if !list {
			w.same(fmt.Sprintf("k%d: ", i))
		}
		comma := ","
		if i == n-1 {
			comma = w.oneOf("last comma", "", ",")
		}
		if w.chance("marked", 50) {
			w.marked()
			w.same(w.oneOf("gap", "", " ") + comma + " " + w.comment + w.oneOf("newline", w.newline...) + pad)
			continue
		}
		w.same(w.oneOf("flow scalar", "x:v1", `"a, b # c"`, "'}'", "1") + comma + w.oneOf("gap", " ", w.newline[0]+pad))
	}
	w.same(map[bool]string{true: "]", false: "}"}[list])
	w.end(indent)
}

// file writes a whole file.
func (w *writer) file() {
	w.newline = rapid.SampledFrom([][]string{{"\n"}, {"\r\n"}, {"\n", "\r\n"}, {"\r"}, {"\u2028"}, {"\n", "\u0085"}}).Draw(w.t, "newlines")
	w.same(w.oneOf("start", "", "", "\uFEFF", "# note\n", "---\n", "%YAML 1.1\n---\n"))
	for i := range rapid.IntRange(1, 3).Draw(w.t, "documents") {
		if i > 0 {
			w.same(w.oneOf("separator", "---\n", "--- # next\n", "...\n---\n", "---\n# note\n\n"))
		}
		w.block(0, 0)
	}
}

// TestEditOfAnything: whatever the file, the values behind our markers change
// and no other byte; the new file reads as it should; a second edit does
// nothing.
func TestEditOfAnything(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &writer{t: t}
		w.file()
		before, after := w.before.String(), w.after.String()
		if w.chance("no final newline", 30) {
			before, after = strings.TrimRight(before, "\r\n\u0085\u2028"), strings.TrimRight(after, "\r\n\u0085\u2028")
		}
		out, changes, err := marker.Edit([]byte(before), wanted)
		if err != nil {
			t.Fatalf("%v\n%q\n%s", err, before, before)
		}
		if string(out) != after {
			t.Fatalf("want\n%q\ngot\n%q", after, out)
		}
		if len(changes) != w.sites {
			t.Fatalf("%d changes at %d sites", len(changes), w.sites)
		}
		consistent(t, []byte(before), out, changes)
	})
}

// fataler is what the invariants need of a test.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// consistent checks what holds of every edit: the tree is the old one but for
// the changes, the sites are the old ones but for their values, and nothing is
// left to do.
func consistent(t fataler, before, out []byte, changes []marker.Change) {
	t.Helper()
	old, err := marker.Parse(before)
	if err != nil {
		t.Fatalf("the file before: %v", err)
	}
	f, err := marker.Parse(out)
	if err != nil {
		t.Fatalf("the file after: %v", err)
	}
	now := make(map[string]string)
	for _, c := range changes {
		if c.Old != c.Value {
			t.Fatalf("change from %q, but the site had %q", c.Old, c.Value)
		}
		now[c.Path] = c.New
	}
	seen := make(map[string]bool)
	sites := f.Sites()
	for i, s := range old.Sites() {
		if seen[s.Path] {
			t.Fatalf("two sites have the path %s", s.Path)
		}
		seen[s.Path] = true
		if text, ok := now[s.Path]; ok {
			s.Value = text
		}
		if i >= len(sites) || sites[i] != s {
			t.Fatalf("want site %v, got %v", s, sites)
		}
	}
	if len(seen) != len(sites) {
		t.Fatalf("%d sites, then %d", len(seen), len(sites))
	}
	if p, q := len(old.Problems(ours)), len(f.Problems(ours)); p != q {
		t.Fatalf("%d problems, then %d", p, q)
	}
	again, more, err := marker.Edit(out, wanted)
	if err != nil || len(more) > 0 || !bytes.Equal(again, out) {
		t.Fatalf("a second edit: %v, %v", more, err)
	}
	if a, b := values(t, before), values(t, out); len(a) != len(b) {
		t.Fatalf("%d scalars, then %d", len(a), len(b))
	} else {
		changed := 0
		for i := range a {
			if a[i] != b[i] {
				changed++
			}
		}
		if changed > len(changes) {
			t.Fatalf("%d values changed at %d sites", changed, len(changes))
		}
	}
}

// values lists the scalars of a file as the library reads them, with tags.
func values(t fataler, src []byte) []string {
	t.Helper()
	var all []string
	var visit func(n *yaml.Node)
	visit = func(n *yaml.Node) {
		if n.Kind == yaml.ScalarNode {
			all = append(all, n.Tag+" "+n.Value)
		}
		for _, child := range n.Content {
			visit(child)
		}
	}
	for decoder := yaml.NewDecoder(bytes.NewReader(src)); ; {
		var n yaml.Node
		if err := decoder.Decode(&n); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("%v", err)
		}
		visit(&n)
	}
}
