package store

import (
	"compress/zlib"
	"container/list"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-git/go-git/v5/plumbing"

	"towpath.dev/towpath/gitops"
)

const (
	// maxObject bounds one object, inflated. Forges refuse files far smaller.
	maxObject = 512 << 20
	// maxChain bounds how many deltas stand on each other, as git does.
	maxChain = 4095

	packMagic   = "PACK\x00\x00\x00\x02"
	packHeader  = 12 // the magic and a count
	packTrailer = hashSize
)

var (
	errPack     = errors.New("malformed pack")
	errTooLarge = fmt.Errorf("an object is larger than %d MiB", maxObject>>20)
)

// pack is a packfile with its index. Both are opened when they are first
// needed, and closed when the store has been idle.
type pack struct {
	name  string // "pack-…", without extension
	size  int64
	file  *os.File
	index *index
	users int  // readers outside the store's lock
	gone  bool // no longer the store's: close when the last user leaves
}

func (p *pack) open(dir string) error {
	if p.file != nil {
		return nil
	}
	raw, err := os.ReadFile(packPath(dir, p.name, ".idx"))
	if err != nil {
		return err
	}
	x, err := parseIndex(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	file, err := os.Open(packPath(dir, p.name, ".pack"))
	if err != nil {
		return err
	}
	p.file, p.index = file, x
	return nil
}

func (p *pack) close() {
	if p.file != nil && p.users == 0 {
		p.file.Close()
		p.file, p.index = nil, nil
	}
}

// reader reads objects of packs. It is for one goroutine. What it returns was
// not hashed.
type reader struct {
	at    cursor
	zip   io.ReadCloser // a zlib reader, reused
	cache *lru
}

func newReader(cacheBytes int) *reader {
	return &reader{cache: newLRU(cacheBytes)}
}

// entry is the head of a packed object.
type entry struct {
	typ        plumbing.ObjectType // as packed: perhaps a delta
	size       int64               // inflated; of a delta: the delta's own
	baseOffset int64               // of an OFSDeltaObject
	baseHash   gitops.Hash         // of a REFDeltaObject
}

// readEntry reads the head of the entry at offset; source stands behind it then.
func readEntry(source io.ByteReader, offset int64) (e entry, err error) {
	c, err := source.ReadByte()
	if err != nil {
		return entry{}, err
	}
	e.typ = plumbing.ObjectType(c >> 4 & 7)
	e.size = int64(c & 0xf)
	for shift := 4; c&0x80 != 0; shift += 7 {
		if shift > 50 {
			return entry{}, errPack
		}
		if c, err = source.ReadByte(); err != nil {
			return entry{}, err
		}
		e.size |= int64(c&0x7f) << shift
	}
	switch e.typ {
	case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
	case plumbing.OFSDeltaObject:
		if c, err = source.ReadByte(); err != nil {
			return entry{}, err
		}
		distance := int64(c & 0x7f)
		for c&0x80 != 0 {
			if distance > 1<<50 {
				return entry{}, errPack
			}
			if c, err = source.ReadByte(); err != nil {
				return entry{}, err
			}
			distance = (distance+1)<<7 | int64(c&0x7f)
		}
		e.baseOffset = offset - distance
		if distance < 1 || e.baseOffset < packHeader {
			return entry{}, errPack
		}
	case plumbing.REFDeltaObject:
		for i := range e.baseHash {
			if e.baseHash[i], err = source.ReadByte(); err != nil {
				return entry{}, err
			}
		}
	default:
		return entry{}, errPack
	}
	if e.size > maxObject {
		return entry{}, errTooLarge
	}
	return e, nil
}

// inflate reads the size bytes that follow an entry's head.
func (r *reader) inflate(source flateSource, size int64) ([]byte, error) {
	if err := r.resetZip(source); err != nil {
		return nil, err
	}
	content, err := readSized(r.zip, size)
	if err != nil {
		return nil, err
	}
	var over [1]byte
	switch n, err := r.zip.Read(over[:]); {
	case n > 0:
		return nil, errPack
	case !errors.Is(err, io.EOF): // a wrong checksum among others
		return nil, cut(err)
	}
	return content, nil
}

// flateSource is what package flate reads without reading ahead.
type flateSource interface {
	io.Reader
	io.ByteReader
}

func (r *reader) resetZip(source flateSource) error {
	if r.zip == nil {
		zip, err := zlib.NewReader(source)
		if err != nil {
			return cut(err)
		}
		r.zip = zip
		return nil
	}
	return cut(r.zip.(zlib.Resetter).Reset(source, nil))
}

// readSized reads exactly size bytes, and takes no more memory than what comes.
func readSized(source io.Reader, size int64) ([]byte, error) {
	const trusted = 1 << 20
	content := make([]byte, min(size, trusted))
	n, err := io.ReadFull(source, content)
	for err == nil && int64(n) < size {
		grown := make([]byte, min(size, 4*int64(len(content))))
		copy(grown, content)
		content = grown
		var m int
		m, err = io.ReadFull(source, content[n:])
		n += m
	}
	if err != nil {
		return nil, cut(err)
	}
	return content, nil
}

// cut makes of io.EOF, where more had to come, io.ErrUnexpectedEOF.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// object reads the object whose entry begins at offset, through however many
// deltas it stands on. What it returns may be in the cache too: do not change it.
// Nothing of more than limit bytes is read on the way: that is ErrLarge.
func (r *reader) object(p *pack, offset, limit int64) (plumbing.ObjectType, []byte, error) {
	type step struct {
		offset int64
		delta  []byte
	}
	var chain []step
	var base cached
	for at := offset; ; {
		if hit, ok := r.cache.get(place{p, at}); ok {
			base = hit
			break
		}
		if len(chain) > maxChain {
			return 0, nil, errPack
		}
		r.at.seek(p.file, p.size-packTrailer, at)
		e, err := readEntry(&r.at, at)
		if err != nil {
			return 0, nil, cut(err)
		}
		if e.size > limit {
			return 0, nil, ErrLarge
		}
		content, err := r.inflate(&r.at, e.size)
		if err != nil {
			return 0, nil, err
		}
		if !e.typ.IsDelta() {
			base = cached{typ: e.typ, content: content}
			if len(chain) > 0 {
				r.cache.put(place{p, at}, base)
			}
			break
		}
		chain = append(chain, step{at, content})
		at = e.baseOffset
		if e.typ == plumbing.REFDeltaObject {
			if at, err = p.index.find(e.baseHash); err != nil {
				return 0, nil, err
			}
			if at < 0 {
				return 0, nil, errPack
			}
		}
	}
	for i := len(chain) - 1; i >= 0; i-- {
		content, err := applyDelta(base.content, chain[i].delta, limit)
		if errors.Is(err, errTooLarge) && limit < maxObject {
			err = ErrLarge
		}
		if err != nil {
			return 0, nil, err
		}
		base.content = content
		r.cache.put(place{p, chain[i].offset}, base)
	}
	if int64(len(base.content)) > limit {
		return 0, nil, ErrLarge // it was kept of a read that had more room
	}
	return base.typ, base.content, nil
}

// cursor reads a file forwards from any place, and remembers what it has read
// ahead: neighbours in a pack cost one read together.
type cursor struct {
	file  io.ReaderAt
	limit int64 // where reading ends
	next  int64 // of the file: what comes after buf
	buf   []byte
	r     int
}

const cursorBuffer = 32 << 10

func (c *cursor) seek(file io.ReaderAt, limit, offset int64) {
	start := c.next - int64(len(c.buf))
	if c.file == file && offset >= start && offset <= c.next {
		c.limit, c.r = limit, int(offset-start)
		return
	}
	c.file, c.limit, c.next, c.buf, c.r = file, limit, offset, c.buf[:0], 0
}

func (c *cursor) fill() error {
	if c.next >= c.limit {
		return io.EOF
	}
	if cap(c.buf) == 0 {
		c.buf = make([]byte, 0, cursorBuffer)
	}
	buf := c.buf[:min(int64(cap(c.buf)), c.limit-c.next)]
	n, err := c.file.ReadAt(buf, c.next)
	c.buf, c.r = buf[:n], 0
	c.next += int64(n)
	if n > 0 {
		return nil
	}
	return cut(err)
}

func (c *cursor) ReadByte() (byte, error) {
	if c.r == len(c.buf) {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	c.r++
	return c.buf[c.r-1], nil
}

func (c *cursor) Read(p []byte) (int, error) {
	if c.r == len(c.buf) {
		if err := c.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, c.buf[c.r:])
	c.r += n
	return n, nil
}

// lru keeps the objects that were read last, by where they lie, up to a number
// of bytes.
type lru struct {
	limit, size int
	order       *list.List // of *kept, the newest first
	at          map[place]*list.Element
}

type place struct {
	pack   *pack
	offset int64
}

type cached struct {
	typ     plumbing.ObjectType
	content []byte
}

type kept struct {
	place
	cached
}

func newLRU(limit int) *lru {
	return &lru{limit: limit, order: list.New(), at: map[place]*list.Element{}}
}

func (c *lru) get(at place) (cached, bool) {
	e, ok := c.at[at]
	if !ok {
		return cached{}, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*kept).cached, true
}

func (c *lru) put(at place, object cached) {
	if len(object.content) > c.limit/4 {
		return
	}
	if _, ok := c.at[at]; ok {
		return
	}
	c.at[at] = c.order.PushFront(&kept{at, object})
	c.size += len(object.content) + lruOverhead
	for c.size > c.limit {
		last := c.order.Back()
		old := c.order.Remove(last).(*kept)
		delete(c.at, old.place)
		c.size -= len(old.content) + lruOverhead
	}
}

// lruOverhead is about what an entry costs besides its content.
const lruOverhead = 200
