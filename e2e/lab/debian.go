package lab

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// Debian is a base image as one gets it from a public registry: Debian's
// smallest, of this machine's release, by debootstrap from the mirror that this
// machine's apt uses, with the authorities that this machine trusts.
func Debian(t testing.TB) v1.Image {
	t.Helper()
	return assemble(t, v1.Config{
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Cmd: []string{"bash"},
	}, debian(t), trust(t))
}

// GoModules says where builds on a Golang base find modules: file:///go/modules
// in the image has what the go.mod in each of these directories names.
type GoModules struct {
	Of      []string // directories with a go.mod and a go.sum
	Network bool     // ask this machine's proxies first, and the image only where that fails
	Program string   // a package, as the first of these directories names it, whose modules the image has compiled; empty: none
}

// Golang is a base image as docker.io/library/golang is: Debian with this
// machine's own Go.
func Golang(t testing.TB, modules GoModules) v1.Image {
	t.Helper()
	proxies := []string{"file:///go/modules"}
	if modules.Network {
		var network []string
		for _, proxy := range strings.FieldsFunc(goEnv(t, "GOPROXY"), func(r rune) bool { return r == ',' || r == '|' }) {
			if strings.HasPrefix(proxy, "http") { // the others ask for a version control system, or for this machine's files
				network = append(network, proxy)
			}
		}
		proxies = append(network, proxies...)
	}
	root := goEnv(t, "GOROOT")
	tool := keptLayer(t, "go", goEnv(t, "GOVERSION")+" "+root, func(a *archive) {
		a.tree(root, "usr/local/go", func(path string) bool {
			return path == "test" || path == "api" || path == "doc" || path == "misc"
		})
		a.dir("go", 0o777)
	})
	config := v1.Config{
		Env: []string{
			"PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"GOPATH=/go", "GOTOOLCHAIN=local", "GOPROXY=" + strings.Join(proxies, "|"),
		},
		WorkingDir: "/go",
		Cmd:        []string{"bash"},
	}
	layers := []v1.Layer{debian(t), trust(t), tool, moduleProxy(t, modules.Of)}
	if modules.Program != "" {
		config.Env = append(config.Env, "GOCACHE="+compiledIn)
		layers = append(layers, compiled(t, modules.Of[0], modules.Program))
	}
	return assemble(t, config, layers...)
}

// Static is a base image for one static program, as distroless/static is:
// authorities, a user who is not root, a place for temporary files. No shell.
func Static(t testing.TB) v1.Image {
	t.Helper()
	return assemble(t, v1.Config{
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		User:       "65532",
		WorkingDir: "/home/nonroot",
	}, newLayer(t, func(a *archive) {
		for _, dir := range []string{"etc", "home", "usr", "usr/local", "usr/local/bin"} {
			a.dir(dir, 0o755)
		}
		a.dir("home/nonroot", 0o777)
		a.dir("tmp", 0o1777)
		a.file("etc/passwd", []byte("root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"))
		a.file("etc/group", []byte("root:x:0:\nnonroot:x:65532:\n"))
	}), trust(t))
}

func assemble(t testing.TB, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	if image, err = mutate.ConfigFile(image, file); err != nil {
		t.Fatal(err)
	}
	return image
}

// debian is the layer that debootstrap makes.
func debian(t testing.TB) v1.Layer {
	t.Helper()
	release := osRelease(t)
	suite := release["VERSION_CODENAME"]
	if release["ID"] != "debian" || suite == "" {
		suite = "stable"
	}
	return keptLayer(t, "debian", suite, func(a *archive) {
		dir := t.TempDir()
		args := []string{"--variant=minbase", "--include=ca-certificates", suite, dir}
		if mirror := aptMirror(suite); mirror != "" {
			args = append(args, mirror)
		}
		cmd := exec.Command(Tool(t, "debootstrap"), args...)
		cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("debootstrap: %v\n%s", err, tail(out))
		}
		a.tree(dir, "", func(path string) bool {
			switch parent := filepath.Dir(path); parent {
			case "dev", "proc", "sys", "var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale":
				return true
			}
			return path == "var/log/bootstrap.log" || path == "debootstrap"
		})
	})
}

// aptMirror is where this machine's apt gets a suite's packages from; empty
// where it knows no such suite.
func aptMirror(suite string) string {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian", "Codename: "+suite).Output()
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return first
}

// osRelease reads /etc/os-release, see os-release(5).
func osRelease(t testing.TB) map[string]string {
	t.Helper()
	content, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(content)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = strings.Trim(value, `"'`)
		}
	}
	return values
}

// trust is a layer with the authorities that this machine trusts, among them
// those of a proxy that it may sit behind.
func trust(t testing.TB) v1.Layer {
	t.Helper()
	authorities, err := os.ReadFile(authoritiesFile())
	if err != nil {
		t.Fatal(err)
	}
	return newLayer(t, func(a *archive) {
		for _, dir := range []string{"etc", "etc/ssl", "etc/ssl/certs"} {
			a.dir(dir, 0o755)
		}
		a.file("etc/ssl/certs/ca-certificates.crt", authorities)
	})
}

func authoritiesFile() string {
	return cmp.Or(os.Getenv("SSL_CERT_FILE"), "/etc/ssl/certs/ca-certificates.crt")
}

// moduleProxy is a layer with the modules that builds in some directories need,
// from this machine's module cache where they are there.
func moduleProxy(t testing.TB, dirs []string) v1.Layer {
	t.Helper()
	var sums strings.Builder
	for _, dir := range dirs {
		for _, file := range []string{"go.mod", "go.sum"} {
			content, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				t.Fatal(err)
			}
			sums.Write(content)
		}
	}
	return keptLayer(t, "modules", sums.String(), func(a *archive) {
		cache := t.TempDir()
		for _, dir := range dirs {
			// Outside of its tree: a module in the module cache is read-only.
			work := t.TempDir()
			for _, file := range []string{"go.mod", "go.sum"} {
				content, err := os.ReadFile(filepath.Join(dir, file))
				if err != nil {
					t.Fatal(err)
				}
				WriteFile(t, filepath.Join(work, file), content)
			}
			cmd := exec.Command("go", "mod", "download")
			cmd.Dir = work
			cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-modcacherw", "GOMODCACHE="+cache,
				"GOPROXY=file://"+filepath.ToSlash(goEnv(t, "GOMODCACHE"))+"/cache/download,"+goEnv(t, "GOPROXY"))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("go mod download: %v\n%s", err, tail(out))
			}
		}
		a.dir("go", 0o777)
		a.dir("go/modules", 0o755)
		a.tree(filepath.Join(cache, "cache", "download"), "go/modules", func(path string) bool {
			return path == "sumdb" || filepath.Ext(path) == ".lock" || filepath.Ext(path) == ".partial"
		})
	})
}

// goEnv is what this machine's go says of itself.
func goEnv(t testing.TB, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatalf("go env %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// tail is the end of what a program printed.
func tail(out []byte) []byte { return out[max(0, len(out)-4000):] }
