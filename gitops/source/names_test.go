package source

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBadName(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", ".", "..", "a/b", "a\x00b", "\n", "\x7f", "a\u0085b", strings.Repeat("x", 256),
		".git", ".Git", ".git ", ".git...", "git~1", "GIT~1 .", ".git:x", `.git\x`, `x\.git`, "\u200d.git", ".gi\ufefft",
	} {
		if badName(bad) == "" {
			t.Errorf("%q is taken", bad)
		}
	}
	for _, good := range []string{
		"a", "...", ".gitignore", ".github", ".gitmodules", "git", "git~2", "x.git", ".git2", "a b", " ", "ü", "\xff", "-", "~", strings.Repeat("x", 255),
	} {
		if reason := badName(good); reason != "" {
			t.Errorf("%q: %s", good, reason)
		}
	}
}

// FuzzEscapes lays out random symlinks in a real directory and lets the kernel
// follow them: none that leads out of it may pass.
func FuzzEscapes(f *testing.F) {
	for _, seed := range []string{"l>..", "a/b/s>../.. t>a/b/s/../x", "l>a/../..", "a>b b>a", "d/l>../d/../../x", "a/s>.. b/s>../a/s/s/s/.."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, layout string) {
		checkEscapes(t, layout)
	})
}

func TestEscapes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		layout string
		out    string // links that must be refused
	}{
		{"l>..", "l"},
		{"l>.", ""},
		{"l>a/..", ""},
		{"l>a/../..", "l"},
		{"a/b/s>../.. t>a/b/s/../x", "t"},
		{"a>b b>a", ""},
		{"a/s>.. b/s>../a/s/a/s/..", "b/s"},
		{"d/e/l>../../f", ""},
		{"d/e/l>../../../f", "d/e/l"},
	} {
		if got := strings.Join(checkEscapes(t, test.layout), " "); got != test.out {
			t.Errorf("%s: refused %q, want %q", test.layout, got, test.out)
		}
	}
}

// checkEscapes reads "link>target link>target", asks which links are refused,
// and has the kernel follow the others, with every directory made that they
// might pass through.
func checkEscapes(t *testing.T, layout string) (refused []string) {
	t.Helper()
	l := links{}
	for field := range strings.FieldsSeq(layout) {
		at, target, ok := strings.Cut(field, ">")
		if !ok || !fs.ValidPath(at) || at == "." || len(target) == 0 || len(l) > 8 || len(field) > 60 {
			return nil
		}
		l.add(at, []byte(target))
	}
	root := filepath.Join(t.TempDir(), "r1", "r2", "context")
	var kept []string
	for _, at := range l.sorted() {
		// Like in a tree, nothing lies below a link.
		if os.MkdirAll(filepath.Join(root, filepath.Dir(at)), 0o755) != nil {
			return nil
		}
		if os.Symlink(l[at], filepath.Join(root, at)) != nil {
			return nil
		}
	}
	for _, at := range l.sorted() {
		for above := filepath.Dir(at); above != "."; above = filepath.Dir(above) {
			if _, isLink := l[above]; isLink {
				return nil
			}
		}
	}
	for _, at := range l.sorted() {
		if l.escapes(at) != "" {
			refused = append(refused, at)
		} else {
			kept = append(kept, at)
		}
	}
	// What a path needs to be followed to its end; never outside.
	inside, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	for range 3 {
		for _, at := range l.sorted() {
			inside.MkdirAll(filepath.Join(filepath.Dir(at), l[at]), 0o755)
		}
	}
	for _, at := range kept {
		end, err := filepath.EvalSymlinks(filepath.Join(root, at))
		if err != nil {
			continue
		}
		if end != root && !strings.HasPrefix(end, root+"/") {
			t.Errorf("%s: %s leads to %s", layout, at, end)
		}
	}
	return refused
}
