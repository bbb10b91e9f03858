package marker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"towpath.dev/towpath/gitops"
)

// What a file may be. A manifest that people write is far below; the YAML
// library needs some hundred bytes of memory for each node of a hostile one.
const (
	MaxSize     = 4 << 20 // bytes
	MaxEntries  = 1 << 19 // of mappings, lists and the stream; counted generously, inside of texts too
	MaxMentions = 1 << 13 // of the word that makes a comment a marker
	MaxDepth    = 200     // mappings and lists inside each other
)

// Weight is about how much work it is to parse a file, in entries; a file of
// MaxEntries takes seconds. One that is refused at sight has none.
func Weight(src []byte) int {
	if checkLimits(src) != nil {
		return 0
	}
	return countEntries(src) + len(src)/64
}

// AtMost is how many markers a file can have.
func AtMost(src []byte) int { return bytes.Count(src, []byte("$image")) }

func countEntries(src []byte) int {
	entries := 0
	for _, sign := range []string{",", ":", "?", "[", "{", "- ", "-\t", "-\n", "-\r"} {
		entries += bytes.Count(src, []byte(sign))
	}
	return entries
}

// checkLimits looks at a file before anything is done in proportion to it.
func checkLimits(src []byte) *Error {
	if len(src) > MaxSize {
		return &Error{Reason: fmt.Sprintf("larger than %d MiB", MaxSize>>20)}
	}
	if bytes.HasPrefix(src, []byte{0xFF, 0xFE}) || bytes.HasPrefix(src, []byte{0xFE, 0xFF}) {
		return &Error{Reason: "in UTF-16", hint: "store it as UTF-8"}
	}
	if countEntries(src) > MaxEntries {
		return &Error{Reason: fmt.Sprintf("more than %d entries", MaxEntries)}
	}
	if AtMost(src) > MaxMentions {
		return &Error{Reason: fmt.Sprintf("more than %d markers", MaxMentions)}
	}
	return nil
}

// decode reads all documents of a file into trees. Aliases stay aliases, so
// they cannot blow up.
func (t *text) decode() (documents []*yaml.Node, failure *Error) {
	// The library reports by panic inside, and has had panics that escaped.
	defer func() {
		if p := recover(); p != nil {
			documents, failure = nil, &Error{Reason: "no YAML: the parser gave up: " + gitops.Line(fmt.Sprint(p), 200)}
		}
	}()
	decoder := yaml.NewDecoder(bytes.NewReader(unixLines(t.src)))
	for {
		document := new(yaml.Node)
		err := decoder.Decode(document)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, t.unreadable(err)
		}
		documents = append(documents, document)
	}
}

// unixLines is src with LF for CR LF, which moves nothing: either ends one line.
// The library takes CR LF between comments for an empty line, and then attaches
// them to other values; Flux, too, hands it LF alone.
func unixLines(src []byte) []byte {
	if !bytes.Contains(src, []byte("\r\n")) || bytes.Contains(src, []byte("\r\r\n")) {
		return src // CR CR LF ends two lines, and would then end one
	}
	return bytes.ReplaceAll(src, []byte("\r\n"), []byte("\n"))
}

var (
	located = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)
	// The library counts the lines of its scanner's errors from 1, those of its parser's from 0.
	ofParser = regexp.MustCompile(`^did not find expected (key|node content|'-' indicator|',' or|<|'<)`)
)

// unreadable tells a person what the library says about a file, and where.
func (t *text) unreadable(err error) *Error {
	line, reason := 0, err.Error()
	if m := located.FindStringSubmatch(reason); m != nil {
		line, _ = strconv.Atoi(m[1])
		reason = m[2]
		if line > 0 && ofParser.MatchString(reason) {
			line++
		}
	}
	if line > 0 {
		line = t.shown[min(line, len(t.shown))-1]
	} else {
		line = oddLine(t.src)
	}
	if line == 0 && !strings.HasPrefix(reason, "unknown anchor") {
		line = 1 // of which the library says nothing
	}
	return &Error{Line: line, Reason: "no YAML: " + gitops.Line(reason, 200)}
}

// oddLine is the line of the first character that is none in YAML; 0 if there
// is none such.
func oddLine(src []byte) int {
	line := 1
	for i := 0; i < len(src); {
		r, width := utf8.DecodeRune(src[i:])
		switch {
		case r == '\n':
			line++
		case r == utf8.RuneError && width == 1,
			r < ' ' && r != '\t' && r != '\r', r >= 0x7F && r < 0xA0 && r != 0x85, r == 0xFFFE, r == 0xFFFF:
			return line
		}
		i += width
	}
	return 0
}
