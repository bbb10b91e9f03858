package wire

import (
	"bytes"
	"errors"
	"io"

	"towpath.dev/towpath/gitops"
)

// sideband reads band 1 of a multiplexed stream (protocol-pack(5)) up to its
// flush: band 2 is progress, band 3 ends it with the server's error. A stream
// that ends without a flush was cut.
type sideband struct {
	packets *packets
	band    []byte // of band 1, read and not yet given away
	left    int64  // bytes that band 1 may still bring
	tooLong error  // when it brings more
	lines   *lines
	err     error
}

// newSideband takes over the packets' bound: limit for band 1, maxChatter for
// everything else.
func newSideband(p *packets, limit int64, tooLong error, l *lines) *sideband {
	p.left = limit + limit/1000 + maxChatter // the packets' own lengths are a thousandth at most, or chatter
	return &sideband{packets: p, left: limit, tooLong: tooLong, lines: l}
}

func (s *sideband) Read(to []byte) (int, error) {
	for len(s.band) == 0 && s.err == nil {
		s.band, s.err = s.next()
	}
	n := copy(to, s.band)
	s.band = s.band[n:]
	if n == 0 && len(to) > 0 {
		return 0, s.err
	}
	return n, nil
}

func (s *sideband) next() ([]byte, error) {
	k, payload, err := s.packets.next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	case k == flush:
		s.lines.end()
		return nil, io.EOF
	case k != data || len(payload) == 0:
		return nil, garbage("a line without a band")
	}
	switch band := payload[1:]; payload[0] {
	case 1:
		if s.left -= int64(len(band)); s.left < 0 {
			return nil, s.tooLong
		}
		return band, nil
	case 2:
		s.lines.add(band)
		return nil, nil
	case 3:
		return nil, &remoteError{string(band)}
	default:
		if text, found := bytes.CutPrefix(payload, []byte("ERR ")); found {
			return nil, &remoteError{string(text)}
		}
		return nil, garbage("band %d", payload[0])
	}
}

// lines cuts what comes in pieces into clean lines, hands them on, and keeps the
// first of them.
type lines struct {
	each    func(string) // nil: nobody wants them
	scrub   func(string) string
	partial []byte
	kept    []byte
}

const (
	maxLine = 1 << 10
	maxKept = 4 << 10
)

func (l *lines) add(text []byte) {
	for len(text) > 0 {
		i := bytes.IndexAny(text, "\r\n")
		if i < 0 {
			l.partial = append(l.partial, text[:min(len(text), max(0, maxLine-len(l.partial)))]...)
			return
		}
		l.partial = append(l.partial, text[:min(i, max(0, maxLine-len(l.partial)))]...)
		l.end()
		text = text[i+1:]
	}
}

func (l *lines) end() {
	line := l.scrub(gitops.Line(string(l.partial), 300))
	l.partial = l.partial[:0]
	if line == "" {
		return
	}
	if len(l.kept) < maxKept {
		l.kept = append(append(l.kept, line...), '\n')
	}
	if l.each != nil {
		l.each(line)
	}
}

// text is what was kept, as one line.
func (l *lines) text() string {
	l.end()
	return gitops.Line(string(l.kept), 1000)
}
