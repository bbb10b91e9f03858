package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Bases pulls base images for a build with a credential that the build itself
// does not get.
type Bases struct {
	Options            // Repository and Insecure are ignored: each base names its own, and see Plain
	Plain     string   // the registry, host[:port], that plain HTTP is allowed with; on loopback it always is
	Allow     []string // repositories that may be pulled, each in full: host[:port]/path
	Platform  string   // os/arch[/variant] to choose from an index
	MaxSize   int64    // compressed bytes of one image; 0: 8 GiB
	Directory string   // kaniko's --cache-dir
}

// NotAllowedError is a base image that no credential may be used for. It is
// the commit's own fault, or the config's.
type NotAllowedError struct {
	Reference string
	Reason    string
}

func (e *NotAllowedError) Error() string { return "base " + e.Reference + ": " + e.Reason }

// Hint says where such images are allowed.
func (e *NotAllowedError) Hint() string {
	return "build.pull.allow lists the repositories that bases may come from, and each such base is pinned by digest"
}

// Allowed says whether a base image, as a Dockerfile names it, is in a
// repository that Pull pulls from. Others are left to kaniko, which has no
// credential for them. One that is not pinned by digest is Pull's to refuse:
// kaniko could not pull it either.
func (b *Bases) Allowed(reference string) bool {
	parsed, err := name.ParseReference(reference, name.WeakValidation)
	return err == nil && b.allows(parsed.Context())
}

// Pull brings the image that reference names, pinned by digest, to where kaniko
// looks for it before it asks the network: a Docker archive called
// sha256:<hex>, and its manifest beside it with .json at the end. The digest is
// the one in the reference, even where that is an index. (pkg/cache in kaniko's
// source: LocalSource; kaniko looks there with --cache only.)
func (b *Bases) Pull(ctx context.Context, reference string) error {
	repository, digest, err := b.parse(reference)
	if err != nil {
		return err
	}
	if !b.allows(repository) {
		return &NotAllowedError{reference, "its repository is not allowed"}
	}
	options := b.Options
	options.Repository, options.ReadOnly, options.Insecure = repository.Name(), true, b.plain(repository)
	client, err := New(options)
	if err != nil {
		return err
	}
	defer client.Close()
	final := filepath.Join(b.Directory, digest)
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	manifest, err := client.choose(ctx, digest, b.Platform)
	if err != nil {
		return fmt.Errorf("base %s: %w", reference, err)
	}
	if err := b.measure(reference, manifest); err != nil {
		return err
	}
	return client.archive(ctx, manifest, final)
}

func (b *Bases) parse(reference string) (name.Repository, string, error) {
	parsed, err := name.NewDigest(reference, name.WeakValidation)
	if err != nil {
		return name.Repository{}, "", &NotAllowedError{clean(reference, 200), "it is not pinned by digest"}
	}
	return parsed.Context(), parsed.DigestStr(), checkDigest(parsed.DigestStr())
}

func (b *Bases) allows(repository name.Repository) bool {
	return slices.ContainsFunc(b.Allow, func(allowed string) bool {
		parsed, err := name.NewRepository(allowed, name.WeakValidation)
		return err == nil && parsed.Name() == repository.Name()
	})
}

// plain says whether a base's registry is the one that plain HTTP is allowed
// with.
func (b *Bases) plain(repository name.Repository) bool {
	allowed, err := name.NewRegistry(b.Plain, name.WeakValidation)
	return b.Plain != "" && err == nil && allowed.RegistryStr() == repository.RegistryStr()
}

// choose reads a manifest by digest; of an index, the one for the platform.
func (c *Client) choose(ctx context.Context, digest, platform string) (*Manifest, error) {
	manifest, err := c.Manifest(ctx, digest)
	if err != nil {
		return nil, err
	}
	if !types.MediaType(manifest.MediaType).IsIndex() {
		return manifest, nil
	}
	wanted, err := v1.ParsePlatform(platform)
	if err != nil {
		return nil, err
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(manifest.Raw))
	if err != nil {
		return nil, c.corrupt("index " + digest + " is none")
	}
	for _, entry := range index.Manifests {
		if entry.MediaType.IsImage() && entry.Platform != nil && entry.Platform.Satisfies(*wanted) {
			return c.Manifest(ctx, entry.Digest.String())
		}
	}
	return nil, fmt.Errorf("%s has no image for %s", digest, platform)
}

