package store

import (
	"fmt"
	"hash"
	"strconv"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/pjbgf/sha1cd"

	"towpath.dev/towpath/gitops"
)

// objectHash computes git's name of an object piece by piece, and notices
// content that was made to collide (sha1cd).
type objectHash struct {
	sha hash.Hash
	buf [64]byte
}

var hashes = sync.Pool{New: func() any { return &objectHash{sha: sha1cd.New()} }}

func newObjectHash(typ plumbing.ObjectType, size int64) *objectHash {
	h := hashes.Get().(*objectHash)
	h.sha.Reset()
	header := append(h.buf[:0], typ.Bytes()...)
	header = append(header, ' ')
	header = strconv.AppendInt(header, size, 10)
	header = append(header, 0)
	h.sha.Write(header)
	return h
}

func (h *objectHash) Write(p []byte) (int, error) { return h.sha.Write(p) }

// sum ends the computation; h must not be used afterwards.
func (h *objectHash) sum() (gitops.Hash, error) {
	var name gitops.Hash
	digest, collision := h.sha.(sha1cd.CollisionResistantHash).CollisionResistantSum(h.buf[:0])
	copy(name[:], digest)
	hashes.Put(h)
	if collision {
		return gitops.Hash{}, fmt.Errorf("object %s was made to collide with another: SHA-1 is under attack here", name)
	}
	return name, nil
}

func hashObject(typ plumbing.ObjectType, content []byte) (gitops.Hash, error) {
	h := newObjectHash(typ, int64(len(content)))
	_, _ = h.Write(content) // a hash takes everything
	return h.sum()
}
