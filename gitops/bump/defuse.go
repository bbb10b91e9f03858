package bump

import (
	"regexp"
	"strings"

	"towpath.dev/towpath/gitops"
)

// Defuse makes a source commit's text safe to show in a commit of another
// repository: one harmless line (gitops.Line, at most limit runes before what
// is added here) in which no forge, CI system or tracker finds something to
// act upon.
//
// It changes plain characters visibly and as little as it can. Invisible
// characters, or look-alikes from other alphabets, would do too, but a reviewer
// should see that and where a text was changed, and hidden characters in a
// diff are what reviewers are told to distrust. And it goes by the characters
// that make a reference and not by lists of keywords, since every forge has its
// own: "Fixes" may stay, because nothing follows it that could be fixed.
//
//	#12, owner/repo#12, #time     # 12, owner/repo# 12, # time
//	!3, &4 (GitLab)               ! 3, & 4
//	GH-12, GL-12                  GH- 12, GL- 12
//	fixes PROJ-12 (Jira)          fixes PROJ- 12
//	@team, o/r@5f3c               @ team, o/r@ 5f3c
//	https://…, www.…              https:// …, www. …
//	[skip ci], [link](…)          (skip ci), (link)(…)
//	***NO_CI***                   *NO_CI*
//	Co-authored-by: x             Co authored by: x
//	/tag v1 (GitLab)              tag v1
func Defuse(text string, limit int) string {
	s := gitops.Line(text, limit)
	s = brackets.Replace(s)
	s = stars.ReplaceAllString(s, "*")
	s = strings.TrimLeft(s, "/ ")
	s = token.ReplaceAllStringFunc(s, func(m string) string { return strings.ReplaceAll(m, "-", " ") })
	if closing.MatchString(s) {
		s = trackerKey.ReplaceAllString(s, "$1- $2")
	}
	s = forgeKey.ReplaceAllString(s, "$1- $2")
	s = reference.ReplaceAllString(s, "$1$3$5 $2$4$6")
	s = address.ReplaceAllString(s, "$1 ")
	return strings.Join(strings.Fields(s), " ")
}

var (
	brackets = strings.NewReplacer("[", "(", "]", ")")
	stars    = regexp.MustCompile(`\*{3,}`)
	// token is what git takes for a trailer's: words with hyphens before a
	// colon. Plain words, as in "fix: …", are no trailer that anybody acts on.
	token = regexp.MustCompile(`[A-Za-z0-9]*-[A-Za-z0-9-]*\s*:`)
	// closing are the words by which GitLab, Bitbucket and Jira change an
	// issue's state. Without them "UTF-8" may stay as it is.
	closing    = regexp.MustCompile(`(?i)\b(?:clos(?:e[sd]?|ing)|fix(?:e[sd]|ing)?|resolv(?:e[sd]?|ing)|implement(?:s|ed|ing)?)\b`)
	trackerKey = regexp.MustCompile(`\b([A-Z][A-Z0-9_]+)-([0-9])`)
	forgeKey   = regexp.MustCompile(`(?i)\b(g[hl])-([0-9])`)
	reference  = regexp.MustCompile(`(#)([\pL\pN_])|(@)([\pL\pN_.])|([!&])([0-9])`)
	address    = regexp.MustCompile(`(?i)(://|\bwww\.)`)
)
