package source

import (
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// TestPatternsLikeGit compares single patterns with git check-ignore, on paths
// that look like them.
func TestPatternsLikeGit(t *testing.T) {
	t.Parallel()
	git := lab.Tool(t, "git")
	repo := t.TempDir()
	lab.RunGit(t, repo, "init", "--quiet")
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(words ...string) string { return words[random.IntN(len(words))] }
	var paths []string
	for range 60 {
		parts := make([]string, 1+random.IntN(4))
		for i := range parts {
			parts[i] = pick("a", "b", "ab", "ba", "c", "a.b", "a b", "a*", "!a")
		}
		paths = append(paths, strings.Join(parts, "/"))
	}
	for range 250 {
		parts := make([]string, 1+random.IntN(4))
		for i := range parts {
			parts[i] = pick("a", "b", "ab", "*", "a*", "*b", "?", "**", "**", "***", "[ab]", "[!a]", "[a-b]?", "[^b]*", `a\*`, `\!a`, "a b", "*.b")
		}
		text := pick("", "", "/") + strings.Join(parts, "/") + pick("", "", "/", " ")
		p, err := parsePattern(text)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		lab.WriteFile(t, filepath.Join(repo, ".git/info/exclude"), []byte(text+"\n"))
		cmd := exec.Command(git, "-c", "core.quotePath=false", "check-ignore", "--no-index", "--stdin", "-z")
		cmd.Dir, cmd.Stdin = repo, strings.NewReader(strings.Join(paths, "\x00")+"\x00")
		out, _ := cmd.Output() // exits 1 where nothing matches
		matched := map[string]bool{}
		for path := range strings.SplitSeq(string(out), "\x00") {
			matched[path] = true
		}
		for _, path := range paths {
			if got := p.covers(strings.Split(path, "/"), false); got != matched[path] {
				t.Errorf("%q on %q: %v, git says %v", text, path, got, matched[path])
			}
		}
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		patterns, yes, no string
	}{
		{"/", "a a/b .dockerignore", ""},
		{"!/", "", "a"},
		{"/ !docs/", "a src/docs.md", "docs/a docs/b/c x/docs/y"},
		{"/ !*.md", "a x/b", "README.md x/y.md"},
		{"/src/ !/src/gen/ /src/gen/keep.go", "src/a src/gen/keep.go src/x/gen/a", "src/gen/a lib/a"},
		{"apps/web/ Dockerfile", "apps/web/a Dockerfile x/Dockerfile", "apps/webs/a x/apps/web/a"},
		{"/apps/web /Dockerfile", "apps/web apps/web/b Dockerfile", "x/Dockerfile"},
		{"/**", "a a/b", ""},
		{"/a/**/b", "a/b a/x/b a/x/y/b/c", "a b x/a/b"},
		{"/a/**/b/**/c", "a/b/c a/b/b/x/c", "a/c"},
		{`\#a \!b`, "#a !b", "a b"},
	} {
		w, err := parseWatch(strings.Fields(test.patterns))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range strings.Fields(test.yes) {
			if !w.covers(strings.Split(path, "/"), false) {
				t.Errorf("%s does not cover %s", test.patterns, path)
			}
		}
		for _, path := range strings.Fields(test.no) {
			if w.covers(strings.Split(path, "/"), false) {
				t.Errorf("%s covers %s", test.patterns, path)
			}
		}
	}
	for _, bad := range []string{"", " ", "!", "# comment", "[a", "[[:alpha:]]", `a\`, "//", "a**/b"} {
		if _, err := parseWatch([]string{bad}); err == nil {
			t.Errorf("%q is taken for a pattern", bad)
		}
	}
	w, err := parseWatch([]string{"/sub"})
	if err != nil || !w.covers([]string{"sub"}, true) {
		t.Error("a submodule is not covered", err)
	}
}

func FuzzWatch(f *testing.F) {
	for _, seed := range []string{"/", "!a/", "**/a/**", `\[a`, "[!a-]*", "a/**/b/**/c/**"} {
		f.Add(seed, "a/b/c")
	}
	f.Fuzz(func(t *testing.T, text, path string) {
		p, err := parsePattern(text)
		if err != nil {
			return
		}
		parts := strings.Split(path, "/")
		got := p.covers(parts, false)
		if got && !p.covers(append(parts, "below"), false) && !p.dirOnly {
			t.Errorf("%q covers %q and not what is beneath it", text, path)
		}
	})
}
