package bump

import (
	"regexp"
	"testing"
)

func TestDefuse(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		// What may stay as it is.
		{"Fix readiness probe", "Fix readiness probe"},
		{"feat(api)!: drop v1, add UTF-8 & ISO-8601", "feat(api)!: drop v1, add UTF-8 & ISO-8601"},
		{"C#. F#-based, 100%, a != b, R&D", "C#. F#-based, 100%, a != b, R&D"},
		{"Résumé: naïve façade 日本語", "Résumé: naïve façade 日本語"},
		{"{{ .Image }}", "{{ .Image }}"},
		// What may not.
		{"Fixes #12", "Fixes # 12"},
		{"closes owner/repo#12, group/project!3 and &4", "closes owner/repo# 12, group/project! 3 and & 4"},
		{"fix GH-12 and gl-3", "fix GH- 12 and gl- 3"},
		{"Resolves PROJ-12, PROJ-13", "Resolves PROJ- 12, PROJ- 13"},
		{"PROJ-12 #time 2d #comment x", "PROJ-12 # time 2d # comment x"},
		{"##12 @@x", "## 12 @@ x"},
		{"thanks @team, @org/team", "thanks @ team, @ org/team"},
		{"bump @types/node from 1 to 2", "bump @ types/node from 1 to 2"},
		{"see o/r@5f3c", "see o/r@ 5f3c"},
		{"release [skip ci]", "release (skip ci)"},
		{"release ***NO_CI*** ****", "release *NO_CI* *"},
		{"skip-checks: true", "skip checks: true"},
		{"Co-authored-by: A <a@b.c>", "Co authored by: A <a@ b.c>"},
		{"Signed-off-by : A", "Signed off by : A"},
		{"Towpath-Commit: 00", "Towpath Commit: 00"},
		{"/tag v1", "tag v1"},
		{"// /tag v1", "tag v1"},
		{"fixes https://github.com/o/r/issues/12", "fixes https:// github.com/o/r/issues/12"},
		{"WWW.github.com ssh://git@x ://://", "WWW. github.com ssh:// git@ x :// ://"},
		{"a\nb\tc\x1b[31m\u202e", "a b c (31m"},
	} {
		if got := Defuse(test.text, 0); got != test.want {
			t.Errorf("Defuse(%q)\n got %q\nwant %q", test.text, got, test.want)
		}
	}
}

// acts are the patterns by which forges and CI systems find what to act upon,
// as their documentation gives them.
var acts = map[string]*regexp.Regexp{
	"an issue":              regexp.MustCompile(`#\w`),
	"a merge request":       regexp.MustCompile(`[!&]\d`),
	"a mention":             regexp.MustCompile(`@[\w.]`),
	"GitHub's GH-12":        regexp.MustCompile(`(?i)\bG[HL]-\d`),
	"GitLab closing Jira's": regexp.MustCompile(`\b(?i:clos(?:e[sd]?|ing)|fix(?:e[sd]|ing)?|resolv(?:e[sd]?|ing)|implement(?:s|ed|ing)?)(:?) +(?:(?i:issues? +)?[A-Z][A-Z0-9_]+-\d+)`),
	"a URL":                 regexp.MustCompile(`(?i)(?:\w://|\bwww\.)\S`),
	"skipping CI":           regexp.MustCompile(`(?i)\[[^\]]*(?:skip|no)[^\]]*\]|\*\*\*no_ci\*\*\*|skip-checks:`),
	"a trailer":             regexp.MustCompile(`^[A-Za-z0-9]+-[A-Za-z0-9-]+\s*:`),
	"a quick action":        regexp.MustCompile(`^\s*/\w`),
	"more than a line":      regexp.MustCompile(`[\x00-\x1f\x7f\x{85}\x{2028}\x{2029}]`),
}

func FuzzDefuse(f *testing.F) {
	for _, text := range hostile {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := Defuse(text, 200)
		for what, pattern := range acts {
			if found := pattern.FindString(got); found != "" {
				t.Errorf("Defuse(%q) = %q: %s in %q", text, got, what, found)
			}
		}
		if again := Defuse(got, 0); again != got {
			t.Errorf("Defuse(%q) = %q, and of that %q", text, got, again)
		}
	})
}
