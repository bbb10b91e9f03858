package store

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"slices"
	"sort"

	"towpath.dev/towpath/gitops"
)

// An index finds objects in a pack, in git's own format (version 2,
// gitformat-pack(5)), so that git can look at a cache that somebody wonders
// about.
type index struct {
	raw   []byte
	count int
}

const (
	indexMagic   = "\377tOc\x00\x00\x00\x02"
	indexFanout  = len(indexMagic)
	indexNames   = indexFanout + 256*4
	hashSize     = 20
	largeOffset  = 1 << 31
	indexTrailer = 2 * hashSize
)

var errIndex = errors.New("malformed pack index")

func parseIndex(raw []byte) (*index, error) {
	if len(raw) < indexNames+indexTrailer || string(raw[:indexFanout]) != indexMagic {
		return nil, errIndex
	}
	x := &index{raw: raw}
	last := uint32(0)
	for i := range 256 {
		n := binary.BigEndian.Uint32(raw[indexFanout+4*i:])
		if n < last {
			return nil, errIndex
		}
		last = n
	}
	x.count = int(last)
	if len(raw) < indexNames+x.count*(hashSize+4+4)+indexTrailer {
		return nil, errIndex
	}
	return x, nil
}

func (x *index) fanout(i int) int {
	if i < 0 {
		return 0
	}
	return int(binary.BigEndian.Uint32(x.raw[indexFanout+4*i:]))
}

func (x *index) name(i int) (h gitops.Hash) {
	copy(h[:], x.raw[indexNames+i*hashSize:])
	return h
}

// find returns where in the pack an object begins, or -1.
func (x *index) find(h gitops.Hash) (int64, error) {
	low, high := x.fanout(int(h[0])-1), x.fanout(int(h[0]))
	i := low + sort.Search(high-low, func(i int) bool {
		at := indexNames + (low+i)*hashSize
		return bytes.Compare(x.raw[at:at+hashSize], h[:]) >= 0
	})
	if i >= high || x.name(i) != h {
		return -1, nil
	}
	return x.offset(i)
}

func (x *index) offset(i int) (int64, error) {
	offsets := indexNames + x.count*(hashSize+4)
	offset := binary.BigEndian.Uint32(x.raw[offsets+4*i:])
	if offset < largeOffset {
		return int64(offset), nil
	}
	at := offsets + 4*x.count + 8*int(offset&(largeOffset-1))
	if at+8+indexTrailer > len(x.raw) {
		return 0, errIndex
	}
	large := binary.BigEndian.Uint64(x.raw[at:])
	if large > 1<<62 {
		return 0, errIndex
	}
	return int64(large), nil
}

func (x *index) crc(i int) uint32 {
	return binary.BigEndian.Uint32(x.raw[indexNames+x.count*hashSize+4*i:])
}

// indexed is one line of an index that is being made.
type indexed struct {
	hash   gitops.Hash
	offset int64
	crc    uint32
}

// formatIndex is the index of a pack whose trailer is checksum. It sorts the
// entries.
func formatIndex(entries []indexed, checksum []byte) []byte {
	slices.SortFunc(entries, func(a, b indexed) int {
		if c := bytes.Compare(a.hash[:], b.hash[:]); c != 0 {
			return c
		}
		return int(min(max(a.offset-b.offset, -1), 1))
	})
	raw := make([]byte, 0, indexNames+len(entries)*(hashSize+4+4)+indexTrailer)
	raw = append(raw, indexMagic...)
	next := 0
	for first := range 256 {
		for next < len(entries) && int(entries[next].hash[0]) <= first {
			next++
		}
		raw = binary.BigEndian.AppendUint32(raw, uint32(next))
	}
	for _, e := range entries {
		raw = append(raw, e.hash[:]...)
	}
	for _, e := range entries {
		raw = binary.BigEndian.AppendUint32(raw, e.crc)
	}
	var large []byte
	for _, e := range entries {
		if e.offset < largeOffset {
			raw = binary.BigEndian.AppendUint32(raw, uint32(e.offset))
			continue
		}
		raw = binary.BigEndian.AppendUint32(raw, largeOffset|uint32(len(large)/8))
		large = binary.BigEndian.AppendUint64(large, uint64(e.offset))
	}
	raw = append(raw, large...)
	raw = append(raw, checksum...)
	sum := sha1.Sum(raw)
	return append(raw, sum[:]...)
}
