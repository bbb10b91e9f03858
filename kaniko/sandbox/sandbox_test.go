package sandbox_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/sandbox"
)

// The test binary is also the towpath whose steps the builder runs.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[2] == "--order" {
		os.Exit(stepMain(os.Args[1], os.Args[3]))
	}
	if len(os.Args) > 3 && os.Args[1] == "slirp-with" {
		panic(slirpMain(os.Args[2], os.Args[3:]))
	}
	if directory := os.Getenv("SANDBOX_TEST_DOOMED"); directory != "" {
		doomedMain(directory)
	}
	os.Exit(m.Run())
}

// stepMain is `fetch` and `publish` without git and registry: the order's
// source is a directory that holds context/ and bases/ and takes published/. A
// file named after the step says how it goes wrong.
func stepMain(step, orderFile string) int {
	var order struct {
		kaniko.Fetch
		Layout, Secret string
	}
	encoded, err := os.ReadFile(orderFile)
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(encoded, &order); err != nil {
		panic(err)
	}
	world := order.Order.Source.URL
	report := kaniko.Report{}
	how, _ := os.ReadFile(filepath.Join(world, step))
	switch string(how) {
	case "hang":
		fmt.Println("hanging")
		time.Sleep(time.Hour)
	case "die":
		fmt.Println("something terrible")
		return 7
	case "fail":
		report = kaniko.Report{Error: "the host is away", Hint: "wait"}
	case "fault":
		report = kaniko.Report{Error: "submodules are not supported", Fault: true}
	default:
		if step == "fetch" {
			report, err = fetch(world, order.Fetch)
		} else {
			report, err = publish(world, order.Layout)
		}
		if err != nil {
			report.Error = err.Error()
		}
	}
	for _, name := range os.Environ() {
		fmt.Println("environment of", step, name)
	}
	encoded, err = json.Marshal(report)
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(order.Report, encoded, 0o600); err != nil {
		panic(err)
	}
	if report.Error != "" {
		return 1
	}
	return 0
}

func fetch(world string, order kaniko.Fetch) (kaniko.Report, error) {
	if err := os.CopyFS(order.Context, os.DirFS(filepath.Join(world, "context"))); err != nil {
		return kaniko.Report{}, err
	}
	return kaniko.Report{Warnings: []string{"a warning"}}, os.CopyFS(order.Bases, os.DirFS(filepath.Join(world, "bases")))
}

func publish(world, dir string) (kaniko.Report, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return kaniko.Report{}, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return kaniko.Report{}, err
	}
	if len(manifest.Manifests) != 1 {
		return kaniko.Report{}, fmt.Errorf("%d manifests", len(manifest.Manifests))
	}
	d := manifest.Manifests[0]
	published := filepath.Join(world, "published")
	if err := os.RemoveAll(published); err != nil {
		return kaniko.Report{}, err
	}
	return kaniko.Report{Digest: d.Digest.String(), Size: d.Size}, os.CopyFS(published, os.DirFS(dir))
}

// world is a source for the test's steps and a builder to build it with.
type world struct {
	dir     string
	base    string // what a Dockerfile names in FROM: an image with a shell and the probe
	builder *sandbox.Builder
	lines   []string // of progress
}

// newWorld writes the files of a build context.
func newWorld(t *testing.T, files map[string]string) *world {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{dir: t.TempDir()}
	for path, content := range files {
		w.write(t, path, content)
	}
	bases := filepath.Join(w.dir, "bases")
	if err := os.MkdirAll(bases, 0o755); err != nil {
		t.Fatal(err)
	}
	w.base = "registry.example.com/base@" + writeBase(t, bases)
	w.builder = &sandbox.Builder{
		Self:     self,
		Executor: lab.Tool(t, "executor"),
		Runtime:  lab.Tool(t, "runc"),
		Slirp:    lab.Tool(t, "slirp4netns"),
		Dir:      filepath.Join(t.TempDir(), "builds-of-test"),
		Timeout:  2 * time.Minute,
		Log:      slog.New(slog.NewTextHandler(t.Output(), nil)),
		Progress: func(line string) { w.lines = append(w.lines, line) },
	}
	return w
}

// dockerfile replaces the context's Dockerfile; BASE stands for the base image.
func (w *world) dockerfile(t *testing.T, text string) {
	t.Helper()
	w.write(t, "Dockerfile", strings.ReplaceAll(text, "BASE", w.base))
}

