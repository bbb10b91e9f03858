package config_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"towpath.dev/towpath/config"
)

var update = flag.Bool("update", false, "write what the loader says into testdata/bad")

// write lays files out below a new directory and returns it.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	directory := t.TempDir()
	for name, content := range files {
		path := filepath.Join(directory, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

// load loads towpath.yaml of the files.
func load(t testing.TB, files map[string]string) *config.Config {
	t.Helper()
	c, err := config.Load(config.Options{File: filepath.Join(write(t, files), "towpath.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// small is the least config that is sound.
const small = `apiVersion: towpath.dev/v1
kind: Config
signing: {provenance: {secretRef: {name: provenance}}}
gitops:
  - name: production
    url: git@git.example.com:platform/fleet.git
    git:
      checkout: {ref: {branch: main}}
      commit: {author: {email: towpath@example.com}, signingKey: {secretRef: {name: signing}}}
`

const podinfo = `images:
  - name: podinfo
    source: {url: "https://git.example.com/apps/podinfo.git"}
    destination: {repository: registry.example.com/apps/podinfo}
    policy: flux-system:podinfo
`

// TestBad holds each config of testdata/bad against the problems listed at its
// end: all of them, with file, line, path and hint. `go test -update` rewrites
// the lists.
func TestBad(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("testdata/bad/*.txtar")
	if err != nil || len(cases) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			files, want := map[string]string{}, ""
			for _, file := range archive.Files {
				if file.Name == "want" {
					want = string(file.Data)
				} else {
					files[file.Name] = string(file.Data)
				}
			}
			directory := write(t, files)
			c, err := config.Load(config.Options{File: filepath.Join(directory, "towpath.yaml")})
			var problems config.Problems
			if c != nil || !errors.As(err, &problems) {
				t.Fatalf("loaded %v, error %v: want problems", c, err)
			}
			got := strings.ReplaceAll(lines(problems), directory+"/", "")
			if *update {
				archive.Files[len(archive.Files)-1].Data = []byte(got)
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if strings.Contains(got, "hunter2") {
				t.Error("a problem repeats a password")
			}
		})
	}
}

// lines shows problems as people see them, each with its hint.
func lines(problems config.Problems) string {
	var b strings.Builder
	for _, problem := range problems {
		fmt.Fprintln(&b, problem.Error())
		if problem.Hint != "" {
			fmt.Fprintln(&b, "\thint: "+problem.Hint)
		}
	}
	return b.String()
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c := load(t, map[string]string{"towpath.yaml": small + podinfo})
	directory := filepath.Dir(c.File)
	if diff := cmp.Diff(config.Builder{
		Type: "sandbox", Concurrency: 2, Timeout: 30 * time.Minute,
		Kaniko:  config.Kaniko{Executor: "executor"},
		Sandbox: config.Sandbox{Runtime: "runc", Memory: 4 << 30, PIDs: 4096},
		Kubernetes: config.Kubernetes{
			Namespace: "towpath-builds", TTL: time.Hour, Resources: resources("500m", "1Gi", "2Gi", "4Gi", "20Gi"),
		},
	}, c.Builder); diff != "" {
		t.Errorf("builder (-want +got):\n%s", diff)
	}
	if c.Interval != time.Minute || c.Secrets != "/etc/towpath/secrets" || c.Cache != "/var/cache/towpath" || !filepath.IsAbs(directory) {
		t.Errorf("interval %s, secrets %s, cache %s, in %s", c.Interval, c.Secrets, c.Cache, directory)
	}
	want := config.Image{
		Name: "podinfo",
		Source: config.Source{
			URL: "https://git.example.com/apps/podinfo.git", Branch: "master", Path: ".", Watch: []string{"*"}, Verify: config.Verify{Mode: "none"},
		},
		Build:       config.Build{Dockerfile: "Dockerfile", Platforms: []string{"linux/amd64"}},
		Destination: config.Destination{Repository: "registry.example.com/apps/podinfo"},
		TagTemplate: config.DefaultTag, Policy: "flux-system:podinfo", Pin: "digest", GitOps: []string{"production"}, Start: "build",
	}
	if diff := cmp.Diff(want, c.Images[0]); diff != "" {
		t.Errorf("image (-want +got):\n%s", diff)
	}
	target := c.Images[0].Targets(c)[0]
	if target.Branch() != "main" || target.Path() != "." || target.AfterRevert != "next" ||
		target.Git.Commit.SigningKey.Type != "gpg" || target.Git.Commit.Author.Name != "Towpath" || target.Update.Strategy != "Setters" {
		t.Errorf("target %+v", target)
	}
}

// What viper would lower-case, split at dots or turn into numbers arrives as it
// was written.
func TestCaseKept(t *testing.T) {
	t.Parallel()
	text := strings.Replace(small, "    git:\n", "    git:\n      push: {options: {Merge_Request.Create: \"\", CI.Skip: \"True\"}}\n", 1)
	text = strings.Replace(text, "signingKey:", "messageTemplateValues: {Cluster.Name: \"Prod\"}, signingKey:", 1)
	c := load(t, map[string]string{"towpath.yaml": text + podinfo + "    build: {args: {GO.Version: \"1.10\", Upper: \"NO\", lower.CASE: \"0x10\"}}\n"})
	git := c.GitOps[0].Git
	got := []map[string]string{git.Push.Options, git.Commit.MessageTemplateValues, c.Images[0].Build.Args}
	want := []map[string]string{
		{"Merge_Request.Create": "", "CI.Skip": "True"},
		{"Cluster.Name": "Prod"},
		{"GO.Version": "1.10", "Upper": "NO", "lower.CASE": "0x10"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMergeAndInclude(t *testing.T) {
	t.Parallel()
	c := load(t, map[string]string{
		"towpath.yaml": small + `include: [images.d/*.yaml, images.d/b.yaml, "*.yaml"]
secrets: secrets
cache: ./cache/
builder: {kaniko: {executor: bin/executor}, sandbox: {runtime: /usr/sbin/runc}}
defaults:
  source: {branch: main, path: ./app/, watch: [/app/]}
  build: {dockerfile: build/Dockerfile, args: {A: default, B: default}, platforms: [linux/arm64]}
  destination: {insecure: true}
  pin: tag
` + podinfo + `    build: {args: {B: own, C: own}}
`,
		"images.d/b.yaml": `images:
  - name: b
    source: {url: "git@git.example.com:apps/b.git", branch: next, path: "a [b]", watch: ["/", "!/docs"]}
    build: {dockerfile: Dockerfile, platforms: [linux/amd64]}
    destination: {repository: "localhost:5000/b", insecure: false}
    policy: apps:b
    pin: digest
`,
		"images.d/a.yaml": `# a comment
apiVersion: towpath.dev/v1
kind: Config
images:
  - {name: a, source: {url: "http://127.0.0.1:3000/a.git", path: x/./}, destination: {repository: "127.0.0.1:5000/a"}, policy: "apps:a"}
`,
	})
	directory := filepath.Dir(c.File)
	if c.Secrets != directory+"/secrets" || c.Cache != directory+"/cache" || c.Builder.Kaniko.Executor != directory+"/bin/executor" || c.Builder.Sandbox.Runtime != "/usr/sbin/runc" {
		t.Errorf("secrets %s, cache %s, executor %s, runtime %s", c.Secrets, c.Cache, c.Builder.Kaniko.Executor, c.Builder.Sandbox.Runtime)
	}
	type image struct {
		Name, Branch, Path, Dockerfile, Pin string
		Watch, Platforms                    []string
		Args                                map[string]string
		Insecure                            bool
	}
	var got []image
	for _, i := range c.Images {
		got = append(got, image{i.Name, i.Source.Branch, i.Source.Path, i.Build.Dockerfile, i.Pin, i.Source.Watch, i.Build.Platforms, i.Build.Args, i.Destination.Insecure})
	}
	want := []image{
		{"podinfo", "main", "app", "build/Dockerfile", "tag", []string{"/app/"}, []string{"linux/arm64"}, map[string]string{"A": "default", "B": "own", "C": "own"}, true},
		{"a", "main", "x", "build/Dockerfile", "tag", []string{"/app/"}, []string{"linux/arm64"}, map[string]string{"A": "default", "B": "default"}, true},
		{"b", "next", "a [b]", "Dockerfile", "digest", []string{"*", "!/docs"}, []string{"linux/amd64"}, map[string]string{"A": "default", "B": "default"}, false},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWatchDefault(t *testing.T) {
	t.Parallel()
	c := load(t, map[string]string{"towpath.yaml": small + strings.Replace(podinfo, "podinfo.git\"", "podinfo.git\", path: \"./a [b]/c!\"", 1)})
	if diff := cmp.Diff([]string{`/a\ \[b\]/c\!/`}, c.Images[0].Source.Watch); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A team that takes its last image away must not make the config invalid: the
// daemon would go on with the image.
func TestNoImages(t *testing.T) {
	t.Parallel()
	c := load(t, map[string]string{"towpath.yaml": small + "include: [images.d/*.yaml]\nimages:\n", "images.d/a.yaml": "images: []\n"})
	if len(c.Images) != 0 || c.Image("podinfo") != nil || c.Target("production") == nil || c.Target("other") != nil {
		t.Errorf("images %v", c.Images)
	}
}

func TestMissingFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "none.yaml")
	_, err := config.Load(config.Options{File: file})
	if want := file + ": does not exist"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	_, err = config.Load(config.Options{File: filepath.Dir(file)})
	if want := filepath.Dir(file) + ": cannot be read: is no regular file"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestFind(t *testing.T) {
	t.Chdir(t.TempDir())
	_, err := config.Load(config.Options{})
	if _, there := os.Stat("/etc/towpath/towpath.yaml"); there != nil {
		var problems config.Problems
		if !errors.As(err, &problems) || problems.Hint() != "name the config with --config FILE" {
			t.Errorf("error %v, hint %q", err, problems.Hint())
		}
	}
	if err := os.WriteFile("towpath.yaml", []byte(small), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.Options{})
	if err != nil || filepath.Base(c.File) != "towpath.yaml" || !filepath.IsAbs(c.File) {
		t.Errorf("config %+v, error %v", c, err)
	}
}

func TestAliasBomb(t *testing.T) {
	t.Parallel()
	text := small + "defaults: {source: {watch: &w [" + strings.Repeat("a,", 2000) + "a]}, build: {pull: {allow: *w}}}\nimages:\n" + strings.Repeat("  - {build: {platforms: *w}}\n", 2000)
	file := filepath.Join(write(t, map[string]string{"towpath.yaml": text}), "towpath.yaml")
	_, err := config.Load(config.Options{File: file})
	if want := file + ": unfolds to more than can be meant"; err == nil || err.Error() != want {
		t.Errorf("error %.300v, want %s", err, want)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	file := filepath.Join(write(t, map[string]string{"towpath.yaml": small + strings.Repeat("# padding\n", 1<<19)}), "towpath.yaml")
	_, err := config.Load(config.Options{File: file})
	if want := file + ": is larger than 4 MiB"; err == nil || err.Error() != want {
		t.Errorf("error %.300v, want %s", err, want)
	}
}

func TestDigests(t *testing.T) {
	t.Parallel()
	base := map[string]string{"towpath.yaml": small + podinfo}
	one, same := load(t, base), load(t, map[string]string{"towpath.yaml": "# written otherwise\n" + small + podinfo + "    pin: digest\n"})
	if one.Digest() != same.Digest() || one.Images[0].Digest(one) != same.Images[0].Digest(same) {
		t.Error("two configs that say the same have two digests")
	}
	for name, c := range map[string]struct {
		text  string
		image bool // the image's digest changes as well
	}{
		"interval":    {small + podinfo + "interval: 2m\n", false},
		"concurrency": {small + podinfo + "builder: {concurrency: 5}\n", false},
		"other image": {small + podinfo + strings.ReplaceAll(strings.TrimPrefix(podinfo, "images:\n"), "podinfo", "other"), false},
		"argument":    {small + podinfo + "    build: {args: {A: x}}\n", true},
		"default":     {small + podinfo + "defaults: {build: {args: {A: x}}}\n", true},
		"brake":       {small + podinfo + "suspend: true\n", true},
		"target":      {strings.Replace(small, "branch: main", "branch: next", 1) + podinfo, true},
		"executor":    {small + podinfo + "builder: {kaniko: {executor: other}}\n", true},
		"credential":  {small + podinfo + "credentials: [{match: \"https://git.example.com\", secretRef: {name: x}}]\n", true},
		"fleet's key": {small + podinfo + "credentials: [{match: \"ssh://git.example.com\", secretRef: {name: x}}]\n", true},
	} {
		other := load(t, map[string]string{"towpath.yaml": c.text})
		if other.Digest() == one.Digest() {
			t.Errorf("%s: the config's digest is the same", name)
		}
		if changed := other.Images[0].Digest(other) != one.Images[0].Digest(one); changed != c.image {
			t.Errorf("%s: the image's digest changed: %t, want %t", name, changed, c.image)
		}
	}
}
