package layout

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
)

// FuzzDocuments feeds what a build may have written to each of the parsers.
// What they accept holds nothing that a push could be misled by.
func FuzzDocuments(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) {
		refused := func(err error) bool {
			var fault *FaultError
			if err != nil && !errors.As(err, &fault) {
				t.Fatalf("not a fault: %v", err)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Fatalf("control characters in %q", err)
			}
			return err != nil
		}
		if entry, err := parseIndex(raw); !refused(err) {
			if _, known := configOf(entry.MediaType); !known || len(entry.Digest.Hex) != 64 || entry.Size < 0 {
				t.Errorf("accepted entry %+v", entry)
			}
		}
		limits := Limits{Layers: 3, Layer: 1000, Total: 1500}.filled()
		for _, mediaType := range []types.MediaType{types.OCIManifestSchema1, types.DockerManifestSchema2} {
			manifest, err := parseManifest(raw, mediaType, limits)
			if refused(err) {
				continue
			}
			total := int64(0)
			for _, layer := range manifest.Layers {
				total += layer.Size
				if len(layer.URLs) > 0 || layer.Size < 0 || strings.ContainsAny(layer.Digest.Hex, "./") || compressionOf(layer.MediaType) == foreign {
					t.Errorf("accepted layer %+v", layer)
				}
			}
			if len(manifest.Layers) > 3 || total > 1500 || manifest.Subject != nil {
				t.Errorf("accepted manifest %+v", manifest)
			}
		}
		if config, err := parseConfig(raw, 2); !refused(err) && len(config.RootFS.DiffIDs) != 2 {
			t.Errorf("accepted config %+v", config)
		}
	})
}
