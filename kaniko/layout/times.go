package layout

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// kaniko gives every file that it writes the time of day, and every entry of a
// layer its access and change times, so one commit would become another image
// each time. The layers that a build made are therefore written anew with no
// time later than the commit's, as BuildKit's rewrite-timestamp does it.

// author is what kaniko calls itself in an image's history.
const author = "kaniko"

// madeHere is how many of the last layers this build made, and how many of the
// last entries of the history it wrote: kaniko's own, without a time or with one
// that is later than the commit's. An image that we published has its own
// commit's time there, so it stays whole where it is a base. What a hostile
// layout says here decides which of its own bytes are written anew, and nothing
// else.
func madeHere(config v1.ConfigFile, commit time.Time) (layers, entries int) {
	for _, entry := range slices.Backward(config.History) {
		if entry.Author != author || !entry.Created.IsZero() && !entry.Created.After(commit) {
			break
		}
		entries++
		if !entry.EmptyLayer {
			layers++
		}
	}
	return min(layers, len(config.RootFS.DiffIDs)), entries
}

// stamps are the times in a layer's archive.
type stamps struct {
	newest time.Time // of all modification times
	more   bool      // there are access or change times
	sparse bool      // there are files with holes, which cannot be written anew as they are
}

// errNoArchive is what no container runtime would unpack.
var errNoArchive = errors.New("no archive")

// readStamps reads an archive to its end. What its files with holes unpack to is
// taken from the budget.
func readStamps(from io.Reader, budget *budget) (stamps, error) {
	var found stamps
	reader := tar.NewReader(from)
	for {
		header, err := reader.Next()
		switch {
		case errors.Is(err, io.EOF):
			return found, nil
		case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong), errors.Is(err, io.ErrUnexpectedEOF):
			return found, fmt.Errorf("%w: %w", errNoArchive, err)
		case err != nil:
			return found, err
		}
		if isSparse(header) {
			if err := budget.spend(header.Size); err != nil {
				return found, err
			}
		}
		if header.ModTime.After(found.newest) {
			found.newest = header.ModTime
		}
		found.more = found.more || !header.AccessTime.IsZero() || !header.ChangeTime.IsZero()
		found.sparse = found.sparse || isSparse(header)
	}
}

