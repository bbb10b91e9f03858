package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	fluxNamespace = "flux-system"
	artifactsPort = "9790"
	eventsPort    = "9890"
)

// startFlux installs Flux's definitions and starts its controllers on the node,
// beside the API server. Towpath finds the one that takes events as a service,
// where Flux's own installation has it.
func (n *Node) startFlux(t testing.TB, c *Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var definitions []string
	for _, controller := range []string{"source", "kustomize", "notification"} {
		files, err := filepath.Glob(filepath.Join(fluxModule(ctx, t, controller), "config", "crd", "bases", "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("the definitions of Flux's %s-controller: %d, %v", controller, len(files), err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			definitions = append(definitions, string(content))
		}
	}
	c.Apply(t, strings.Join(definitions, "\n---\n"))
	c.Kubectl(t, "", "wait", "--for=condition=Established", "--timeout=5m", "crd", "--all")
	c.Apply(t, fmt.Sprintf(`apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: v1
kind: Service
metadata: {name: notification-controller, namespace: %[1]s}
spec:
  ports: [{name: http, port: 80, targetPort: %[2]s}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: notification-controller-node
  namespace: %[1]s
  labels: {kubernetes.io/service-name: notification-controller}
addressType: IPv4
ports: [{name: http, port: %[2]s}]
endpoints: [{addresses: [%[3]q], conditions: {ready: true}}]
`, fluxNamespace, eventsPort, n.node))

	storage := n.path("artifacts")
	if err := os.MkdirAll(storage, 0o755); err != nil {
		t.Fatal(err)
	}
	events := "--events-addr=http://127.0.0.1:" + eventsPort + "/"
	n.start(t, "source-controller", "--storage-path="+storage, "--storage-addr=127.0.0.1:"+artifactsPort, "--storage-adv-addr=127.0.0.1:"+artifactsPort,
		"--metrics-addr=127.0.0.1:9701", "--health-addr=:9801", events)
	n.start(t, "kustomize-controller", "--metrics-addr=127.0.0.1:9702", "--health-addr=:9802", events)
	n.start(t, "notification-controller", "--metrics-addr=127.0.0.1:9703", "--health-addr=:9803", "--receiverAddr=127.0.0.1:9892", "--events-addr=:"+eventsPort)
	for i, name := range []string{"source-controller", "kustomize-controller", "notification-controller"} {
		err := n.programs[name].running.Ready(ctx, func(ctx context.Context) error {
			return answers(ctx, fmt.Sprintf("http://%s:980%d/readyz", n.node, i+1))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Followed is what has Flux apply clusters/production of a GitOps repository, with
// the Secret flux-system. Nothing comes by itself: Towpath asks, and a daemon for
// one that died before it did.
func Followed(repository string) string {
	return fmt.Sprintf(`apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: flux-system, namespace: %[1]s}
spec:
  interval: 10m
  url: %[2]s
  ref: {branch: main}
  secretRef: {name: flux-system}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: flux-system, namespace: %[1]s}
spec:
  interval: 10m
  path: ./clusters/production
  prune: true
  sourceRef: {kind: GitRepository, name: flux-system}
`, fluxNamespace, repository)
}

// answers tells whether a server says that all is well.
func answers(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}

// fluxModule is the directory of the source that a controller was built from.
func fluxModule(ctx context.Context, t testing.TB, controller string) string {
	t.Helper()
	tools, err := toolsDir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "download", "-json", "github.com/fluxcd/"+controller+"-controller")
	cmd.Dir = filepath.Join(tools, "flux-"+controller)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go mod download %s-controller: %v\n%s", controller, err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	return module.Dir
}

// toolsDir is the directory with the modules that the tests' programs are built
// from.
func toolsDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", "-m", "towpath.dev/towpath").Output()
	if err != nil {
		return "", fmt.Errorf("where is this repository: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "e2e", "tools"), nil
}