func (b *Bases) measure(reference string, manifest *Manifest) error {
	if !types.MediaType(manifest.MediaType).IsImage() {
		return &NotAllowedError{reference, fmt.Sprintf("it is no image but %q", clean(manifest.MediaType, 100))}
	}
	parsed, err := v1.ParseManifest(bytes.NewReader(manifest.Raw))
	if err != nil {
		return &NotAllowedError{reference, "its manifest does not parse"}
	}
	limit := b.MaxSize
	if limit == 0 {
		limit = 8 << 30
	}
	total := int64(0)
	for _, layer := range parsed.Layers {
		if len(layer.URLs) > 0 || !layer.MediaType.IsDistributable() {
			return &NotAllowedError{reference, "it has a layer that is kept elsewhere"}
		}
		if layer.Size < 0 || layer.Size > limit {
			return &NotAllowedError{reference, fmt.Sprintf("it is larger than %d bytes", limit)}
		}
		if total += layer.Size; total > limit {
			return &NotAllowedError{reference, fmt.Sprintf("it is larger than %d bytes", limit)}
		}
	}
	return nil
}

// archive writes the image of a manifest as a Docker archive. It appears under
// its name when it is complete.
func (c *Client) archive(ctx context.Context, manifest *Manifest, final string) error {
	return c.attempt(ctx, "pull base "+manifest.Digest, true, nil, func(ctx context.Context, s *access) error {
		image, err := partial.CompressedToImage(&remoteImage{client: c, access: s, ctx: ctx, manifest: manifest})
		if err != nil {
			return err
		}
		file, err := os.CreateTemp(filepath.Dir(final), ".pulling-*")
		if err != nil {
			return &localError{err}
		}
		defer os.Remove(file.Name())
		defer file.Close()
		reference := c.repo.Digest(manifest.Digest)
		if err := tarball.Write(reference, image, &localWriter{file}); err != nil {
			return err
		}
		if err := errors.Join(file.Chmod(0o644), file.Close()); err != nil {
			return &localError{err}
		}
		if err := os.WriteFile(final+".json", manifest.Raw, 0o644); err != nil {
			return &localError{err}
		}
		if err := os.Rename(file.Name(), final); err != nil {
			return &localError{err}
		}
		return nil
	})
}

// localWriter tells a full disk from a cut connection.
type localWriter struct{ io.Writer }

func (w *localWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		err = &localError{err}
	}
	return n, err
}

// remoteImage is an image whose manifest was read and checked already.
type remoteImage struct {
	client   *Client
	access   *access
	ctx      context.Context
	manifest *Manifest
	config   []byte
}

func (i *remoteImage) RawManifest() ([]byte, error) { return i.manifest.Raw, nil }

func (i *remoteImage) MediaType() (types.MediaType, error) {
	return types.MediaType(i.manifest.MediaType), nil
}

func (i *remoteImage) RawConfigFile() ([]byte, error) {
	if i.config != nil {
		return i.config, nil
	}
	parsed, err := v1.ParseManifest(bytes.NewReader(i.manifest.Raw))
	if err != nil {
		return nil, err
	}
	answer, err := i.client.ask(i.ctx, i.access, "GET", i.client.path("blobs", parsed.Config.Digest.String()), nil, nil, maxAnswer, 200)
	if err != nil {
		return nil, err
	}
	if digestOf(answer.body) != parsed.Config.Digest.String() {
		return nil, i.client.corrupt("the registry serves another config than the manifest names")
	}
	i.config = answer.body
	return i.config, nil
}

// LayerByDigest is read from the registry, go-containerregistry checking size
// and digest on the way.
func (i *remoteImage) LayerByDigest(hash v1.Hash) (partial.CompressedLayer, error) {
	parsed, err := v1.ParseManifest(bytes.NewReader(i.manifest.Raw))
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(parsed.Layers, func(d v1.Descriptor) bool { return d.Digest == hash })
	if at < 0 {
		return nil, fmt.Errorf("layer %s is not in the manifest", hash)
	}
	layer, err := remote.Layer(i.client.repo.Digest(hash.String()),
		remote.WithContext(i.ctx), remote.WithTransport(i.access.transport))
	if err != nil {
		return nil, err
	}
	return &describedLayer{Layer: layer, descriptor: parsed.Layers[at]}, nil
}

type describedLayer struct {
	v1.Layer
	descriptor v1.Descriptor
}

func (l *describedLayer) Size() (int64, error)                { return l.descriptor.Size, nil }
func (l *describedLayer) MediaType() (types.MediaType, error) { return l.descriptor.MediaType, nil }
func (l *describedLayer) Digest() (v1.Hash, error)            { return l.descriptor.Digest, nil }

// Compressed bounds the layer by the size that the manifest names.
func (l *describedLayer) Compressed() (io.ReadCloser, error) {
	content, err := l.Layer.Compressed()
	if err != nil {
		return nil, err
	}
	return &exactly{content, l.descriptor.Size}, nil
}

type exactly struct {
	io.ReadCloser
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if e.left -= int64(n); e.left < 0 {
		return 0, errors.New("a layer is larger than its manifest says")
	}
	if err == io.EOF && e.left > 0 {
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}
