package publish_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/publish"
	"towpath.dev/towpath/kaniko/registry"
)

const canary = "canary-2f6c1d9e"

var at = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// built is what kaniko leaves: the same layers each time, another creation time.
func built(t testing.TB, layers v1.Image) string {
	t.Helper()
	config, err := layers.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Created = v1.Time{Time: time.Now()}
	image, err := mutate.ConfigFile(layers, config)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "image")
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(image); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPublish(t *testing.T) {
	t.Parallel()
	server := lab.NewRegistry(t, lab.RegistryOptions{TLS: true, Username: "publisher", Password: canary})
	step := kaniko.Publish{Secret: "/secrets/push", Order: kaniko.Order{
		Platform:    "linux/amd64",
		Source:      kaniko.Source{Time: at},
		Destination: kaniko.Destination{Repository: server.Repository("apps/demo"), Tag: "v1"},
	}}
	options := publish.Options{Secret: func(dir string) (map[string][]byte, error) {
		if dir != "/secrets/push" {
			return nil, errors.New("no such secret")
		}
		return server.Secret(), nil
	}}
	layers, err := random.Image(2000, 2)
	if err != nil {
		t.Fatal(err)
	}
	step.Layout = built(t, layers)
	report := publish.Run(t.Context(), step, options)
	if report.Error != "" || report.Fault || report.Digest == "" || report.Size == 0 {
		t.Fatalf("report %+v", report)
	}
	client, err := registry.New(registry.Options{Repository: step.Order.Destination.Repository, Secret: server.ReadSecret()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Manifest(t.Context(), report.Digest); err != nil {
		t.Error(err)
	}
	if tags, _, err := client.Tags(t.Context(), ""); err != nil || len(tags) > 0 {
		t.Errorf("it wrote the tags %v, %v", tags, err)
	}

	t.Run("the same layers give the same digest", func(t *testing.T) {
		step := step
		step.Layout = built(t, layers)
		again := publish.Run(t.Context(), step, options)
		if diff := cmp.Diff(report, again); diff != "" {
			t.Errorf("(-first +again):\n%s", diff)
		}
	})
	t.Run("a forged layout is the build's fault", func(t *testing.T) {
		step := step
		step.Layout = built(t, layers)
		if err := os.WriteFile(filepath.Join(step.Layout, "index.json"), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
		report := publish.Run(t.Context(), step, options)
		if !report.Fault || !strings.Contains(report.Error, "0 manifests") || report.Hint == "" || report.Digest != "" {
			t.Errorf("report %+v", report)
		}
	})
	t.Run("a registry that refuses is not", func(t *testing.T) {
		server.Fail(lab.Fault{Status: 403, Times: -1, Text: `{"errors":[{"code":"DENIED","message":"` + canary + `"}]}`})
		defer server.Heal()
		other, err := random.Image(100, 1)
		if err != nil {
			t.Fatal(err)
		}
		step := step
		step.Layout = built(t, other)
		report := publish.Run(t.Context(), step, options)
		if report.Fault || !strings.Contains(report.Error, "403") || report.Hint == "" || strings.Contains(report.Error+report.Hint, canary) {
			t.Errorf("report %+v", report)
		}
	})
	t.Run("nor is a secret that is missing", func(t *testing.T) {
		step := step
		step.Secret = "/secrets/elsewhere"
		report := publish.Run(t.Context(), step, options)
		if report.Fault || !strings.Contains(report.Error, "no such secret") {
			t.Errorf("report %+v", report)
		}
	})
}