func isSparse(header *tar.Header) bool {
	if header.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for name := range header.PAXRecords {
		if strings.HasPrefix(name, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// errAsItIs is an archive that cannot be written anew without changing more
// than its times. kaniko makes none.
var errAsItIs = errors.New("cannot be written anew")

// clamp copies an archive. Modification times later than at become at, access
// and change times are left out; all else stays. (The first second of the year 1
// becomes 1970: archive/tar takes it for no time.)
func clamp(to io.Writer, from io.Reader, at time.Time) error {
	sink := &recorder{to: to}
	reader, writer := tar.NewReader(from), tar.NewWriter(sink)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeXGlobalHeader {
			if header.ModTime.After(at) {
				header.ModTime = at
			}
			header.AccessTime, header.ChangeTime = time.Time{}, time.Time{}
		}
		if !owned(header.Uid) || !owned(header.Gid) {
			return errAsItIs // who reads it makes of that what it likes
		}
		header.PAXRecords = maps.Clone(header.PAXRecords)
		for _, name := range []string{"mtime", "atime", "ctime"} {
			delete(header.PAXRecords, name) // derived from the fields
		}
		if err := writer.WriteHeader(header); err != nil {
			if sink.err == nil {
				return errAsItIs
			}
			return sink.err
		}
		//nolint:gosec // the layer was unpacked before, within its limit
		if _, err := io.Copy(writer, reader); err != nil {
			return err
		}
	}
	return writer.Close()
}

// owned tells whether a file can have this owner.
func owned(id int) bool { return id >= 0 && id <= math.MaxUint32 }

// recorder tells a header that archive/tar does not write from a writer that
// failed.
type recorder struct {
	to  io.Writer
	err error
}

func (r *recorder) Write(p []byte) (int, error) {
	n, err := r.to.Write(p)
	if err != nil {
		r.err = err
	}
	return n, err
}

// rewritten is a layer that is published in place of one of the layout's.
type rewritten struct {
	from   v1.Descriptor // in the layout
	to     v1.Descriptor
	diffID v1.Hash
}

// rewriter writes layers anew. It keeps none of what it makes: the same layer
// gives the same bytes each time, so what is pushed is made again and compared
// with what was counted and hashed before.
type rewriter struct {
	layout *Layout
	at     time.Time
	level  int
}

// wanted says whether a layer has a time that the commit does not explain.
func (r *rewriter) wanted(layer v1.Descriptor) bool {
	found, scanned := r.layout.stamps[layer.Digest]
	return scanned && !found.sparse && (found.more || found.newest.After(r.at))
}

// all measures what the layers become; those that stay are not in the result.
func (r *rewriter) all(ctx context.Context, layers []v1.Descriptor) (map[v1.Hash]rewritten, error) {
	var mu sync.Mutex
	made := map[v1.Hash]rewritten{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	begun := map[v1.Hash]bool{}
	for _, layer := range layers {
		if begun[layer.Digest] || !r.wanted(layer) {
			continue
		}
		begun[layer.Digest] = true
		group.Go(func() error {
			one, err := r.measure(ctx, layer)
			if errors.Is(err, errAsItIs) {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			made[layer.Digest] = one
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return made, nil
}

// measure finds a rewritten layer's digests and size.
func (r *rewriter) measure(ctx context.Context, layer v1.Descriptor) (rewritten, error) {
	packed, unpacked := sha256.New(), sha256.New()
	size := &counter{left: r.layout.limits.Layer}
	err := r.write(ctx, layer, io.MultiWriter(size, packed), unpacked)
	switch {
	case errors.Is(err, errLimit):
		return rewritten{}, fault(layer.Digest.String(), "with the commit's times it is larger than the %d bytes that are allowed", r.layout.limits.Layer)
	case err != nil:
		return rewritten{}, err
	}
	return rewritten{
		from:   layer,
		to:     v1.Descriptor{MediaType: layer.MediaType, Size: size.n, Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(packed.Sum(nil))}},
		diffID: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(unpacked.Sum(nil))},
	}, nil
}

// write writes a layer anew: packed to one writer, unpacked to the other.
func (r *rewriter) write(ctx context.Context, layer v1.Descriptor, packed, unpacked io.Writer) error {
	where := layer.Digest.String()
	content, err := r.layout.openLayer(layer)
	if err != nil {
		return err
	}
	defer content.Close()
	from := &cancelled{ctx: ctx, from: content}
	source, err := unpack(from, compressionOf(layer.MediaType))
	if err == nil {
		defer source.Close()
		err = r.copy(packed, unpacked, source, compressionOf(layer.MediaType))
	}
	if err == nil {
		// To the end, where the layer's own digest is compared once more.
		_, err = io.Copy(io.Discard, from)
	}
	var found *FaultError
	switch {
	case err == nil || errors.Is(err, errAsItIs) || errors.Is(err, errLimit):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &found):
		return found
	case from.broken != nil:
		return fmt.Errorf("layout: %s: %w", where, from.broken)
	}
	return fmt.Errorf("layout: %s: write with the commit's times: %w", where, err)
}

func (r *rewriter) copy(packed, unpacked io.Writer, source io.Reader, how compression) error {
	packer, err := pack(packed, how, r.level)
	if err != nil {
		return err
	}
	if err := clamp(io.MultiWriter(packer, unpacked), source, r.at); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, source); err != nil {
		return err
	}
	return packer.Close()
}

// pack compresses to the same bytes each time: from one goroutine, with no name
// and no time in the stream. Level 0 is the library's own choice.
func pack(to io.Writer, how compression, level int) (io.WriteCloser, error) {
	switch how {
	case gzipped:
		if level <= 0 || level > gzip.BestCompression {
			level = gzip.DefaultCompression
		}
		return gzip.NewWriterLevel(to, level)
	case zstandard:
		if level <= 0 {
			level = 3
		}
		return zstd.NewWriter(to, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithLowerEncoderMem(true))
	default:
		return plainPacker{to}, nil
	}
}

type plainPacker struct{ io.Writer }

func (plainPacker) Close() error { return nil }

var errLimit = errors.New("larger than allowed")

// counter counts, up to a limit.
type counter struct{ n, left int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	if c.n > c.left {
		return 0, errLimit
	}
	return len(p), nil
}

// open hands out a rewritten layer's bytes, made anew, and an error in place of
// their end if they are not those that were measured.
func (r *rewriter) open(layer rewritten) io.ReadCloser {
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		// A nil error ends the stream.
		_ = writer.CloseWithError(r.write(ctx, layer.from, writer, io.Discard))
	}()
	return newVerified(&piped{PipeReader: reader, cancel: cancel, done: done}, layer.to)
}

// piped ends the writing when the reading ends.
type piped struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

func (p *piped) Close() error {
	p.cancel()
	err := p.PipeReader.Close()
	<-p.done
	return err
}
