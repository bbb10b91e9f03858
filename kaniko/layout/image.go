package layout

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Image is the layout's image as it is published: for the ordered platform
// (os/arch[/variant]), with created in place of every time in its config, and
// its manifest and config written anew, so that they hold what was understood
// and nothing else. The same layers, config and time give the same digest. The
// media types stay as the build chose them.
func (l *Layout) Image(platform string, created time.Time) (v1.Image, error) {
	ordered, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, fmt.Errorf("platform %q: %w", platform, err)
	}
	if !l.config.Platform().Satisfies(*ordered) {
		return nil, fault("config", "it is for %s, ordered was %q", quote(l.config.Platform().String()), platform)
	}
	config := *l.config.DeepCopy()
	at := v1.Time{Time: created.UTC().Truncate(time.Second)}
	config.Created = at
	for i := range config.History {
		config.History[i].Created = at
	}
	rawConfig, err := json.Marshal(config)
	if err != nil {
		return nil, fault("config", "it cannot be written anew: %s", brief(err.Error()))
	}
	sum := sha256.Sum256(rawConfig)
	manifest := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     l.mediaType,
		Config: v1.Descriptor{
			MediaType: l.manifest.Config.MediaType,
			Size:      int64(len(rawConfig)),
			Digest:    v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])},
		},
		Layers:      make([]v1.Descriptor, 0, len(l.manifest.Layers)),
		Annotations: l.manifest.Annotations,
	}
	for _, layer := range l.manifest.Layers {
		manifest.Layers = append(manifest.Layers, v1.Descriptor{
			MediaType: layer.MediaType, Size: layer.Size, Digest: layer.Digest, Annotations: layer.Annotations,
		})
	}
	rawManifest, err := json.Marshal(manifest)
	if err != nil {
		return nil, fault("manifest", "it cannot be written anew: %s", brief(err.Error()))
	}
	return partial.CompressedToImage(&image{layout: l, manifest: rawManifest, config: rawConfig})
}

// image is what go-containerregistry makes a v1.Image of.
type image struct {
	layout           *Layout
	manifest, config []byte
}

func (i *image) RawManifest() ([]byte, error)        { return i.manifest, nil }
func (i *image) RawConfigFile() ([]byte, error)      { return i.config, nil }
func (i *image) MediaType() (types.MediaType, error) { return i.layout.mediaType, nil }
func (i *image) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	layers := i.layout.manifest.Layers
	at := slices.IndexFunc(layers, func(d v1.Descriptor) bool { return d.Digest == h })
	if at < 0 {
		return nil, fmt.Errorf("layout: no layer %s", h)
	}
	return &layer{layout: i.layout, descriptor: layers[at]}, nil
}

type layer struct {
	layout     *Layout
	descriptor v1.Descriptor
}

func (l *layer) Digest() (v1.Hash, error)            { return l.descriptor.Digest, nil }
func (l *layer) Size() (int64, error)                { return l.descriptor.Size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return l.descriptor.MediaType, nil }
func (l *layer) Compressed() (io.ReadCloser, error)  { return l.layout.openLayer(l.descriptor) }

// openLayer hands out a layer's bytes, and an error in place of its end if they
// are not those of its digest.
func (l *Layout) openLayer(descriptor v1.Descriptor) (io.ReadCloser, error) {
	file, err := openFile(l.blobs, descriptor.Digest.Hex, descriptor.Digest.String(), descriptor.Size)
	if err != nil {
		return nil, err
	}
	return &verified{file: file, descriptor: descriptor, left: descriptor.Size, hash: sha256.New()}, nil
}

type verified struct {
	file       *os.File
	descriptor v1.Descriptor
	left       int64
	hash       hash.Hash
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.file.Read(p)
	v.hash.Write(p[:n])
	v.left -= int64(n)
	switch {
	case v.left < 0:
		return 0, fault(v.descriptor.Digest.String(), "it is larger than its descriptor's %d bytes", v.descriptor.Size)
	case errors.Is(err, io.EOF) && v.left > 0:
		return 0, fault(v.descriptor.Digest.String(), "it ends %d bytes before its descriptor's %d", v.left, v.descriptor.Size)
	case errors.Is(err, io.EOF) && hex.EncodeToString(v.hash.Sum(nil)) != v.descriptor.Digest.Hex:
		return 0, fault(v.descriptor.Digest.String(), "its digest is sha256:%x", v.hash.Sum(nil))
	}
	return n, err
}

func (v *verified) Close() error { return v.file.Close() }

// checkLayer reads a layer to its end: digest and size as the manifest says,
// and unpacked digest as the config says. The second spares a cluster an image
// that no node would unpack.
func (l *Layout) checkLayer(ctx context.Context, descriptor v1.Descriptor, diffID v1.Hash, budget *budget) error {
	where := descriptor.Digest.String()
	content, err := l.openLayer(descriptor)
	if err != nil {
		return err
	}
	defer content.Close()
	packed := &cancelled{ctx: ctx, from: content}
	unpacked := sha256.New()
	source, err := unpack(packed, compressionOf(descriptor.MediaType))
	if err == nil {
		defer source.Close()
		_, err = io.Copy(io.MultiWriter(unpacked, budget), source)
	}
	if err == nil {
		// What follows the compressed stream belongs to the digest too.
		_, err = io.Copy(io.Discard, packed)
	}
	var found *FaultError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &found):
		return found
	case packed.broken != nil:
		return fmt.Errorf("layout: %s: %w", where, packed.broken)
	case errors.Is(err, errBudget):
		return fault(where, "the layers unpack to more than %d bytes", budget.all)
	case err != nil:
		return fault(where, "it does not unpack: %s", brief(err.Error()))
	}
	if got := hex.EncodeToString(unpacked.Sum(nil)); diffID.Algorithm != "sha256" || got != diffID.Hex {
		return fault(where, "it unpacks to sha256:%s, the config says %s", got, quote(diffID.String()))
	}
	return nil
}

func unpack(from io.Reader, how compression) (io.ReadCloser, error) {
	switch how {
	case gzipped:
		return gzip.NewReader(bufio.NewReaderSize(from, 64<<10))
	case zstandard:
		decoder, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return decoder.IOReadCloser(), nil
	default:
		return io.NopCloser(from), nil
	}
}

// cancelled stops when the work is given up, and keeps the machine's errors
// apart from the content's.
type cancelled struct {
	ctx    context.Context
	from   io.Reader
	broken error
}

func (c *cancelled) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.from.Read(p)
	if found := (*FaultError)(nil); err != nil && !errors.Is(err, io.EOF) && !errors.As(err, &found) {
		c.broken = err
	}
	return n, err
}

// budget is what all layers together may unpack to.
type budget struct {
	all  int64
	left atomic.Int64
}

var errBudget = errors.New("unpacks to too much")

func newBudget(all int64) *budget {
	b := &budget{all: all}
	b.left.Store(all)
	return b
}

func (b *budget) Write(p []byte) (int, error) {
	if b.left.Add(-int64(len(p))) < 0 {
		return 0, errBudget
	}
	return len(p), nil
}
