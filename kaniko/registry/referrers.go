package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	maxReferrers     = 5_000
	maxReferrerPages = 100
	maxList          = 3 << 20 // bytes of a fallback list

	emptyMediaType = "application/vnd.oci.empty.v1+json" // OCI image specification 1.1, "guidance for an empty descriptor"
)

// Artifact is one blob that is attached to a manifest.
type Artifact struct {
	Subject     v1.Descriptor
	MediaType   string // of the content, and the artifact's type
	Content     []byte
	Annotations map[string]string
}

// Attach pushes an artifact as a manifest of its own whose subject is another,
// as the OCI distribution specification 1.1 has it, and returns the digest of
// that manifest. Where the registry has no referrers API the subject's fallback
// tag lists it.
func (c *Client) Attach(ctx context.Context, artifact Artifact) (*Manifest, error) {
	content := static.NewLayer(artifact.Content, types.MediaType(artifact.MediaType))
	empty := static.NewLayer([]byte("{}"), emptyMediaType)
	describe := func(layer v1.Layer, size int) (v1.Descriptor, error) {
		digest, err := layer.Digest()
		if err != nil {
			return v1.Descriptor{}, err
		}
		mediaType, err := layer.MediaType()
		if err != nil {
			return v1.Descriptor{}, err
		}
		err = c.upload(ctx, blob{Layer: layer, digest: digest, size: int64(size), sent: new(atomic.Int64)}, &meter{})
		return v1.Descriptor{MediaType: mediaType, Digest: digest, Size: int64(size)}, err
	}
	layer, err := describe(content, len(artifact.Content))
	if err != nil {
		return nil, err
	}
	config, err := describe(empty, 2)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		ArtifactType:  artifact.MediaType,
		Config:        config,
		Layers:        []v1.Descriptor{layer},
		Annotations:   artifact.Annotations,
		Subject:       &artifact.Subject,
	})
	if err != nil {
		return nil, err
	}
	manifest := &Manifest{Raw: raw, MediaType: string(types.OCIManifestSchema1), Digest: digestOf(raw)}
	listed := false
	err = c.put(ctx, "attach "+manifest.Digest, manifest.Digest, manifest, func(header http.Header) {
		// The registry says so when it has entered the referrer itself.
		listed = header.Get("OCI-Subject") == artifact.Subject.Digest.String()
	})
	if err != nil || listed {
		return manifest, err
	}
	descriptor := manifest.Descriptor()
	descriptor.ArtifactType = artifact.MediaType
	descriptor.Annotations = artifact.Annotations
	return manifest, c.enter(ctx, artifact.Subject.Digest.String(), descriptor)
}

// enter puts a referrer into the fallback list of its subject, unless the
// registry has the referrers API.
func (c *Client) enter(ctx context.Context, subject string, descriptor v1.Descriptor) error {
	if _, _, err := c.referrersAPI(ctx, subject, ""); !errors.Is(err, errNoReferrers) {
		return err
	}
	for range 8 {
		list, err := c.fallback(ctx, subject)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(list.Manifests, func(d v1.Descriptor) bool { return d.Digest == descriptor.Digest }) {
			return nil
		}
		list.Manifests = append([]v1.Descriptor{descriptor}, list.Manifests...)
		raw, err := json.Marshal(list)
		if err != nil {
			return err
		}
		// Somebody filled the list up to what the registry takes, so as to keep
		// us out of it: the end of it goes.
		for len(raw) > maxList {
			list.Manifests = list.Manifests[:(len(list.Manifests)+1)/2]
			if raw, err = json.Marshal(list); err != nil {
				return err
			}
		}
		index := &Manifest{Raw: raw, MediaType: string(types.OCIImageIndex), Digest: digestOf(raw)}
		if err := c.put(ctx, "list the referrer "+descriptor.Digest.String(), fallbackTag(subject), index, nil); err != nil {
			return err
		}
		// The specification has no compare-and-swap for a tag: somebody else's
		// write may have taken our entry out again, so read until it is there.
	}
	return &Error{Op: "list the referrer " + descriptor.Digest.String(), Host: c.repo.RegistryStr(), Text: "somebody else keeps overwriting the list"}
}

// fallback is the list of referrers under the fallback tag; an empty one if
// there is none, or if what is there is no list.
func (c *Client) fallback(ctx context.Context, subject string) (*v1.IndexManifest, error) {
	empty := &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	manifest, err := c.manifest(ctx, "read referrers of "+subject, fallbackTag(subject))
	if isOversize(err) {
		return empty, nil
	}
	if is, err := found(err); !is {
		return empty, err
	}
	if list, ok := parseList(manifest.Raw); ok {
		return list, nil
	}
	return empty, nil
}

