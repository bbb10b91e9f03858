package marker_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"towpath.dev/towpath/gitops/marker"
)

// seeds adds what the golden files are about; more are in testdata/fuzz.
func seeds(f *testing.F) {
	f.Helper()
	paths, err := filepath.Glob("testdata/edit/*.txtar")
	if err != nil || len(paths) == 0 {
		f.Fatalf("no golden files: %v", err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range txtar.Parse(data).Files {
			if filepath.Ext(file.Name) == ".yaml" {
				f.Add(unspell(file.Data))
			}
		}
	}
}

// FuzzParse: no file makes it panic, and what it says of any file is in order.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		kept := bytes.Clone(src)
		file, err := marker.Parse(src)
		if !bytes.Equal(src, kept) {
			t.Fatal("the file was written to")
		}
		lines := 1 + bytes.Count(src, []byte("\n"))
		problems := file.Problems(func(marker.Policy) bool { return true })
		for _, p := range problems {
			if p.Line < 0 || p.Line > lines || p.Text == "" || bytes.ContainsAny([]byte(p.Text), "\n\r\x1b") {
				t.Fatalf("%d lines, problem %d: %q", lines, p.Line, p.Text)
			}
		}
		sites := file.Sites()
		if err != nil && len(sites) > 0 {
			t.Fatalf("%v, and %d sites", err, len(sites))
		}
		if !marker.Mentions(src) && len(sites)+len(problems) > 0 {
			t.Fatalf("mentions nothing, but has %v, %v", sites, problems)
		}
		last := 0
		for _, s := range sites {
			if s.Line < last || s.Line > lines {
				t.Fatalf("%d lines, site in line %d after %d", lines, s.Line, last)
			}
			last = s.Line
			if p, err := marker.ParsePolicy(s.Policy.String()); err != nil || p != s.Policy {
				t.Fatalf("policy %q: %v", s.Policy, err)
			}
		}
	})
}

// FuzzEdit: whatever the file, an edit that is not refused changes values of
// sites and nothing else.
func FuzzEdit(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		kept := bytes.Clone(src)
		out, changes, err := marker.Edit(src, wanted)
		if !bytes.Equal(src, kept) {
			t.Fatal("the file was written to")
		}
		if err != nil {
			if out != nil || changes != nil {
				t.Fatalf("%v, and yet a result", err)
			}
			return
		}
		if len(changes) == 0 && !bytes.Equal(out, src) {
			t.Fatal("another file without a change")
		}
		consistent(t, src, out, changes)
		sameLines(t, src, out, changes)
	})
}

// sameLines checks that lines without a change are the old ones, and that on a
// line with one change everything around the value is.
func sameLines(t *testing.T, src, out []byte, changes []marker.Change) {
	t.Helper()
	on := make(map[int][]marker.Change)
	for _, c := range changes {
		on[c.Line] = append(on[c.Line], c)
	}
	before, after := strings.Split(string(src), "\n"), strings.Split(string(out), "\n")
	if len(before) != len(after) {
		t.Fatalf("%d lines, then %d", len(before), len(after))
	}
	for i := range before {
		switch here := on[i+1]; {
		case len(here) == 0 && before[i] != after[i]:
			t.Fatalf("line %d changed without a site:\n%q\n%q", i+1, before[i], after[i])
		case len(here) == 1 && !replacedOnce(before[i], after[i], here[0].New):
			t.Fatalf("line %d: more than the value changed:\n%q\n%q", i+1, before[i], after[i])
		}
	}
}

// replacedOnce tells whether after is before with one stretch replaced by
// text, which may be in quotes.
func replacedOnce(before, after, text string) bool {
	for from := 0; ; {
		at := strings.Index(after[from:], text)
		if at < 0 {
			return false
		}
		head, tail := after[:from+at], after[from+at+len(text):]
		for _, quote := range []string{"", `"`, "'"} {
			h, t := strings.TrimSuffix(head, quote), strings.TrimPrefix(tail, quote)
			if len(h)+len(t) <= len(before) && strings.HasPrefix(before, h) && strings.HasSuffix(before, t) {
				return true
			}
		}
		from += at + 1
	}
}
