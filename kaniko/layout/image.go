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
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Image is the layout's image as it is published: for the ordered platform
// (os/arch[/variant]), with no time in it later than the commit's, and its
// manifest and config written anew, so that they hold what was understood and
// nothing else. The same files, config and commit time give the same digest. A
// commit whose date cannot be true, before 1970 or more than a day ahead of this
// machine's clock, counts as one of 1970: no time of the day would be later than the
// year 2099, and all of them would stay. The
// media types and the base's layers stay as they were; layers of the build that
// hold other times are compressed anew, at level (0: the default).
//
// The image reads the layout again while it is pushed. It keeps no copy of it.
func (l *Layout) Image(ctx context.Context, platform string, commit time.Time, level int) (v1.Image, error) {
	ordered, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, fmt.Errorf("platform %q: %w", platform, err)
	}
	if !l.config.Platform().Satisfies(*ordered) {
		return nil, fault("config", "it is for %s, ordered was %q", quote(l.config.Platform().String()), platform)
	}
	config := *l.config.DeepCopy()
	at := v1.Time{Time: believed(commit, time.Now())}
	made, entries := madeHere(config, at.Time)
	config.Created = at
	for i := range config.History {
		if entry := &config.History[i]; i >= len(config.History)-entries || entry.Created.IsZero() || entry.Created.After(at.Time) {
			entry.Created = at
		}
	}

	mine := l.manifest.Layers[len(l.manifest.Layers)-made:]
	rewriter := &rewriter{layout: l, at: at.Time, level: level}
	anew, err := rewriter.all(ctx, mine)
	if err != nil {
		return nil, err
	}
	image := &image{mediaType: l.mediaType, layers: map[v1.Hash]partial.CompressedLayer{}}
	manifest := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     l.mediaType,
		Config:        v1.Descriptor{MediaType: l.manifest.Config.MediaType},
		Layers:        make([]v1.Descriptor, 0, len(l.manifest.Layers)),
		Annotations:   l.manifest.Annotations,
	}
	total := int64(0)
	for i, from := range l.manifest.Layers {
		to := v1.Descriptor{MediaType: from.MediaType, Size: from.Size, Digest: from.Digest, Annotations: from.Annotations}
		open := func() (io.ReadCloser, error) { return l.openLayer(from) }
		if other, ok := anew[from.Digest]; ok && i >= len(l.manifest.Layers)-made {
			// What was said of other bytes, as an index into them, does not hold.
			to, config.RootFS.DiffIDs[i] = other.to, other.diffID
			open = func() (io.ReadCloser, error) { return rewriter.open(other), nil }
		}
		if total += to.Size; total > l.limits.Total {
			return nil, fault("manifest", "with the commit's times its layers are larger than %d bytes", l.limits.Total)
		}
		manifest.Layers = append(manifest.Layers, to)
		image.layers[to.Digest] = &layer{descriptor: to, open: open}
	}

	if image.config, err = writeAnew("config", config, l.limits.Config); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(image.config)
	manifest.Config.Size = int64(len(image.config))
	manifest.Config.Digest = v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
	if image.manifest, err = writeAnew("manifest", manifest, l.limits.Manifest); err != nil {
		return nil, err
	}
	return partial.CompressedToImage(image)
}

// believed is the time that the image of a commit bears, in whole seconds that
// every format of archive can hold.
func believed(commit, now time.Time) time.Time {
	at, first := commit.UTC().Truncate(time.Second), time.Unix(0, 0).UTC()
	if at.Before(first) || at.After(now.Add(24*time.Hour)) {
		return first
	}
	return at
}

// writeAnew writes a document. Some text takes more room in ours than in what was
// left, and a registry would refuse what is too large without saying whose fault
// that is.
func writeAnew(where string, document any, limit int64) ([]byte, error) {
	text, err := json.Marshal(document)
	if err != nil {
		return nil, fault(where, "it cannot be written anew: %s", brief(err.Error()))
	}
	if int64(len(text)) > limit {
		return nil, fault(where, "written anew it is %d bytes large, at most %d are allowed", len(text), limit)
	}
	return text, nil
}

