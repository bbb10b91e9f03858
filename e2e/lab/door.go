package lab

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"
)

// Door opens another way to the same repositories, as strict as the options
// say: tests prepare them through the server that asks for nothing, and
// towpath comes in by the door.
func (g *Git) Door(t testing.TB, o GitOptions) *Git {
	t.Helper()
	door := NewGit(t, o)
	if err := os.Remove(door.Root); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(g.Root, door.Root); err != nil {
		t.Fatal(err)
	}
	return door
}

// Door is a repository's URL over SSH, for one that another server created.
func (s *SSH) Door(g *Git, name string) string {
	return "ssh://" + s.User + "@" + s.Addr + g.Dir(name)
}

// Expired is an HTTPS server whose certificate ended yesterday, by an authority
// that a client may well know.
func Expired(t testing.TB) (url string, ca *CA) {
	t.Helper()
	ca = NewCA(t)
	certPEM, keyPEM := ca.Issue(t, "127.0.0.1")
	block, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	cert.NotBefore, cert.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	der, err := x509.CreateCertificate(nil, cert, ca.cert, pair.PrivateKey.(*ecdsa.PrivateKey).Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: pair.PrivateKey}},
		MinVersion:   tls.VersionTLS12,
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, ca
}

// Gate asks for an account that can change while the server runs: use Guard as
// a server's middleware.
type Gate struct {
	mu       sync.Mutex
	username string
	password string
	refused  int
}

// SetAccount says who may come in from now on.
func (g *Gate) SetAccount(username, password string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.username, g.password = username, password
}

// Refused counts the requests that had a credential, but not the right one.
func (g *Gate) Refused() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

// Guard stands before a server.
func (g *Gate) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		username, password, _ := r.BasicAuth()
		g.mu.Lock()
		good := same(username, g.username) && same(password, g.password)
		if !good && r.Header.Get("Authorization") != "" {
			g.refused++
		}
		g.mu.Unlock()
		if !good {
			w.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}
