package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"towpath.dev/towpath/e2e/lab"
)

// realBuild is a program that somebody uses, with the Dockerfile that its
// authors wrote.
type realBuild struct {
	source func(dir string)    // puts its files into the application's work tree
	bases  map[string]v1.Image // by their path in the registry of base images
	edit   []replacement       // in its Dockerfile; {NAME} is the base of that path, pinned
	args   map[string]string   // build arguments, the same
	target string              // the stage that is built; empty: the last
}

// replacement is of a text that must be there once.
type replacement struct{ old, new string }

// world sets the build up: its base images are in Debian's docker-registry
// behind an account that only the step before the build knows, its source is
// the newest commit of the application.
func (b realBuild) world(t *testing.T) *lab.World {
	t.Helper()
	private := lab.NewRegistry(t, lab.RegistryOptions{Username: "bases", Password: "only-fetch-knows"})
	var pinned, allow []string
	for _, path := range slices.Sorted(maps.Keys(b.bases)) {
		pinned = append(pinned, "{"+path+"}", private.Push(t, path, "1", b.bases[path]))
		allow = append(allow, private.Repository(path))
	}
	names := strings.NewReplacer(pinned...)
	w := lab.NewWorld(t, lab.WorldOptions{
		Binary: binary,
		Config: func(w *lab.World, config string) string {
			build := "pull: {secretRef: {name: bases}, allow: [" + strings.Join(allow, ", ") + "]}"
			if b.target != "" {
				build += "\n      target: " + b.target
			}
			for _, arg := range slices.Sorted(maps.Keys(b.args)) {
				if !strings.Contains(build, "args:") {
					build += "\n      args:"
				}
				build += fmt.Sprintf("\n        %s: %q", arg, names.Replace(b.args[arg]))
			}
			return replaceOnce(t, config, replacement{"pull: {allow: [" + w.Registry.Repository("base/busybox") + "]}", build})
		},
	})
	if err := os.MkdirAll(filepath.Join(w.Dir, "secrets", "bases"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.Secret("bases", private.Secret())

	w.App.Git("rm", "--quiet", "-r", ".")
	b.source(w.App.Dir)
	dockerfile := filepath.Join(w.App.Dir, "Dockerfile")
	content, err := os.ReadFile(dockerfile)
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	for _, edit := range b.edit {
		text = replaceOnce(t, text, replacement{edit.old, names.Replace(edit.new)})
	}
	if err := os.WriteFile(dockerfile, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	w.App.Git("add", "--all", "--force") // what its .gitignore names was in its repository all the same
	w.App.Commit(lab.Commit{Message: "The real thing"})
	w.App.Push("HEAD:master")
	return w
}

func replaceOnce(t *testing.T, text string, r replacement) string {
	t.Helper()
	if n := strings.Count(text, r.old); n != 1 {
		t.Fatalf("%d times, want once: %q\nin:\n%s", n, r.old, text)
	}
	return strings.Replace(text, r.old, r.new, 1)
}

// promoted has Towpath build the application's newest commit, checks that the
// GitOps repository names what came of it, and returns that reference and the
// image.
func promoted(t *testing.T, w *lab.World) (ref string, image *lab.Unpacked) {
	t.Helper()
	began := time.Now()
	w.MustRun("run", "--once")
	t.Logf("promoted after %s", time.Since(began).Round(time.Second))
	_, source := w.Ledger("podinfo")
	if source != w.App.Head() {
		t.Fatalf("the ledger names source %q, want %s", source, w.App.Head())
	}
	ref = bumpedRef(t, w, "podinfo")
	if !strings.Contains(w.Manifest("clusters/production/podinfo.yaml"), `"`+ref+`"`) {
		t.Errorf("the manifest does not hold %s", ref)
	}
	return ref, lab.Unpack(t, w.Registry.Pull(t, ref))
}

// copyTree copies the files below a directory, with who may run them and
// otherwise writable.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		below, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return copyFile(path, filepath.Join(to, below))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, info.Mode().Perm()|0o600)
}
