package lab

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Canaries are secrets that must show up nowhere but where they are kept. They
// are looked for as they are and in the forms in which programs pass them on.
type Canaries struct {
	mu    sync.Mutex
	forms []form
}

// form is a secret as it might be written somewhere.
type form struct {
	secret string // its name
	kind   string
	bytes  []byte
}

// Plant adds a secret: as it is, in base64 at any offset (with its user's name
// before it, say), in hexadecimal and as a URL holds it. One shorter than eight
// bytes would be found by chance.
func (c *Canaries) Plant(t testing.TB, name string, secret []byte) {
	t.Helper()
	if len(secret) < 8 {
		t.Fatalf("the canary %s is too short", name)
	}
	add := func(kind string, text []byte) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !slices.ContainsFunc(c.forms, func(f form) bool { return bytes.Equal(f.bytes, text) }) {
			c.forms = append(c.forms, form{name, kind, text})
		}
	}
	add("as it is", secret)
	add("in hexadecimal", []byte(hex.EncodeToString(secret)))
	add("in hexadecimal", []byte(strings.ToUpper(hex.EncodeToString(secret))))
	add("as in a URL", []byte(url.QueryEscape(string(secret))))
	add("as in a URL", []byte(url.PathEscape(string(secret))))
	add("quoted", []byte(strings.Trim(fmt.Sprintf("%q", secret), `"`)))
	for offset := range 3 {
		// What the bytes before and after the secret have a share in is cut off.
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			text := encoding.EncodeToString(append(make([]byte, offset), secret...))
			first, last := (offset*8+5)/6, len(text)
			if (offset+len(secret))%3 != 0 {
				last--
			}
			add("in base64", []byte(text[first:last]))
		}
	}
}

// PlantKey adds a private key in PEM: each line of it that is no mere header or
// public half, and for Ed25519 the seed.
func (c *Canaries) PlantKey(t testing.TB, name string, key []byte) {
	t.Helper()
	block, _ := pem.Decode(key)
	armour := bytes.Contains(key, []byte("BEGIN PGP"))
	if block == nil && !armour {
		t.Fatalf("the canary %s is no key", name)
	}
	lines := strings.Split(strings.TrimSpace(string(key)), "\n")
	lines = lines[1 : len(lines)-1]
	if !armour && block.Type == "OPENSSH PRIVATE KEY" {
		lines = lines[2:] // the format's header and the public key
	}
	for _, line := range lines {
		if line = strings.TrimSpace(line); len(line) >= 40 {
			c.Plant(t, name, []byte(line))
		}
	}
	if armour {
		return
	}
	if raw, err := ssh.ParseRawPrivateKey(key); err == nil {
		if private, ok := raw.(*ed25519.PrivateKey); ok {
			c.Plant(t, name+"'s seed", private.Seed())
		}
	}
}

// In names the secrets that a text holds, with the form they have there. What
// is compressed with gzip is looked through too.
func (c *Canaries) In(text []byte) []string {
	c.mu.Lock()
	forms := c.forms
	c.mu.Unlock()
	var found []string
	for _, f := range forms {
		if at := bytes.Index(text, f.bytes); at >= 0 {
			around := text[max(0, at-60):min(len(text), at+len(f.bytes)+40)]
			found = append(found, fmt.Sprintf("%s, %s: …%q…", f.secret, f.kind, around))
		}
	}
	if bytes.HasPrefix(text, []byte("\x1f\x8b")) {
		if reader, err := gzip.NewReader(bytes.NewReader(text)); err == nil {
			plain, _ := io.ReadAll(io.LimitReader(reader, 256<<20)) // what can be read of it
			found = append(found, c.In(plain)...)
		}
	}
	return found
}
