package seal_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko/seal"
)

const password = "canary-2f6c1d9e"

func TestLoadKey(t *testing.T) {
	t.Parallel()
	pair, err := seal.NewKeyPair([]byte(password))
	if err != nil {
		t.Fatal(err)
	}
	plain := plainKey(t)["key.pem"]
	encode := func(kind string, key any) []byte {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	with := func(changes map[string][]byte) map[string][]byte {
		secret := maps.Clone(pair)
		for name, value := range changes {
			if value == nil {
				delete(secret, name)
			} else {
				secret[name] = value
			}
		}
		return secret
	}
	other := public(t, plainKey(t))
	tests := []struct {
		name   string
		secret map[string][]byte
		fails  string
	}{
		{name: "what keygen makes", secret: pair},
		{name: "password with a line end", secret: with(map[string][]byte{"cosign.password": []byte(password + "\n")})},
		{name: "plain key", secret: map[string][]byte{"key.pem": plain}},
		{name: "SEC 1 key", secret: map[string][]byte{"key.pem": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})}},
		{name: "former keys", secret: with(map[string][]byte{"former.pub": append(append([]byte("\n"), other...), other...)})},
		{name: "nothing", secret: nil, fails: "cosign.key: it is missing"},
		{name: "both", secret: with(map[string][]byte{"key.pem": plain}), fails: "key.pem is there too"},
		{name: "wrong password", secret: with(map[string][]byte{"cosign.password": []byte("x")}), fails: "cosign.password: it does not open cosign.key"},
		{name: "no password", secret: with(map[string][]byte{"cosign.password": nil}), fails: "cosign.password is missing"},
		{name: "not PEM", secret: map[string][]byte{"key.pem": []byte(password)}, fails: "key.pem: it is not in PEM form"},
		{name: "two keys", secret: map[string][]byte{"key.pem": append(bytes.Clone(plain), plain...)}, fails: "something follows the key"},
		{name: "public key", secret: map[string][]byte{"key.pem": other}, fails: `it holds a "PUBLIC KEY"`},
		{name: "RSA", secret: map[string][]byte{"key.pem": encode("PRIVATE KEY", rsaKey)}, fails: "not an ECDSA key on P-256"},
		{name: "P-384", secret: map[string][]byte{"key.pem": encode("PRIVATE KEY", p384)}, fails: "not an ECDSA key on P-256"},
		{name: "OpenSSL's encryption", secret: map[string][]byte{"key.pem": pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")})}, fails: "encrypted in OpenSSL's way"},
		{name: "another pair's public key", secret: with(map[string][]byte{"cosign.pub": other}), fails: "cosign.pub: it is not the public key of cosign.key"},
		{name: "broken former key", secret: with(map[string][]byte{"former.pub": append(bytes.Clone(other), password...)}), fails: "former.pub: after 1 public keys comes something else"},
		{name: "former private key", secret: with(map[string][]byte{"former.pub": plain}), fails: "former.pub: after 0 public keys"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			key, err := seal.LoadKey(test.secret)
			if test.fails == "" {
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(key.Fingerprint(), "sha256:") || !bytes.HasPrefix(key.Public(), []byte("-----BEGIN PUBLIC KEY-----")) {
					t.Errorf("fingerprint %s, public %s", key.Fingerprint(), key.Public())
				}
				return
			}
			var failed *seal.KeyError
			if !errors.As(err, &failed) || !strings.Contains(err.Error(), test.fails) || failed.Hint() == "" {
				t.Fatalf("got %v, want %q in it", err, test.fails)
			}
			if strings.Contains(err.Error()+failed.Hint(), password) {
				t.Errorf("a secret in %v", err)
			}
		})
	}
}

// TestKeyOfCosign reads what the real cosign makes, and the real cosign reads
// what we make.
func TestKeyOfCosign(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cosign := func(args ...string) string {
		t.Helper()
		command := exec.CommandContext(t.Context(), lab.Tool(t, "cosign"), args...)
		command.Dir = dir
		command.Env = append(os.Environ(), "HOME="+dir, "COSIGN_PASSWORD="+password)
		output, err := command.CombinedOutput()
		if err != nil {
			t.Fatalf("cosign %v: %v\n%s", args, err, output)
		}
		return string(output)
	}
	cosign("generate-key-pair")
	secret := map[string][]byte{"cosign.password": []byte(password)}
	for _, name := range []string{"cosign.key", "cosign.pub"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		secret[name] = content
	}
	if _, err := seal.LoadKey(secret); err != nil {
		t.Error(err)
	}
	pair, err := seal.NewKeyPair([]byte(password))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ours.key"), pair["cosign.key"], 0o600); err != nil {
		t.Fatal(err)
	}
	if got := cosign("public-key", "--key", "ours.key"); !strings.Contains(got, strings.TrimSpace(string(pair["cosign.pub"]))) {
		t.Errorf("cosign reads another public key:\n%s", got)
	}
}
