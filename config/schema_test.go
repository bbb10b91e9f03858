package config

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestExample: the sample loads, and shows every key of the schema but those of
// other projects' types that are refused, and the depths of an affinity.
func TestExample(t *testing.T) {
	t.Parallel()
	const file = "towpath.example.yaml"
	if _, err := Load(Options{File: file}); err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(src, &document); err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	keys(document.Content[0], "", shown)
	refused := []string{"builder.kubernetes.resources.claims"}
	for _, key := range []string{"tag", "semver", "name", "commit"} {
		refused = append(refused, "gitops.git.checkout.ref."+key)
	}
	walk(reflect.TypeFor[Config](), "", func(path string) {
		switch {
		case strings.HasPrefix(path, "defaults."): // as under images
		case strings.HasPrefix(path, "builder.kubernetes.affinity."), strings.HasPrefix(path, "builder.kubernetes.resources.claims."):
		case slices.Contains(refused, path):
			if shown[path] {
				t.Errorf("%s shows %s, which is refused", file, path)
			}
		case !shown[path]:
			t.Errorf("%s does not show %s", file, path)
		}
	})
}

// keys collects the paths of all keys, those of lists without an index.
func keys(node *yaml.Node, path string, into map[string]bool) {
	switch node.Kind {
	case yaml.SequenceNode:
		for _, item := range node.Content {
			keys(item, path, into)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			at := step(path, node.Content[i].Value)
			into[at] = true
			keys(node.Content[i+1], at, into)
		}
	}
}

func walk(t reflect.Type, path string, visit func(string)) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return
	}
	for _, field := range fieldsOf(t) {
		at := step(path, field.key)
		visit(at)
		walk(t.Field(field.index).Type, at, visit)
	}
}

// TestKinds: the decoder knows every type of the schema. A field of a new type,
// of Flux's say, would otherwise panic when somebody first uses it.
func TestKinds(t *testing.T) {
	t.Parallel()
	var check func(reflect.Type, string)
	check = func(kind reflect.Type, path string) {
		switch kind.Kind() {
		case reflect.Pointer, reflect.Slice:
			check(kind.Elem(), path)
		case reflect.Map:
			if kind.Key().Kind() != reflect.String || kind.Elem().Kind() != reflect.String && kind.Elem() != reflect.TypeFor[resource.Quantity]() {
				t.Errorf("%s is a %s", path, kind)
			}
		case reflect.Struct:
			for i := range kind.NumField() {
				if kind.Field(i).Anonymous {
					t.Errorf("%s embeds %s", path, kind.Field(i).Type)
				}
			}
			for _, field := range fieldsOf(kind) {
				check(kind.Field(field.index).Type, step(path, field.key))
			}
		case reflect.String, reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64:
		default:
			t.Errorf("%s is a %s", path, kind)
		}
	}
	check(reflect.TypeFor[Config](), "")
	check(reflect.TypeFor[team](), "")
}

func TestVariables(t *testing.T) {
	t.Parallel()
	var names []string
	for _, setting := range settings() {
		names = append(names, setting.variable)
	}
	want := []string{
		"TOWPATH_INTERVAL", "TOWPATH_SUSPEND", "TOWPATH_SECRETS", "TOWPATH_CACHE", "TOWPATH_SIGNING_PROVENANCE_SECRETREF_NAME",
		"TOWPATH_BUILDER_TYPE", "TOWPATH_BUILDER_CONCURRENCY", "TOWPATH_BUILDER_TIMEOUT", "TOWPATH_BUILDER_KANIKO_IMAGE", "TOWPATH_BUILDER_KANIKO_EXECUTOR",
		"TOWPATH_BUILDER_SANDBOX_RUNTIME", "TOWPATH_BUILDER_SANDBOX_MEMORY", "TOWPATH_BUILDER_SANDBOX_PIDS",
		"TOWPATH_BUILDER_KUBERNETES_NAMESPACE", "TOWPATH_BUILDER_KUBERNETES_IMAGE", "TOWPATH_BUILDER_KUBERNETES_TTL", "TOWPATH_BUILDER_KUBERNETES_HOSTUSERS",
		"TOWPATH_BUILDER_KUBERNETES_RUNTIMECLASSNAME", "TOWPATH_BUILDER_KUBERNETES_PRIORITYCLASSNAME", "TOWPATH_BUILDER_KUBERNETES_CABUNDLE_CONFIGMAP",
		"TOWPATH_BUILDER_KUBERNETES_PROXY_HTTP", "TOWPATH_BUILDER_KUBERNETES_PROXY_HTTPS", "TOWPATH_BUILDER_KUBERNETES_PROXY_NO",
		"TOWPATH_BUILDER_KUBERNETES_IDENTITY_FETCH_AUDIENCE", "TOWPATH_BUILDER_KUBERNETES_IDENTITY_FETCH_PATH",
		"TOWPATH_BUILDER_KUBERNETES_IDENTITY_PUBLISH_AUDIENCE", "TOWPATH_BUILDER_KUBERNETES_IDENTITY_PUBLISH_PATH",
		"TOWPATH_BUILDER_CACHE_ENABLED", "TOWPATH_EVENTS_ADDRESS", "TOWPATH_LEADERELECTION_ENABLED",
	}
	if !slices.Equal(names, want) {
		t.Errorf("variables %q", names)
	}
}

