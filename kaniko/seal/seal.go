// Package seal makes an image in a registry count as ours: it signs provenance
// for it, attaches that, and then writes the tag; and it finds images that were
// sealed so before.
//
// It knows orders, images and one signing key, and nothing of how a build runs.
// What always holds: an image counts as ours by a signature of ours over its
// digest and its build key, never by the tag it is found under; a tag of
// somebody else's is neither adopted nor moved; and each step asks first, so
// that it can be repeated from the start after it was killed anywhere.
package seal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/registry"
)

const (
	maxBundle     = 1 << 20 // bytes
	maxCandidates = 2_000   // referrers that are read in search of our own
	maxAside      = 100     // tags beside a clash that are looked at
	readers       = 8

	annotationContent   = "dev.sigstore.bundle.content"
	annotationPredicate = "dev.sigstore.bundle.predicateType"
	annotationCreated   = "org.opencontainers.image.created"
	// annotationKey spares reading what others attached. It proves nothing.
	annotationKey = "dev.towpath.build-key"
)

// Images finds and seals images. It is safe for concurrent use.
type Images struct {
	// Key reads the provenance secret as it is now; see LoadKey.
	Key func() (map[string][]byte, error)
	// Client is the registry client for a destination; it is not closed here.
	Client func(kaniko.Destination) (*registry.Client, error)
	// Ring keeps the decrypted key, for all who share it; nil: one of its own.
	Ring *Ring

	own Ring
}

// Sealed is an image of ours, and what stood in its way.
type Sealed struct {
	Image kaniko.Image // its Digest is empty where there is none
	Clash *Clash       // nil: nobody else used our tag
}

// Clash is an image under a tag of ours that is not of the build asked for.
type Clash struct {
	Repository string
	Tag        string
	Digest     string // sha256:<hex>
	Another    bool   // we sealed it, for another build of the commit; false: somebody else's
}

func (c *Clash) String() string {
	if c.Another {
		return fmt.Sprintf("%s:%s names %s, which we sealed for another build of that commit: by another kaniko, or from another config", c.Repository, c.Tag, c.Digest)
	}
	return fmt.Sprintf("%s:%s names %s, which we did not seal", c.Repository, c.Tag, c.Digest)
}

// Find looks for an image of the order that we sealed: under the order's tag
// or, where somebody else's image is there, under the tags that Seal would have
// used then.
func (i *Images) Find(ctx context.Context, order kaniko.Order) (Sealed, error) {
	key, client, err := i.open(order)
	if err != nil {
		return Sealed{}, fmt.Errorf("find %s: %w", order.Destination.Tag, err)
	}
	search := &search{key: key, client: client, build: order.Key()}
	found, err := search.find(ctx, order.Destination)
	if err != nil {
		return Sealed{}, fmt.Errorf("find %s: %w", order.Destination.Tag, err)
	}
	return found, nil
}

// Seal makes image, which was pushed by digest, ours for good: its manifest is
// read again, provenance is signed and attached and read back, and then the
// order's tag is written. Where that tag is somebody else's, eight digits of the
// digest are added to ours. Where it is ours already for the same build, by
// another copy of us, that image is returned in place of this one.
//
// Dying after the provenance was attached leaves an image that no tag names: it
// is sealed again and tagged by the next run, or swept by the registry.
func (i *Images) Seal(ctx context.Context, order kaniko.Order, image kaniko.Image, run Run) (Sealed, error) {
	fail := func(err error) (Sealed, error) {
		return Sealed{}, fmt.Errorf("seal %s: %w", image.Digest, err)
	}
	key, client, err := i.open(order)
	if err != nil {
		return fail(err)
	}
	search := &search{key: key, client: client, build: order.Key()}
	image.Repository = order.Destination.Repository

	manifest, err := client.Manifest(ctx, image.Digest)
	if err != nil {
		return fail(err)
	}
	if image.Size, err = measure(manifest); err != nil {
		return fail(err)
	}
	if image.Provenance, _, err = search.provenance(ctx, image.Digest); err != nil {
		return fail(err)
	}
	if image.Provenance == "" {
		if image.Provenance, err = search.attach(ctx, NewStatement(order, image, run), manifest.Descriptor()); err != nil {
			return fail(err)
		}
	}
	sealed, err := search.tag(ctx, order.Destination.Tag, image, manifest)
	if err != nil {
		return fail(err)
	}
	return sealed, nil
}

