package layout_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcrlayout "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/zstd"

	"towpath.dev/towpath/kaniko/layout"
)

var commitTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// built is a layout as kaniko leaves it, in a directory of ours.
func built(t testing.TB, image v1.Image) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "image")
	path, err := ggcrlayout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := path.AppendImage(image); err != nil {
		t.Fatal(err)
	}
	return dir
}

// honest is an image such as a build makes, with times that differ each run.
func honest(t testing.TB, layers ...mutate.Addendum) v1.Image {
	t.Helper()
	image, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Created = v1.Time{Time: time.Now()}
	config.Config.Cmd = []string{"/demo"}
	config.History = []v1.History{{CreatedBy: "COPY", Created: v1.Time{Time: time.Now()}}, {CreatedBy: "RUN"}}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	if image, err = mutate.Append(image, layers...); err != nil {
		t.Fatal(err)
	}
	return image
}

func TestImageIsDeterministic(t *testing.T) {
	t.Parallel()
	dir := built(t, honest(t))
	digest := func(dir string, at time.Time) string {
		t.Helper()
		read, err := layout.Read(t.Context(), dir, layout.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		defer read.Close()
		image, err := read.Image(t.Context(), "linux/amd64", at, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(image); err != nil {
			t.Error(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range append(config.History, v1.History{Created: config.Created}) {
			if !entry.Created.Equal(at) {
				t.Errorf("time %s, want %s", entry.Created, at)
			}
		}
		if !cmp.Equal(config.Config.Cmd, []string{"/demo"}) {
			t.Errorf("command %v", config.Config.Cmd)
		}
		hash, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return hash.String()
	}
	first := digest(dir, commitTime)
	// The same layers built at another time.
	edit(t, dir, func(w *written) {
		w.config["created"] = "2031-01-01T00:00:00Z"
		w.config["docker_extra"] = "unknown fields vanish"
	})
	if second := digest(dir, commitTime); second != first {
		t.Errorf("the build's own time changes the digest: %s, %s", first, second)
	}
	if other := digest(dir, commitTime.Add(time.Hour)); other == first {
		t.Error("another commit's time gives the same digest")
	}
}

func TestMediaTypes(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	encoder, _ := zstd.NewWriter(&packed)
	content := tarOf(t, "file", "content")
	_, _ = encoder.Write(content)
	_ = encoder.Close()
	images := map[string]v1.Image{
		"docker":       honest(t),
		"oci":          mutate.ConfigMediaType(mutate.MediaType(honest(t), types.OCIManifestSchema1), types.OCIConfigJSON),
		"uncompressed": honest(t, mutate.Addendum{Layer: static.NewLayer(content, types.OCIUncompressedLayer)}),
	}
	for name, image := range images {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t, built(t, image), layout.Limits{}, "")
		})
	}
	t.Run("zstd", func(t *testing.T) {
		t.Parallel()
		dir := built(t, honest(t))
		edit(t, dir, func(w *written) {
			w.addLayer(t, packed.Bytes(), types.OCILayerZStd, content)
		})
		check(t, dir, layout.Limits{}, "")
	})
	t.Run("no layers", func(t *testing.T) {
		t.Parallel()
		config := &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}}
		image, err := mutate.ConfigFile(empty.Image, config)
		if err != nil {
			t.Fatal(err)
		}
		check(t, built(t, image), layout.Limits{}, "")
	})
}

// check reads a layout and compares the refusal; empty: it is good. It is
// handed out whole too, as a push does.
func check(t testing.TB, dir string, limits layout.Limits, refusal string) {
	t.Helper()
	read, err := layout.Read(t.Context(), dir, limits)
	if err == nil {
		defer read.Close()
		var image v1.Image
		if image, err = read.Image(t.Context(), "linux/amd64", commitTime, 0); err == nil {
			err = drain(image)
		}
	}
	var fault *layout.FaultError
	switch {
	case refusal == "" && err != nil:
		t.Errorf("a good layout is refused: %v", err)
	case refusal != "" && !errors.As(err, &fault):
		t.Errorf("got %v, want a fault with %q", err, refusal)
	case refusal != "" && !strings.Contains(err.Error(), refusal):
		t.Errorf("got %q, want %q in it", err, refusal)
	}
}

