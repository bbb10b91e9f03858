package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"towpath.dev/towpath/e2e/lab"
)

// podinfo is Flux's sample application, as the Go module proxy has it.
const podinfo = "github.com/stefanprodan/podinfo@v1.8.1-0.20250910200901-e86405a8674e"

// TestPodinfo builds podinfo from its own source by its own Dockerfile, which
// downloads its modules in a RUN step, makes a user in another, and compiles
// two programs. Alpine is not to be had here: Debian stands in for it.
func TestPodinfo(t *testing.T) {
	if testing.Short() {
		t.Skip("not in short mode: it compiles podinfo twice, from nothing")
	}
	source := moduleSource(t, podinfo)
	w := realBuild{
		source: func(dir string) { copyTree(t, source, dir) },
		bases: map[string]v1.Image{
			// A build reaches what is public, and so the proxy of most machines.
			"base/golang": lab.Golang(t, lab.GoModules{Of: []string{source}, Network: true}),
			"base/debian": lab.Debian(t),
		},
		edit: []replacement{
			{"FROM golang:1.25-alpine AS builder\n", "FROM {base/golang} AS builder\n"},
			{"FROM alpine:3.22\n", "FROM {base/debian}\n"},
			{"RUN addgroup -S app \\\n    && adduser -S -G app app \\\n    && apk --no-cache add \\\n    ca-certificates curl netcat-openbsd\n",
				"RUN addgroup --system app \\\n    && adduser --system --ingroup app app\n"},
		},
		args: map[string]string{"REVISION": "built-by-towpath"},
	}.world(t)
	_, image := promoted(t, w)

	if image.Config.User != "app" {
		t.Errorf("it runs as %q, want app", image.Config.User)
	}
	port := freePort(t)
	server := image.Command("./podinfo", "--port="+port, "--level=info")
	var logs strings.Builder
	server.Stdout, server.Stderr = &logs, &logs
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		if t.Failed() {
			t.Logf("podinfo said:\n%s", logs.String())
		}
	})
	var version struct{ Version, Commit string }
	answer(t, "http://127.0.0.1:"+port+"/version", &version)
	if version.Commit != "built-by-towpath" || version.Version == "" {
		t.Errorf("it says that it is %+v", version)
	}
	var health struct{ Status string }
	answer(t, "http://127.0.0.1:"+port+"/healthz", &health)
	if health.Status != "OK" {
		t.Errorf("its health is %q", health.Status)
	}
	if out, err := image.Command("/usr/local/bin/podcli", "check", "http", "http://127.0.0.1:"+port+"/readyz").CombinedOutput(); err != nil {
		t.Errorf("podcli: %v\n%s", err, out)
	}
}

// moduleSource is the directory of a module's source, downloaded where it is not in
// this machine's module cache.
func moduleSource(t *testing.T, pathAtVersion string) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", pathAtVersion)
	cmd.Dir = t.TempDir() // of no module: our own go.mod is not asked and not changed
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	out, err := cmd.Output()
	var found struct{ Dir, Error string }
	if json.Unmarshal(out, &found) != nil || found.Dir == "" {
		t.Fatalf("go mod download %s: %v %s", pathAtVersion, err, found.Error)
	}
	return found.Dir
}

// answer waits until a server answers a request well, and decodes the answer.
func answer(t *testing.T, url string, into any) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second}
	var problem error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		response, err := client.Get(url)
		if err != nil {
			problem = err
			continue
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err == nil && response.StatusCode == http.StatusOK {
			err = json.Unmarshal(body, into)
			if err == nil {
				return
			}
		}
		problem = fmt.Errorf("%s: %s: %w", response.Status, body, err)
	}
	t.Fatalf("%s: %v", url, problem)
}

// freePort is a port that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