// isOversize is a list that somebody filled. It is no reason to stop: what is
// not found in it is made again.
func isOversize(err error) bool {
	var large *Error
	return errors.As(err, &large) && large.oversize
}

func parseList(raw []byte) (*v1.IndexManifest, bool) {
	var list entries
	err := json.Unmarshal(raw, &list)
	return &v1.IndexManifest{SchemaVersion: 2, MediaType: list.MediaType, Manifests: list.readable()},
		err == nil && list.MediaType == types.OCIImageIndex
}

// entries is a list of referrers whose entries are read one by one.
type entries struct {
	MediaType types.MediaType   `json:"mediaType"`
	Manifests []json.RawMessage `json:"manifests"`
}

// readable are those that can be asked for by a digest that we compute. Others
// are left out: whoever may push could hide ours with one that breaks the list.
func (e entries) readable() []v1.Descriptor {
	all := make([]v1.Descriptor, 0, len(e.Manifests))
	for _, raw := range e.Manifests {
		var descriptor v1.Descriptor
		if json.Unmarshal(raw, &descriptor) == nil && checkDigest(descriptor.Digest.String()) == nil {
			all = append(all, descriptor)
		}
	}
	return all
}

func fallbackTag(subject string) string { return strings.Replace(subject, ":", "-", 1) }

// Referrers lists what is attached to a manifest, by the referrers API and all
// its pages, or by the fallback tag where the registry has no such API. Those
// known to be of another artifact type are left out. What the list says is hearsay: each
// entry has to be read by its digest. more says that a bound was reached which
// no honest repository reaches.
func (c *Client) Referrers(ctx context.Context, subject, artifactType string) (referrers []v1.Descriptor, more bool, err error) {
	if err := checkDigest(subject); err != nil {
		return nil, false, err
	}
	referrers, more, err = c.referrersAPI(ctx, subject, artifactType)
	if errors.Is(err, errNoReferrers) {
		list, err := c.fallback(ctx, subject)
		if err != nil {
			return nil, false, err
		}
		referrers, more = list.Manifests, len(list.Manifests) > maxReferrers
		referrers = referrers[:min(len(referrers), maxReferrers)]
		return onlyType(referrers, artifactType), more, nil
	}
	return referrers, more, err
}

var errNoReferrers = errors.New("the registry has no referrers API")

func (c *Client) referrersAPI(ctx context.Context, subject, artifactType string) (referrers []v1.Descriptor, more bool, err error) {
	page := c.path("referrers", subject)
	if artifactType != "" {
		page.RawQuery = url.Values{"artifactType": {artifactType}}.Encode()
	}
	count := 0
	for range maxReferrerPages {
		var list entries
		var next *url.URL
		missing := false
		err := c.attempt(ctx, "read referrers of "+subject, false, nil, func(ctx context.Context, s *access) error {
			header := http.Header{"Accept": {string(types.OCIImageIndex)}}
			// What registries without this API answer is not specified.
			answer, err := c.ask(ctx, s, http.MethodGet, page, header, nil, maxManifest, http.StatusOK,
				http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented)
			if err != nil {
				return err
			}
			mediaType, _, _ := strings.Cut(answer.header.Get("Content-Type"), ";")
			if answer.status != http.StatusOK || mediaType != string(types.OCIImageIndex) {
				missing = true
				return nil
			}
			list = entries{} // another try's
			if err := json.Unmarshal(answer.body, &list); err != nil {
				return c.corrupt("the list of referrers is not what the specification says")
			}
			next, err = c.next(page, answer.header)
			return err
		})
		if isOversize(err) {
			return referrers, true, nil
		}
		if err != nil {
			return nil, false, err
		}
		if missing {
			if count > 0 {
				return referrers, true, nil
			}
			return nil, false, errNoReferrers
		}
		count += len(list.Manifests)
		referrers = append(referrers, onlyType(list.readable(), artifactType)...)
		if next == nil {
			return referrers, false, nil
		}
		if count > maxReferrers {
			return referrers, true, nil
		}
		page = *next
	}
	return referrers, true, nil
}

// onlyType drops what is certainly of another type. Some registries give the
// type of the config, or none, where the artifact's belongs.
func onlyType(all []v1.Descriptor, artifactType string) []v1.Descriptor {
	return slices.DeleteFunc(slices.Clone(all), func(d v1.Descriptor) bool {
		return artifactType != "" && d.ArtifactType != "" && d.ArtifactType != emptyMediaType && d.ArtifactType != artifactType
	})
}