// TestWatchWithoutNews: what nothing announces is seen by looking. Here a link
// between the config's own directory and that of the file it ends at changes.
func TestWatchWithoutNews(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("towpath.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	for name, content := range map[string]string{"one/x": string(src), "two/x": strings.Replace(string(src), "interval: 1m", "interval: 2m", 1)} {
		if err := errors.Join(os.Mkdir(filepath.Dir(at(name)), 0o755), os.WriteFile(at(name), []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	err = errors.Join(os.Mkdir(at("etc"), 0o755), os.Mkdir(at("links"), 0o755),
		os.Symlink(at("links/current"), at("etc/towpath.yaml")), os.Symlink(at("one/x"), at("links/current")), os.Symlink(at("two/x"), at("links/next")))
	if err != nil {
		t.Fatal(err)
	}
	running, err := Load(Options{File: at("etc/towpath.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var swap sync.WaitGroup
	swap.Go(func() { err = os.Rename(at("links/next"), at("links/current")) })
	var seen *Config
	watch(ctx, Options{}, running, 5*time.Millisecond, func(c *Config, err error) error {
		if seen = c; err != nil {
			t.Error(err)
		}
		cancel()
		return nil
	})
	if swap.Wait(); err != nil {
		t.Fatal(err)
	}
	if seen == nil || seen.Interval != 2*time.Minute {
		t.Errorf("seen: %+v", seen)
	}
}

// TestWatchTriesAgain: a config that could not be put to work is handed over again
// at every look, and no more once it is at work.
func TestWatchTriesAgain(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("towpath.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "towpath.yaml")
	write := func(interval string) {
		t.Helper()
		if err := os.WriteFile(file+"~", []byte(strings.Replace(string(src), "interval: 1m", "interval: "+interval, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+"~", file); err != nil {
			t.Fatal(err)
		}
	}
	write("1m")
	running, err := Load(Options{File: file})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	write("2m")
	var handed []time.Duration
	watch(ctx, Options{}, running, 5*time.Millisecond, func(c *Config, err error) error {
		if err != nil {
			t.Error(err)
			cancel()
			return nil
		}
		switch handed = append(handed, c.Interval); len(handed) {
		case 1, 2:
			return errors.New("the disk is full")
		case 3:
			write("3m")
		default:
			cancel()
		}
		return nil
	})
	if want := []time.Duration{2 * time.Minute, 2 * time.Minute, 2 * time.Minute, 3 * time.Minute}; !slices.Equal(handed, want) {
		t.Errorf("handed over: %v, want %v", handed, want)
	}
}

// FuzzLoad: whatever is in the file, loading ends, and ends with a whole config
// or with problems that are one line each.
func FuzzLoad(f *testing.F) {
	src, err := os.ReadFile("towpath.example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(src)
	f.Fuzz(func(t *testing.T, src []byte) {
		file := filepath.Join(t.TempDir(), "towpath.yaml")
		if err := os.WriteFile(file, src, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Options{File: file})
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 || c != nil {
				t.Fatalf("config %v, error %v", c, err)
			}
			for _, problem := range problems {
				if text := problem.Error() + problem.Hint; strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
					t.Fatalf("not one clean line: %q", text)
				}
			}
			return
		}
		for i := range c.Images {
			image := &c.Images[i]
			if len(image.Targets(c)) == 0 || image.Digest(c) == "" || c.Image(image.Name) != image {
				t.Fatalf("image %+v", image)
			}
			if _, err := image.Tag(image.Source.Branch, samples()[0], time.Unix(0, 0)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range c.GitOps {
			if c.GitOps[i].Branch() == "" || c.GitOps[i].Git.Commit.SigningKey == nil {
				t.Fatalf("target %+v", c.GitOps[i])
			}
		}
	})
}
