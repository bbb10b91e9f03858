package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// World is everything that one Towpath deals with: an application repository,
// a GitOps repository, a registry with a base image, secrets and a config. All
// of it is real.
type World struct {
	Dir      string // holds the config, secrets/ and cache/
	Config   string // the config file
	Git      *Git   // serves apps/podinfo.git and fleet.git
	Registry *Registry
	Base     string // a base image with a shell, pinned by digest
	App      *Work  // the developer's clone, on master
	Fleet    *Work  // the platform engineer's clone, on main
	Binary   string // the towpath under test

	t testing.TB
}

// WorldOptions says how a world differs from the plainest one.
type WorldOptions struct {
	Binary   string // the towpath to run
	Git      GitOptions
	Registry func(testing.TB) *Registry                  // default: Debian's docker-registry
	Config   func(w *World, config string) string        // edits the config before it is written
	Files    func(w *World, files map[string]string)     // edits the application's first files
	Fleet    func(w *World, manifests map[string]string) // edits the GitOps repository's first files
}

// Repository is where the world's image goes.
func (w *World) Repository() string { return w.Registry.Repository("apps/podinfo") }

// NewWorld sets one up: both repositories have a first commit, keys are made by
// `towpath keygen`, and nothing has been promoted.
func NewWorld(t testing.TB, o WorldOptions) *World {
	t.Helper()
	noteSources(t)
	w := &World{Dir: t.TempDir(), Binary: o.Binary, t: t}
	w.Config = filepath.Join(w.Dir, "towpath.yaml")
	w.Git = NewGit(t, o.Git)
	if o.Registry != nil {
		w.Registry = o.Registry(t)
	} else {
		w.Registry = NewRegistry(t, RegistryOptions{})
	}
	w.Base = PushImage(t, w.Registry.Repository("base/busybox"), "1", Busybox(t))
	w.MustRun("keygen", "--secrets", filepath.Join(w.Dir, "secrets"), "--email", "towpath@example.com")

	w.App = NewWork(t, w.Git.Create("apps/podinfo.git"))
	w.App.Git("switch", "--quiet", "--orphan", "master")
	files := map[string]string{
		"Dockerfile": "FROM " + w.Base + ` AS build
WORKDIR /src
COPY . .
RUN mkdir /site && sed "s/@COLOUR@/$(cat colour)/" page.html > /site/index.html && chown -R 1000:1000 /site

FROM ` + w.Base + `
COPY --from=build /site /site
USER 1000
CMD ["httpd", "-f", "-p", "8080", "-h", "/site"]
`,
		"page.html": "<h1 style=\"color: @COLOUR@\">hello</h1>\n",
		"colour":    "green\n",
	}
	if o.Files != nil {
		o.Files(w, files)
	}
	w.App.Commit(Commit{Message: "Say hello in green", Files: files, Author: "Dana Developer <dana@example.com>"})
	w.App.Push("HEAD:master")

	w.Fleet = NewWork(t, w.Git.Create("fleet.git"))
	manifests := map[string]string{
		"README.md":                        "# fleet\n",
		"clusters/production/podinfo.yaml": UntidyDeployment,
		"clusters/production/other.yaml":   "apiVersion: v1\nkind: ConfigMap\nmetadata:\n    name: other\ndata:\n    tag: 1.2.3 # {\"$imagepolicy\": \"flux-system:other:tag\"}\n",
	}
	if o.Fleet != nil {
		o.Fleet(w, manifests)
	}
	w.Fleet.Commit(Commit{Message: "Deploy podinfo", Files: manifests, Author: "Pat Platform <pat@example.com>"})
	w.Fleet.Push("HEAD:main")

	config := w.plainConfig()
	if o.Config != nil {
		config = o.Config(w, config)
	}
	WriteFile(t, w.Config, []byte(config))
	return w
}

// UntidyDeployment is a manifest as people write them, with one marker. Every
// byte but the image's must survive.
const UntidyDeployment = `---

apiVersion: apps/v1
kind:   Deployment      # spaces that mean nothing
metadata: {name: podinfo,   namespace: apps}


spec:
      replicas: 2
      selector: {matchLabels: {app: podinfo}}
      template:
            metadata: {labels: {app: podinfo}}
            spec:
                  containers:
                  - name: podinfo
                    image: "registry.example.com/apps/podinfo:none"   # {"$imagepolicy": "flux-system:podinfo"}
                    args: [ 'a',   "b" ]   # as it was
                    env:
                        - {name: MOTTO,   value: 'pull, don''t push'}
---
# nothing here
...
`