// image is what go-containerregistry makes a v1.Image of.
type image struct {
	mediaType        types.MediaType
	manifest, config []byte
	layers           map[v1.Hash]partial.CompressedLayer
}

func (i *image) RawManifest() ([]byte, error)        { return i.manifest, nil }
func (i *image) RawConfigFile() ([]byte, error)      { return i.config, nil }
func (i *image) MediaType() (types.MediaType, error) { return i.mediaType, nil }
func (i *image) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	found, ok := i.layers[h]
	if !ok {
		return nil, fmt.Errorf("layout: no layer %s", h)
	}
	return found, nil
}

type layer struct {
	descriptor v1.Descriptor
	open       func() (io.ReadCloser, error)
}

func (l *layer) Digest() (v1.Hash, error)            { return l.descriptor.Digest, nil }
func (l *layer) Size() (int64, error)                { return l.descriptor.Size, nil }
func (l *layer) MediaType() (types.MediaType, error) { return l.descriptor.MediaType, nil }
func (l *layer) Compressed() (io.ReadCloser, error)  { return l.open() }

// openLayer hands out a layer's bytes, and an error in place of its end if they
// are not those of its digest.
func (l *Layout) openLayer(descriptor v1.Descriptor) (io.ReadCloser, error) {
	file, err := openFile(l.blobs, descriptor.Digest.Hex, descriptor.Digest.String(), descriptor.Size)
	if err != nil {
		return nil, err
	}
	return newVerified(file, descriptor), nil
}

// verified hands bytes on, and an error in place of their end if they are not
// those of the descriptor.
type verified struct {
	from       io.ReadCloser
	descriptor v1.Descriptor
	left       int64
	hash       hash.Hash
}

func newVerified(from io.ReadCloser, descriptor v1.Descriptor) *verified {
	return &verified{from: from, descriptor: descriptor, left: descriptor.Size, hash: sha256.New()}
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.from.Read(p)
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

func (v *verified) Close() error { return v.from.Close() }

// checkLayer reads a layer to its end: digest and size as the manifest says,
// and unpacked digest as the config says. The second spares a cluster an image
// that no node would unpack. The archive of a layer that this build may have
// made is read for its times, too. Of every layer what its holes unpack to counts.
func (l *Layout) checkLayer(ctx context.Context, descriptor v1.Descriptor, diffID v1.Hash, budget *budget, mine bool) (stamps, error) {
	where := descriptor.Digest.String()
	content, err := l.openLayer(descriptor)
	if err != nil {
		return stamps{}, err
	}
	defer content.Close()
	packed := &cancelled{ctx: ctx, from: content}
	unpacked := sha256.New()
	var found stamps
	source, err := unpack(packed, compressionOf(descriptor.MediaType))
	if err == nil {
		defer source.Close()
		read := io.TeeReader(source, io.MultiWriter(unpacked, budget))
		found, err = readStamps(read, budget)
		if err == nil || !mine && errors.Is(err, errNoArchive) {
			_, err = io.Copy(io.Discard, read)
		}
	}
	if err == nil {
		// What follows the compressed stream belongs to the digest too.
		_, err = io.Copy(io.Discard, packed)
	}
	var wrong *FaultError
	switch {
	case ctx.Err() != nil:
		return stamps{}, ctx.Err()
	case errors.As(err, &wrong):
		return stamps{}, wrong
	case packed.broken != nil:
		return stamps{}, fmt.Errorf("layout: %s: %w", where, packed.broken)
	case errors.Is(err, errBudget):
		return stamps{}, fault(where, "the layers unpack to more than %d bytes", budget.all)
	case err != nil:
		return stamps{}, fault(where, "it does not unpack: %s", brief(err.Error()))
	}
	if got := hex.EncodeToString(unpacked.Sum(nil)); diffID.Algorithm != "sha256" || got != diffID.Hex {
		return stamps{}, fault(where, "it unpacks to sha256:%s, the config says %s", got, quote(diffID.String()))
	}
	return found, nil
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
	if err := b.spend(int64(len(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (b *budget) spend(n int64) error {
	if n > b.all || b.left.Add(-n) < 0 {
		return errBudget
	}
	return nil
}
