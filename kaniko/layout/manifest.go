package layout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// configOf says which config goes with a manifest that we publish.
func configOf(manifest types.MediaType) (config types.MediaType, known bool) {
	switch manifest {
	case types.OCIManifestSchema1:
		return types.OCIConfigJSON, true
	case types.DockerManifestSchema2:
		return types.DockerConfigJSON, true
	default:
		return "", false
	}
}

// compression of a layer, by its media type.
type compression int

const (
	foreign compression = iota // not a layer that we push
	plain
	gzipped
	zstandard
)

func compressionOf(layer types.MediaType) compression {
	switch layer {
	case types.OCILayer, types.DockerLayer:
		return gzipped
	case types.OCILayerZStd:
		return zstandard
	case types.OCIUncompressedLayer, types.DockerUncompressedLayer:
		return plain
	default:
		return foreign
	}
}

// What a document may hold. Parsed, an empty object takes a hundred times the
// room that it takes in its document, so a limit on its bytes alone bounds little.
// Images have some hundred of them.
const (
	maxObjects  = 20_000
	maxElements = 200_000
)

// parse reads a document that is not made to fill the memory.
func parse(raw []byte, where string, into any) error {
	if n := bytes.Count(raw, []byte("{")); n > maxObjects {
		return fault(where, "it holds %d objects, as no image has; at most %d are allowed", n, maxObjects)
	}
	if n := bytes.Count(raw, []byte(",")); n > maxElements {
		return fault(where, "it holds %d elements, as no image has; at most %d are allowed", n, maxElements)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fault(where, "it does not parse: %s", brief(err.Error()))
	}
	return nil
}

// parseIndex returns the only entry of an index.
func parseIndex(raw []byte) (v1.Descriptor, error) {
	var index v1.IndexManifest
	if err := parse(raw, "index.json", &index); err != nil {
		return v1.Descriptor{}, err
	}
	if len(index.Manifests) != 1 {
		return v1.Descriptor{}, fault("index.json", "it names %d manifests, one was ordered", len(index.Manifests))
	}
	entry := index.Manifests[0]
	if _, known := configOf(entry.MediaType); !known {
		return v1.Descriptor{}, fault("index.json", "its entry is of type %s, not an image manifest", quote(entry.MediaType))
	}
	return entry, checkDescriptor("index.json", entry)
}

// parseManifest returns a manifest with nothing in it that has no business in
// an image of ours.
func parseManifest(raw []byte, mediaType types.MediaType, limits Limits) (v1.Manifest, error) {
	var manifest v1.Manifest
	none := v1.Manifest{}
	if err := parse(raw, "manifest", &manifest); err != nil {
		return none, err
	}
	config, known := configOf(mediaType)
	switch {
	case !known:
		return none, fault("manifest", "it is of type %s, not an image manifest", quote(mediaType))
	case manifest.SchemaVersion != 2:
		return none, fault("manifest", "its schema version is %d, not 2", manifest.SchemaVersion)
	case manifest.MediaType != "" && manifest.MediaType != mediaType:
		return none, fault("manifest", "it says it is of type %s, the index says %s", quote(manifest.MediaType), quote(mediaType))
	case manifest.Subject != nil:
		return none, fault("manifest", "it has a subject, as no image has")
	case manifest.ArtifactType != "":
		return none, fault("manifest", "it has the artifact type %s, as no image has", quote(types.MediaType(manifest.ArtifactType)))
	case manifest.Config.MediaType != config:
		return none, fault("manifest", "its config is of type %s, not %s", quote(manifest.Config.MediaType), quote(config))
	case len(manifest.Layers) > limits.Layers:
		return none, fault("manifest", "it has %d layers, at most %d are allowed", len(manifest.Layers), limits.Layers)
	}
	if err := checkDescriptor("manifest: config", manifest.Config); err != nil {
		return none, err
	}
	total := int64(0)
	for i, layer := range manifest.Layers {
		where := fmt.Sprintf("manifest: layer %d", i+1)
		if compressionOf(layer.MediaType) == foreign {
			return none, fault(where, "it is of type %s, which is not published", quote(layer.MediaType))
		}
		if err := checkDescriptor(where, layer); err != nil {
			return none, err
		}
		if layer.Size > limits.Layer {
			return none, fault(where, "it is %d bytes large, at most %d are allowed", layer.Size, limits.Layer)
		}
		if total += layer.Size; total > limits.Total {
			return none, fault("manifest", "its layers are larger than %d bytes", limits.Total)
		}
	}
	return manifest, nil
}

// checkDescriptor refuses what would make somebody fetch something elsewhere or
// compute another digest than ours.
func checkDescriptor(where string, descriptor v1.Descriptor) error {
	switch {
	case descriptor.Digest.Algorithm != "sha256" || len(descriptor.Digest.Hex) != 64 || strings.Trim(descriptor.Digest.Hex, "0123456789abcdef") != "":
		return fault(where, "its digest %s is not sha256:<hex>", quote(types.MediaType(descriptor.Digest.String())))
	case descriptor.Size < 0:
		return fault(where, "its size is %d", descriptor.Size)
	case len(descriptor.URLs) > 0:
		return fault(where, "it names URLs to fetch it from")
	}
	return nil
}

// parseConfig returns the config of an image with so many layers.
func parseConfig(raw []byte, layers int) (v1.ConfigFile, error) {
	var config v1.ConfigFile
	if err := parse(raw, "config", &config); err != nil {
		return v1.ConfigFile{}, err
	}
	if config.RootFS.Type != "layers" && layers > 0 {
		return v1.ConfigFile{}, fault("config", "its rootfs is of type %s, not layers", quote(types.MediaType(config.RootFS.Type)))
	}
	if len(config.RootFS.DiffIDs) != layers {
		return v1.ConfigFile{}, fault("config", "it lists %d layers, the manifest %d", len(config.RootFS.DiffIDs), layers)
	}
	if config.OS == "" || config.Architecture == "" {
		return v1.ConfigFile{}, fault("config", "it names no operating system or architecture")
	}
	return config, nil
}

func quote[S ~string](text S) string { return fmt.Sprintf("%q", brief(string(text))) }

// brief makes one short line of text that may come from the layout.
func brief(text string) string {
	if len(text) > 100 {
		text = text[:100] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			return r
		}
		return -1
	}, text)
}
