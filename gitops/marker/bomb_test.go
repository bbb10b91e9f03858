package marker_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"towpath.dev/towpath/gitops/marker"
)

const mark = ` # {"$imagepolicy": "flux-system:podinfo"}` + "\n"

// TestLimits: what is beyond the limits is named, not tried.
func TestLimits(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ src, want string }{
		"size":        {"a: x" + mark + strings.Repeat("#", marker.MaxSize), "larger than 4 MiB"},
		"flow depth":  {"a: x" + mark + "b: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000), "line 2: nested deeper than 200"},
		"block depth": {"- x" + mark + strings.Repeat("- ", 9000), "line 2: nested deeper than 200"},
		"key depth":   {"a: x" + mark + strings.Repeat("? ", 9000), "line 2: nested deeper than 200"},
		"any depth":   {"a: x" + mark + "b: " + strings.Repeat("[", 20000), "line 2: no YAML: exceeded max depth of 10000"},
		"items":       {"a: x" + mark + "b: [" + strings.Repeat("x,", 1<<20) + "]", "more than 524288 entries"},
		"documents":   {"a: x" + mark + strings.Repeat("---\n", 1<<19), "more than 524288 entries"},
		"markers":     {strings.Repeat("- x"+mark, marker.MaxMentions+1), "more than 8192 markers"},
		"UTF-16":      {"\xff\xfea\x00:\x00 \x00x\x00", "in UTF-16"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := marker.Parse([]byte(test.src))
			var left *marker.Error
			if !errors.As(err, &left) || err.Error() != test.want {
				t.Fatalf("got %v, want %s", err, test.want)
			}
			if problems := f.Problems(ours); strings.Contains(test.src, mark) && (len(problems) != 1 || problems[0].Text != left.Reason) {
				t.Errorf("got %v", problems)
			}
			if _, _, err := f.Edit(wanted); !errors.As(err, &left) {
				t.Errorf("an edit says %v", err)
			}
		})
	}
}

// TestBombs: whatever a file repeats, it is edited at each of its sites or left
// alone, in a time that a reader of this test does not notice.
func TestBombs(t *testing.T) {
	t.Parallel()
	const size = 1 << 15
	counted := func(format string) string {
		var b strings.Builder
		for i := 0; b.Len() < size; i++ {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	var laughs strings.Builder
	laughs.WriteString("a0: &a0 x" + mark)
	for i := range 1000 {
		fmt.Fprintf(&laughs, "a%d: &a%d [*a%d, *a%d]\n", i+1, i+1, i, i)
	}
	fill := func(s string) string { return strings.Repeat(s, size/len(s)) }
	for name, src := range map[string]string{
		"aliases of aliases": laughs.String(),
		"sites":              fill("- x" + mark),
		"sites by key":       counted("k%d: x" + mark),
		"sites of one path":  fill("k: x" + mark),
		"sites by name":      counted("- name: n%d\n  image: x" + mark),
		"comments above":     fill("#" + mark[2:] + "- x\n"),
		"one line":           "[" + fill("x,") + "x" + mark + "]",
		"strings on a line":  "[" + fill(`"#$image",`) + "]",
		"plain on a line":    "[" + fill(`a#$image,`) + "]",
		"hashes on a line":   fill("#$image "),
		"escapes":            fill(`- "\x41"` + mark),
		"block scalar":       "a: |\n" + fill("  # $image\n"),
		"block scalars":      fill("- |\n  # $image\n"),
		"quoted lines":       "a: \"\n" + fill("  # $image\n") + `"`,
		"keys with comments": counted("k%[1]d: # {\"$imagepolicy\": \"ns:n%[1]d\"}\n"),
		"almost":             fill("a # {\"$imagePolicy\": \"flux-system:podinfo\"}\n"),
		"documents":          fill("a: x" + mark + "---\n"),
		"not closed":         fill("a: \"x # $image\n"),
		"line separators":    fill("\u2028"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := marker.Parse([]byte(src))
			f.Problems(ours)
			if err != nil {
				return
			}
			out, changes, err := f.Edit(wanted)
			if err != nil || len(changes) == 0 {
				return
			}
			if n := strings.Count(string(out), wanted[podinfo].Text("")); n != len(changes) {
				t.Errorf("%d changes, %d new values", len(changes), n)
			}
		})
	}
}

// TestPathsOfABomb: markers below very many, very long keys have paths that are
// short and still their own, and the same in every version of the file.
func TestPathsOfABomb(t *testing.T) {
	t.Parallel()
	const markers = 1000
	var src strings.Builder
	for i := range marker.MaxDepth - 10 {
		fmt.Fprintf(&src, "{%s%d: ", strings.Repeat("k", 180), i)
	}
	src.WriteString("[\n" + strings.Repeat("x,"+mark, markers) + "]" + strings.Repeat("}", marker.MaxDepth-10))
	paths := func(src string) map[string]bool {
		f, err := marker.Parse([]byte(src))
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, site := range f.Sites() {
			if len(site.Path) > 1<<10 {
				t.Fatalf("a path has %d bytes", len(site.Path))
			}
			found[site.Path] = true
		}
		return found
	}
	found := paths(src.String())
	if len(found) != markers {
		t.Errorf("%d markers have %d paths", markers, len(found))
	}
	for path := range paths(strings.Replace(src.String(), "x,", "y,", 1)) {
		if !found[path] {
			t.Errorf("a path of one version only: %s", path)
		}
	}
}

// TestProblematicTellsAllProblems: what is kept of a file says as much as the
// file.
func TestProblematicTellsAllProblems(t *testing.T) {
	t.Parallel()
	for _, src := range []string{"a: [x]" + mark, "a: x\n" + mark[1:], "a: [x" + mark, "a: x" + mark + strings.Repeat("#", marker.MaxSize)} {
		f, _ := marker.Parse([]byte(src))
		kept := f.Problematic()
		if kept == nil || len(kept.Problems(ours)) != 1 || kept.Problems(ours)[0] != f.Problems(ours)[0] {
			t.Errorf("%.20q: %v, and what is kept says %v", src, f.Problems(ours), kept)
		}
	}
	if f, _ := marker.Parse([]byte("a: x" + mark)); f.Problematic() != nil {
		t.Error("a file without problems is kept")
	}
}
