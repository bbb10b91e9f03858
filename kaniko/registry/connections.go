package registry

import (
	"crypto/sha256"
	"sync"
	"weak"
)

// Connections are shared by clients of one registry that trust the same
// authorities and show the same certificate, whatever their accounts: what a
// thousand images have in common is kept once. The zero value is ready. It is
// safe for concurrent use.
type Connections struct {
	mu    sync.Mutex
	lines map[lineKey]weak.Pointer[guard] // gone with the last client and connection
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
