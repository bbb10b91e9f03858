package config_test

import (
	"strings"
	"testing"

	"towpath.dev/towpath/config"
)

// TestSimilar: a slip is recognised, and nobody is led to another word.
func TestSimilar(t *testing.T) {
	for _, c := range []struct{ word, among, want string }{
		{"intervall", "interval suspend", "interval"},
		{"Intervall", "interval suspend", "interval"},
		{"destnation", "source build destination", "destination"},
		{"targte", "target", "target"}, // two letters changed places
		{"chekc", "check", "check"},
		{"hceck", "check", "check"},
		{"chcke", "check", ""},
		{"kcehc", "check", ""},
		{"rn", "run", "run"},
		{"runn", "run", "run"},
		{"fun", "run", "run"},
		{"fin", "run", ""},
		{"eu", "us", ""},
		{"x", "tag", ""},
		{"a", "b", ""},
		{"", "a", ""},
		{"why", "run lint check", ""},
		{"port", "path", ""},
		{"production-eu", "production-us staging", ""},
		{"prodution-us", "production-us staging", "production-us"},
		{"production-us2", "production-us staging", "production-us"},
		{"TOWPATH_BUILDER_SIZE", "TOWPATH_BUILDER_TYPE TOWPATH_BUILDER_TIMEOUT", ""},
		{"TOWPATH_BUILDER_TYPO", "TOWPATH_BUILDER_TYPE TOWPATH_BUILDER_TIMEOUT", "TOWPATH_BUILDER_TYPE"},
		{"TOWPATH_BULDER_TYPE", "TOWPATH_BUILDER_TYPE", "TOWPATH_BUILDER_TYPE"},
		{"staging", "stagings staging2 stating", "stagings"}, // the first of the nearest
		{"stagingx2", "stagin staging2", "staging2"},
		{strings.Repeat("x", 1<<20), "xxx", ""},
		{"ünterval", "interval", "interval"},
	} {
		if got := config.Similar(c.word, strings.Fields(c.among)); got != c.want {
			t.Errorf("%.40q among %s: %q, want %q", c.word, c.among, got, c.want)
		}
	}
}
