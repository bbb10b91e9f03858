package lab

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

func TestRegistriesTakeAnImage(t *testing.T) {
	t.Parallel()
	kinds := map[string]func(testing.TB, RegistryOptions) *Registry{"docker": NewRegistry, "memory": NewMemoryRegistry}
	for kind, start := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			registry := start(t, RegistryOptions{})
			image, err := random.Image(1000, 2)
			if err != nil {
				t.Fatal(err)
			}
			ref, err := name.ParseReference(registry.Repository("apps/demo") + ":v1")
			if err != nil {
				t.Fatal(err)
			}
			registry.Fail(Fault{Kind: UploadData, Cut: true, CutBody: 100}, Fault{Kind: ManifestPut, Applied: true, Cut: true})
			if err := remote.Write(ref, image, remote.WithRetryBackoff(remote.Backoff{Duration: 1, Factor: 1, Steps: 4})); err != nil {
				t.Fatal(err)
			}
			got, err := remote.Head(ref)
			if err != nil {
				t.Fatal(err)
			}
			if want, _ := image.Digest(); got.Digest != want {
				t.Errorf("digest %s, want %s", got.Digest, want)
			}
			cut := 0
			for _, request := range registry.Requests() {
				if request.Status == 0 {
					cut++
				}
			}
			if cut != 2 {
				t.Errorf("%d connections cut, want 2", cut)
			}
		})
	}
}
