package sandbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

func TestCheckNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.builder.Runtime, w.builder.Slirp = "no-such-runc", "no-such-slirp4netns"
	w.builder.Executor, w.builder.Self = filepath.Join(t.TempDir(), "none"), filepath.Join(t.TempDir(), "none")
	w.builder.Allow = []string{"127.0.0.1:1"}
	w.builder.FirstID = 1000
	var all []string
	for _, problem := range w.builder.Check(t.Context()) {
		text := problem.Error()
		var hinted interface{ Hint() string }
		if errors.As(problem, &hinted) {
			text += " | " + hinted.Hint()
		}
		all = append(all, text)
	}
	for _, want := range []string{
		"no-such-runc is missing | install runc", "no-such-slirp4netns is missing | install slirp4netns", "kaniko executor: ", "which runs the steps",
		"ids from 1000", "loopback of its own",
	} {
		if !strings.Contains(strings.Join(all, "\n"), want) {
			t.Errorf("nothing says %q:\n%s", want, strings.Join(all, "\n"))
		}
	}
}

// TestCheckTriesTheSandbox: everything is there, and yet it does not work.
func TestCheckTriesTheSandbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.builder.Executor = filepath.Join(t.TempDir(), "executor")
	// A static program that is no kaniko.
	program, err := os.ReadFile(lab.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.builder.Executor, program, 0o755); err != nil {
		t.Fatal(err)
	}
	problems := w.builder.Check(t.Context())
	if len(problems) != 1 || !strings.Contains(problems[0].Error(), "try the sandbox: the executor ended with status 127: executor: applet not found") {
		t.Errorf("got %v", problems)
	}
	w.nothingLeft(t)
}
