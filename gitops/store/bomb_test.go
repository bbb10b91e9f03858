package store_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
	"towpath.dev/towpath/gitops/wire"
)

const (
	blobType     = 3
	ofsDeltaType = 6
)

// bomb is a pack that is made to cost whoever reads it more than who made it.
type bomb struct {
	bytes.Buffer
	objects uint32
}

func newBomb() *bomb {
	b := &bomb{}
	b.WriteString("PACK\x00\x00\x00\x02\x00\x00\x00\x00")
	return b
}

// add puts an entry into the pack, of a delta with the distance to its base, and
// returns where it begins.
func (b *bomb) add(t testing.TB, typ int, distance int, content []byte) (offset int) {
	t.Helper()
	offset = b.Len()
	b.objects++
	size := len(content)
	c := byte(typ<<4 | size&0xf)
	for size >>= 4; size > 0; size >>= 7 {
		b.WriteByte(c | 0x80)
		c = byte(size & 0x7f)
	}
	b.WriteByte(c)
	if typ == ofsDeltaType {
		var back []byte
		back = append(back, byte(distance&0x7f))
		for distance >>= 7; distance > 0; distance >>= 7 {
			distance--
			back = append([]byte{byte(distance&0x7f) | 0x80}, back...)
		}
		b.Write(back)
	}
	z := zlib.NewWriter(b)
	if _, err := z.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return offset
}

// sealed is the pack as a server sends it.
func (b *bomb) sealed() []byte {
	raw := bytes.Clone(b.Bytes())
	binary.BigEndian.PutUint32(raw[8:], b.objects)
	sum := sha1.Sum(raw)
	return append(raw, sum[:]...)
}

// repeated is a delta that writes a base of 64 KiB so many times, with a mark at
// its end that makes it differ from others.
func repeated(times int, mark string) []byte {
	var d []byte
	d = binary.AppendUvarint(d, 1<<16)
	d = binary.AppendUvarint(d, uint64(times<<16+len(mark)))
	for range times {
		d = append(d, 0x80) // from 0 on, 0x10000 bytes
	}
	return append(append(d, byte(len(mark))), mark...)
}

