package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// credential is what a secret gives for one repository.
type credential struct {
	auth    authn.Authenticator
	secrets []string
}

// secretError is a secret that cannot be used, without its content.
type secretError struct {
	name string
	err  error
}

func (e *secretError) Error() string {
	if e.name == "" {
		return "registry secret: " + e.err.Error()
	}
	return fmt.Sprintf("registry secret %q: %s", e.name, e.err)
}

func (e *secretError) Unwrap() error { return e.err }

func (e *secretError) Hint() string {
	switch {
	case errors.Is(e.err, errEmptyEntry):
		return "docker login leaves the password with a credential helper (credsStore), which Towpath does not run: write username and password into the secret instead"
	case errors.Is(e.err, errNoEntry):
		return "is destination.repository misspelt? If not, add an entry for that host"
	}
	return "a registry secret holds .dockerconfigjson, or username and password, and may hold ca.crt, tls.crt and tls.key"
}

var (
	errEmptyEntry = errors.New("no credential")
	errNoEntry    = errors.New("no entry for")
)

// wrong says what is wrong with the secret.
func (c *Client) wrong(format string, args ...any) error {
	return &secretError{name: c.options.SecretName, err: fmt.Errorf(format, args...)}
}

// tlsConfig is whom the secret trusts, and the certificate that it shows.
func (c *Client) tlsConfig(secret map[string][]byte) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if pem, ok := secret["ca.crt"]; ok {
		// Beside the system's authorities: tokens and layers often come from
		// other hosts than the registry's.
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, c.wrong("ca.crt holds no certificate in PEM form")
		}
		config.RootCAs = pool
	}
	certificate, key := secret["tls.crt"], secret["tls.key"]
	if (certificate == nil) != (key == nil) {
		return nil, c.wrong("tls.crt and tls.key belong together, one is missing")
	}
	if certificate != nil {
		pair, err := tls.X509KeyPair(certificate, key)
		if err != nil {
			// The parser's own words never quote a key, and name the mistake.
			return nil, c.wrong("tls.crt and tls.key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// credential finds the account that the secret holds for this repository. A secret that is
// empty, or whose account is for other hosts, is an error and never anonymous
// access: whoever names a secret means it. One with certificates alone is
// meant so.
func (c *Client) credential(ctx context.Context, secret map[string][]byte) (*credential, error) {
	fail := func(format string, args ...any) (*credential, error) { return nil, c.wrong(format, args...) }
	found := &credential{auth: authn.Anonymous}
	config, hasConfig := secret[".dockerconfigjson"]
	username, password := trimmed(secret["username"]), trimmed(secret["password"])
	switch {
	case hasConfig && (username != "" || password != ""):
		return fail("it holds both .dockerconfigjson and username or password")
	case hasConfig:
		account, err := dockerAccount(config, c.repo.RegistryStr(), c.repo.RepositoryStr())
		if err != nil {
			return fail("%w", err)
		}
		found.use(account)
	case username != "" && password != "":
		found.use(authn.AuthConfig{Username: username, Password: password})
	case username != "" || password != "":
		return fail("username and password belong together, one is missing or empty")
	case c.options.Secret == nil:
		// Docker's configuration, its credential helpers among them.
		auth, err := authn.Resolve(ctx, authn.DefaultKeychain, c.repo)
		if err != nil {
			return nil, fmt.Errorf("docker's configuration: %w", errors.Unwrap(err))
		}
		if auth == authn.Anonymous {
			break
		}
		account, err := authn.Authorization(ctx, auth)
		if err != nil {
			return nil, errors.New("docker's configuration: its credential helper gave no credential")
		}
		found.use(*account)
	case len(secret) == 0:
		return fail("it is empty")
	}
	return found, nil
}

func (c *credential) use(account authn.AuthConfig) {
	c.auth = authn.FromConfig(account)
	for _, text := range []string{account.Password, account.Auth, account.IdentityToken, account.RegistryToken} {
		if text != "" {
			c.secrets = append(c.secrets, text)
		}
	}
	if account.Username != "" && account.Password != "" {
		c.secrets = append(c.secrets, base64.StdEncoding.EncodeToString([]byte(account.Username+":"+account.Password)))
	}
}

// dockerAccount finds the entry for a repository in a .dockerconfigjson: of the
// entries for its host, or for a path above it, the longest.
func dockerAccount(config []byte, host, path string) (authn.AuthConfig, error) {
	var parsed struct {
		Auths map[string]struct {
			Auth          string `json:"auth"`
			Username      string `json:"username"`
			Password      string `json:"password"`
			IdentityToken string `json:"identitytoken"`
			RegistryToken string `json:"registrytoken"`
		} `json:"auths"`
		Store   string            `json:"credsStore"`
		Helpers map[string]string `json:"credHelpers"`
	}
	if err := json.Unmarshal(config, &parsed); err != nil {
		// The decoder's error may quote the text, which is secret.
		return authn.AuthConfig{}, errors.New(".dockerconfigjson is not valid JSON")
	}
	best := ""
	for entry := range parsed.Auths {
		place := normalise(entry)
		if (place == host || strings.HasPrefix(host+"/"+path+"/", place+"/")) && len(place) >= len(normalise(best)) {
			best = entry
		}
	}
	switch {
	case best != "":
	case parsed.Store != "" || parsed.Helpers[host] != "":
		return authn.AuthConfig{}, fmt.Errorf(".dockerconfigjson names a credential helper for %s, and holds %w", host, errEmptyEntry)
	case len(parsed.Auths) == 0:
		return authn.AuthConfig{}, fmt.Errorf(".dockerconfigjson has %w %s, nor for any other host", errNoEntry, host)
	default:
		known := make([]string, 0, len(parsed.Auths))
		for _, entry := range slices.Sorted(maps.Keys(parsed.Auths)) {
			known = append(known, normalise(entry))
		}
		return authn.AuthConfig{}, fmt.Errorf(".dockerconfigjson has %w %s, but for %s", errNoEntry, host, clean(strings.Join(known, ", "), 200))
	}
	entry := parsed.Auths[best]
	account := authn.AuthConfig{
		Username: entry.Username, Password: entry.Password,
		IdentityToken: entry.IdentityToken, RegistryToken: entry.RegistryToken,
	}
	if entry.Auth != "" {
		decoded, err := base64.StdEncoding.DecodeString(entry.Auth)
		user, password, ok := strings.Cut(string(decoded), ":")
		if err != nil || !ok {
			return authn.AuthConfig{}, fmt.Errorf(".dockerconfigjson: auth of %s is not base64 of user:password", clean(best, 100))
		}
		account.Username, account.Password = user, strings.TrimRight(password, "\x00")
	}
	if account.Password == "" && account.IdentityToken == "" && account.RegistryToken == "" {
		return authn.AuthConfig{}, fmt.Errorf(".dockerconfigjson: the entry for %s holds %w", clean(best, 100), errEmptyEntry)
	}
	return account, nil
}

// normalise turns an entry's key, which Docker writes in several forms, into
// host[:port][/path].
func normalise(entry string) string {
	entry = strings.TrimPrefix(strings.TrimPrefix(entry, "https://"), "http://")
	entry = strings.TrimSuffix(entry, "/")
	entry = strings.TrimSuffix(strings.TrimSuffix(entry, "/v1"), "/v2")
	if host, rest, _ := strings.Cut(entry, "/"); host == "docker.io" {
		entry = strings.TrimSuffix("index.docker.io/"+rest, "/")
	}
	return entry
}

// trimmed drops the line end that editors and `echo` leave in a secret.
func trimmed(value []byte) string { return strings.TrimRight(string(value), "\r\n") }
