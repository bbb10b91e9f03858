package console_test

import (
	"strings"
	"testing"

	"towpath.dev/towpath/kaniko/console"
)

// TestAdvice: who is to open a private address is told which, by the key that
// does it and the value that it takes; nobody is told to open another.
func TestAdvice(t *testing.T) {
	t.Parallel()
	open := func(address string) string { return "opens: [" + address + "]" }
	for _, c := range []struct {
		verdict string
		output  []string
		want    string // in the advice; empty: there is none
	}{
		{"dial tcp 10.0.0.1:443: connect: no route to host", nil, "opens: [10.0.0.1:443]; or an image that build.pull.allow lists"},
		{"dial tcp 192.168.7.1:5000: i/o timeout", nil, "opens: [192.168.7.1:5000]"},
		{"dial tcp 100.64.1.2:5000: connect: network is unreachable", nil, "opens: [100.64.1.2:5000]"},
		{"dial tcp [fd12::1]:443: connect: no route to host", nil, "opens: [[fd12::1]:443]"},
		{"RUN make: exit status 7", []string{"$ make", "curl: (7) Failed to connect to 10.1.2.3 port 8081 after 3 ms: No route to host", "make: *** error"}, "opens: [10.1.2.3:8081]"},
		{"RUN go mod download: exit status 1", []string{`go: Get "https://10.1.2.3/x": dial tcp 10.1.2.3:443: connect: no route to host`}, "opens: [10.1.2.3:443]"},
		{"dial tcp 169.254.169.254:80: connect: no route to host", nil, "no build reaches 169.254.169.254:80"},
		{"dial tcp 127.0.0.1:5000: connect: connection refused", nil, "loopback of its own"},
		{"GET https://registry.example.com/v2/: UNAUTHORIZED: x", nil, "build.pull.secretRef"},
		// What is public is away, and nobody keeps a build from it.
		{"dial tcp 203.0.113.1:443: connect: no route to host", nil, ""},
		{"dial tcp 10.0.0.1:443: connect: connection refused", nil, ""},
		{"dial tcp 10.0.0.1:0: connect: no route to host", nil, ""},
		{"dial tcp 10.0.0.1:99999: connect: no route to host", nil, ""},
		{"dial tcp 10.0.0.1\"]: connect: no route to host", nil, ""},
		{"RUN ping: exit status 1", []string{"no route to host"}, ""},
	} {
		got := console.Advice(c.verdict, c.output, open)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.verdict, got, c.want)
		}
	}
}
