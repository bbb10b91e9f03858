package store_test

import (
	"encoding/hex"
	"math/rand/v2"
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
	little := hash(t, p.Commit(lab.Commit{Message: "little", Files: map[string]string{"b": "x"}}))
	p.Push("HEAD:little")
	noise := make([]byte, 20_000)
	rand.NewChaCha8([32]byte{}).Read(noise)
	much := hash(t, p.Commit(lab.Commit{Message: "much", Files: map[string]string{"a": hex.EncodeToString(noise)}}))
	p.Push("HEAD:main")
	for name, test := range map[string]struct {
		tip  gitops.Hash
		pace time.Duration
		want []string
	}{
		"slow":        {much, 0, []string{`^remote: Enumerating objects: \d+, done\.$`, `^[1-9]\d* KiB received$`}},
		"only begins": {little, 0, []string{`^remote: Enumerating objects: \d+, done\.$`}},
		"quick":       {much, time.Hour, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, t.TempDir(), p.remote(t))
			var told []string
			s.Progress = func(line string) { told = append(told, line) }
			s.Pace(test.pace)
			if err := s.Fetch(t.Context(), []gitops.Hash{test.tip}, 1); err != nil {
				t.Fatal(err)
			}
			if len(test.want) == 0 && len(told) > 0 {
				t.Errorf("told %q", told)
			}
			if len(test.want) == 1 && strings.Contains(strings.Join(told, "\n"), "received") {
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
