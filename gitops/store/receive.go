package store

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"

	"towpath.dev/towpath/gitops"
)

// received is a pack from outside in a temporary file, its objects named.
type received struct {
	path     string
	file     *os.File
	size     int64
	checksum [packTrailer]byte
	entries  []packed
	needs    needs
	names    *index // once index was called
}

// packed is what is known about one entry of a received pack.
type packed struct {
	offset int64
	hash   gitops.Hash // until a REFDeltaObject is resolved: its base's
	typ    plumbing.ObjectType
	// Entries whose deltas stand on this one form a list. Numbers are indexes
	// plus one; 0 is none.
	child, sibling uint32
}

// needs are what the objects of a pack point to.
type needs struct {
	objects map[gitops.Hash]struct{} // trees, blobs, what a tag names
	commits []commitLinks
}

type commitLinks struct {
	hash    gitops.Hash
	parents []gitops.Hash
}

func (n *needs) add(typ plumbing.ObjectType, hash gitops.Hash, content []byte) error {
	switch typ {
	case plumbing.CommitObject:
		l, _, err := parseLinks(content)
		if err != nil {
			return fmt.Errorf("commit %s: %w", hash, err)
		}
		n.objects[l.tree] = struct{}{}
		n.commits = append(n.commits, commitLinks{hash, l.parents})
	case plumbing.TreeObject:
		err := eachEntry(content, func(mode, _ []byte, entry gitops.Hash) {
			switch kindOf(string(mode)) {
			case ModeSubmodule, "": // in another repository: git takes odd types for submodules too
			default:
				n.objects[entry] = struct{}{}
			}
		})
		if err != nil {
			return fmt.Errorf("tree %s: %w", hash, err)
		}
	case plumbing.TagObject:
		target, _, ok := hashLine(content, "object ")
		if !ok {
			return fmt.Errorf("tag %s: malformed", hash)
		}
		n.objects[target] = struct{}{}
	}
	return nil
}

const (
	// maxObjects bounds a pack's objects: some 60 bytes each while it is read.
	maxObjects = 32 << 20
	// maxInflated bounds the work that a small pack can ask for.
	maxInflated = 256 << 30
)

// receive reads a pack to its end into a temporary file below dir, and names
// every object in it. The caller must discard what it returns, or install it.
func receive(ctx context.Context, source io.Reader, dir string) (*received, error) {
	return receiveWith(ctx, source, dir, plenty())
}

func receiveWith(ctx context.Context, source io.Reader, dir string, room room) (*received, error) {
	file, err := os.CreateTemp(dir, "pack-*")
	if err != nil {
		return nil, err
	}
	in := &received{path: file.Name(), file: file, needs: needs{objects: map[gitops.Hash]struct{}{}}}
	u := &unpacking{received: in, room: room, dir: dir, reader: newReader(0), waiting: map[gitops.Hash][]uint32{}}
	err = u.scan(ctx, source)
	if err == nil {
		err = u.resolve(ctx)
	}
	if err != nil {
		in.discard()
		return nil, err
	}
	return in, nil
}

func (in *received) discard() {
	in.file.Close()
	os.Remove(in.path)
}

// unpacking is the work of receive.
type unpacking struct {
	*received
	*reader
	room
	dir      string                   // for files of large objects
	waiting  map[gitops.Hash][]uint32 // REFDeltaObject entries by their base
	stretch  bufio.Reader             // of a delta that is too large for the memory
	inflated int64
}

// spool copies what is read to a file.
type spool struct {
	source io.Reader
	file   *os.File
	n      int64
	failed error // of writing: not the pack's fault
}

func (s *spool) Read(p []byte) (int, error) {
	n, err := s.source.Read(p)
	if n > 0 {
		if _, werr := s.file.Write(p[:n]); werr != nil {
			s.failed = werr
			return 0, werr
		}
		s.n += int64(n)
	}
	return n, err
}

// scan reads the stream once: entries are noted, objects that are no deltas
// named.
func (u *unpacking) scan(ctx context.Context, source io.Reader) error {
	in := &spool{source: source, file: u.file}
	buffered := bufio.NewReaderSize(in, 128<<10)
	if err := u.scanEntries(ctx, in, buffered); err != nil {
		if in.failed != nil {
			return in.failed
		}
		return err
	}
	if _, err := buffered.ReadByte(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("%w: it goes on after its end", errPack)
		}
		return err
	}
	u.size = in.n
	return nil
}

