package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/kaniko"
)

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
	stdout, stderr := out.stream(false), out.stream(true)
	for i := range 30 {
		fmt.Fprintf(stdout, "line %d\n\n", i)
	}
	fmt.Fprint(stdout, "half a ")
	fmt.Fprintln(stderr, `time="2026-11-21T21:28:47Z" level=info msg="RUN make \"all\"\n  && true"`)
	fmt.Fprintln(stderr, `time="2026-11-21T21:28:47Z" level=warning msg=beware`)
	fmt.Fprintln(stdout, "line\x1b[1m with colour")
	fmt.Fprint(stderr, "error building image: exit status 3")
	stderr.flush()
	fmt.Fprintln(stdout, strings.Repeat("ü", 400))

	want := []string{}
	for i := 15; i < 30; i++ {
		want = append(want, fmt.Sprintf("line %d", i))
	}
	want = append(want, `RUN make "all"   && true`, "warning: beware", "half a line with colour", "error building image: exit status 3", strings.Repeat("ü", 200)+"…")
	if diff := cmp.Diff(want, out.lines()); diff != "" {
		t.Errorf("last lines (-want +got):\n%s", diff)
	}
	if len(progress) != 35 {
		t.Errorf("%d lines of progress, want 35", len(progress))
	}
	if fault, err := out.judge(1); !fault || err.Error() != "kaniko ended with status 1" {
		t.Errorf("judged as %v, %v", err, fault)
	}
}

// TestLogsAreText: whoever shows a log shows nothing that acts on the terminal,
// and each line is of one stream.
func TestLogsAreText(t *testing.T) {
	t.Parallel()
	_, out := newOutput(t)
	stdout, stderr := out.stream(false), out.stream(true)
	fmt.Fprint(stdout, "\x1b[2Jhidden\x1b]0;ti")
	fmt.Fprint(stderr, "kaniko's\x1b[8m")
	fmt.Fprint(stdout, "tle\x07 line\r 50%\r100%\n")
	fmt.Fprint(stderr, " own\n")
	fmt.Fprint(stdout, "no end")
	stdout.flush()
	stderr.flush()
	out.say("towpath: %s", "\x1b[31mred")
	content, err := os.ReadFile(out.path())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("100%\nkaniko's own\nno end\ntowpath: red\n", string(content)); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
}

func TestLogsAreBounded(t *testing.T) {
	t.Parallel()
	b, out := newOutput(t)
	out.left = 100
	s := out.stream(false)
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

// TestWhatIsTriedAgainHasAHint: where the build is not to blame, and nothing better
// is known, a person is told that it goes on and where to look.
func TestWhatIsTriedAgainHasAHint(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]string{
		"error building image: connection reset by peer":                "it is tried again, later each time; the whole output is in ",
		"error building image: dial tcp 10.0.0.1:443: no route to host": `builder.sandbox.allow: ["10.0.0.1:443"]`,
		"error building image: UNAUTHORIZED: who are you":               "build.pull.secretRef",
	} {
		b, out := newOutput(t)
		stderr := out.stream(true)
		fmt.Fprintln(stderr, said)
		stderr.flush()
		err := judge(ending{status: 1}, b, out)
		var hint interface{ Hint() string }
		if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), want) {
			t.Errorf("%s: %v; want a hint with %q", said, err, want)
		}
		if strings.HasPrefix(want, "it is tried again") && !strings.HasSuffix(hint.Hint(), out.path()) {
			t.Errorf("the hint names no log: %s", hint.Hint())
		}
	}
}
