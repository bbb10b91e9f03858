package wire

import (
	"crypto/sha256"
	"crypto/tls"
	"net/http"
	"sync"
	"sync/atomic"
)

// Connections are shared by Remotes that speak with the same host over HTTP and
// with the same TLS material, whatever their credentials: a hundred repositories
// of one forge are polled over one connection, or a few where it knows no
// HTTP/2. The zero value is ready. It is safe for concurrent use.
type Connections struct {
	mu    sync.Mutex
	lines map[lineKey]*line
}

// lineKey tells lines apart.
type lineKey struct {
	host     string            // scheme://host:port
	material [sha256.Size]byte // of the authorities and the client certificate
}

// line is how a host is spoken with.
type line struct {
	key       lineKey
	users     int
	transport *http.Transport
	wanted    *atomic.Bool // the server asked for a client certificate, and there is none
}

// take returns the line of a key, made of what configure returns where there is
// none. Whoever takes it must drop it.
func (c *Connections) take(key lineKey, configure func() (*tls.Config, error)) (*line, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := c.lines[key]; l != nil {
		l.users++
		return l, nil
	}
	config, err := configure()
	if err != nil {
		return nil, err
	}
	l := &line{key: key, users: 1, wanted: new(atomic.Bool)}
	if len(config.Certificates) == 0 {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			l.wanted.Store(true)
			return &tls.Certificate{}, nil // none: some servers ask and do not insist
		}
	}
	l.transport = newTransport(config)
	if c.lines == nil {
		c.lines = map[lineKey]*line{}
	}
	c.lines[key] = l
	return l, nil
}

// drop gives a line up, and its connections with the last who had it. nil is
// nobody's.
func (c *Connections) drop(l *line) {
	if l == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.users--; l.users > 0 {
		return
	}
	delete(c.lines, l.key)
	l.transport.CloseIdleConnections()
}
