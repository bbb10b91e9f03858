package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/kaniko"
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
		if got := clean([]byte(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add([]byte("\x1b[31mred\x1b]0;t\x07\xff"))
	f.Fuzz(func(t *testing.T, line []byte) {
		got := clean(line)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return unicode.Is(unicode.C, r) || r == '\u2028' || r == '\u2029' }) {
			t.Errorf("%q became %q", line, got)
		}
		if again := clean([]byte(got)); again != got {
			t.Errorf("%q becomes %q the second time", got, again)
		}
	})
}

func newOutput(t *testing.T) (*Builder, *output) {
	t.Helper()
	b := &Builder{Dir: t.TempDir()}
	if err := b.makeDirs(); err != nil {
		t.Fatal(err)
	}
	order := kaniko.Order{Image: "app", Source: kaniko.Source{Commit: strings.Repeat("ab", 20)}}
	out, err := b.openOutput(order)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.close() })
	return b, out
}

func TestOutputKeepsTheLastLines(t *testing.T) {
	t.Parallel()
	_, out := newOutput(t)
	var progress []string
	out.progress = func(line string) { progress = append(progress, line) }
	stdout, stderr := &stream{output: out}, &stream{output: out, kaniko: true}
	for i := range 30 {
		fmt.Fprintf(stdout, "line %d\n\n", i)
	}
	fmt.Fprint(stdout, "half a ")
	fmt.Fprintln(stderr, `time="2026-11-21T21:28:47Z" level=info msg="RUN make \"all\"\n  && true"`)
	fmt.Fprintln(stderr, `time="2026-11-21T21:28:47Z" level=warning msg=beware`)
	fmt.Fprintln(stdout, "line\x1b[1m with colour")
	fmt.Fprint(stderr, "error building image: exit status 3")
	stderr.flush()
	fmt.Fprintln(stdout, strings.Repeat("ü", maxLine))

	want := []string{}
	for i := 15; i < 30; i++ {
		want = append(want, fmt.Sprintf("line %d", i))
	}
	want = append(want, `RUN make "all"   && true`, "warning: beware", "half a line with colour", "error building image: exit status 3", strings.Repeat("ü", maxLine/2)+"…")
	if diff := cmp.Diff(want, out.lines()); diff != "" {
		t.Errorf("last lines (-want +got):\n%s", diff)
	}
	if len(progress) != 35 {
		t.Errorf("%d lines of progress, want 35", len(progress))
	}
	instruction, verdict := out.end()
	if instruction != `RUN make "all"   && true` || verdict != "error building image: exit status 3" {
		t.Errorf("ended at %q with %q", instruction, verdict)
	}
}

func TestLogsAreBounded(t *testing.T) {
	t.Parallel()
	b, out := newOutput(t)
	out.left = 100
	s := &stream{output: out}
	for range 100 {
		fmt.Fprintln(s, "twenty bytes of text")
	}
	content, err := os.ReadFile(out.path())
	if err != nil {
		t.Fatal(err)
	}
	if len(content) > 300 || !strings.Contains(string(content), "the output goes on") {
		t.Errorf("the log has %d bytes: %s", len(content), content)
	}

	other := kaniko.Order{Image: "app-two", Source: kaniko.Source{Commit: strings.Repeat("cd", 20)}}
	if two, err := b.openOutput(other); err != nil {
		t.Fatal(err)
	} else {
		defer two.close()
	}
	for range keptLogs + 5 {
		more, err := b.openOutput(kaniko.Order{Image: "app", Source: kaniko.Source{Commit: "../../etc/x"}})
		if err != nil {
			t.Fatal(err)
		}
		more.close()
	}
	logs, _ := filepath.Glob(filepath.Join(b.Dir, "logs", "app-*_*.log"))
	if len(logs) != keptLogs {
		t.Errorf("%d logs of the image are kept, want %d", len(logs), keptLogs)
	}
	if logs, _ := filepath.Glob(filepath.Join(b.Dir, "logs", "app-two-*")); len(logs) != 1 {
		t.Errorf("the other image's log is gone")
	}
}