// open reads the key and the client as they are now. A secret that did not
// change is not decrypted again.
func (i *Images) open(order kaniko.Order) (*Key, *registry.Client, error) {
	secret, err := i.Key()
	if err != nil {
		return nil, nil, fmt.Errorf("provenance key: %w", err)
	}
	ring := i.Ring
	if ring == nil {
		ring = &i.own
	}
	key, err := ring.Load(secret)
	if err != nil {
		return nil, nil, err
	}
	client, err := i.Client(order.Destination)
	return key, client, err
}

// search is one look around a repository for images of one build.
type search struct {
	key    *Key
	client *registry.Client
	build  kaniko.Key
}

func (s *search) find(ctx context.Context, destination kaniko.Destination) (Sealed, error) {
	found, err := s.under(ctx, destination.Repository, destination.Tag)
	if err != nil || found.Clash == nil {
		return found, err
	}
	// Our own image may have had to step aside for it.
	tags, _, err := s.client.Tags(ctx, destination.Tag+"-")
	if err != nil {
		return Sealed{}, err
	}
	tags = slices.DeleteFunc(tags, func(tag string) bool {
		return !asideForm.MatchString(strings.TrimPrefix(tag, destination.Tag+"-"))
	})
	for _, tag := range tags[:min(len(tags), maxAside)] {
		digits := strings.TrimPrefix(tag, destination.Tag+"-")
		aside, err := s.under(ctx, destination.Repository, tag)
		if err != nil {
			return Sealed{}, err
		}
		if aside.Image.Digest != "" && strings.HasPrefix(aside.Image.Digest, "sha256:"+digits) {
			return Sealed{Image: aside.Image, Clash: found.Clash}, nil
		}
	}
	return found, nil
}

var asideForm = regexp.MustCompile(`^[0-9a-f]{8}([0-9a-f]{8})?([0-9a-f]{16})?$`)

// under says what one tag names: nothing, an image of ours, or a clash.
func (s *search) under(ctx context.Context, repository, tag string) (Sealed, error) {
	manifest, err := s.client.Resolve(ctx, tag)
	if errors.Is(err, registry.ErrNotFound) {
		return Sealed{}, nil
	}
	if err != nil {
		return Sealed{}, err
	}
	clash := &Clash{Repository: repository, Tag: tag, Digest: manifest.Digest}
	size, odd := measure(manifest)
	if odd != nil {
		return Sealed{Clash: clash}, err
	}
	provenance, another, err := s.provenance(ctx, manifest.Digest)
	if err != nil {
		return Sealed{}, err
	}
	if provenance == "" {
		clash.Another = another
		return Sealed{Clash: clash}, nil
	}
	return Sealed{Image: kaniko.Image{
		Repository: repository, Tag: tag, Digest: manifest.Digest, Provenance: provenance, Size: size,
	}}, nil
}

// provenance finds our seal of an image for this build among all that is
// attached to it, and returns the digest of the manifest that carries it; empty
// if there is none. another tells whether there is one of ours for another build.
func (s *search) provenance(ctx context.Context, digest string) (carrier string, another bool, err error) {
	candidates, _, err := s.client.Referrers(ctx, digest, bundleMediaType)
	if err != nil {
		return "", false, err
	}
	candidates = slices.DeleteFunc(candidates, func(d v1.Descriptor) bool {
		predicate, ok := d.Annotations[annotationPredicate]
		return ok && predicate != PredicateType
	})
	// Whoever floods the list does not keep us from our own for long.
	slices.SortStableFunc(candidates, func(a, b v1.Descriptor) int { return s.rank(a) - s.rank(b) })
	candidates = candidates[:min(len(candidates), maxCandidates)]

	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(readers)
	ours, others := make([]bool, len(candidates)), make([]bool, len(candidates))
	for n, candidate := range candidates {
		group.Go(func() error {
			statement, err := s.read(inner, candidate.Digest.String(), digest)
			switch {
			case err == nil && statement.Key() == s.build:
				ours[n] = true
				return errFound
			case err == nil:
				others[n] = true
				return nil
			case errors.Is(err, ErrNotOurs) || errors.Is(err, registry.ErrNotFound) || errors.Is(err, registry.ErrCorrupt):
				return nil
			default:
				return err
			}
		})
	}
	err = group.Wait()
	if at := slices.Index(ours, true); at >= 0 {
		return candidates[at].Digest.String(), false, nil
	}
	return "", slices.Contains(others, true), err
}

var errFound = errors.New("found")

func (s *search) rank(d v1.Descriptor) int {
	switch d.Annotations[annotationKey] {
	case string(s.build):
		return 0
	case "":
		return 1
	default:
		return 2
	}
}

