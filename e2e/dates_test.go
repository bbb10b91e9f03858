package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towpath.dev/towpath/e2e/lab"
)

// TestDatesAreNotCompared: commits whose dates cannot be true are promoted, and so
// is the next one, of today. Their images tell a time that can be true, and each
// commit gives one image, whenever it is built: a second image of the same
// repository is built after the first.
func TestDatesAreNotCompared(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{
		Binary: binary, Registry: memory,
		Fleet: func(_ *lab.World, manifests map[string]string) {
			manifests["clusters/production/again.yaml"] = "image: nobody/nothing:0 # {\"$imagepolicy\": \"flux-system:again\"}\n"
		},
		Config: func(w *lab.World, config string) string {
			return config + fmt.Sprintf(`  - name: again
    source: {url: %q}
    build:
      pull: {allow: [%s]}
    destination: {repository: %s}
    policy: flux-system:again
`, w.Git.RepoURL("apps/podinfo.git"), w.Registry.Repository("base/busybox"), w.Registry.Repository("apps/again"))
		},
	})
	now := time.Now().Truncate(time.Second)
	for _, c := range []struct {
		when    time.Time
		created time.Time
	}{
		{time.Date(2099, 1, 2, 3, 4, 5, 0, time.UTC), time.Unix(0, 0)},
		{time.Date(1969, 7, 20, 20, 17, 40, 0, time.UTC), time.Unix(0, 0)},
		{now, now},
	} {
		w.App.Commit(lab.Commit{Message: "of " + c.when.Format(time.DateOnly), Files: map[string]string{"colour": c.when.String() + "\n"}, When: time.Unix(1, 0)})
		redate(t, w.App, c.when)
		w.App.Push("HEAD:master")
		digests := map[string]string{}
		for _, image := range []string{"podinfo", "again"} {
			if done := w.Run("run", "--once", "--image", image); done.Code != 0 {
				t.Fatalf("run --once ends with %d\n%s%s", done.Code, done.Out, done.Err)
			}
			bump, source := w.Ledger(image)
			if source != w.App.Head() {
				t.Fatalf("the ledger of %s names %s, want %s", image, source, w.App.Head())
			}
			ref := strings.TrimSpace(lab.RunGit(t, w.Git.Dir("fleet.git"), "show", "-s", "--format=%(trailers:key=Towpath-Ref,valueonly)", bump))
			config, err := w.Registry.Pull(t, ref).ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			if !config.Created.Equal(c.created) {
				t.Errorf("the image of %s was created on %s, want %s", c.when, config.Created, c.created)
			}
			_, digests[image], _ = strings.Cut(ref, "@")
		}
		if digests["podinfo"] != digests["again"] {
			t.Errorf("the commit of %s gives %v", c.when, digests)
		}
	}
}

// redate gives the newest commit a date that git itself refuses to write.
func redate(t *testing.T, w *lab.Work, when time.Time) {
	t.Helper()
	raw := lab.RunGit(t, w.Dir, "cat-file", "commit", "HEAD")
	dated := strings.ReplaceAll(raw, "> 1 +0000\n", fmt.Sprintf("> %d +0000\n", when.Unix()))
	if dated == raw {
		t.Fatalf("no date to replace:\n%s", raw)
	}
	file := filepath.Join(t.TempDir(), "commit")
	if err := os.WriteFile(file, []byte(dated), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Git("reset", "--quiet", "--hard", w.Git("hash-object", "-t", "commit", "-w", "--literally", file))
}
