package lab

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Client is how go-containerregistry reaches the registry with the account and
// the certificates that it asks for.
func (r *Registry) Client(t testing.TB) []remote.Option {
	t.Helper()
	transport := remote.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil
	if r.CA != nil {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(r.CA)
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		if r.clientCert != nil {
			pair, err := tls.X509KeyPair(r.clientCert, r.clientKey)
			if err != nil {
				t.Fatal(err)
			}
			transport.TLSClientConfig.Certificates = []tls.Certificate{pair}
		}
	}
	options := []remote.Option{remote.WithTransport(transport)}
	if r.options.Username != "" {
		options = append(options, remote.WithAuth(&authn.Basic{Username: r.options.Username, Password: r.options.Password}))
	}
	return options
}

// Push pushes an image under a tag with the registry's own account and returns
// the name that pins it.
func (r *Registry) Push(t testing.TB, path, tag string, image v1.Image) string {
	t.Helper()
	ref, err := name.NewTag(r.Repository(path)+":"+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image, r.Client(t)...); err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return r.Repository(path) + "@" + digest.String()
}

// Pull reads an image with the registry's own account.
func (r *Registry) Pull(t testing.TB, ref string) v1.Image {
	t.Helper()
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(parsed, r.Client(t)...)
	if err != nil {
		t.Fatalf("pull %s: %v", ref, err)
	}
	return image
}
