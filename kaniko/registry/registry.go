// Package registry talks to one repository of a container registry: it pushes
// an image by digest, reads manifests by digest, writes a tag, lists and
// attaches referrers, and pulls base images for a build.
//
// It knows the OCI distribution specification and nothing of who built what.
// What a registry says is never believed: every manifest and blob is hashed
// here, every list and answer is bounded, and no tag is ever moved. A
// credential goes to the registry it is for and nowhere else: not over plain
// HTTP unless that was allowed, not to an inner address that an outer registry
// names, and not into an error.
package registry

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Options says which repository, with what credential.
type Options struct {
	Repository string // host[:port]/path, without tag or digest

	// Secret returns the credential's keys: .dockerconfigjson, or username and
	// password, and any of ca.crt, tls.crt, tls.key. It is called for every
	// operation, so a rotated credential is used at once. Nil: Docker's own
	// configuration serves.
	Secret     func() (map[string][]byte, error)
	SecretName string // for error texts alone

	// Connections are shared with other clients; nil: they are this one's own.
	Connections *Connections

	Insecure bool // plain HTTP is allowed; on loopback it always is
	ReadOnly bool // ask token servers for the right to pull only

	Attempts int           // tries for each request that fails for a passing reason; 0: 5
	Pause    time.Duration // wait before the second try, doubled for each further one; 0: half a second
}

// Client is one repository. It is safe for concurrent use and keeps
// connections and tokens between operations.
type Client struct {
	options Options
	repo    name.Repository

	mu      sync.Mutex
	current *access
}

// access is what one state of the secret gives: an authorised transport.
type access struct {
	key       [sha256.Size]byte
	http      *http.Client
	transport http.RoundTripper // with the authorisation; go-containerregistry adds none to it
	secrets   []string          // what must not appear in a text
	guard     *guard
}

// New makes a client; it dials nothing and reads no secret.
func New(options Options) (*Client, error) {
	var parse []name.Option
	if options.Insecure {
		parse = append(parse, name.Insecure)
	}
	repo, err := name.NewRepository(options.Repository, append(parse, name.StrictValidation)...)
	if err != nil || strings.Contains(options.Repository, "//") {
		// It may hold an account, as a URL would, so it is not quoted whole.
		return nil, fmt.Errorf("repository %q is not host[:port]/path", clean(path.Base(options.Repository), 100))
	}
	if options.Connections == nil {
		options.Connections = &Connections{}
	}
	if options.Attempts <= 0 {
		options.Attempts = 5
	}
	if options.Pause <= 0 {
		options.Pause = 500 * time.Millisecond
	}
	return &Client{options: options, repo: repo}, nil
}

// Repository is the repository's name: host[:port]/path.
func (c *Client) Repository() string { return c.options.Repository }

// Close drops the connections that are kept. Others that share them dial anew.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil {
		c.current.guard.base.CloseIdleConnections()
		c.current = nil
	}
	return nil
}

// access returns the authorised transport for the secret as it is now. The
// first use of a secret asks the registry how it wants to be spoken to.
func (c *Client) access(ctx context.Context) (*access, error) {
	var secret map[string][]byte
	if c.options.Secret != nil {
		var err error
		if secret, err = c.options.Secret(); err != nil {
			return nil, &secretError{name: c.options.SecretName, err: err}
		}
	}
	key := fingerprint(secret)

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && c.current.key == key {
		return c.current, nil
	}
	made, err := c.login(ctx, secret)
	if err != nil {
		return nil, err
	}
	if c.current != nil && c.current.guard != made.guard {
		c.current.guard.base.CloseIdleConnections()
	}
	made.key = key
	c.current = made
	return made, nil
}

// drop forgets an access whose credential was refused, so that the next
// operation reads keychains and tokens anew.
func (c *Client) drop(old *access) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == old {
		c.current = nil
	}
}

func (c *Client) login(ctx context.Context, secret map[string][]byte) (*access, error) {
	trip, err := c.line(secret)
	if err != nil {
		return nil, err
	}
	credential, err := c.credential(ctx, secret)
	if err != nil {
		return nil, err
	}
	scope := transport.PushScope
	if c.options.ReadOnly {
		scope = transport.PullScope
	}
	note(ctx).hide(credential.secrets...)
	authorised, err := transport.NewWithContext(ctx, c.repo.Registry, credential.auth, trip, []string{c.repo.Scope(scope)})
	if err != nil {
		trip.base.CloseIdleConnections()
		return nil, err
	}
	return &access{
		http:      &http.Client{Transport: authorised, CheckRedirect: limitRedirects},
		transport: authorised,
		secrets:   credential.secrets,
		guard:     trip,
	}, nil
}

// line is the transport for what the secret says of TLS.
func (c *Client) line(secret map[string][]byte) (*guard, error) {
	material := maps.Clone(secret)
	maps.DeleteFunc(material, func(key string, _ []byte) bool {
		return !slices.Contains([]string{"ca.crt", "tls.crt", "tls.key"}, key)
	})
	key := lineKey{c.repo.RegistryStr(), c.options.Insecure, fingerprint(material)}
	return c.options.Connections.take(key, func() (*guard, error) {
		config, err := c.tlsConfig(secret)
		if err != nil {
			return nil, err
		}
		return newGuard(c.repo.Registry, c.options.Insecure, config), nil
	})
}

func limitRedirects(_ *http.Request, via []*http.Request) error {
	if len(via) > 5 {
		return &refusal{reason: "more than 5 redirects"}
	}
	return nil
}

// fingerprint tells two states of a secret apart.
func fingerprint(secret map[string][]byte) (key [sha256.Size]byte) {
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(secret)) {
		fmt.Fprintf(hash, "%q=%q\n", name, secret[name])
	}
	hash.Sum(key[:0])
	return key
}
