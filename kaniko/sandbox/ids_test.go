package sandbox

import (
	"math"
	"os"
	"strings"
	"testing"
)

func TestDelegated(t *testing.T) {
	t.Parallel()
	const first, after = 1000, 2000
	for content, want := range map[string]string{
		"":                                    "",
		"alice:0:1000\nbob:2000:1000\n":       "",
		"alice:0:1001\n":                      "alice:0:1001",
		"alice:5000:5\nbob:1999:1\n":          "bob:1999:1",
		"alice:1200:10":                       "alice:1200:10",
		"alice:0:9223372036854775807\n":       "alice:0:9223372036854775807",
		"alice:-5:9223372036854775807\n":      "alice:-5:9223372036854775807",
		"# alice:1200:10\n\nalice\nx:y:z\n":   "",
		"alice:1200:0\nbob:1200:-1\n":         "",
		"alice:99999999999999999999:10\n":     "",
		"alice:5000:5\n bob:1000:1 \nc:1:1\n": "bob:1000:1",
	} {
		if got := delegated(content, first, after); got != want {
			t.Errorf("%q: got %q, want %q", content, got, want)
		}
	}
}

func TestMapped(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]bool{
		"         0          0 4294967295\n":       true,
		"         0     100000       1500\n":       false,
		"0 1000 1\n1 100000 1500\n":                false,
		"0 0 1000\n1000 5000 1000\n":               true,
		"0 0 1500\n1500 1500 1000\n":               false,
		"":                                         false,
		"0 0 18446744073709551615\nnot a number\n": false,
	} {
		if got := mapped(content, 1000, 2000); got != want {
			t.Errorf("%q: got %v", content, got)
		}
	}
}

func TestRangesOfIDs(t *testing.T) {
	t.Parallel()
	for first, want := range map[uint32]string{0: "", 1000: "ids from 1000", math.MaxInt32 - ids: "not all of them are free"} {
		err := (&Builder{FirstID: first}).checkIDs()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("from %d on: %v, want %q", first, err, want)
		}
	}
	// What Debian gives to the first user that it makes.
	debian := "user:100000:65536\n"
	if content, err := os.ReadFile("/etc/subuid"); err == nil {
		debian += string(content)
	}
	if line := delegated(debian, firstID, firstID+maxPlaces*ids); line != "" {
		t.Errorf("builds share ids with %s", line)
	}
}
