package seal

import (
	"context"

	"towpath.dev/towpath/kaniko/registry"
)

// Size is the compressed size of an image in bytes: manifest, config and
// layers, as the manifest states them.
func Size(ctx context.Context, client *registry.Client, digest string) (int64, error) {
	manifest, err := client.Manifest(ctx, digest)
	if err != nil {
		return 0, err
	}
	return measure(manifest)
}
