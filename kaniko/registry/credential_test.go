package registry

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
)

const canary = "canary-2f6c1d9e"

func TestCredential(t *testing.T) {
	t.Parallel()
	const auth = "dXNlcjpjYW5hcnktMmY2YzFkOWU=" // user:canary-2f6c1d9e
	config := func(entries string) map[string][]byte {
		return map[string][]byte{".dockerconfigjson": []byte(`{"auths":{` + entries + `}}`)}
	}
	want := authn.AuthConfig{Username: "user", Password: canary}
	tests := []struct {
		name   string
		secret map[string][]byte
		want   authn.AuthConfig
		fails  string
		hint   string
	}{
		{name: "account", secret: map[string][]byte{"username": []byte("user"), "password": []byte(canary)}, want: want},
		{name: "line ends", secret: map[string][]byte{"username": []byte("user\n"), "password": []byte(canary + "\r\n")}, want: want},
		{name: "docker, host", secret: config(`"registry.example.com":{"auth":"` + auth + `"}`), want: want},
		{name: "docker, URL", secret: config(`"https://registry.example.com/v2/":{"auth":"` + auth + `"}`), want: want},
		{name: "docker, account in the clear", secret: config(`"registry.example.com":{"username":"user","password":"` + canary + `"}`), want: want},
		{name: "docker, longest path", secret: config(`"registry.example.com":{"username":"a","password":"b"},"registry.example.com/apps":{"auth":"` + auth + `"},"registry.example.com/app":{"username":"a","password":"b"}`), want: want},
		{name: "docker, identity token", secret: config(`"registry.example.com":{"identitytoken":"` + canary + `"}`), want: authn.AuthConfig{IdentityToken: canary}},
		{name: "empty", secret: map[string][]byte{}, fails: "it is empty"},
		{name: "no password", secret: map[string][]byte{"username": []byte("user")}, fails: "one is missing"},
		{name: "empty password", secret: map[string][]byte{"username": []byte("user"), "password": []byte("\n")}, fails: "one is missing or empty"},
		{name: "both kinds", secret: map[string][]byte{".dockerconfigjson": []byte("{}"), "password": []byte(canary)}, fails: "it holds both"},
		{name: "docker, no JSON", secret: map[string][]byte{".dockerconfigjson": []byte(canary)}, fails: "not valid JSON"},
		{name: "docker, other hosts", secret: config(`"ghcr.io":{"auth":"` + auth + `"},"https://quay.io/v1/":{}`), fails: "no entry for registry.example.com, but for ghcr.io, quay.io", hint: "misspelt"},
		{name: "docker, no hosts", secret: config(""), fails: "no entry for registry.example.com, nor for any other host", hint: "add an entry"},
		{name: "docker, a helper for all", secret: map[string][]byte{".dockerconfigjson": []byte(`{"credsStore":"desktop"}`)}, fails: "names a credential helper for registry.example.com, and holds no credential", hint: "does not run"},
		{name: "docker, a helper for the host", secret: map[string][]byte{".dockerconfigjson": []byte(`{"auths":{"ghcr.io":{"auth":"` + auth + `"}},"credHelpers":{"registry.example.com":"ecr-login"}}`)}, fails: "names a credential helper for registry.example.com", hint: "does not run"},
		{name: "docker, a helper for another host", secret: map[string][]byte{".dockerconfigjson": []byte(`{"auths":{"registry.example.com":{"auth":"` + auth + `"}},"credHelpers":{"ghcr.io":"gh"}}`)}, want: want},
		{name: "docker, look-alike host", secret: config(`"registry.example.com.evil.org":{"auth":"` + auth + `"}`), fails: "no entry"},
		{name: "docker, not base64", secret: config(`"registry.example.com":{"auth":"` + canary + `"}`), fails: "not base64"},
		{name: "docker, nothing in it", secret: config(`"registry.example.com":{}`), fails: "holds no credential", hint: "credential helper"},
		{name: "certificate without key", secret: map[string][]byte{"tls.crt": []byte("x")}, fails: "tls.crt and tls.key belong together"},
		{name: "bad certificate", secret: map[string][]byte{"tls.crt": []byte("x"), "tls.key": []byte(canary)}, fails: "tls.crt and tls.key: "},
		{name: "bad authority", secret: map[string][]byte{"ca.crt": []byte(canary)}, fails: "ca.crt holds no certificate"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			client, err := New(Options{
				Repository: "registry.example.com/apps/demo",
				Secret:     func() (map[string][]byte, error) { return test.secret, nil },
				SecretName: "push", Attempts: 1,
			})
			if err != nil {
				t.Fatal(err)
			}
			_, err = client.line(test.secret)
			var found *credential
			if err == nil {
				found, err = client.credential(t.Context(), test.secret)
			}
			if test.fails != "" {
				var secret *secretError
				if !errors.As(err, &secret) || !strings.Contains(err.Error(), test.fails) || !strings.Contains(err.Error(), `"push"`) {
					t.Errorf("got %v, want %q in it", err, test.fails)
				}
				if secret != nil && !strings.Contains(secret.Hint(), test.hint) {
					t.Errorf("the hint is %q, want %q in it", secret.Hint(), test.hint)
				}
				if text := fmt.Sprintf("%v %#v", err, err); strings.Contains(text, canary) || strings.Contains(text, auth) {
					t.Errorf("a secret in %s", text)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			account, err := found.auth.Authorization()
			if err != nil || account.Username != test.want.Username || account.Password != test.want.Password || account.IdentityToken != test.want.IdentityToken {
				t.Errorf("got %s, %v", account.Username, err)
			}
		})
	}
}

func TestRepositoryName(t *testing.T) {
	t.Parallel()
	for name, good := range map[string]bool{
		"registry.example.com/apps/demo":                           true,
		"127.0.0.1:5000/demo":                                      true,
		"registry.example.com/apps/demo:tag":                       false,
		"registry.example.com/Apps":                                false,
		"https://registry.example.com/a":                           false,
		"user:pass@registry.example.com/a":                         false,
		"registry.example.com/a@sha256:" + strings.Repeat("a", 64): false,
		"": false,
	} {
		if _, err := New(Options{Repository: name}); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}
