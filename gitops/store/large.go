package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-git/go-git/v5/plumbing"

	"towpath.dev/towpath/gitops"
)

// maxPlain bounds what is no blob, and has to be in memory to be read: a tree of a
// million entries has some 40 bytes for each.
const maxPlain = 48 << 20

// room is what objects of a pack may take while it is received.
type room struct {
	large  int64 // bytes of an object that goes through a file instead of the memory
	memory int64 // of objects that deltas still wait for
	files  int64 // of the files of such objects
}

// plenty is the room that a pack from outside has: one of some hundred bytes can
// hold hundreds of objects of half a gigabyte each.
func plenty() room { return room{large: 8 << 20, memory: 64 << 20, files: 2 << 30} }

var errPlain = fmt.Errorf("a commit, tree or tag is larger than %d MiB", maxPlain>>20)

// body is an object's content while a pack is received: in memory or, where it is
// large, in a file that has no name, so that nothing of it is ever left behind. The
// zero value is none.
type body struct {
	bytes []byte
	file  *os.File
	size  int64
}

func (b *body) there() bool { return b.bytes != nil || b.file != nil }

func (b *body) drop() {
	if b.file != nil {
		b.file.Close()
	}
	*b = body{}
}

// copyTo writes a part of the content.
func (b *body) copyTo(w io.Writer, offset, size int64) error {
	if offset < 0 || offset+size > b.size {
		return errDelta
	}
	if b.file == nil {
		_, err := w.Write(b.bytes[offset : offset+size])
		return err
	}
	var part [32 << 10]byte
	for size > 0 {
		n := min(size, int64(len(part)))
		if _, err := b.file.ReadAt(part[:n], offset); err != nil {
			return cut(err)
		}
		if _, err := w.Write(part[:n]); err != nil {
			return err
		}
		offset, size = offset+n, size-n
	}
	return nil
}

