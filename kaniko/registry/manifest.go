package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	maxManifest = 4 << 20 // bytes; what registries themselves accept
	maxTags     = 200_000
	maxPages    = 500
)

// accepted are the manifests that we ask for.
var accepted = strings.Join([]string{
	string(types.OCIManifestSchema1), string(types.DockerManifestSchema2),
	string(types.OCIImageIndex), string(types.DockerManifestList),
}, ", ")

var tagForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// Manifest is one as a registry keeps it.
type Manifest struct {
	Raw       []byte
	MediaType string // what the manifest says of itself; what the registry says, where it says nothing
	Digest    string // recomputed from Raw, sha256:<hex>
}

// Descriptor describes the manifest as others refer to it.
func (m *Manifest) Descriptor() v1.Descriptor {
	return v1.Descriptor{
		MediaType: types.MediaType(m.MediaType),
		Digest:    v1.Hash{Algorithm: "sha256", Hex: strings.TrimPrefix(m.Digest, "sha256:")},
		Size:      int64(len(m.Raw)),
	}
}

// Manifest reads one by digest. ErrNotFound if there is none, ErrCorrupt if the
// registry serves other bytes.
func (c *Client) Manifest(ctx context.Context, digest string) (*Manifest, error) {
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	return c.manifest(ctx, "read manifest "+digest, digest)
}

// Resolve says which digest a tag names now, computed from what the registry
// serves. ErrNotFound if the tag does not exist.
func (c *Client) Resolve(ctx context.Context, tag string) (*Manifest, error) {
	if !tagForm.MatchString(tag) {
		return nil, fmt.Errorf("tag %q is not one", clean(tag, 150))
	}
	return c.manifest(ctx, "read tag "+tag, tag)
}

func (c *Client) manifest(ctx context.Context, op, reference string) (*Manifest, error) {
	var got *Manifest
	err := c.attempt(ctx, op, false, nil, func(ctx context.Context, s *access) error {
		header := http.Header{"Accept": {accepted}}
		answer, err := c.ask(ctx, s, http.MethodGet, c.path("manifests", reference), header, nil, maxManifest, http.StatusOK)
		if err != nil {
			return err
		}
		got = &Manifest{Raw: answer.body, MediaType: mediaTypeOf(answer), Digest: digestOf(answer.body)}
		if strings.HasPrefix(reference, "sha256:") && got.Digest != reference {
			return c.corrupt("the registry serves a manifest with digest " + got.Digest)
		}
		return nil
	})
	return got, err
}

// Tag makes a tag name a manifest that is in the repository. A tag that names
// it already is left alone, since registries with immutable tags refuse even
// that; one that names another manifest is a *TakenError: a tag is never moved.
func (c *Client) Tag(ctx context.Context, manifest *Manifest, tag string) error {
	check := func() (bool, error) {
		now, err := c.Resolve(ctx, tag)
		if is, err := found(err); !is {
			return false, err
		}
		if now.Digest != manifest.Digest {
			return false, &TakenError{Tag: tag, Digest: now.Digest}
		}
		return true, nil
	}
	if done, err := check(); done || err != nil {
		return err
	}
	put := c.put(ctx, "write tag "+tag, tag, manifest, nil)
	// Whatever the answer was, the tag is what the registry says it is now: a
	// lost answer to a PUT that was carried out is a success, and somebody else
	// may have been faster.
	done, err := check()
	switch {
	case done:
		return nil
	case put != nil:
		if taken := (&TakenError{}); errors.As(err, &taken) {
			return err
		}
		return put
	case err != nil:
		return err
	}
	return &Error{Op: "write tag " + tag, Host: c.repo.RegistryStr(), Text: "the registry took the tag and does not know it", passing: true}
}

// TakenError is a tag that names something else than what it should.
type TakenError struct {
	Tag    string
	Digest string // what it names, sha256:<hex>
}

func (e *TakenError) Error() string {
	return fmt.Sprintf("tag %s names %s already", e.Tag, e.Digest)
}

// put writes a manifest under a digest or a tag. keep sees the headers of the
// registry's answer.
func (c *Client) put(ctx context.Context, op, reference string, manifest *Manifest, keep func(http.Header)) error {
	return c.attempt(ctx, op, false, nil, func(ctx context.Context, s *access) error {
		header := http.Header{"Content-Type": {manifest.MediaType}}
		answer, err := c.ask(ctx, s, http.MethodPut, c.path("manifests", reference), header, manifest.Raw, maxAnswer,
			http.StatusCreated, http.StatusOK, http.StatusAccepted)
		if err == nil && keep != nil {
			keep(answer.header)
		}
		return err
	})
}

