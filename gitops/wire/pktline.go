package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"towpath.dev/towpath/gitops"
)

type reader = io.Reader

// Kinds of pkt-lines (git's protocol-common(5) and protocol-v2(5)). go-git's
// scanner does not know the last two, which version 2 needs.
type kind int

const (
	data kind = iota
	flush
	delimiter
	responseEnd
)

// maxPacket is the longest pkt-line, its four length digits included.
const maxPacket = 65520

// packets reads pkt-lines and never more than a number of bytes.
type packets struct {
	r    *bufio.Reader
	left int64
	buf  []byte
}

func newPackets(r reader, limit int64) *packets {
	return &packets{r: bufio.NewReaderSize(r, 16<<10), left: limit}
}

// next reads one pkt-line. The payload is valid until the next call. A stream
// that ends between two lines gives io.EOF, within one io.ErrUnexpectedEOF.
func (p *packets) next() (kind, []byte, error) {
	var digits [4]byte
	if _, err := io.ReadFull(p.r, digits[:]); err != nil {
		return 0, nil, err
	}
	n, ok := packetLength(digits)
	if !ok {
		return 0, nil, garbage("a line without a length: %q", digits[:])
	}
	if p.left -= int64(max(n, 4)); p.left < 0 {
		return 0, nil, errTooLong
	}
	switch n {
	case 0:
		return flush, nil, nil
	case 1:
		return delimiter, nil, nil
	case 2:
		return responseEnd, nil, nil
	case 3:
		return 0, nil, garbage("a line of length 3")
	}
	if n > maxPacket {
		return 0, nil, garbage("a line of %d bytes", n)
	}
	n -= 4
	if cap(p.buf) < n {
		p.buf = make([]byte, max(n, 1024))
	}
	p.buf = p.buf[:n]
	if _, err := io.ReadFull(p.r, p.buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return data, p.buf, nil
}

// line reads one pkt-line of text, without its final newline. The server's ERR
// line becomes an error, and so does the end of the stream: where a line is
// expected, a cut connection must never pass for an end.
func (p *packets) line() (kind, string, error) {
	k, payload, err := p.next()
	switch {
	case errors.Is(err, io.EOF):
		return 0, "", io.ErrUnexpectedEOF
	case err != nil || k != data:
		return k, "", err
	}
	payload = bytes.TrimSuffix(payload, []byte("\n"))
	if text, found := bytes.CutPrefix(payload, []byte("ERR ")); found {
		return 0, "", &remoteError{string(text)}
	}
	return data, string(payload), nil
}

// packetLength reads the four hexadecimal digits.
func packetLength(digits [4]byte) (int, bool) {
	n := 0
	for _, c := range digits {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		n = n<<4 | int(c)
	}
	return n, true
}

// request builds pkt-lines.
type request struct{ bytes.Buffer }

func (r *request) linef(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	fmt.Fprintf(r, "%04x%s", len(text)+4, text)
}

func (r *request) flush()     { r.WriteString("0000") }
func (r *request) delimiter() { r.WriteString("0001") }

// parseHash reads an object name as the protocol writes it.
func parseHash(s string) (gitops.Hash, error) {
	h, err := gitops.ParseHash(s)
	if err != nil {
		return gitops.Hash{}, garbage("no object name: %q", gitops.Line(s, 60))
	}
	return h, nil
}

// readToEnd reads what little may follow the last pkt-line of an HTTP body, so
// that its connection can serve again.
func readToEnd(r reader) error {
	n, err := io.CopyN(io.Discard, r, 4<<10)
	if n == 4<<10 {
		return garbage("more after the end")
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// remoteError is what the server said in an ERR line or a fatal message.
type remoteError struct{ text string }

func (e *remoteError) Error() string {
	return "the server says: " + gitops.Line(strings.TrimPrefix(e.text, "upload-pack: "), 300)
}