func (u *unpacking) scanEntries(ctx context.Context, in *spool, buffered *bufio.Reader) error {
	var header [packHeader]byte
	if _, err := io.ReadFull(buffered, header[:]); err != nil {
		return cut(err)
	}
	if string(header[:len(packMagic)]) != packMagic {
		return fmt.Errorf("%w: not a pack of version 2", errPack)
	}
	count := binary.BigEndian.Uint32(header[8:])
	if count > maxObjects {
		return fmt.Errorf("a pack of %d objects: more than %d", count, maxObjects)
	}
	u.entries = make([]packed, 0, min(count, 1<<16))
	for range count {
		if len(u.entries)%512 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		offset := in.n - int64(buffered.Buffered())
		if err := u.scanEntry(buffered, offset); err != nil {
			return fmt.Errorf("object at byte %d: %w", offset, err)
		}
	}
	if _, err := io.ReadFull(buffered, u.checksum[:]); err != nil {
		return cut(err)
	}
	return nil
}

func (u *unpacking) scanEntry(source *bufio.Reader, offset int64) error {
	e, err := readEntry(source, offset)
	if err != nil {
		return cut(err)
	}
	if u.inflated += e.size; u.inflated > maxInflated {
		return errors.New("the pack holds more than can be true")
	}
	if e.size > maxPlain && e.typ != plumbing.BlobObject && !e.typ.IsDelta() {
		return errPlain
	}
	me := packed{offset: offset, typ: e.typ}
	number := uint32(len(u.entries) + 1)
	switch e.typ {
	case plumbing.OFSDeltaObject:
		base, ok := slices.BinarySearchFunc(u.entries, e.baseOffset, func(p packed, at int64) int {
			return int(min(max(p.offset-at, -1), 1))
		})
		if !ok {
			return fmt.Errorf("%w: a delta on no object", errPack)
		}
		me.sibling, u.entries[base].child = u.entries[base].child, number
	case plumbing.REFDeltaObject:
		me.hash = e.baseHash
		u.waiting[e.baseHash] = append(u.waiting[e.baseHash], number)
	}
	if e.typ == plumbing.BlobObject && e.size > streamed || e.typ.IsDelta() {
		// A delta is read again once its base is known, and so it is only
		// skipped here; of a large blob only the name is wanted.
		me.hash, err = u.stream(source, e, me.hash)
		u.entries = append(u.entries, me)
		return err
	}
	content, err := u.inflate(source, e.size)
	if err != nil {
		return err
	}
	if me.hash, err = hashObject(e.typ, content); err != nil {
		return err
	}
	u.entries = append(u.entries, me)
	return u.needs.add(e.typ, me.hash, content)
}

// streamed is the size above which a blob is not held in memory to be named.
const streamed = 1 << 20

// stream inflates an entry without holding it. It returns a blob's name, and a
// delta's hash unchanged.
func (u *unpacking) stream(source flateSource, e entry, hash gitops.Hash) (gitops.Hash, error) {
	if err := u.resetZip(source); err != nil {
		return hash, err
	}
	w := io.Discard
	var h *objectHash
	if !e.typ.IsDelta() {
		h = newObjectHash(e.typ, e.size)
		w = h
	}
	n, err := io.Copy(w, io.LimitReader(u.zip, e.size+1))
	if err != nil {
		return hash, cut(err)
	}
	if n != e.size {
		return hash, errPack
	}
	if h != nil {
		return h.sum()
	}
	return hash, nil
}

// index checks the spooled pack against its trailer and makes its index.
func (in *received) index() error {
	lines := make([]indexed, len(in.entries))
	body := io.NewSectionReader(in.file, 0, in.size-packTrailer)
	sum := sha1.New()
	buffered := bufio.NewReaderSize(io.TeeReader(body, sum), 128<<10)
	if _, err := buffered.Discard(packHeader); err != nil {
		return cut(err)
	}
	for i, e := range in.entries {
		end := in.size - packTrailer
		if i+1 < len(in.entries) {
			end = in.entries[i+1].offset
		}
		crc := crc32.NewIEEE()
		if _, err := io.CopyN(crc, buffered, end-e.offset); err != nil {
			return cut(err)
		}
		lines[i] = indexed{e.hash, e.offset, crc.Sum32()}
	}
	if got := sum.Sum(nil); string(got) != string(in.checksum[:]) {
		return fmt.Errorf("%w: its checksum does not match", errPack)
	}
	var err error
	in.names, err = parseIndex(formatIndex(lines, in.checksum[:]))
	return err
}

// has says whether the pack holds an object.
func (in *received) has(h gitops.Hash) bool {
	offset, err := in.names.find(h)
	return err == nil && offset >= 0
}