// newBody makes an empty file for a large object.
func (u *unpacking) newBody() (*os.File, error) {
	file, err := os.CreateTemp(u.dir, "object-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// whole reads an entry of the spooled pack that is no delta.
func (u *unpacking) whole(p *pack, number int) (body, error) {
	e, err := u.head(p, number)
	if err != nil {
		return body{}, err
	}
	if e.size <= u.large || e.typ != plumbing.BlobObject {
		content, err := u.inflate(&u.at, e.size)
		return body{bytes: content, size: e.size}, err
	}
	file, err := u.newBody()
	if err != nil {
		return body{}, err
	}
	made := body{file: file, size: e.size}
	err = u.resetZip(&u.at)
	if err == nil {
		_, err = io.CopyN(file, u.zip, e.size)
	}
	if err == nil {
		err = u.zipEnds()
	}
	if err != nil {
		made.drop()
		return body{}, cut(err)
	}
	return made, nil
}

// head stands behind the head of an entry of the spooled pack.
func (u *unpacking) head(p *pack, number int) (entry, error) {
	offset := u.entries[number].offset
	u.at.seek(p.file, p.size-packTrailer, offset)
	e, err := readEntry(&u.at, offset)
	return e, cut(err)
}

// zipEnds checks that nothing follows what was inflated, and its checksum.
func (u *unpacking) zipEnds() error {
	var over [1]byte
	switch n, err := u.zip.Read(over[:]); {
	case n > 0:
		return errPack
	case !errors.Is(err, io.EOF):
		return cut(err)
	}
	return nil
}

// patch makes the object that an entry is packed as a delta of, and names it. Where
// keep is false and the object is large, its content is not kept.
func (u *unpacking) patch(p *pack, number int, typ plumbing.ObjectType, base *body, keep bool) (made body, name gitops.Hash, err error) {
	e, err := u.head(p, number)
	if err != nil {
		return body{}, name, err
	}
	if e.size > u.large || base.file != nil {
		if err := u.resetZip(&u.at); err != nil {
			return body{}, name, err
		}
		u.stretch.Reset(io.LimitReader(u.zip, e.size))
		made, name, err = u.patchBy(&u.stretch, e.size, typ, base, keep)
		if err == nil {
			err = u.zipEnds()
		}
		if err != nil {
			made.drop()
		}
		return made, name, err
	}
	delta, err := u.inflate(&u.at, e.size)
	if err != nil {
		return body{}, name, err
	}
	if _, size, _, err := deltaSizes(delta); err == nil && size > u.large {
		return u.patchBy(bytes.NewReader(delta), e.size, typ, base, keep)
	}
	content, err := applyDelta(base.bytes, delta, u.large)
	if err != nil {
		return body{}, name, err
	}
	if err := u.spend(e.size + int64(len(content))); err != nil {
		return body{}, name, err
	}
	name, err = hashObject(typ, content)
	return body{bytes: content, size: int64(len(content))}, name, err
}

// spend counts work against what a pack may ask for, however it is made.
func (u *unpacking) spend(inflated int64) error {
	if u.inflated += inflated; u.inflated > maxInflated {
		return errors.New("the pack holds more than can be true")
	}
	return nil
}

// deltaReader is a delta that is read once, from its beginning.
type deltaReader interface {
	io.Reader
	io.ByteReader
}

// patchBy is patch for what is too large for the memory, or may be.
func (u *unpacking) patchBy(delta deltaReader, length int64, typ plumbing.ObjectType, base *body, keep bool) (made body, name gitops.Hash, err error) {
	baseSize, baseErr := readDeltaSize(delta)
	size, sizeErr := readDeltaSize(delta)
	switch {
	case baseErr != nil || sizeErr != nil || baseSize != base.size:
		return body{}, name, errDelta
	case size > maxObject:
		return body{}, name, errTooLarge
	case size > maxPlain && typ != plumbing.BlobObject:
		return body{}, name, errPlain
	}
	if err := u.spend(length + size); err != nil {
		return body{}, name, err
	}
	out := &patched{size: size, hash: newObjectHash(typ, size)}
	switch {
	case typ != plumbing.BlobObject || size <= u.large:
		out.bytes = make([]byte, 0, min(size, 1<<16)) // its size is a claim
	case keep:
		if out.file, err = u.newBody(); err != nil {
			return body{}, name, err
		}
	}
	if err = out.apply(delta, base); err == nil {
		name, err = out.hash.sum()
	}
	made = body{bytes: out.bytes, file: out.file, size: size}
	if err != nil {
		made.drop()
	}
	return made, name, err
}

// patched takes what a delta makes, in memory, in a file or nowhere but in its hash.
type patched struct {
	size, n int64
	hash    *objectHash
	bytes   []byte
	file    *os.File
	w       *bufio.Writer
	part    [0x7f]byte
}

func (m *patched) Write(part []byte) (int, error) {
	if m.n += int64(len(part)); m.n > m.size {
		return 0, errDelta
	}
	_, _ = m.hash.Write(part) // a hash takes everything
	switch {
	case m.bytes != nil:
		m.bytes = append(m.bytes, part...)
	case m.w != nil:
		return m.w.Write(part)
	}
	return len(part), nil
}

// apply carries a delta out that comes as a stream, its sizes already read.
func (m *patched) apply(delta deltaReader, base *body) error {
	if m.file != nil {
		m.w = bufio.NewWriterSize(m.file, 128<<10)
	}
	for {
		op, err := delta.ReadByte()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return cut(err)
		}
		switch {
		case op == 0:
			return errDelta
		case op&0x80 == 0: // the next op bytes themselves
			part := m.part[:op]
			if _, err := io.ReadFull(delta, part); err != nil {
				return cut(err)
			}
			if _, err := m.Write(part); err != nil {
				return err
			}
		default: // a part of the base
			var words [7]byte
			for i := range words {
				if op&(1<<i) != 0 {
					if words[i], err = delta.ReadByte(); err != nil {
						return cut(err)
					}
				}
			}
			offset := int64(words[0]) | int64(words[1])<<8 | int64(words[2])<<16 | int64(words[3])<<24
			size := int64(words[4]) | int64(words[5])<<8 | int64(words[6])<<16
			if size == 0 {
				size = 0x10000
			}
			if err := base.copyTo(m, offset, size); err != nil {
				return err
			}
		}
	}
	if m.n != m.size {
		return errDelta
	}
	if m.w != nil {
		return m.w.Flush()
	}
	return nil
}

// readDeltaSize reads one of the two sizes that a delta begins with.
func readDeltaSize(delta io.ByteReader) (size int64, err error) {
	for shift := 0; shift < 56; shift += 7 {
		c, err := delta.ReadByte()
		if err != nil {
			return 0, cut(err)
		}
		size |= int64(c&0x7f) << shift
		if c&0x80 == 0 {
			return size, nil
		}
	}
	return 0, errDelta
}
