package config

import (
	"strings"

	"github.com/agext/levenshtein"
)

// Similar is the candidate that a word was probably meant to be; empty: none is near
// enough. That is the nearest one, the first of several, if it takes at most two
// changes, and at most one for every three characters. Two neighbours that changed
// places are one change. A beginning that both have in common up to a - or _ does not
// count as likeness: production-eu is not production-us. Case does not matter.
func Similar(word string, candidates []string) string {
	best, distance := "", 0
	for _, candidate := range candidates {
		a, b := differing(strings.ToLower(cut(word)), strings.ToLower(cut(candidate)))
		d := levenshtein.Distance(a, b, nil)
		if d == 2 && swapped(a, b) {
			d = 1
		}
		if d <= min(2, max(1, len(b)/3)) && d < len(b) && (best == "" || d < distance) {
			best, distance = candidate, d
		}
	}
	return best
}

// swapped tells whether two words differ by two neighbours that changed places.
func swapped(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	i := 0
	for i < len(a)-1 && a[i] == b[i] {
		i++
	}
	return i < len(a)-1 && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
}

// cut bounds the work that comparing a long word would be.
func cut(word string) string { return word[:min(len(word), 64)] }

// differing takes the parts off two words that they begin with alike.
func differing(a, b string) (string, string) {
	for {
		i := strings.IndexAny(a, "-_")
		if i < 0 || !strings.HasPrefix(b, a[:i+1]) {
			return a, b
		}
		a, b = a[i+1:], b[i+1:]
	}
}
