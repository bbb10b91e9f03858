package console

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Plain passes on what a build printed as text that is harmless on a terminal:
// whole lines, without escape sequences, control and format characters and
// broken UTF-8. Of a line that overwrites itself, as progress bars do, the last
// state is passed on. Newlines and tabs stay. It is not safe for concurrent use.
type Plain struct {
	To io.Writer

	text text
	line []byte // what the line holds so far, up to maxRead bytes
	back bool   // the cursor is at the line's beginning again
	long bool   // the line's beginning was passed on already: nothing overwrites it any more
	out  []byte
}

// Write takes what a build printed. The error is To's.
func (p *Plain) Write(b []byte) (int, error) {
	for _, c := range b {
		p.text.next(c, p.add)
	}
	if err := p.pass(); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Flush ends a line that has no end.
func (p *Plain) Flush() error {
	p.text.end(p.add)
	if p.long || len(p.line) > 0 {
		p.add('\n')
	}
	return p.pass()
}

func (p *Plain) add(r rune) {
	switch {
	case r == '\r':
		p.back = true
		return
	case r == '\n' || p.back && p.long:
		p.out = append(append(p.out, p.line...), '\n')
		p.line, p.back, p.long = p.line[:0], false, false
		if r == '\n' {
			return
		}
	case p.back:
		p.line, p.back = p.line[:0], false
	}
	if p.line = utf8.AppendRune(p.line, r); len(p.line) >= maxRead {
		p.out, p.line, p.long = append(p.out, p.line...), p.line[:0], true
	}
}

func (p *Plain) pass() error {
	if len(p.out) == 0 {
		return nil
	}
	_, err := p.To.Write(p.out)
	if p.out = p.out[:0]; cap(p.out) > 4*maxRead {
		p.out = nil
	}
	return err
}

// Clean makes a line of somebody else's harmless on a terminal: no control or
// format characters, no escape sequences, no broken UTF-8, no end of blanks.
func Clean(line []byte) string {
	var b strings.Builder
	add := func(r rune) {
		if r == '\t' || r == '\n' || r == '\r' {
			r = ' '
		}
		b.WriteRune(r)
	}
	var t text
	for _, c := range line {
		t.next(c, add)
	}
	t.end(add)
	return strings.TrimSpace(b.String())
}

// text finds the text in what is meant for a terminal, a byte at a time.
type text struct {
	inside sequence
	half   []byte // of a character
}

// sequence is the kind of escape sequence (ECMA-48) that a byte is in.
type sequence int

const (
	none          sequence = iota
	escape                 // after ESC
	control                // CSI: up to its final byte
	command                // OSC and its kin: up to BEL or ST
	commandEscape          // after ESC in one, which may begin ST
)

// next passes on the character that a byte completes, if any. A newline ends any
// sequence: none may swallow the lines that follow.
func (t *text) next(c byte, add func(rune)) {
	if t.inside != none && c == '\n' {
		t.inside = none
	}
	switch t.inside {
	case escape:
		switch {
		case c == '[':
			t.inside = control
		case strings.IndexByte("]PX^_", c) >= 0:
			t.inside = command
		case c < 0x20 || c > 0x2f: // else one more byte follows
			t.inside = none
		}
	case control:
		if c >= 0x40 && c <= 0x7e {
			t.inside = none
		}
	case command, commandEscape:
		switch {
		case c == 0x07, c == '\\' && t.inside == commandEscape:
			t.inside = none
		case c == 0x1b:
			t.inside = commandEscape
		default:
			t.inside = command
		}
	default:
		t.half = append(t.half, c)
		for len(t.half) > 0 && utf8.FullRune(t.half) {
			t.one(add)
		}
	}
}

// end passes on what cannot become a character any more.
func (t *text) end(add func(rune)) {
	for len(t.half) > 0 {
		t.one(add)
	}
	t.inside = none
}

func (t *text) one(add func(rune)) {
	r, size := utf8.DecodeRune(t.half)
	t.half = append(t.half[:0], t.half[size:]...)
	switch {
	case r == utf8.RuneError && size == 1:
		add('?')
	case r == 0x1b:
		t.inside = escape
	case r == '\t', r == '\n', r == '\r':
		add(r)
	case unicode.Is(unicode.C, r), r == '\u2028', r == '\u2029':
	default:
		add(r)
	}
}
