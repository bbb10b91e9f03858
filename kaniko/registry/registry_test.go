package registry_test

import (
	"errors"
	"io"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko/registry"
)

const (
	username = "publisher"
	canary   = "canary-2f6c1d9e"
)

// registries are the kinds that every test of behaviour runs against: one
// without the referrers API and one with it.
var registries = map[string]func(testing.TB, lab.RegistryOptions) *lab.Registry{
	"docker": lab.NewRegistry,
	"memory": lab.NewMemoryRegistry,
}

func open(t testing.TB, lab *lab.Registry) *registry.Client {
	t.Helper()
	client, err := registry.New(registry.Options{
		Repository: lab.Repository("apps/demo"),
		Secret:     lab.ReadSecret(),
		SecretName: "push",
		Pause:      time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestPushTagAndReadBack(t *testing.T) {
	t.Parallel()
	for kind, start := range registries {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server := start(t, lab.RegistryOptions{TLS: true, ClientCA: true, Username: username, Password: canary})
			client := open(t, server)
			image, err := random.Image(200_000, 3)
			if err != nil {
				t.Fatal(err)
			}
			var last, total int64
			digest, size, err := client.Push(t.Context(), image, func(d, all int64) { last, total = d, all })
			if err != nil {
				t.Fatal(err)
			}
			raw, _ := image.RawManifest()
			if last != total || size != total+int64(len(raw)) {
				t.Errorf("progress ended at %d of %d, size %d", last, total, size)
			}
			if want, _ := image.Digest(); digest != want.String() {
				t.Errorf("digest %s, want %s", digest, want)
			}
			if _, err := client.Resolve(t.Context(), "v1"); !errors.Is(err, registry.ErrNotFound) {
				t.Errorf("a push by digest wrote a tag: %v", err)
			}
			manifest, err := client.Manifest(t.Context(), digest)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := client.Tag(t.Context(), manifest, "v1"); err != nil {
					t.Fatal(err)
				}
			}
			if puts := slices.DeleteFunc(server.Requests(lab.ManifestPut), func(r lab.Request) bool {
				return r.Path != "/v2/apps/demo/manifests/v1"
			}); len(puts) != 1 {
				t.Errorf("the tag was written %d times, want once", len(puts))
			}
			tags, more, err := client.Tags(t.Context(), "v")
			if err != nil || more || !slices.Equal(tags, []string{"v1"}) {
				t.Errorf("tags %v, %v, %v", tags, more, err)
			}
			if err := client.Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// unreadable is a layer that turns out to be another than it was.
type unreadable struct {
	v1.Layer
	err error
}

func (u unreadable) Compressed() (io.ReadCloser, error) {
	content, err := u.Layer.Compressed()
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.MultiReader(io.LimitReader(content, 100), iotest.ErrReader(u.err))), nil
}

// TestLayerCannotBeRead is our own side's failure: it is told from the
// registry's, and not tried again.
func TestLayerCannotBeRead(t *testing.T) {
	t.Parallel()
	server := lab.NewMemoryRegistry(t, lab.RegistryOptions{})
	layer, err := random.Layer(10_000, types.OCILayer)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("changed on disk")
	image, err := mutate.AppendLayers(empty.Image, unreadable{layer, broken})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = open(t, server).Push(t.Context(), image, nil)
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if sent := server.Requests(lab.UploadData); len(sent) > 2 { // it and the config
		t.Errorf("%d blobs were sent", len(sent))
	}
}
