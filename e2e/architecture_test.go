package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

const module = "towpath.dev/towpath/"

// TestImportsPointOneWay holds the architecture: gitops knows git and no
// images, kaniko knows images and no git, neither knows the config or the
// order, and nobody but the binary knows everything.
func TestImportsPointOneWay(t *testing.T) {
	forbidden := map[string][]string{
		"gitops":    {"kaniko", "config", "reconcile", "cmd", "e2e"},
		"kaniko":    {"gitops", "config", "reconcile", "cmd", "e2e"},
		"config":    {"gitops", "kaniko", "reconcile", "cmd", "e2e"},
		"reconcile": {"config", "cmd", "e2e"},
		"cmd":       {"e2e"},
	}
	foreign := map[string][]string{
		"gitops": {"github.com/google/go-containerregistry", "github.com/fluxcd/pkg/git/gogit"},
		"kaniko": {"github.com/go-git/go-git", "github.com/fluxcd/pkg/git"},
	}
	for _, pkg := range packages(t) {
		side, _, _ := strings.Cut(strings.TrimPrefix(pkg.ImportPath, module), "/")
		for _, imported := range pkg.Imports {
			for _, other := range forbidden[side] {
				if imported == module+other || strings.HasPrefix(imported, module+other+"/") {
					t.Errorf("%s imports %s: %s may know nothing of %s", pkg.ImportPath, imported, side, other)
				}
			}
		}
		for _, dependency := range pkg.Deps {
			for _, other := range foreign[side] {
				if dependency == other || strings.HasPrefix(dependency, other+"/") {
					t.Errorf("%s depends on %s", pkg.ImportPath, dependency)
				}
			}
		}
	}
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps", module+"...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []goPackage
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg goPackage
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, pkg)
	}
	if len(all) < 4 {
		t.Fatalf("go list names %d packages: the test would see nothing", len(all))
	}
	return all
}

// TestEveryDependencyHasItsReason: a module that go.mod asks for directly is
// named in ARCHITECTURE.md with what it is there for.
func TestEveryDependencyHasItsReason(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{if not .Main}}{{if not .Indirect}}{{.Path}}{{end}}{{end}}", "all").Output()
	if err != nil {
		t.Fatalf("go list -m: %v", err)
	}
	text, err := os.ReadFile("../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	direct := strings.Fields(string(out))
	if len(direct) < 10 {
		t.Fatalf("go.mod asks for %d modules: the test would see nothing", len(direct))
	}
	for _, module := range direct {
		if !strings.Contains(string(text), "`"+module+"`") {
			t.Errorf("ARCHITECTURE.md does not say what %s is there for", module)
		}
	}
}
