package console_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/kaniko/console"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain":                                 "plain",
		"\x1b[31mred\x1b[0m":                    "red",
		"\x1b]0;title\x07text":                  "text",
		"\x1b]8;;https://example.com\x1b\\x":    "x",
		"a\tb\rc\x00\x7f\u0085d":                "a b cd",
		"\u202ertl\u2028line":                   "rtlline",
		"broken \xff\xfe":                       "broken ??",
		"\x1b[31":                               "",
		"\x1b":                                  "",
		"  blanks  ":                            "blanks",
		"\x1bPdevice control\x1b\\after \x1bcx": "after x",
	} {
		if got := console.Clean([]byte(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add([]byte("\x1b[31mred\x1b]0;t\x07\xff"))
	f.Fuzz(func(t *testing.T, line []byte) {
		got := console.Clean(line)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return unicode.Is(unicode.C, r) || r == '\u2028' || r == '\u2029' }) {
			t.Errorf("%q became %q", line, got)
		}
		if again := console.Clean([]byte(got)); again != got {
			t.Errorf("%q becomes %q the second time", got, again)
		}
	})
}

// TestJudge: kaniko's last word tells the machinery's failures from the
// build's, and which instruction failed.
func TestJudge(t *testing.T) {
	t.Parallel()
	const run = `time="2026-11-21T21:28:47Z" level=info msg="RUN make all"` + "\n"
	for _, c := range []struct {
		kaniko, want string
		fault        bool
	}{
		{run + "error building image: error building stage: failed to execute command: waiting for process to exit: exit status 3\n", "RUN make all: exit status 3", true},
		{run + "waiting for process to exit: signal: killed", "RUN make all: signal: killed", true},
		{run + "error building image: waiting for process to exit: exit status 3\nerror building image: dial tcp 10.0.0.1:443: i/o timeout\n", "RUN make all: exit status 3", true}, // a pod's streams are one
		{run + "waiting for process to exit: 0\n" + strings.Repeat("and on\n", 5) + "dial tcp 10.0.0.1:443: i/o timeout\n", "dial tcp 10.0.0.1:443: i/o timeout", false},
		{`time=x level=fatal msg="build failed: dial tcp 10.0.0.1:443: i/o timeout"`, "fatal: build failed: dial tcp 10.0.0.1:443: i/o timeout", false},
		{"GET https://registry.example.com/v2/: unexpected status code 503 Service Unavailable\n", "GET https://registry.example.com/v2/: unexpected status code 503 Service Unavailable", false},
		{"exec /kaniko/executor: exec format error", "exec /kaniko/executor: exec format error", false},
		{"GET https://registry.example.com/v2/a/manifests/1: UNAUTHORIZED: authentication required\n", "GET https://registry.example.com/v2/a/manifests/1: UNAUTHORIZED: authentication required", true},
		{"dial tcp\nerror building image: no such file\n", "kaniko ended with status 7", true},
		{"", "kaniko ended with status 7", true},
	} {
		tail := &console.Tail{}
		stream := &console.Stream{Tail: tail, Kaniko: true}
		fmt.Fprint(stream, c.kaniko)
		stream.Flush()
		// What a RUN step prints on a stream of its own is not kaniko's word.
		fmt.Fprintln(&console.Stream{Tail: tail}, "dial tcp: i/o timeout")
		if fault, err := tail.Judge(7); err.Error() != c.want || fault != c.fault {
			t.Errorf("%q: got %v, fault %v", c.kaniko, err, fault)
		}
	}
}

// TestTailIsBounded: no stream of bytes makes it keep more than a screen.
func TestTailIsBounded(t *testing.T) {
	t.Parallel()
	tail := &console.Tail{}
	shown := 0
	stream := &console.Stream{Tail: tail, Line: func(string) { shown++ }}
	for range 100 {
		fmt.Fprintln(stream, strings.Repeat("x", 100_000))
	}
	lines := tail.Lines()
	if len(lines) != 20 || shown != 100 {
		t.Fatalf("%d lines kept, %d shown", len(lines), shown)
	}
	if diff := cmp.Diff(strings.Repeat("x", 400)+"…", lines[0]); diff != "" {
		t.Errorf("a line (-want +got):\n%s", diff)
	}
}
