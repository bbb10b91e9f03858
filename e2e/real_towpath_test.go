package e2e

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"towpath.dev/towpath/e2e/lab"
)

// TestTowpathBuildsItself builds this repository by its own Dockerfile and runs
// what came of it.
func TestTowpathBuildsItself(t *testing.T) {
	if testing.Short() {
		t.Skip("not in short mode: it compiles the whole of Towpath from nothing")
	}
	root := strings.TrimSpace(lab.RunGit(t, ".", "rev-parse", "--show-toplevel"))
	w := realBuild{
		source: func(dir string) {
			for file := range strings.SplitSeq(strings.TrimRight(lab.RunGit(t, root, "ls-files", "-z"), "\x00"), "\x00") {
				if !lab.Exists(filepath.Join(root, file)) {
					continue // removed, and not yet committed
				}
				if err := copyFile(filepath.Join(root, file), filepath.Join(dir, file)); err != nil {
					t.Fatal(err)
				}
			}
		},
		bases: map[string]v1.Image{
			"base/golang": lab.Golang(t, lab.GoModules{Of: []string{root}, Program: "./cmd/towpath"}),
			"base/static": lab.Static(t),
		},
		args: map[string]string{
			"GO_IMAGE": "{base/golang}", "BASE_IMAGE": "{base/static}",
			"VERSION": "1.2.3", "REVISION": "of-this-test",
		},
	}.world(t)
	_, image := promoted(t, w)

	if image.Config.User != "65532:65532" {
		t.Errorf("it runs as %q, want 65532:65532", image.Config.User)
	}
	const program = "/usr/local/bin/towpath"
	if diff := cmp.Diff([]string{program}, image.Executables()); diff != "" {
		t.Errorf("what can be run in it (-want +got):\n%s", diff)
	}
	if !image.Static(program) {
		t.Error("its program wants a loader or libraries")
	}
	out, err := image.Command("version").CombinedOutput()
	if want := "towpath 1.2.3 (revision of-this-test, " + runtime.Version() + ")\n"; err != nil || string(out) != want {
		t.Errorf("towpath version: %q, %v; want %q", out, err, want)
	}
}