func drain(image v1.Image) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		content, err := layer.Compressed()
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, content)
		if err := errors.Join(err, content.Close()); err != nil {
			return err
		}
	}
	return nil
}

// written is a layout's documents, to be forged.
type written struct {
	dir      string
	index    map[string]any
	manifest map[string]any
	config   map[string]any
	entry    map[string]any // of the index
}

// edit forges documents; descriptors that lead to them are made right again.
func edit(t testing.TB, dir string, forge func(*written)) {
	t.Helper()
	w := &written{dir: dir}
	w.index = parse(t, filepath.Join(dir, "index.json"))
	w.entry = w.index["manifests"].([]any)[0].(map[string]any)
	w.manifest = parse(t, w.blob(w.entry))
	w.config = parse(t, w.blob(w.manifest["config"].(map[string]any)))
	forge(w)
	w.point(t, w.manifest["config"].(map[string]any), w.config)
	w.point(t, w.entry, w.manifest)
	write(t, filepath.Join(dir, "index.json"), encode(t, w.index))
}

func (w *written) blob(descriptor map[string]any) string {
	return filepath.Join(w.dir, "blobs", "sha256", strings.TrimPrefix(descriptor["digest"].(string), "sha256:"))
}

func (w *written) layer(n int) map[string]any {
	return w.manifest["layers"].([]any)[n].(map[string]any)
}

func (w *written) point(t testing.TB, descriptor, to map[string]any) {
	t.Helper()
	content := encode(t, to)
	w.put(t, descriptor, content)
}

func (w *written) put(t testing.TB, descriptor map[string]any, content []byte) {
	t.Helper()
	sum := sha256.Sum256(content)
	descriptor["digest"], descriptor["size"] = "sha256:"+hex.EncodeToString(sum[:]), len(content)
	write(t, w.blob(descriptor), content)
}

func (w *written) addLayer(t testing.TB, packed []byte, mediaType types.MediaType, unpacked []byte) {
	t.Helper()
	descriptor := map[string]any{"mediaType": string(mediaType)}
	w.put(t, descriptor, packed)
	w.manifest["layers"] = append(w.manifest["layers"].([]any), descriptor)
	rootfs := w.config["rootfs"].(map[string]any)
	sum := sha256.Sum256(unpacked)
	rootfs["diff_ids"] = append(rootfs["diff_ids"].([]any), "sha256:"+hex.EncodeToString(sum[:]))
}

func parse(t testing.TB, file string) map[string]any {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var value map[string]any
	if err := json.Unmarshal(raw, &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func encode(t testing.TB, value any) []byte {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func write(t testing.TB, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func tarOf(t testing.TB, name, content string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	if err := writer.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	_, _ = writer.Write([]byte(content))
	_ = writer.Close()
	return buffer.Bytes()
}

// TestChangedAfterTheCheck is a layer that is another one when it is pushed.
func TestChangedAfterTheCheck(t *testing.T) {
	t.Parallel()
	dir := built(t, honest(t))
	read, err := layout.Read(t.Context(), dir, layout.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	image, err := read.Image(t.Context(), "linux/amd64", commitTime, 0)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, dir, func(w *written) {
		content, err := os.ReadFile(w.blob(w.layer(0)))
		if err != nil {
			t.Fatal(err)
		}
		content[len(content)-1] ^= 1
		write(t, w.blob(w.layer(0)), content)
	})
	var fault *layout.FaultError
	if err := drain(image); !errors.As(err, &fault) {
		t.Errorf("got %v", err)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	dir := built(t, honest(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := layout.Read(ctx, dir, layout.Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
