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
	// heldBases bounds what is kept of objects that deltas still wait for.
	heldBases = 64 << 20
)

// receive reads a pack to its end into a temporary file below dir, and names
// every object in it. The caller must discard what it returns, or install it.
func receive(ctx context.Context, source io.Reader, dir string) (*received, error) {
	file, err := os.CreateTemp(dir, "pack-*")
	if err != nil {
		return nil, err
	}
	in := &received{path: file.Name(), file: file, needs: needs{objects: map[gitops.Hash]struct{}{}}}
	u := &unpacking{received: in, reader: newReader(0), waiting: map[gitops.Hash][]uint32{}}
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
	waiting  map[gitops.Hash][]uint32 // REFDeltaObject entries by their base
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

// resolve names the objects that are packed as deltas, from each base upwards.
func (u *unpacking) resolve(ctx context.Context) error {
	p := &pack{size: u.size, file: u.file}
	named := 0
	for i := range u.entries {
		if u.entries[i].typ.IsDelta() {
			continue
		}
		named++
		if u.entries[i].child == 0 && len(u.waiting[u.entries[i].hash]) == 0 {
			continue
		}
		n, err := u.resolveOn(ctx, p, i)
		if err != nil {
			return err
		}
		named += n
	}
	if named != len(u.entries) {
		return fmt.Errorf("%w: %d of its objects are deltas on objects that it does not hold", errPack, len(u.entries)-named)
	}
	return nil
}

// base is an object that deltas still wait for.
type base struct {
	number  int // of the entry
	typ     plumbing.ObjectType
	content []byte // nil: let go, to be read again
	waiting []uint32
	next    uint32 // of the list of children
}

// resolveOn names everything that stands on the entry root, depth first, so
// that few bases are held at a time.
func (u *unpacking) resolveOn(ctx context.Context, p *pack, root int) (named int, err error) {
	typ := u.entries[root].typ
	content, err := u.read(p, root)
	if err != nil {
		return 0, err
	}
	held := 0
	var bases []base
	push := func(number int, content []byte) {
		held += len(content)
		hash := u.entries[number].hash
		bases = append(bases, base{number, typ, content, u.waiting[hash], u.entries[number].child})
		delete(u.waiting, hash)
		for i := 0; held > heldBases && i < len(bases)-1; i++ {
			held -= len(bases[i].content)
			bases[i].content = nil
		}
	}
	push(root, content)
	chain := make([]int, 0, 64)
	for len(bases) > 0 {
		top := &bases[len(bases)-1]
		var number int
		switch {
		case top.next != 0:
			number = int(top.next) - 1
			top.next = u.entries[number].sibling
		case len(top.waiting) > 0:
			number = int(top.waiting[0]) - 1
			top.waiting = top.waiting[1:]
		default:
			held -= len(top.content)
			bases = bases[:len(bases)-1]
			continue
		}
		if len(bases) > maxChain {
			return named, fmt.Errorf("%w: more than %d deltas stand on each other", errPack, maxChain)
		}
		if top.content == nil {
			chain = chain[:0]
			for _, b := range bases {
				chain = append(chain, b.number)
			}
			if top.content, err = u.again(p, chain); err != nil {
				return named, err
			}
			held += len(top.content)
		}
		delta, err := u.read(p, number)
		if err != nil {
			return named, err
		}
		content, err := applyDelta(top.content, delta, maxObject)
		if err != nil {
			return named, fmt.Errorf("object at byte %d: %w", u.entries[number].offset, err)
		}
		if u.inflated += int64(len(content)); u.inflated > maxInflated {
			return named, errors.New("the pack holds more than can be true")
		}
		hash, err := hashObject(typ, content)
		if err != nil {
			return named, err
		}
		if err := u.needs.add(typ, hash, content); err != nil {
			return named, err
		}
		u.entries[number].hash = hash
		named++
		if named%512 == 0 && ctx.Err() != nil {
			return named, ctx.Err()
		}
		if u.entries[number].child != 0 || len(u.waiting[hash]) > 0 {
			push(number, content)
		}
	}
	return named, nil
}

// again makes the last object of a chain of entries, each a delta on the one
// before.
func (u *unpacking) again(p *pack, chain []int) (content []byte, err error) {
	for i, number := range chain {
		part, err := u.read(p, number)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			content = part
		} else if content, err = applyDelta(content, part, maxObject); err != nil {
			return nil, err
		}
	}
	return content, nil
}

// read inflates an entry of the spooled pack: an object, or a delta.
func (u *unpacking) read(p *pack, number int) ([]byte, error) {
	offset := u.entries[number].offset
	u.at.seek(p.file, p.size-packTrailer, offset)
	e, err := readEntry(&u.at, offset)
	if err != nil {
		return nil, cut(err)
	}
	return u.inflate(&u.at, e.size)
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