// read fetches an attached manifest and its bundle by digest and verifies them.
func (s *search) read(ctx context.Context, provenance, image string) (*Statement, error) {
	return Read(ctx, s.client, s.key, provenance, image)
}

// Read fetches the provenance of an image by the digest of the manifest that
// carries it, and verifies it. ErrNotOurs, wrapped, if it is not ours.
func Read(ctx context.Context, client *registry.Client, key *Key, provenance, image string) (*Statement, error) {
	manifest, err := client.Manifest(ctx, provenance)
	if err != nil {
		return nil, err
	}
	var carrier v1.Manifest
	if err := json.Unmarshal(manifest.Raw, &carrier); err != nil {
		return nil, fmt.Errorf("%w: its manifest does not parse", ErrNotOurs)
	}
	if carrier.Subject == nil || carrier.Subject.Digest.String() != image ||
		len(carrier.Layers) != 1 || carrier.Layers[0].MediaType != bundleMediaType || carrier.Layers[0].Size > maxBundle ||
		carrier.Layers[0].Digest.Algorithm != "sha256" {
		return nil, fmt.Errorf("%w: its manifest carries no bundle about %s", ErrNotOurs, image)
	}
	bundle, err := client.Blob(ctx, carrier.Layers[0].Digest.String(), maxBundle)
	if err != nil {
		return nil, err
	}
	return key.Open(bundle, image)
}

// attach signs a statement, attaches it to its image and reads it back.
func (s *search) attach(ctx context.Context, statement *Statement, subject v1.Descriptor) (string, error) {
	bundle, err := s.key.sealed(statement)
	if err != nil {
		return "", err
	}
	annotations := map[string]string{
		annotationContent:   "dsse-envelope",
		annotationPredicate: PredicateType,
		annotationKey:       string(s.build),
	}
	if finished := statement.Predicate.RunDetails.Metadata.FinishedOn; finished != nil {
		annotations[annotationCreated] = finished.Format(time.RFC3339)
	}
	carrier, err := s.client.Attach(ctx, registry.Artifact{
		Subject: subject, MediaType: bundleMediaType, Content: bundle, Annotations: annotations,
	})
	if err != nil {
		return "", err
	}
	read, err := s.read(ctx, carrier.Digest, subject.Digest.String())
	if err != nil {
		return "", fmt.Errorf("read provenance back: %w", err)
	}
	if read.Key() != s.build {
		return "", fmt.Errorf("read provenance back: it is for build %s", read.Key())
	}
	return carrier.Digest, nil
}

// tag writes the tag, or one beside it where somebody else has taken it.
func (s *search) tag(ctx context.Context, tag string, image kaniko.Image, manifest *registry.Manifest) (Sealed, error) {
	var taken *registry.TakenError
	err := s.client.Tag(ctx, manifest, tag)
	if err == nil {
		image.Tag = tag
		return Sealed{Image: image}, nil
	}
	if !errors.As(err, &taken) {
		return Sealed{}, err
	}
	there, err := s.under(ctx, image.Repository, tag)
	if err != nil {
		return Sealed{}, err
	}
	if there.Image.Digest != "" {
		// Another copy of us was faster, with the same build.
		return there, nil
	}
	clash := &Clash{Repository: image.Repository, Tag: tag, Digest: taken.Digest, Another: there.Clash != nil && there.Clash.Another}
	for _, digits := range []int{8, 16, 32} {
		aside := tag + "-" + strings.TrimPrefix(image.Digest, "sha256:")[:digits]
		err = s.client.Tag(ctx, manifest, aside)
		if err == nil {
			image.Tag = aside
			return Sealed{Image: image, Clash: clash}, nil
		}
		if !errors.As(err, &taken) {
			break
		}
	}
	return Sealed{}, err
}

// measure is an image's compressed size by its manifest. What is no image of
// one platform is an error.
func measure(manifest *registry.Manifest) (int64, error) {
	var parsed v1.Manifest
	if err := json.Unmarshal(manifest.Raw, &parsed); err != nil {
		return 0, fmt.Errorf("%w: manifest %s does not parse", registry.ErrCorrupt, manifest.Digest)
	}
	if !types.MediaType(manifest.MediaType).IsImage() {
		return 0, fmt.Errorf("%w: %s is no image manifest", registry.ErrCorrupt, manifest.Digest)
	}
	size := int64(len(manifest.Raw)) + parsed.Config.Size
	for _, layer := range parsed.Layers {
		size += layer.Size
	}
	return size, nil
}
