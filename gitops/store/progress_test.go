package store_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
)

// TestProgress: a fetch that lasts tells what the server says and how much has
// come; a quick one is silent.
func TestProgress(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	tip := hash(t, p.Commit(lab.Commit{Message: "much", Files: map[string]string{"a": strings.Repeat("abc", 1000), "b": "x"}}))
	p.Push("HEAD:main")
	for name, test := range map[string]struct {
		pace time.Duration
		want []string
	}{
		"slow":  {0, []string{`^remote: Enumerating objects: \d+, done\.$`, `^\d+\.\d MiB received$`}},
		"quick": {time.Hour, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir(), p.remote(t))
			var told []string
			s.Progress = func(line string) { told = append(told, line) }
			s.Pace(test.pace)
			if err := s.Fetch(t.Context(), []gitops.Hash{tip}, 1); err != nil {
				t.Fatal(err)
			}
			if len(test.want) == 0 && len(told) > 0 {
				t.Errorf("told %q", told)
			}
			for _, want := range test.want {
				if !regexp.MustCompile(`(?m)` + want).MatchString(strings.Join(told, "\n")) {
					t.Errorf("told %q, nothing like %s", told, want)
				}
			}
		})
	}
}