func (w *World) plainConfig() string {
	return fmt.Sprintf(`apiVersion: towpath.dev/v1
kind: Config
interval: 1s
secrets: %[1]s/secrets
cache: %[1]s/cache
signing:
  provenance: {secretRef: {name: towpath-provenance}}
gitops:
  - name: production
    url: %[2]s
    git:
      checkout: {ref: {branch: main}}
      commit:
        author: {name: Towpath, email: towpath@example.com}
        signingKey: {type: ssh, secretRef: {name: towpath-signing}}
    update: {strategy: Setters, path: ./clusters/production}
builder:
  type: sandbox
  kaniko: {executor: %[3]s}
images:
  - name: podinfo
    source:
      url: %[4]s
    build:
      pull: {allow: [%[5]s]}
    destination: {repository: %[6]s}
    policy: flux-system:podinfo
`, w.Dir, w.Git.RepoURL("fleet.git"), Tool(w.t, "executor"), w.Git.RepoURL("apps/podinfo.git"),
		w.Registry.Repository("base/busybox"), w.Repository())
}

// Result is how a run of towpath ended.
type Result struct {
	Out  string
	Err  string
	Code int
}

// Command is a towpath that works on this world's config, not yet started.
func (w *World) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, w.Binary, args...)
	cmd.Dir = w.Dir
	cmd.Env = plainEnv()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// Run runs towpath to its end.
func (w *World) Run(args ...string) Result {
	w.t.Helper()
	cmd := w.Command(context.Background(), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("towpath %s: %v", strings.Join(args, " "), err)
	}
	return Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// MustRun is Run for what must succeed; it returns the standard output.
func (w *World) MustRun(args ...string) string {
	w.t.Helper()
	result := w.Run(args...)
	if result.Code != 0 {
		w.t.Fatalf("towpath %s ended with %d\n%s%s", strings.Join(args, " "), result.Code, result.Out, result.Err)
	}
	return result.Out
}

// Secret writes a secret as a mounted one looks: a directory with a file a key.
func (w *World) Secret(name string, keys map[string][]byte) {
	w.t.Helper()
	for key, value := range keys {
		WriteFile(w.t, filepath.Join(w.Dir, "secrets", name, key), value)
	}
}

// Manifest is a file of the GitOps repository's branch, as the server has it.
func (w *World) Manifest(path string) string {
	w.t.Helper()
	return RunGit(w.t, w.Git.Dir("fleet.git"), "show", "main:"+path)
}

// Ledger is what the ledger of target production names for an image: the bump
// commit and the source commit, or "" where there is no entry.
func (w *World) Ledger(image string) (bump, source string) {
	w.t.Helper()
	dir := w.Git.Dir("fleet.git")
	bump, err := TryGit(dir, "rev-parse", "--verify", "--quiet", "refs/towpath/production/"+image)
	if err != nil {
		return "", ""
	}
	bump = strings.TrimSpace(bump)
	message := RunGit(w.t, dir, "show", "-s", "--format=%(trailers:key=Towpath-Commit,valueonly)", bump)
	return bump, strings.TrimSpace(message)
}

// BuildTowpath compiles the program under test once, with more arguments for
// go build ("-race").
func BuildTowpath(dir string, args ...string) (string, error) {
	path := filepath.Join(dir, "towpath")
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, args...), "towpath.dev/towpath/cmd/towpath")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// noteSources looks at every source file of the program. The go command keeps
// the result of a test until something changes that a test has looked at; it
// cannot see into the process that builds the program, nor into TestMain.
func noteSources(t testing.TB) {
	t.Helper()
	root, err := filepath.Abs(".")
	for err == nil && !Exists(filepath.Join(root, "cmd", "towpath")) && root != "/" {
		root = filepath.Dir(root)
	}
	for _, dir := range []string{"cmd", "config", "deploy", "gitops", "kaniko", "reconcile"} {
		if err == nil && root != "/" { // elsewhere there are none to look at
			err = filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
				if err == nil && (filepath.Ext(path) == ".go" || dir == "deploy") { // what is embedded counts, too
					_, err = os.Stat(path)
				}
				return err
			})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Exists tells whether a file is there.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
