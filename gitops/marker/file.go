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
	MaxSize    = 4 << 20 // bytes
	MaxEntries = 1 << 19 // of mappings, lists and the stream; counted generously, inside of texts too
	MaxDepth   = 200     // mappings and lists inside each other
)

// File is a YAML file that was read for its markers. It does not change and is
// safe for concurrent use.
type File struct {
	text      *text
	documents []*yaml.Node
	sites     []Site
	spots     []spot // where each site's value stands, in the same order
	refusals  []refusal
	suspects  []suspect
	broken    *Error // why it could not be read; then there are no sites
}

// spot is the scalar behind a site.
type spot struct {
	node *yaml.Node
	span span
}

// refusal is a marker behind a value that Flux would set but that cannot be
// replaced without changing other bytes, or not with certainty.
type refusal struct {
	policy Policy
	line   int
	reason string
}

// suspect is what was perhaps meant as a marker and is none.
type suspect struct {
	line     int
	text     string
	policies []Policy // the ones it may have been meant for
}

// Parse reads a file of any number of YAML documents and finds its markers. It
// keeps src, which must not change afterwards.
//
// A file that is no YAML, or beyond MaxSize, MaxEntries or MaxDepth, is an *Error. Even
// then the File that is returned serves for Problems, which says whether the
// broken file concerns anybody.
func Parse(src []byte) (*File, error) {
	f := &File{text: newText(src)}
	documents, err := decode(src)
	if err != nil {
		f.broken = err
		f.suspects = f.text.anyMentions()
		return f, err
	}
	f.documents = documents
	w := walker{file: f, text: f.text}
	if err := w.walk(); err != nil {
		*f = File{text: f.text, broken: err, suspects: f.text.anyMentions()}
		return f, err
	}
	return f, nil
}

// Sites lists the markers that stand behind a value, in the file's order,
// whosesoever they are.
func (f *File) Sites() []Site { return append([]Site(nil), f.sites...) }

// Problems lists what concerns one of our policies and cannot be done or is
// probably a mistake: a file that cannot be read, a marker at a value that
// cannot be edited, a comment that is almost a marker or stands in the wrong
// place. What concerns other policies is left out.
//
// A comment that names no namespace is asked about with an empty one, so ours
// should answer for Policy{Name: n} whether any of ours is called n; Among
// does.
func (f *File) Problems(ours func(Policy) bool) []Problem {
	var problems []Problem
	for _, s := range f.suspects {
		for _, policy := range s.policies {
			if !ours(policy) {
				continue
			}
			if f.broken != nil {
				return []Problem{{Line: f.broken.Line, Text: f.broken.Reason}}
			}
			problems = append(problems, Problem{Line: s.line, Text: s.text})
			break
		}
	}
	return problems
}

// Others counts the sites of policies that are not ours.
func (f *File) Others(ours func(Policy) bool) int {
	n := 0
	for _, site := range f.sites {
		if !ours(site.Policy) {
			n++
		}
	}
	return n
}

// Among returns a function that knows these policies, for Problems and Others.
func Among(policies ...Policy) func(Policy) bool {
	known := make(map[Policy]bool, 2*len(policies))
	for _, p := range policies {
		known[p] = true
		known[Policy{Name: p.Name}] = true
	}
	return func(p Policy) bool { return known[p] }
}

// decode reads all documents of a file into trees. Aliases stay aliases, so
// they cannot blow up.
func decode(src []byte) (documents []*yaml.Node, failure *Error) {
	switch {
	case len(src) > MaxSize:
		return nil, &Error{Reason: fmt.Sprintf("larger than %d MiB", MaxSize>>20)}
	case bytes.HasPrefix(src, []byte{0xFF, 0xFE}), bytes.HasPrefix(src, []byte{0xFE, 0xFF}):
		return nil, &Error{Reason: "in UTF-16", hint: "store it as UTF-8"}
	}
	entries := 0
	for _, sign := range []string{",", ":", "?", "[", "{", "- ", "-\t", "-\n", "-\r"} {
		entries += bytes.Count(src, []byte(sign))
	}
	if entries > MaxEntries {
		return nil, &Error{Reason: fmt.Sprintf("more than %d entries", MaxEntries)}
	}
	// The library reports by panic inside, and has had panics that escaped.
	defer func() {
		if p := recover(); p != nil {
			documents, failure = nil, &Error{Reason: "no YAML: the parser gave up: " + gitops.Line(fmt.Sprint(p), 200)}
		}
	}()
	decoder := yaml.NewDecoder(bytes.NewReader(unixLines(src)))
	for {
		document := new(yaml.Node)
		err := decoder.Decode(document)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			return nil, unreadable(src, err)
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
func unreadable(src []byte, err error) *Error {
	line, reason := 0, err.Error()
	if m := located.FindStringSubmatch(reason); m != nil {
		line, _ = strconv.Atoi(m[1])
		reason = m[2]
		if line > 0 && ofParser.MatchString(reason) {
			line++
		}
	}
	if line == 0 {
		line = oddLine(src)
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
