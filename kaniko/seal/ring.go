package seal

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// Ring remembers the key that a secret was last decrypted to, by the secret's
// content: however many images are sealed with one key, it is decrypted once
// until it changes. Its zero value is empty. It is safe for concurrent use, and
// decrypts one at a time.
type Ring struct {
	mu   sync.Mutex
	sum  [sha256.Size]byte
	last *Key
}

// Load is LoadKey, for a secret that was seldom seen before.
func (r *Ring) Load(secret map[string][]byte) (*Key, error) {
	hash := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(secret)) {
		fmt.Fprintf(hash, "%q=%q\n", name, secret[name])
	}
	sum := [sha256.Size]byte(hash.Sum(nil))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || r.sum != sum {
		key, err := LoadKey(secret)
		if err != nil {
			return nil, err
		}
		r.last, r.sum = key, sum
	}
	return r.last, nil
}
