package marker

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// errLost says that the bytes at the place of a node are not those of the node. The library and
// this package read the file differently, and then nothing is edited.
var errLost = errors.New("its value was not found where the YAML library places it")

var errLines = errors.New("its value spans several lines")

// span is where a scalar's own bytes stand, its quotes included, what comes
// before it (anchor, tag) and after it excluded.
type span struct {
	start, end int
	quote      byte // '"', '\'' or 0 for a plain scalar
}

// scalar finds a scalar's bytes and makes sure that they say what the library
// has read. An error says why these bytes cannot be replaced.
func (t *text) scalar(n *yaml.Node, flow bool) (span, error) {
	start, err := t.content(n, t.offset(n.Line, n.Column))
	if err != nil {
		return span{}, err
	}
	switch n.Style &^ yaml.TaggedStyle {
	case yaml.LiteralStyle, yaml.FoldedStyle:
		return span{}, fmt.Errorf("its value is a block scalar (%c)", t.at(start))
	case yaml.DoubleQuotedStyle:
		return t.quoted(n, start, '"')
	case yaml.SingleQuotedStyle:
		return t.quoted(n, start, '\'')
	case 0:
		return t.plain(n, start, flow)
	default:
		return span{}, fmt.Errorf("its value has an unknown style")
	}
}

// content finds where the content of a scalar begins whose place is i: behind
// its anchor and tag, which the library counts in.
func (t *text) content(n *yaml.Node, i int) (int, error) {
	if i < 0 {
		return 0, errLost
	}
	anchored, tagged := false, false
	for {
		switch c := t.at(i); {
		case c == '&' && !anchored && n.Anchor != "" && bytes.HasPrefix(t.src[i+1:], []byte(n.Anchor)):
			anchored = true
			i += 1 + len(n.Anchor)
		case c == '!' && !tagged:
			if n.Tag != "!!str" {
				return 0, fmt.Errorf("its value has the tag %s", quotable(n.Tag))
			}
			tagged = true
			for i < len(t.src) && !isBlank(t.src[i]) && breakAt(t.src, i) == 0 {
				i++
			}
		default:
			if anchored != (n.Anchor != "") || !tagged && n.Style&yaml.TaggedStyle != 0 {
				return 0, errLost
			}
			return i, nil
		}
		i = t.skipBlanks(i)
		if i == len(t.src) || breakAt(t.src, i) > 0 || t.src[i] == '#' {
			return 0, fmt.Errorf("its value is on another line than the anchor or tag before it")
		}
	}
}

// quoted finds the end of a quoted scalar that begins at start and stands on
// one line.
func (t *text) quoted(n *yaml.Node, start int, quote byte) (span, error) {
	if t.at(start) != quote {
		return span{}, errLost
	}
	end, closed := t.closing(start)
	if !closed {
		return span{}, errLost
	}
	if t.row(start) != t.row(end) {
		return span{}, errLines
	}
	value := string(t.src[start+1 : end])
	switch {
	case quote == '\'':
		value = strings.ReplaceAll(value, "''", "'")
	case strings.Contains(value, `\`):
		// Escapes are the library's to read, but from these bytes alone.
		var alone yaml.Node
		if err := yaml.Unmarshal(t.src[start:end+1], &alone); err != nil || len(alone.Content) != 1 {
			return span{}, errLost
		}
		value = alone.Content[0].Value
	}
	if value != n.Value {
		return span{}, errLost
	}
	return span{start: start, end: end + 1, quote: quote}, nil
}

// closing finds the quote that closes the one at start.
func (t *text) closing(start int) (end int, closed bool) {
	quote := t.src[start]
	for i := start + 1; i < len(t.src); i++ {
		switch c := t.src[i]; {
		case c == '\\' && quote == '"':
			i++
		case c == quote && quote == '\'' && t.at(i+1) == quote:
			i++
		case c == quote:
			return i, true
		}
	}
	return len(t.src), false
}

// plain finds the end of a plain scalar that begins at start and stands on one
// line. Its bytes are its value.
func (t *text) plain(n *yaml.Node, start int, flow bool) (span, error) {
	if n.Value == "" {
		return span{}, errors.New("it has no value to replace")
	}
	end := max(start, t.plainEnd(start, flow))
	switch value := string(t.src[start:end]); {
	case value == n.Value:
		return span{start: start, end: end}, nil
	case strings.HasPrefix(n.Value, value) && end == t.skipBack(t.lineEnd(start)):
		return span{}, errLines
	default:
		return span{}, errLost
	}
}

// plainEnd is where the plain scalar at start ends on its line: before a
// colon with a blank or nothing behind it, before a comment, in a flow
// collection before that collection's indicators, and never with blanks.
func (t *text) plainEnd(start int, flow bool) int {
	i := start
	for ; i < len(t.src) && breakAt(t.src, i) == 0; i++ {
		switch c := t.src[i]; {
		case c == '#' && i > start && isBlank(t.src[i-1]):
			return t.skipBack(i)
		case c == ':' && (i+1 == len(t.src) || isBlank(t.src[i+1]) || breakAt(t.src, i+1) > 0):
			return t.skipBack(i)
		case flow && strings.IndexByte(",?[]{}", c) >= 0:
			return t.skipBack(i)
		}
	}
	return t.skipBack(i)
}

// skipBack is i without the blanks before it.
func (t *text) skipBack(i int) int {
	for i > 0 && isBlank(t.src[i-1]) {
		i--
	}
	return i
}
