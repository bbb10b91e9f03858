package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"towpath.dev/towpath/e2e/lab"
)

// TestTowpathBuildsItsExecutor builds the tree of the image that build Jobs run,
// a stage of Towpath's Dockerfile, and builds with the executor in it. That
// Towpath's own image leaves the executor out is seen where Towpath builds itself:
// there the executor's modules are out of reach.
func TestTowpathBuildsItsExecutor(t *testing.T) {
	if testing.Short() {
		t.Skip("not in short mode: it compiles kaniko from nothing")
	}
	root := strings.TrimSpace(lab.RunGit(t, ".", "rev-parse", "--show-toplevel"))
	tools := filepath.Join(root, "e2e", "tools", "kaniko")
	w := realBuild{
		source: func(dir string) {
			for _, file := range []string{"Dockerfile", ".dockerignore", "e2e/tools/kaniko/go.mod", "e2e/tools/kaniko/go.sum"} {
				if err := copyFile(filepath.Join(root, file), filepath.Join(dir, file)); err != nil {
					t.Fatal(err)
				}
			}
		},
		bases: map[string]v1.Image{
			"base/golang": lab.Golang(t, lab.GoModules{Of: []string{tools}, Program: "github.com/chainguard-dev/kaniko/cmd/executor"}),
			"base/static": lab.Static(t),
		},
		args:   map[string]string{"GO_IMAGE": "{base/golang}", "BASE_IMAGE": "{base/static}"},
		target: "executor",
	}.world(t)
	_, image := promoted(t, w)

	const program = "/tree/kaniko/executor"
	if !image.Static(program) {
		t.Error("its program wants a loader or libraries")
	}
	for _, path := range []string{"tree/kaniko/ssl/certs/ca-certificates.crt", "tree/tmp"} {
		if _, err := os.Stat(filepath.Join(image.Dir, path)); err != nil {
			t.Error(err)
		}
	}

	next := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory, Config: func(_ *lab.World, config string) string {
		return replaceOnce(t, config, replacement{"executor: " + lab.Tool(t, "executor"), "executor: " + filepath.Join(image.Dir, program)})
	}})
	next.MustRun("run", "--once")
	if _, source := next.Ledger("podinfo"); source != next.App.Head() {
		t.Errorf("the executor of the image built nothing that was promoted: the ledger names %q", source)
	}
}
