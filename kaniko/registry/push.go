package registry

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"
)

// uploads is how many layers are under way at once.
const uploads = 3

// Progress hears how much of an image's compressed bytes are in the registry.
// It is called from several goroutines, one at a time.
type Progress func(done, total int64)

// Push brings an image into the repository under its digest alone; no tag is
// written. What is there already is not sent again, so a push that was cut off
// goes on where it stopped. It returns the manifest's digest and the compressed
// bytes of manifest, config and layers.
func (c *Client) Push(ctx context.Context, image v1.Image, progress Progress) (digest string, size int64, err error) {
	raw, err := image.RawManifest()
	if err != nil {
		return "", 0, err
	}
	mediaType, err := image.MediaType()
	if err != nil {
		return "", 0, err
	}
	manifest := &Manifest{Raw: raw, MediaType: string(mediaType), Digest: digestOf(raw)}
	layers, err := blobs(image)
	if err != nil {
		return "", 0, err
	}
	meter := &meter{report: progress}
	for _, layer := range layers {
		meter.total += layer.size
	}
	size = meter.total + int64(len(raw))

	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(uploads)
	for _, layer := range layers {
		group.Go(func() error { return c.upload(inner, layer, meter) })
	}
	if err := group.Wait(); err != nil {
		return "", 0, err
	}
	if err := c.put(ctx, "push manifest "+manifest.Digest, manifest.Digest, manifest, nil); err != nil {
		return "", 0, err
	}
	return manifest.Digest, size, nil
}

// blob is a layer or a config on its way.
type blob struct {
	v1.Layer
	digest v1.Hash
	size   int64
	meter  *meter
	sent   *atomic.Int64
}

// blobs are the image's config and layers, each once.
func blobs(image v1.Image) ([]blob, error) {
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	config, err := partial.ConfigLayer(image)
	if err != nil {
		return nil, err
	}
	seen := map[v1.Hash]bool{}
	var all []blob
	for _, layer := range append(layers, config) {
		digest, err := layer.Digest()
		if err != nil {
			return nil, err
		}
		size, err := layer.Size()
		if err != nil {
			return nil, err
		}
		if !seen[digest] {
			seen[digest] = true
			all = append(all, blob{Layer: layer, digest: digest, size: size, sent: new(atomic.Int64)})
		}
	}
	return all, nil
}

// upload brings one blob into the repository; each try asks first whether it is
// there, so an upload whose answer was lost is not repeated.
func (c *Client) upload(ctx context.Context, layer blob, meter *meter) error {
	layer.meter = meter
	// A registry forgets an upload when it is restarted, or when the request is
	// answered by another of its replicas: start the blob anew.
	again := func(e *Error) bool {
		return e.has("BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID") ||
			e.Status == http.StatusConflict || e.Status == http.StatusRequestedRangeNotSatisfiable
	}
	err := c.attempt(ctx, "push layer "+layer.digest.String(), false, again, func(ctx context.Context, s *access) error {
		meter.add(-layer.sent.Swap(0))
		return remote.WriteLayer(c.repo, layer,
			remote.WithContext(ctx),
			remote.WithTransport(s.transport),
			// Tries are counted here, with the registry's own Retry-After.
			remote.WithRetryBackoff(remote.Backoff{Steps: 1}),
		)
	})
	if err != nil {
		return err
	}
	meter.add(layer.size - layer.sent.Swap(layer.size))
	return nil
}

// Compressed counts what is read of the layer.
func (b blob) Compressed() (io.ReadCloser, error) {
	content, err := b.Layer.Compressed()
	if err != nil {
		return nil, &localError{err}
	}
	return &metered{ReadCloser: content, blob: b}, nil
}

type metered struct {
	io.ReadCloser
	blob   blob
	closed atomic.Bool
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.blob.sent.Add(int64(n))
	m.blob.meter.add(int64(n))
	// What is closed is the connection's matter: go-containerregistry reads a
	// body again that was sent already when a token expired, and that passes.
	if err != nil && err != io.EOF && !m.closed.Load() {
		err = &localError{err}
	}
	return n, err
}

func (m *metered) Close() error {
	m.closed.Store(true)
	return m.ReadCloser.Close()
}

// localError is our side's: reading the layer failed, not sending it.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

type meter struct {
	mu     sync.Mutex
	done   int64
	total  int64
	report Progress
}

func (m *meter) add(n int64) {
	if m.report == nil || n == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n
	m.report(m.done, m.total)
}

// Check tries the rights that publishing needs: it reads, and it begins an
// upload and gives it up again. Nothing stays behind.
func (c *Client) Check(ctx context.Context) error {
	err := c.attempt(ctx, "list tags", false, nil, func(ctx context.Context, s *access) error {
		page := c.path("tags", "list")
		page.RawQuery = "n=1"
		_, err := c.ask(ctx, s, http.MethodGet, page, nil, nil, maxAnswer, http.StatusOK)
		return err
	})
	// A repository that nothing was pushed to is unknown to many registries.
	if _, err := found(err); err != nil || c.options.ReadOnly {
		return err
	}
	return c.attempt(ctx, "begin an upload", false, nil, func(ctx context.Context, s *access) error {
		start := c.path("blobs", "uploads/")
		answer, err := c.ask(ctx, s, http.MethodPost, start, nil, nil, maxAnswer, http.StatusAccepted)
		if err != nil {
			return err
		}
		location, parsed := start.Parse(answer.header.Get("Location"))
		if parsed != nil || location.Host != start.Host || !strings.HasPrefix(location.Path, "/v2/") {
			// Some registries hand uploads to a storage service: nothing to
			// give up there, it expires.
			return err
		}
		location.Scheme = start.Scheme
		// An upload that nobody ends is swept by the registry; not every one
		// lets a client end it.
		_, _ = c.ask(ctx, s, http.MethodDelete, *location, nil, nil, maxAnswer, http.StatusNoContent)
		return nil
	})
}
