package e2e

import (
	"strings"
	"testing"
	"time"

	"towpath.dev/towpath/e2e/lab"
)

// TestDatesAreNotCompared: a commit of the year 2099 is promoted, and so is the next
// one, of today; the images tell a time that can be true.
func TestDatesAreNotCompared(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory})
	for _, c := range []struct{ when, created time.Time }{
		{time.Date(2099, 1, 2, 3, 4, 5, 0, time.UTC), time.Unix(0, 0)},
		{time.Now().Truncate(time.Second), time.Now().Truncate(time.Second)},
	} {
		w.App.Commit(lab.Commit{Message: "of " + c.when.Format(time.DateOnly), Files: map[string]string{"colour": c.when.String() + "\n"}, When: c.when})
		w.App.Push("HEAD:master")
		if done := w.Run("run", "--once"); done.Code != 0 {
			t.Fatalf("run --once ends with %d\n%s%s", done.Code, done.Out, done.Err)
		}
		bump, source := w.Ledger("podinfo")
		if source != w.App.Head() {
			t.Fatalf("the ledger names %s, want %s", source, w.App.Head())
		}
		ref := strings.TrimSpace(lab.RunGit(t, w.Git.Dir("fleet.git"), "show", "-s", "--format=%(trailers:key=Towpath-Ref,valueonly)", bump))
		config, err := w.Registry.Pull(t, ref).ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if got := config.Created.Sub(c.created); got < 0 || got > time.Minute {
			t.Errorf("the image of %s was created on %s", c.when, config.Created)
		}
	}
}