// TestPackOfHugeObjects: a pack of some hundred bytes whose objects have half a
// gigabyte each takes little memory, and its end is not waited for.
//
// It counts what the whole process allocates, so no other test may run beside it.
func TestPackOfHugeObjects(t *testing.T) { //nolint:paralleltest // see above
	for name, fill := range map[string]func(b *bomb){
		"beside each other": func(b *bomb) {
			base := b.add(t, blobType, 0, bytes.Repeat([]byte("x"), 1<<16))
			for n := range 100 {
				b.add(t, ofsDeltaType, b.Len()-base, repeated(8000, fmt.Sprint("mark", n)))
			}
		},
		"on each other": func(b *bomb) {
			at := b.add(t, blobType, 0, bytes.Repeat([]byte("x"), 1<<16))
			at = b.add(t, ofsDeltaType, b.Len()-at, repeated(7000, "mark"))
			for size := 7000<<16 + 4; size > 6900<<16; size -= 1 << 16 {
				at = b.add(t, ofsDeltaType, b.Len()-at, shortened(size, size-1<<16))
			}
		},
		"a delta of zeros": func(b *bomb) {
			base := b.add(t, blobType, 0, []byte("x"))
			b.add(t, ofsDeltaType, b.Len()-base, inserted(400<<20))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBomb()
			fill(b)
			pack := b.sealed()
			s, dir := openFor(t, func(wire.FetchRequest) (*wire.Pack, error) { return reply(pack) })
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			err := s.Fetch(ctx, []gitops.Hash{{1}}, 1)
			took := time.Since(began)
			runtime.ReadMemStats(&after)
			if err == nil || took > 30*time.Second {
				t.Errorf("%v after %s", err, took)
			}
			if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 64<<20 {
				t.Errorf("for a pack of %d bytes it allocates %d MiB", len(pack), allocated>>20)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "0/tmp/*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// shortened is a delta that takes the first bytes of its base, and no more.
func shortened(base, size int) []byte {
	d := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(base)), uint64(size))
	for at := 0; at < size; {
		n := min(size-at, 0xffffff)
		d = append(d, 0x80|0x7f, byte(at), byte(at>>8), byte(at>>16), byte(at>>24), byte(n), byte(n>>8), byte(n>>16))
		at += n
	}
	return d
}

// inserted is a delta on one byte that brings all that it makes itself.
func inserted(size int) []byte {
	d := binary.AppendUvarint(binary.AppendUvarint(nil, 1), uint64(size))
	part := append([]byte{100}, make([]byte, 100)...)
	d = append(d, bytes.Repeat(part, size/100)...)
	if rest := size % 100; rest > 0 {
		d = append(append(d, byte(rest)), make([]byte, rest)...)
	}
	return d
}

// TestTightRoom: a tree of deltas, each of which is needed again after what stands
// on it was named, comes out the same whether or not there is room to keep any.
func TestTightRoom(t *testing.T) {
	t.Parallel()
	b := newBomb()
	var grow func(at, size, depth int)
	grow = func(at, size, depth int) {
		for branch := range 3 {
			if depth == 0 {
				return
			}
			less := size - 10*depth - branch - 1
			grow(b.add(t, ofsDeltaType, b.Len()-at, shortened(size, less)), less, depth-1)
		}
	}
	text := bytes.Repeat([]byte("all that there is to say "), 40)
	grow(b.add(t, blobType, 0, text), len(text), 5)
	pack, dir := b.sealed(), t.TempDir()
	want, err := store.Received(pack, dir, 0, 0, 0)
	if err != nil || len(want) != 1+3+9+27+81+243 {
		t.Fatalf("%d objects, %v", len(want), err)
	}
	for _, room := range [][3]int64{{1, 1, 1}, {1, 1, 3000}, {900, 2000, 1000}, {1 << 20, 1, 1}, {1 << 20, 2000, 1}} {
		got, err := store.Received(pack, dir, room[0], room[1], room[2])
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("in room %v: %d objects, %v", room, len(got), err)
		}
	}
}

// TestLargeFiles: versions of large files, packed by real git as deltas on each
// other, arrive as they are, and without being in memory together.
func TestLargeFiles(t *testing.T) { //nolint:paralleltest // as above
	p := newPlace(t)
	noise := make([]byte, 12<<20)
	for i, x := 0, uint32(7); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	var tip string
	for version := range 4 {
		copy(noise[version*3<<20:], fmt.Sprint("version ", version))
		files := map[string]string{"large": string(noise), "small": fmt.Sprint(version)}
		if version == 2 {
			files["smaller"] = string(noise[:7<<20]) // a large base, and what stands on it is not
		}
		tip = p.Commit(lab.Commit{Files: files})
	}
	p.Push("HEAD:main")
	lab.RunGit(t, p.bare(), "-c", "pack.threads=1", "-c", "pack.compression=0", "repack", "-adfq", "--depth=10", "--window=10")
	s := openStore(t, t.TempDir(), p.remote(t))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := s.Fetch(t.Context(), []gitops.Hash{hash(t, tip)}, 0); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 64<<20 {
		t.Errorf("%d MiB are allocated for four versions of a file of 12 MiB", allocated>>20)
	}
	compare(t, s, p.Work.Dir, tip)
}

// TestBlobUpTo: a blob that is larger than what is asked for takes no memory to find
// that out, whether it is packed by itself or as a delta; the others are read.
func TestBlobUpTo(t *testing.T) { //nolint:paralleltest // as above
	p := newPlace(t)
	text := strings.Repeat("the same line again and again\n", 1<<20)
	p.Commit(lab.Commit{Files: map[string]string{"large": text, "small": "1\n"}})
	tip := p.Commit(lab.Commit{Files: map[string]string{"large": text + "and one more\n", "small": "2\n"}})
	p.Push("HEAD:main")
	lab.RunGit(t, p.bare(), "repack", "-adfq")
	s := openStore(t, t.TempDir(), p.remote(t))
	if err := s.Fetch(t.Context(), []gitops.Hash{hash(t, tip)}, 0); err != nil {
		t.Fatal(err)
	}
	named := func(what string) gitops.Hash { return hash(t, p.Work.Git("rev-parse", what)) }
	small, first, second := named("HEAD:small"), named("HEAD^:large"), named("HEAD:large")
	const limit = 1 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, h := range []gitops.Hash{first, second} {
		if _, err := s.BlobUpTo(h, limit); !errors.Is(err, store.ErrLarge) || errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", h, err)
		}
	}
	var read, large []gitops.Hash
	err := s.BlobsUpTo(t.Context(), []gitops.Hash{first, small, second}, limit,
		func(h gitops.Hash, _ []byte) error { read = append(read, h); return nil },
		func(h gitops.Hash) { large = append(large, h) })
	runtime.ReadMemStats(&after)
	if err != nil || !slices.Equal(read, []gitops.Hash{small}) || len(large) != 2 {
		t.Errorf("read %v, too large %v, %v", read, large, err)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 8<<20 {
		t.Errorf("%d MiB are allocated to say so", allocated>>20)
	}
	if content, err := s.Blob(second); err != nil || string(content) != text+"and one more\n" {
		t.Errorf("without a limit: %d bytes, %v", len(content), err)
	}
	if _, err := s.BlobUpTo(first, limit); !errors.Is(err, store.ErrLarge) { // from what is kept of that
		t.Error(err)
	}
}