// Tags lists the tags that begin with prefix. Pages are followed as far as a
// bound that no honest repository reaches; more says that it was reached.
func (c *Client) Tags(ctx context.Context, prefix string) (tags []string, more bool, err error) {
	page := c.path("tags", "list")
	page.RawQuery = "n=1000"
	seen := 0
	for range maxPages {
		var list struct {
			Tags []string `json:"tags"`
		}
		var next *url.URL
		err := c.attempt(ctx, "list tags", false, nil, func(ctx context.Context, s *access) error {
			answer, err := c.ask(ctx, s, http.MethodGet, page, nil, nil, maxAnswer, http.StatusOK)
			if err != nil {
				return err
			}
			if err := json.Unmarshal(answer.body, &list); err != nil {
				return c.corrupt("the list of tags is not what the specification says")
			}
			next, err = c.next(page, answer.header)
			return err
		})
		if is, err := found(err); !is {
			return tags, false, err
		}
		for _, tag := range list.Tags {
			if strings.HasPrefix(tag, prefix) && tagForm.MatchString(tag) {
				tags = append(tags, tag)
			}
		}
		seen += len(list.Tags)
		if next == nil {
			return tags, false, nil
		}
		if seen > maxTags {
			return tags, true, nil
		}
		page = *next
	}
	return tags, true, nil
}

// next is the following page of a list (RFC 8288), nil if there is none. It
// stays in the same list of the same registry.
func (c *Client) next(page url.URL, header http.Header) (*url.URL, error) {
	for _, link := range strings.Split(strings.Join(header.Values("Link"), ","), ",") {
		target, parameters, _ := strings.Cut(strings.TrimSpace(link), ";")
		if !strings.Contains(strings.ReplaceAll(parameters, " ", ""), `rel="next"`) && strings.TrimSpace(parameters) != "rel=next" {
			continue
		}
		parsed, err := url.Parse(strings.Trim(target, "<>"))
		if err != nil {
			return nil, c.corrupt("the address of the next page is none")
		}
		next := page.ResolveReference(parsed)
		if next.Host != page.Host || next.Path != page.Path || next.RawQuery == page.RawQuery {
			return nil, &refusal{reason: "the next page of a list leads elsewhere"}
		}
		next.Scheme = page.Scheme
		return next, nil
	}
	return nil, nil
}

// Blob reads a small blob of at most limit bytes.
func (c *Client) Blob(ctx context.Context, digest string, limit int64) ([]byte, error) {
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	var content []byte
	err := c.attempt(ctx, "read blob "+digest, false, nil, func(ctx context.Context, s *access) error {
		answer, err := c.ask(ctx, s, http.MethodGet, c.path("blobs", digest), nil, nil, limit, http.StatusOK)
		if err != nil {
			return err
		}
		if got := digestOf(answer.body); got != digest {
			return c.corrupt("the registry serves a blob with digest " + got)
		}
		content = answer.body
		return nil
	})
	return content, err
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// ask makes one request and reads its whole answer of at most limit bytes. A
// status that was not expected is an error.
func (c *Client) ask(ctx context.Context, s *access, method string, target url.URL, header http.Header, body []byte, limit int64, expected ...int) (*answer, error) {
	var content io.Reader
	if body != nil {
		content = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, target.String(), content)
	if err != nil {
		return nil, err
	}
	for key, values := range header {
		req.Header[key] = values
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := transport.CheckError(resp, expected...); err != nil {
		return nil, err
	}
	read, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(read)) > limit {
		large := c.corrupt(fmt.Sprintf("the answer is larger than %d bytes", limit))
		large.oversize = true
		return nil, large
	}
	return &answer{status: resp.StatusCode, header: resp.Header, body: read}, nil
}

// mediaTypeOf is part of what the digest covers wherever the manifest names it;
// the registry's header is hearsay.
func mediaTypeOf(answer *answer) string {
	var manifest struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(answer.body, &manifest) == nil && manifest.MediaType != "" {
		return manifest.MediaType
	}
	mediaType, _, _ := strings.Cut(answer.header.Get("Content-Type"), ";")
	return mediaType
}

// path is the address of something in the repository. The transport puts in
// the scheme that the registry was found under.
func (c *Client) path(kind, name string) url.URL {
	return url.URL{
		Scheme: c.repo.Scheme(),
		Host:   c.repo.RegistryStr(),
		Path:   "/v2/" + c.repo.RepositoryStr() + "/" + kind + "/" + name,
	}
}

func (c *Client) corrupt(text string) *Error {
	return &Error{Host: c.repo.RegistryStr(), Text: text, Err: ErrCorrupt}
}

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func checkDigest(digest string) error {
	hash, err := v1.NewHash(digest)
	if err != nil || hash.Algorithm != "sha256" {
		return fmt.Errorf("digest %q is not sha256:<hex>", clean(digest, 150))
	}
	return nil
}
