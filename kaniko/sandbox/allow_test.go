package sandbox

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseAllow(t *testing.T) {
	t.Parallel()
	for entry, want := range map[string]string{
		"10.1.2.3":               "10.1.2.3/32",
		"10.1.2.3/8":             "10.0.0.0/8",
		"10.1.2.3:5000":          "10.1.2.3 5000",
		"registry.internal:5000": "registry.internal 5000",
		"127.0.0.1:5000":         "loopback of its own",
		"127.0.0.0/8":            "loopback of its own",
		"localhost:80":           "loopback of its own",
		"fd00::/8":               "no IPv6",
		"[fd00::1]:80":           "no IPv6",
		"registry.internal":      "want host:port or a CIDR",
		"https://a.example:80":   "want host:port or a CIDR",
		"user@host:80":           "want host:port or a CIDR",
		":80":                    "want host:port or a CIDR",
		"host:0":                 "the port must be",
		"host:http":              "the port must be",
		"host:65536":             "the port must be",
		"":                       "want host:port or a CIDR",
	} {
		got, err := parseAllow(entry)
		text := got.prefix.String()
		switch {
		case err != nil:
			text = err.Error()
		case got.host != "":
			text = fmt.Sprint(got.host, " ", got.port)
		}
		if !strings.Contains(text, want) {
			t.Errorf("%q: got %s, want %s", entry, text, want)
		}
	}
}

func FuzzParseAllow(f *testing.F) {
	for _, seed := range []string{"10.0.0.0/8", "a:1", "[::1]:2", "1.2.3.4:5", "%:1", "1.2.3.4/0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, entry string) {
		a, err := parseAllow(entry)
		if err != nil {
			return
		}
		if a.prefix.IsValid() == (a.host != "") {
			t.Errorf("%q is %+v: neither a network nor a host, or both", entry, a)
		}
		if a.prefix.IsValid() && (a.prefix.Addr().IsLoopback() || !a.prefix.Addr().Is4()) {
			t.Errorf("%q opens %s", entry, a.prefix)
		}
	})
}
