package publish_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// A tar stream is written here byte by byte, since no library writes what a RUN
// step may.

// block is a header of an archive.
type block struct {
	name, link     string
	kind           byte
	mode, uid, gid int64
	size           int64  // 0: the content's
	sizeText       string // as it stands there, in place of size
	mtime          string // in octal; empty: later than the commit
	gnu            bool
	content        string
}

// later is a time of the day after the commit, in octal.
var later = fmt.Sprintf("%011o", at.Unix()+86400)

func (b block) String() string {
	raw := make([]byte, 512)
	put := func(from, to int, text string) { copy(raw[from:to], text) }
	number := func(n int64, digits int) string { return fmt.Sprintf("%0*o\x00", digits, n) }
	size := b.size
	if size == 0 {
		size = int64(len(b.content))
	}
	mode, mtime, kind := b.mode, b.mtime, b.kind
	if mode == 0 {
		mode = 0o644
	}
	if mtime == "" {
		mtime = later
	}
	if kind == 0 {
		kind = '0'
	}
	put(0, 100, b.name)
	put(100, 108, number(mode, 7))
	put(108, 116, number(b.uid, 7))
	put(116, 124, number(b.gid, 7))
	put(124, 136, number(size, 11))
	if b.sizeText != "" {
		put(124, 136, b.sizeText+strings.Repeat("\x00", 12))
	}
	put(136, 148, mtime+"\x00")
	raw[156] = kind
	put(157, 257, b.link)
	put(257, 265, "ustar\x0000")
	if b.gnu {
		put(257, 265, "ustar  \x00")
	}
	put(329, 345, "0000000\x000000000\x00")
	put(148, 156, "        ")
	sum := 0
	for _, octet := range raw {
		sum += int(octet)
	}
	put(148, 156, fmt.Sprintf("%06o\x00 ", sum))
	return string(raw) + b.content + strings.Repeat("\x00", (512-len(b.content)%512)%512)
}

// pax are extended records for the entry that follows: keys and values in turn.
func pax(records ...string) string { return extended('x', records...) }

func extended(kind byte, records ...string) string {
	var content strings.Builder
	for i := 0; i < len(records); i += 2 {
		content.WriteString(record(records[i], records[i+1]))
	}
	return block{name: "pax", kind: kind, content: content.String()}.String()
}

func record(key, value string) string {
	rest := " " + key + "=" + value + "\n"
	length := len(rest) + 1
	for len(strconv.Itoa(length))+len(rest) != length {
		length = len(strconv.Itoa(length)) + len(rest)
	}
	return strconv.Itoa(length) + rest
}

// gnuLong is a name or a link target for the entry that follows, as GNU tar
// writes long ones.
func gnuLong(kind byte, text string) string {
	return block{name: "././@LongLink", kind: kind, gnu: true, mtime: "00000000000", content: text + "\x00"}.String()
}

// ended puts the two blocks of zeros behind entries.
func ended(entries ...any) string {
	var all strings.Builder
	for _, e := range entries {
		fmt.Fprint(&all, e)
	}
	return all.String() + strings.Repeat("\x00", 1024)
}

func gzipped(content string) string {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write([]byte(content))
	_ = w.Close()
	return out.String()
}

func zstandard(content string) string {
	var out bytes.Buffer
	w, _ := zstd.NewWriter(&out)
	_, _ = w.Write([]byte(content))
	_ = w.Close()
	return out.String()
}
