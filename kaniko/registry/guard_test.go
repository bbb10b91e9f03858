package registry

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

func TestStanding(t *testing.T) {
	t.Parallel()
	addresses := map[string]standing{
		"1.1.1.1": outer, "2606:4700::1": outer,
		"10.1.2.3": private, "192.168.1.1": private, "172.20.0.1": private, "fd00:ec2::254": private, "100.64.0.1": private,
		"169.254.169.254": linkLocal, "fe80::1": linkLocal, "::ffff:169.254.169.254": linkLocal,
		"127.0.0.1": loopback, "::1": loopback, "0.0.0.0": loopback, "::ffff:127.0.0.1": loopback,
	}
	for text, want := range addresses {
		if got := standingOf(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %d, want %d", text, got, want)
		}
	}
	may := map[[2]standing]bool{
		{outer, outer}: true, {outer, private}: false, {outer, linkLocal}: false, {outer, loopback}: false,
		{private, outer}: true, {private, private}: true, {private, linkLocal}: false, {private, loopback}: false,
		{loopback, private}: true, {loopback, linkLocal}: false, {loopback, loopback}: true,
		{linkLocal, linkLocal}: true,
	}
	for pair, want := range may {
		if got := pair[0].mayReach(pair[1]); got != want {
			t.Errorf("from %d to %d: %v", pair[0], pair[1], got)
		}
	}
}

// TestNameOfAnInnerAddress is an outer registry that sends us to a host whose
// name leads to this machine: only the dialer can know.
func TestNameOfAnInnerAddress(t *testing.T) {
	t.Parallel()
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was reached") }))
	t.Cleanup(trap.Close)
	_, port, err := net.SplitHostPort(trap.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	registry, err := name.NewRegistry("registry.example.com")
	if err != nil {
		t.Fatal(err)
	}
	guard := newGuard(registry, true, nil)
	guard.standing.Store(int32(outer))
	target := (&url.URL{Scheme: "http", Host: net.JoinHostPort("localhost", port), Path: "/token"}).String()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = guard.RoundTrip(req)
	var refused *refusal
	if !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
}

func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	registry, err := name.NewRegistry("10.1.2.3:5000")
	if err != nil {
		t.Fatal(err)
	}
	for target, refused := range map[string]bool{
		server.URL:               false, // loopback
		"http://10.1.2.3:5000/":  true,
		"http://cdn.example.com": true,
		"ftp://10.1.2.3:5000/":   true,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
		if err != nil {
			t.Fatal(err)
		}
		guard := newGuard(registry, false, nil)
		guard.standing.Store(int32(loopback))
		resp, err := guard.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		if _, is := isRefusal(err); is != refused {
			t.Errorf("%s: %v", target, err)
		}
	}
}

// go-containerregistry tries plain HTTP on private addresses after HTTPS: a
// registry that knows no TLS is told as that, and another server is not.
func TestNoTLS(t *testing.T) {
	t.Parallel()
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	go func() {
		for {
			conn, err := other.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_9.2p1\r\n"))
			conn.Close()
		}
	}()
	c, err := New(Options{Repository: "10.1.2.3:5000/app"})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		plain.Listener.Addr().String(): insecureHint,
		other.Addr().String():          "what answers there speaks no TLS: are host and port right?",
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, secure := (&http.Transport{}).RoundTrip(req)
		if secure == nil {
			resp.Body.Close()
			t.Fatal("a server without TLS took HTTPS")
		}
		for name, e := range map[string]*Error{
			"tried as plain HTTP": c.explain("list tags", &call{secure: secure}, &refusal{reason: "plain HTTP is not allowed", insecure: true}),
			"HTTPS alone":         c.explain("list tags", &call{}, secure),
		} {
			if e.Hint() != want {
				t.Errorf("%s, %s: hint %q, want %q", address, name, e.Hint(), want)
			}
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "-5": 0, "soon": 0,
		"1000000000":                    time.Hour,
		"99999999999999999999":          0,
		"Wed, 04 Mar 2026 05:07:07 GMT": time.Minute,
		"Wed, 04 Mar 2020 05:07:07 GMT": 0,
		"Wed, 04 Mar 2099 05:07:07 GMT": time.Hour,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

// TestPlainHTTPToOthers: what is allowed for the registry sends its credential
// unencrypted to no other host, whatever token service it names.
func TestPlainHTTPToOthers(t *testing.T) {
	t.Parallel()
	registry, err := name.NewRegistry("registry.example.com:5000", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for _, c := range []struct {
		target, header, value string
		refused               bool
	}{
		{"http://registry.example.com:5000/v2/", "Authorization", "Basic eDp5", false},
		{"http://auth.example.com/token", "Authorization", "Basic eDp5", true},
		{"http://auth.example.com/token", "Content-Type", "application/x-www-form-urlencoded", true},
		{"http://x:y@auth.example.com/token", "Accept", "*/*", true},
		{"https://auth.example.com/token", "Authorization", "Basic eDp5", false},
		{"http://storage.example.com/blob", "Accept", "*/*", false},
	} {
		req, err := http.NewRequestWithContext(ended, http.MethodGet, c.target, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(c.header, c.value)
		_, err = newGuard(registry, true, nil).RoundTrip(req)
		if _, refused := isRefusal(err); refused != c.refused {
			t.Errorf("%s with %s: %v", c.target, c.header, err)
		}
	}
}
