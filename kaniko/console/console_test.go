package console_test

import (
	"fmt"
	"slices"
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

// TestLinesTellWhatFailed: the excerpt of a failed build is what its steps said,
// with the instruction that it was at, and not kaniko's talk of itself.
func TestLinesTellWhatFailed(t *testing.T) {
	t.Parallel()
	info := func(text string) string { return `time="2026-11-21T21:28:47Z" level=info msg="` + text + `"` }
	const failed = "error building image: error building stage: failed to execute command: waiting for process to exit: exit status 2"
	begin := []string{info("Retrieving image manifest x"), info("Unpacking rootfs as cmd RUN make requires it."), info("RUN make deps"), info("Running: [/bin/sh -c make deps]")}
	run := []string{info("Taking snapshot of full filesystem..."), info("COPY . ."), info("RUN make all"), info("Cmd: /bin/sh"), info("Args: [-c make all]"), info("Running: [/bin/sh -c make all]")}
	var many, kept []string
	for i := range 30 {
		many = append(many, fmt.Sprint("line ", i))
	}
	kept = append(append([]string{"RUN make all"}, many[12:]...), failed)
	for name, c := range map[string]struct{ in, want []string }{
		"a step that says why":      {slices.Concat(begin, []string{"deps: fine"}, run, []string{"make: *** no rule", failed}), []string{"deps: fine", "RUN make all", "make: *** no rule", failed}},
		"a step that says nothing":  {slices.Concat(begin, run, []string{failed}), []string{"RUN make all", failed}},
		"a step that says too much": {slices.Concat(begin, run, many, []string{failed}), kept},
		"a warning":                 {slices.Concat(begin, []string{`time=x level=warning msg="odd base"`, `time=x level=debug msg="walked"`, failed}), []string{"RUN make deps", "warning: odd base", failed}},
		"nothing but talk":          {run[:2], []string{"Taking snapshot of full filesystem...", "COPY . ."}},
		"no step at all":            {[]string{info("Retrieving image manifest x"), "error building image: GET https://registry.example.com/v2/: x"}, []string{"error building image: GET https://registry.example.com/v2/: x"}},
		"nothing":                   {nil, nil},
	} {
		tail := &console.Tail{}
		stream := &console.Stream{Tail: tail, Kaniko: true}
		fmt.Fprint(stream, strings.Join(c.in, "\n"))
		stream.Flush()
		if diff := cmp.Diff(c.want, tail.Lines()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	// The sandbox has the step's output on a stream of its own.
	tail := &console.Tail{}
	ours, theirs := &console.Stream{Tail: tail, Kaniko: true}, &console.Stream{Tail: tail}
	fmt.Fprintln(ours, info("RUN make all"))
	fmt.Fprintln(theirs, info("RUN of theirs"))
	fmt.Fprintln(ours, info("Taking snapshot of full filesystem..."))
	if diff := cmp.Diff([]string{"RUN make all", info("RUN of theirs")}, tail.Lines()); diff != "" {
		t.Errorf("two streams (-want +got):\n%s", diff)
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
