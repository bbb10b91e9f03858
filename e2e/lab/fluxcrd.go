package lab

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// FluxDefinitions installs the definitions of the kinds that some of Flux's
// controllers bring ("source", "kustomize", "notification") in a cluster, from
// the source that the tests' controllers are built from, and waits until they
// are served. To ask twice is harmless.
func FluxDefinitions(t testing.TB, config *rest.Config, controllers ...string) {
	t.Helper()
	definitions.Lock()
	defer definitions.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	kinds := dynamic.NewForConfigOrDie(config).Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	for _, controller := range controllers {
		files, err := filepath.Glob(filepath.Join(fluxSource(t, controller), "config", "crd", "bases", "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("the definitions of Flux's %s-controller: %d, %v", controller, len(files), err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var definition unstructured.Unstructured
			if err := yaml.Unmarshal(content, &definition.Object); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if _, err := kinds.Create(ctx, &definition, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
				t.Fatalf("%s: %v", file, err)
			}
			for !established(ctx, t, kinds, definition.GetName()) {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
}

var definitions sync.Mutex

func established(ctx context.Context, t testing.TB, kinds dynamic.ResourceInterface, name string) bool {
	t.Helper()
	found, err := kinds.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	conditions, _, _ := unstructured.NestedSlice(found.Object, "status", "conditions")
	for _, one := range conditions {
		if condition, ok := one.(map[string]any); ok && condition["type"] == "Established" && condition["status"] == "True" {
			return true
		}
	}
	return false
}

// fluxSource is the directory of the source that a controller is built from.
func fluxSource(t testing.TB, controller string) string {
	t.Helper()
	root, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "towpath.dev/towpath").Output()
	if err != nil {
		t.Fatalf("where is this repository: %v", err)
	}
	download := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", "github.com/fluxcd/"+controller+"-controller")
	download.Dir = filepath.Join(strings.TrimSpace(string(root)), "e2e", "tools", "flux-"+controller)
	out, err := download.Output()
	if err != nil {
		t.Fatalf("go mod download %s-controller: %v\n%s", controller, err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	return module.Dir
}
