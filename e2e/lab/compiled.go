package lab

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// compiledIn is where a Golang base has its compiled packages.
const compiledIn = "/go/build"

// compiled is a layer with the modules that a program is made of, compiled: what
// go.mod pins is compiled once for a machine, and a build of the program compiles
// the program. A team's own builder image is
// often made so. It serves static builds with -trimpath alone: without that, go
// takes a package by the directory it lies in.
func compiled(t testing.TB, dir, program string) v1.Layer {
	t.Helper()
	packages := goFields(t, dir, nil, "list", "-deps", "-f", `{{with .Module}}{{if not .Main}}{{$.ImportPath}}{{end}}{{end}}`, program)
	versions := goFields(t, dir, nil, "list", "-m", "all")
	of := strings.Join(append(append(packages, versions...), goEnv(t, "GOVERSION")), "\n")
	return keptLayer(t, "compiled", of, func(a *archive) {
		cache := t.TempDir()
		goFields(t, dir, []string{"GOCACHE=" + cache}, append([]string{"build", "-trimpath"}, packages...)...)
		a.dir("go", 0o777)
		a.tree(cache, strings.TrimPrefix(compiledIn, "/"), func(path string) bool { return path == "trim.txt" })
	})
}

// goFields runs this machine's go in a module, for static builds, and returns the
// words that it prints.
func goFields(t testing.TB, dir string, env []string, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0"), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", args[0], err, tail([]byte(stderr.String())))
	}
	return strings.Fields(string(out))
}
