package registry

import (
	"crypto/sha256"
	"sync"
	"weak"
)

// Connections lets clients share connections that lead to the same registry, trust the
// same authorities and show the same client certificate, whatever their accounts are:
// so a thousand images of one registry need one set. The zero value is ready to use. It
// is safe for concurrent use.
type Connections struct {
	mu    sync.Mutex
	lines map[lineKey]weak.Pointer[guard] // a guard goes with its last client and connection
}

type lineKey struct {
	registry string
	insecure bool
	material [sha256.Size]byte // of ca.crt, tls.crt and tls.key
}

// take returns the transport of a key, and makes it where there is none.
func (c *Connections) take(key lineKey, dial func() (*guard, error)) (*guard, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if open := c.lines[key].Value(); open != nil {
		return open, nil
	}
	made, err := dial()
	if err != nil {
		return nil, err
	}
	if c.lines == nil {
		c.lines = map[lineKey]weak.Pointer[guard]{}
	}
	for key, line := range c.lines {
		if line.Value() == nil {
			delete(c.lines, key)
		}
	}
	c.lines[key] = weak.Make(made)
	return made, nil
}
