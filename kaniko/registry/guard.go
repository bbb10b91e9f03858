package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

const (
	maxAnswer  = 8 << 20         // bytes of an answer that is not a blob for a file
	idleLimit  = 5 * time.Minute // without a byte in either direction; a registry may take minutes to commit a large layer
	maxWaiting = time.Hour       // longest Retry-After that is passed on
)

// guard is the lowest transport. It sees every request, those that follow a
// redirect, an upload's location or a token realm too, and refuses what a
// hostile registry could use it for.
type guard struct {
	base     *http.Transport
	host     string // the registry's, without port
	insecure bool

	standing atomic.Int32 // of the address that the registry itself was reached at
	proxies  sync.Map     // host:port of proxies in use
}

// standing says from how far away an address can be reached.
type standing int32

const (
	unknown standing = iota
	outer
	private
	linkLocal
	loopback
)

func standingOf(address netip.Addr) standing {
	address = address.Unmap()
	switch {
	case address.IsLoopback() || address.IsUnspecified():
		return loopback
	case address.IsLinkLocalUnicast() || address.IsLinkLocalMulticast():
		return linkLocal
	case address.IsPrivate() || sharedRange.Contains(address):
		return private
	default:
		return outer
	}
}

// sharedRange is carrier-grade NAT (RFC 6598); clouds use it inside.
var sharedRange = netip.MustParsePrefix("100.64.0.0/10")

// mayReach says whether a registry at one place may send us to another.
func (from standing) mayReach(to standing) bool {
	switch to {
	case outer:
		return true
	case private:
		return from == private || from == loopback
	default:
		return from == to
	}
}

func newGuard(registry name.Registry, insecure bool, config *tls.Config) *guard {
	g := &guard{host: hostOf(registry), insecure: insecure}
	g.base = &http.Transport{
		Proxy:                  g.proxy,
		DialContext:            g.dial,
		TLSClientConfig:        config,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  idleLimit,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConnsPerHost:    8,
		MaxResponseHeaderBytes: 256 << 10,
	}
	return g
}

// RoundTrip refuses plain HTTP where it was not allowed and inner addresses
// where the registry is an outer one, notes Retry-After, and bounds the answer.
// Where plain HTTP is allowed, the registry may send us on to a storage service
// that speaks it; a credential goes over it to the registry's own host alone.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	host := req.URL.Hostname()
	switch req.URL.Scheme {
	case "https":
	case "http":
		if !isLoopback(host) && (!g.insecure || host != g.host && carriesCredential(req)) {
			return nil, &refusal{reason: "plain HTTP to " + host + " is not allowed", insecure: host == g.host}
		}
	default:
		return nil, &refusal{reason: "scheme " + clean(req.URL.Scheme, 20) + " is not allowed"}
	}
	// Names are judged by the dialer when they have become addresses.
	if address, err := netip.ParseAddr(host); err == nil && host != g.host {
		if err := g.judge(host, address); err != nil {
			return nil, err
		}
	}
	call := note(req.Context())
	if _, token, ok := strings.Cut(req.Header.Get("Authorization"), " "); ok {
		call.hide(token)
	}
	resp, err := g.base.RoundTrip(req)
	if err != nil {
		if req.URL.Scheme == "https" && host == g.host {
			call.failed(err)
		}
		return nil, err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		call.wait(retryAfter(resp.Header.Get("Retry-After"), time.Now()))
	}
	if !call.bulk || resp.StatusCode >= http.StatusBadRequest {
		resp.Body = &bounded{body: resp.Body, left: maxAnswer}
	}
	return resp, nil
}

// carriesCredential says whether a request shows who we are: by its header, or
// by the form that a token service takes.
func carriesCredential(req *http.Request) bool {
	return req.Header.Get("Authorization") != "" || req.URL.User != nil ||
		strings.HasPrefix(req.Header.Get("Content-Type"), "application/x-www-form-urlencoded")
}

// judge refuses an address that the registry may not send us to.
func (g *guard) judge(host string, address netip.Addr) error {
	from := standing(g.standing.Load())
	if from == unknown {
		from = outer
		if own, err := netip.ParseAddr(g.host); err == nil {
			from = standingOf(own)
		}
	}
	if to := standingOf(address); !from.mayReach(to) {
		return &refusal{reason: fmt.Sprintf("the registry sends us to %s (%s), an inner address", clean(host, 100), address)}
	}
	return nil
}

func (g *guard) proxy(req *http.Request) (*url.URL, error) {
	proxy, err := http.ProxyFromEnvironment(req)
	if proxy != nil {
		port := proxy.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[proxy.Scheme]
		}
		g.proxies.Store(net.JoinHostPort(proxy.Hostname(), port), true)
	}
	return proxy, err
}

func (g *guard) dial(ctx context.Context, network, target string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}
	own := host == g.host
	if _, proxy := g.proxies.Load(target); !own && !proxy {
		// At this point a name is an address and cannot become another.
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			parsed, err := netip.ParseAddrPort(address)
			if err != nil {
				return &refusal{reason: "odd address " + clean(address, 100)}
			}
			return g.judge(host, parsed.Addr())
		}
	}
	conn, err := dialer.DialContext(ctx, network, target)
	if err != nil {
		return nil, err
	}
	if remote, ok := conn.RemoteAddr().(*net.TCPAddr); ok && own {
		g.standing.Store(int32(standingOf(remote.AddrPort().Addr())))
	}
	return &impatient{Conn: conn}, nil
}

// impatient is a connection that fails when no byte moves for idleLimit.
type impatient struct{ net.Conn }

func (c *impatient) Read(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(idleLimit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c *impatient) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(idleLimit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// bounded is an answer's body with an end.
type bounded struct {
	body io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		// Exactly as long as allowed is allowed.
		if n, err := b.body.Read(make([]byte, 1)); n == 0 {
			return 0, err
		}
		return 0, &refusal{reason: fmt.Sprintf("the answer is larger than %d MiB", maxAnswer>>20)}
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.body.Read(p)
	b.left -= int64(n)
	return n, err
}

func (b *bounded) Close() error { return b.body.Close() }

func hostOf(registry name.Registry) string {
	return (&url.URL{Host: registry.RegistryStr()}).Hostname()
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.Unmap().IsLoopback()
}

// retryAfter reads the header's two forms (RFC 9110, 10.2.3).
func retryAfter(header string, now time.Time) time.Duration {
	if header == "" {
		return 0
	}
	var wait time.Duration
	if seconds, err := strconv.ParseInt(header, 10, 32); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxWaiting)
}

// refusal is something that we do not do, however often we are asked.
type refusal struct {
	reason   string
	insecure bool
}

func (r *refusal) Error() string { return r.reason }

func isRefusal(err error) (*refusal, bool) {
	var found *refusal
	ok := errors.As(err, &found)
	return found, ok
}
