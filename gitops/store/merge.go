package store

import (
	"bufio"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// maxPacks is how many packs there may be before small ones are merged: every
// read asks each of them.
const maxPacks = 8

// merge keeps the number of packs small. The packs that do not fit a geometric
// progression of sizes become one, so that a byte is copied only as often as
// the copy doubles. It is housekeeping: what cannot be merged, because the disk
// is full or a file is damaged, stays as it is, and whoever needs it will tell.
// Callers hold the lock.
func (s *Store) merge() {
	if len(s.packs) <= maxPacks {
		return
	}
	bySize := slices.Clone(s.packs)
	slices.SortStableFunc(bySize, func(a, b *pack) int { return int(min(max(a.size-b.size, -1), 1)) })
	n, total := 2, bySize[0].size+bySize[1].size
	for n < len(bySize) && (bySize[n].size < 2*total || len(bySize)-n >= maxPacks) {
		total += bySize[n].size
		n++
	}
	merged, err := s.mergePacks(bySize[:n])
	if err != nil {
		return
	}
	next := s.state
	next.packs = []packState{{merged.name, merged.size}}
	for _, p := range s.packs {
		if !slices.Contains(bySize[:n], p) {
			next.packs = append(next.packs, packState{p.name, p.size})
		}
	}
	if writeState(s.dir, next) != nil {
		return
	}
	s.adopt(next)
	_ = s.sweep() // what stays behind is swept by the next Open
}

// mergePacks writes the entries of packs one after the other into a new one.
// Deltas name their bases by distance within a pack or by hash, so entries move
// as they are. An object may be in it twice.
func (s *Store) mergePacks(packs []*pack) (merged packState, err error) {
	file, err := os.CreateTemp(tempDir(s.dir), "merged-*")
	if err != nil {
		return packState{}, err
	}
	defer func() {
		file.Close()
		os.Remove(file.Name())
	}()
	count := 0
	for _, p := range packs {
		if err := p.open(s.dir); err != nil {
			return packState{}, err
		}
		count += p.index.count
	}
	sum := sha1.New()
	buffered := bufio.NewWriterSize(io.MultiWriter(file, sum), 128<<10)
	_, _ = buffered.Write(packStart(count)) // Flush tells of errors
	lines := make([]indexed, 0, count)
	at := int64(packHeader)
	for _, p := range packs {
		for i := range p.index.count {
			offset, err := p.index.offset(i)
			if err != nil {
				return packState{}, err
			}
			lines = append(lines, indexed{p.index.name(i), offset - packHeader + at, p.index.crc(i)})
		}
		body := p.size - packHeader - packTrailer
		n, err := io.Copy(buffered, io.NewSectionReader(p.file, packHeader, body))
		if err != nil {
			return packState{}, err
		}
		if n != body {
			return packState{}, errors.New("a pack is cut short")
		}
		at += body
	}
	if err := buffered.Flush(); err != nil {
		return packState{}, err
	}
	checksum := sum.Sum(nil)
	if _, err := file.Write(checksum); err != nil {
		return packState{}, err
	}
	merged = packState{fmt.Sprintf("pack-%x", checksum), at + packTrailer}
	if err := os.WriteFile(packPath(s.dir, merged.name, ".idx"), formatIndex(lines, checksum), 0o600); err != nil {
		return packState{}, err
	}
	return merged, os.Rename(file.Name(), packPath(s.dir, merged.name, ".pack"))
}