// write puts a file into the context.
func (w *world) write(t *testing.T, path, content string) {
	t.Helper()
	path = filepath.Join(w.dir, "context", path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	lab.WriteFile(t, path, []byte(content))
}

// say tells one of the test's steps how to go wrong.
func (w *world) say(t *testing.T, step, how string) {
	t.Helper()
	lab.WriteFile(t, filepath.Join(w.dir, step), []byte(how))
}

func (w *world) job() sandbox.Job { return jobOf(w.dir) }

func jobOf(dir string) sandbox.Job {
	return sandbox.Job{Order: kaniko.Order{
		Image:      "app",
		Source:     kaniko.Source{URL: dir, Ref: "refs/heads/master", Commit: strings.Repeat("8b07d4aa", 5), Time: time.Unix(1763750000, 0)},
		Path:       ".",
		Dockerfile: "Dockerfile",
		Platform:   "linux/amd64",
	}}
}

// log is the whole of what a build printed.
func (w *world) log(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	paths, err := filepath.Glob(filepath.Join(w.builder.Dir, "logs", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(content)
	}
	return all.String()
}

// image is what was published.
func (w *world) image(t *testing.T, digest string) v1.Image {
	t.Helper()
	hash, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	path, err := layout.FromPath(filepath.Join(w.dir, "published"))
	if err != nil {
		t.Fatal(err)
	}
	image, err := path.Image(hash)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// nothingLeft fails the test when anything of a build is still there.
func (w *world) nothingLeft(t *testing.T) {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(w.builder.Dir, "builds", "*[0-9]"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/towpath-" + w.id(t) + "*")
	more, _ := filepath.Glob("/sys/fs/cgroup/towpath-" + w.id(t) + "*")
	if groups = append(groups, more...); len(groups) > 0 {
		t.Errorf("cgroups left behind: %s", groups)
	}
	if processes := processesOf(t, w.builder.Dir); len(processes) > 0 {
		t.Errorf("processes left behind: %q", processes)
	}
}

func (w *world) id(t *testing.T) string {
	t.Helper()
	id, err := sandbox.DirID(w.builder.Dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// processesOf are the command lines that name a directory.
func processesOf(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil || path == fmt.Sprintf("/proc/%d/cmdline", os.Getpid()) {
			continue
		}
		if strings.Contains(string(content), dir) {
			found = append(found, strings.ReplaceAll(string(content), "\x00", " "))
		}
	}
	return found
}

func TestTwoStages(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"page.html": "<h1>@COLOUR@</h1>\n", "colour": "green\n"})
	w.dockerfile(t, `FROM BASE AS build
ARG TARGETARCH
ARG GREETING
WORKDIR /workspace
COPY . .
RUN mkdir /site && sed "s/@COLOUR@/$(cat colour)/" page.html > /site/index.html
RUN echo "$GREETING from $TARGETARCH as $(id -u)" > /site/greeting && chown -R 1000:1000 /site && chmod 4755 /site/greeting
USER app
RUN test "$(id -u)" = 1000 && touch /tmp/mine

FROM BASE
COPY --from=build /site /site
USER 1000
CMD ["httpd"]
`)
	job := w.job()
	job.Order.Args = map[string]string{"GREETING": "hello there"}
	built, err := w.builder.Run(t.Context(), job)
	if err != nil {
		t.Fatalf("%v\n%s", err, w.log(t))
	}
	t.Logf("built %+v", built)
	image := w.image(t, built.Digest)
	files := contents(t, image)
	for path, want := range map[string]string{"site/index.html": "<h1>green</h1>\n", "site/greeting": "hello there from amd64 as 0\n"} {
		if files[path].content != want {
			t.Errorf("%s holds %q, want %q", path, files[path].content, want)
		}
		if files[path].uid != 1000 {
			t.Errorf("%s belongs to %d, want 1000", path, files[path].uid)
		}
	}
	for path := range files {
		for _, ours := range []string{"kaniko/", "workspace/", "etc/hosts", "etc/resolv.conf", "proc/", "dev/", "out/", "bases/"} {
			if strings.HasPrefix(path, ours) {
				t.Errorf("the image has %s, which is the sandbox's", path)
			}
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "amd64" || config.OS != "linux" || config.Config.User != "1000" {
		t.Errorf("config is %s/%s, user %s", config.OS, config.Architecture, config.Config.User)
	}
	if len(built.Warnings) != 1 || built.Times.Build == 0 || built.Size == 0 {
		t.Errorf("odd result: %+v", built)
	}
	if len(w.lines) == 0 {
		t.Error("no progress")
	}
	w.nothingLeft(t)
}

type file struct {
	content string
	uid     int
}

// contents are the entries of a flattened image.
func contents(t *testing.T, image v1.Image) map[string]file {
	t.Helper()
	flat := mutate.Extract(image)
	defer flat.Close()
	files := map[string]file{}
	for archive := newTar(flat); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(header.Name, "/")] = file{string(content), header.Uid}
	}
}

// TestOnlyWhatWasCopied: an image from scratch has no trace of the sandbox.
func TestOnlyWhatWasCopied(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]string{"a": "1", "b/c": "2", ".dockerignore": "b/ignored\nDockerfile\n", "b/ignored": "3"})
	w.dockerfile(t, "FROM scratch\nWORKDIR /workspace\nCOPY . .\nCOPY --chown=7:7 a /etc/a\n")
	built, err := w.builder.Run(t.Context(), w.job())
	if err != nil {
		t.Fatalf("%v\n%s", err, end(w.log(t)))
	}
	want := map[string]file{
		"": {}, "etc": {}, "etc/a": {"1", 7},
		"workspace": {}, "workspace/.dockerignore": {"b/ignored\nDockerfile\n", 0}, "workspace/a": {"1", 0}, "workspace/b": {}, "workspace/b/c": {"2", 0},
	}
	if diff := cmp.Diff(want, contents(t, w.image(t, built.Digest)), cmp.AllowUnexported(file{})); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestCheckFindsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	if problems := w.builder.Check(t.Context()); len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
	w.nothingLeft(t)
}
