package marker

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// text is a file's bytes with its lines as the YAML library counts them: CR,
// LF, CR LF, NEL, LS and PS each end one, and a byte order mark at the start
// is no part of the first. The library gives a node's place in these lines,
// with columns in runes.
type text struct {
	src    []byte
	starts []int // where each of the library's lines begins
	shown  []int // its number as editors and grep have it, who count LF alone
}

// lineOf is the number that people know the line by that a node begins on; 0
// if there is no such line.
func (t *text) lineOf(n *yaml.Node) int {
	if n.Line < 1 || n.Line > len(t.shown) {
		return 0
	}
	return t.shown[n.Line-1]
}

func newText(src []byte) *text {
	t := &text{src: src}
	start, shown := 0, 1
	if bytes.HasPrefix(src, []byte("\uFEFF")) {
		start = len("\uFEFF")
	}
	for i := start; ; {
		t.starts = append(t.starts, start)
		t.shown = append(t.shown, shown)
		width := 0
		for i < len(src) {
			if width = breakAt(src, i); width > 0 {
				break
			}
			i++
		}
		if width == 0 {
			return t
		}
		if src[i+width-1] == '\n' {
			shown++
		}
		i += width
		start = i
	}
}

// breakAt is the length of the line break at i; 0 if there is none.
func breakAt(src []byte, i int) int {
	switch src[i] {
	case '\n':
		return 1
	case '\r':
		if i+1 < len(src) && src[i+1] == '\n' {
			return 2
		}
		return 1
	case 0xC2: // NEL is C2 85
		if i+1 < len(src) && src[i+1] == 0x85 {
			return 2
		}
	case 0xE2: // LS and PS are E2 80 A8 and E2 80 A9
		if i+2 < len(src) && src[i+1] == 0x80 && (src[i+2] == 0xA8 || src[i+2] == 0xA9) {
			return 3
		}
	}
	return 0
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// skipBlanks is the first place from i on that is no space or tab.
func (t *text) skipBlanks(i int) int {
	for i < len(t.src) && isBlank(t.src[i]) {
		i++
	}
	return i
}

// lineEnd is where the line that holds i ends, before its break.
func (t *text) lineEnd(i int) int {
	for i < len(t.src) && breakAt(t.src, i) == 0 {
		i++
	}
	return i
}

// offset finds the byte at a line and column of the library; -1 if there is
// no such place.
func (t *text) offset(line, column int) int {
	if line < 1 || line > len(t.starts) || column < 1 {
		return -1
	}
	i := t.starts[line-1]
	for ; column > 1; column-- {
		if i >= len(t.src) || breakAt(t.src, i) > 0 {
			return -1
		}
		_, width := utf8.DecodeRune(t.src[i:])
		i += width
	}
	return i
}

// row is the index into starts of the line that holds the byte at i.
func (t *text) row(i int) int {
	row, exact := slices.BinarySearch(t.starts, i)
	if !exact && row > 0 {
		row--
	}
	return row
}

// line is the number that people know the line by that holds the byte at i.
func (t *text) line(i int) int { return t.shown[t.row(i)] }

// at is the byte at i, or 0 past the end.
func (t *text) at(i int) byte {
	if i < 0 || i >= len(t.src) {
		return 0
	}
	return t.src[i]
}
