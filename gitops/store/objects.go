package store

import (
	"bufio"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"

	"towpath.dev/towpath/gitops"
)

// Objects is a set of objects made here, in memory, in the order in which they
// were added. The zero value is empty. It is for one goroutine.
type Objects struct {
	order []gitops.Hash
	made  map[gitops.Hash]madeObject
}

type madeObject struct {
	typ     plumbing.ObjectType
	content []byte
}

// Add adds an object, which must not be changed afterwards, and returns its
// name. What is in the set already is not added twice.
func (o *Objects) Add(typ plumbing.ObjectType, content []byte) gitops.Hash {
	h, err := hashObject(typ, content)
	if err != nil {
		// Only content that was crafted to collide gets here. The server would
		// refuse it; a name that no object has makes sure of that.
		h = gitops.Hash{}
	}
	if _, ok := o.made[h]; ok {
		return h
	}
	if o.made == nil {
		o.made = map[gitops.Hash]madeObject{}
	}
	o.made[h] = madeObject{typ, content}
	o.order = append(o.order, h)
	return h
}

// Get returns an object of the set; it must not be changed.
func (o *Objects) Get(h gitops.Hash) (typ plumbing.ObjectType, content []byte, ok bool) {
	m, ok := o.made[h]
	return m.typ, m.content, ok
}

// Len is the number of objects.
func (o *Objects) Len() int { return len(o.order) }

// Pack writes a pack of exactly these objects (gitformat-pack(5), version 2,
// without deltas).
func (o *Objects) Pack(w io.Writer) error {
	sum := sha1.New()
	buffered := bufio.NewWriter(io.MultiWriter(w, sum))
	_, _ = buffered.Write(packStart(len(o.order))) // Flush tells of errors
	zip := zlib.NewWriter(buffered)
	for _, h := range o.order {
		m := o.made[h]
		_, _ = buffered.Write(entryHeader(m.typ, len(m.content)))
		zip.Reset(buffered)
		if _, err := zip.Write(m.content); err != nil {
			return fmt.Errorf("pack: %w", err)
		}
		if err := zip.Close(); err != nil {
			return fmt.Errorf("pack: %w", err)
		}
	}
	if err := buffered.Flush(); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	return nil
}

// packStart is the head of a pack of so many objects.
func packStart(count int) []byte {
	return binary.BigEndian.AppendUint32([]byte(packMagic), uint32(count))
}

// entryHeader is what precedes an object of a type and size in a pack.
func entryHeader(typ plumbing.ObjectType, size int) []byte {
	header := []byte{byte(typ)<<4 | byte(size&0xf)}
	for size >>= 4; size > 0; size >>= 7 {
		header[len(header)-1] |= 0x80
		header = append(header, byte(size&0x7f))
	}
	return header
}

// Keep makes objects that the server has acknowledged a part of the copy, so
// that they need not be fetched. Where they point to something that the copy
// does not hold (it was wiped meanwhile) they are left out: the next Fetch
// brings them.
func (s *Store) Keep(o *Objects) error {
	if o.Len() == 0 {
		return nil
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(o.Pack(w)) }()
	in, err := receive(context.Background(), r, s.temp())
	r.Close()
	if err != nil {
		return fmt.Errorf("keep: %w", err)
	}
	defer in.discard()
	if err := in.index(); err != nil {
		return fmt.Errorf("keep: %w", err)
	}
	var tips []gitops.Hash
	for _, c := range in.needs.commits {
		tips = append(tips, c.hash)
	}
	slices.Reverse(tips) // the newest first
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	if _, err := s.take(in, nil, tips); err != nil {
		return fmt.Errorf("keep: %w", err)
	}
	return nil
}
