package wire

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fluxcd/pkg/git"
)

type authFunc = func() (*git.AuthOptions, error)

// clients gives every request its credential, and the connections that fit the
// credential's TLS material.
type clients struct {
	address     address
	auth        authFunc
	insecure    bool
	connections *Connections

	mu      sync.Mutex
	line    *line    // nil: none was needed yet
	secrets []string // what went out lately and must come back in no error
}

// prepare adds the credential to a request and gives the transport to send it
// with. The credential is read anew each time.
func (c *clients) prepare(req *http.Request) (*http.Transport, error) {
	auth, err := c.auth()
	if err != nil {
		return nil, fmt.Errorf("read the credential: %w", err)
	}
	if auth == nil {
		auth = &git.AuthOptions{}
	}
	// A file's final newline is a common slip, and part of no credential.
	username, password := trimmed(auth.Username), trimmed(auth.Password)
	if username == "" && password == "" && auth.BearerToken == "" && c.address.user != nil {
		username = c.address.user.Username()
		password, _ = c.address.user.Password()
	}
	switch {
	case auth.BearerToken != "":
		token := trimmed(auth.BearerToken)
		if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
			return nil, errors.New("the bearer token holds spaces or control characters")
		}
		req.Header.Set("Authorization", "Bearer "+token)
		c.remember(token)
	case username != "" || password != "":
		if strings.Contains(username, ":") {
			return nil, errors.New("the username holds a colon")
		}
		req.SetBasicAuth(username, password)
		c.remember(password, base64.StdEncoding.EncodeToString([]byte(username+":"+password)))
		if password == "" {
			c.remember(username) // a token in the place of the name
		}
	}
	if req.Header.Get("Authorization") != "" && req.URL.Scheme != "https" && !c.insecure && !c.address.loopback() {
		return nil, hint(errors.New("a credential would cross the network in the clear"), "use https://")
	}
	return c.fitting(auth)
}

func trimmed(value string) string { return strings.TrimRight(value, "\r\n") }

// fitting is the transport for the TLS material of a credential; a new one when
// that changed.
func (c *clients) fitting(auth *git.AuthOptions) (*http.Transport, error) {
	sum := sha256.New()
	for _, part := range [][]byte{auth.CAFile, auth.ClientCert, auth.ClientKey} {
		fmt.Fprintf(sum, "%d:", len(part))
		sum.Write(part)
	}
	key := lineKey{c.address.scheme + "://" + c.address.host, [sha256.Size]byte(sum.Sum(nil))}

	c.mu.Lock()
	defer c.mu.Unlock()
	if c.line != nil && c.line.key == key {
		return c.line.transport, nil
	}
	next, err := c.connections.take(key, func() (*tls.Config, error) { return tlsConfig(auth) })
	if err != nil {
		return nil, err
	}
	c.connections.drop(c.line)
	c.line = next
	return next.transport, nil
}

// explain says why a request got no answer where the reason is a client
// certificate. A server that insists on one cuts the connection after the
// handshake, so that what is seen may be no more than a broken pipe; one that
// asks and answers nevertheless does not insist.
func (c *clients) explain(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var op *net.OpError
	var unverified *tls.CertificateVerificationError
	const advice = "tls.crt may have expired, or be another authority's than the server trusts"
	if c.line == nil {
		return err
	}
	certified := len(c.line.transport.TLSClientConfig.Certificates) > 0
	switch {
	case err == nil:
		c.line.wanted.Store(false)
	case c.line.wanted.Load():
		return hint(fmt.Errorf("the server asks for a client certificate and there is none: %w", err), "put tls.crt and tls.key into the secret")
	case certified && errors.As(err, &op) && op.Op == "remote error":
		return hint(fmt.Errorf("the server does not accept the client certificate: %w", err), advice)
	case errors.As(err, &op) && op.Op == "dial" || errors.As(err, &unverified):
	case certified:
		return hint(err, "if this lasts: "+advice)
	}
	return err
}

func tlsConfig(auth *git.AuthOptions) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(auth.CAFile) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(auth.CAFile) {
			return nil, hint(errors.New("ca.crt holds no certificate"), "ca.crt must be PEM")
		}
	}
	if len(auth.ClientCert) > 0 || len(auth.ClientKey) > 0 {
		pair, err := tls.X509KeyPair(auth.ClientCert, auth.ClientKey)
		if err != nil {
			return nil, hint(fmt.Errorf("client certificate: %w", err), "tls.crt and tls.key must be PEM and belong together")
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func newTransport(config *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                  proxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    30 * time.Second,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        5 * time.Minute, // longer than the usual interval of polls
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // what is counted is what came
	}
}

// proxyFromEnvironment is http.ProxyFromEnvironment without its error, which
// repeats the proxy's URL and thereby its password.
func proxyFromEnvironment(req *http.Request) (*url.URL, error) {
	proxy, err := http.ProxyFromEnvironment(req)
	if err != nil {
		return nil, errors.New("the proxy named in the environment is no URL")
	}
	return proxy, nil
}

func (c *clients) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connections.drop(c.line)
	c.line = nil
}

// remember keeps the last few secrets: while one is rotated, answers to the
// former are still under way.
func (c *clients) remember(secrets ...string) {
	const most = 8
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, secret := range secrets {
		if secret != "" && !slices.Contains(c.secrets, secret) {
			c.secrets = append(c.secrets, secret)
		}
	}
	if extra := len(c.secrets) - most; extra > 0 {
		c.secrets = slices.Delete(c.secrets, 0, extra)
	}
}

// scrub replaces every secret that was sent lately.
func (c *clients) scrub(text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, secret := range c.secrets {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return text
}
