package wire_test

import (
	"errors"
	"maps"
	"net/url"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/git"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops/wire"
)

// TestCertificatesThatDoNotFit: the reason names the certificate, although what
// the connection shows may be no more than a broken pipe.
func TestCertificatesThatDoNotFit(t *testing.T) {
	t.Parallel()
	server := lab.NewGit(t, lab.GitOptions{TLS: true, ClientCert: true})
	repository := server.Create("fleet.git")
	known := map[string][]byte{"ca.crt": server.CA.PEM}
	certified := func(ca *lab.CA) map[string][]byte {
		secret := maps.Clone(known)
		secret["tls.crt"], secret["tls.key"] = ca.Issue(t, "towpath")
		return secret
	}
	expired, expiredCA := lab.Expired(t)
	for _, c := range []struct {
		name, url  string
		secret     map[string][]byte
		says, hint string
	}{
		{"none", repository, known, "asks for a client certificate and there is none", "tls.crt"},
		{"another authority's", repository, certified(lab.NewCA(t)), "", "tls.crt may have expired"},
		{"right", repository, certified(server.CA), "", ""},
		{"expired", expired, map[string][]byte{"ca.crt": expiredCA.PEM}, "has expired", "renew"},
	} {
		t.Run(c.name, func(t *testing.T) {
			parsed, err := url.Parse(c.url)
			if err != nil {
				t.Fatal(err)
			}
			remote, err := wire.New(wire.Options{URL: c.url, Auth: func() (*git.AuthOptions, error) { return git.NewAuthOptions(*parsed, c.secret) }})
			if err != nil {
				t.Fatal(err)
			}
			defer remote.Close()
			_, err = remote.Refs(t.Context(), "refs/heads/main")
			if c.hint == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var hinted interface{ Hint() string }
			if err == nil || !strings.Contains(err.Error(), c.says) || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), c.hint) {
				t.Errorf("got %v, want %q with a hint of %q", err, c.says, c.hint)
			}
		})
	}
}

// TestFinalNewlines: editors and echo end a secret's file with one.
func TestFinalNewlines(t *testing.T) {
	t.Parallel()
	server := lab.NewGit(t, lab.GitOptions{Username: "towpath", Password: "open sesame"})
	remote, err := wire.New(wire.Options{URL: server.Create("fleet.git"), Auth: func() (*git.AuthOptions, error) {
		return &git.AuthOptions{Username: "towpath\n", Password: "open sesame\n"}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	if _, err := remote.Refs(t.Context(), "refs/heads/main"); err != nil {
		t.Error(err)
	}
}
