package marker

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// suspects looks through the file's comments, by its bytes, for those that
// allude to markers and belong to no site. So whatever the library did with a
// comment, none is passed over.
func (w *walker) suspects() {
	scan := commentScan{text: w.text, scalars: w.scalars, extentOf: -1}
	for _, at := range scan.alluding() {
		if w.taken[at] {
			continue
		}
		comment := string(w.text.src[at:w.text.lineEnd(at)])
		line := w.text.line(at)
		ref, why, ok := parseComment(comment)
		alone := w.text.skipBlanks(w.text.starts[w.text.row(at)]) == at
		switch {
		case ok && take(w.refused, comment) != "":
			// On record already, with the value's line.
		case ok && alone:
			w.suspect(line, fmt.Sprintf("the marker of %s has no effect: it stands on a line of its own, not behind the value", ref.policy), []Policy{ref.policy})
		case ok:
			reason := take(w.notes, comment)
			if reason == "" {
				reason = "it stands behind no value"
			}
			w.suspect(line, fmt.Sprintf("the marker of %s has no effect: %s", ref.policy, reason), []Policy{ref.policy})
		case !alone || attempted(comment):
			w.suspect(line, "almost a marker: "+why, mentioned(comment))
		}
	}
	slices.SortStableFunc(w.file.suspects, func(a, b suspect) int { return a.line - b.line })
}

func (w *walker) suspect(line int, text string, policies []Policy) {
	w.file.suspects = append(w.file.suspects, suspect{line: line, text: text, policies: policies})
}

// take takes the next of the reasons that are on record for a comment; empty
// if there is none. Equal comments get theirs in turn.
func take(reasons map[string][]string, comment string) string {
	left := reasons[comment]
	if len(left) == 0 {
		return ""
	}
	reasons[comment] = left[1:]
	return left[0]
}

// attempted tells whether a comment on a line of its own begins as a marker
// would. Others are prose about markers, or lines that were commented out.
func attempted(comment string) bool {
	text := strings.TrimSpace(strings.TrimLeft(comment, "#"))
	return strings.HasPrefix(text, "{") || strings.HasPrefix(text, "$image") ||
		strings.HasPrefix(text, `"$image`) || strings.HasPrefix(text, "'$image")
}

// anyMentions lists what a file that cannot be parsed mentions, as far as that
// can be told from its lines.
func anyMentions(src []byte) []suspect {
	var found []suspect
	for rest := src; len(rest) > 0; {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		rest = after
		if hash := bytes.IndexByte(line, '#'); hash >= 0 && alludes(line[hash:]) {
			found = append(found, suspect{policies: mentioned(string(line[hash:]))})
		}
	}
	return found
}

// commentScan finds comments by a file's bytes, given its scalars: a "#" in
// one of these begins no comment.
type commentScan struct {
	*text
	scalars  []placed // in the file's order
	extentOf int      // the scalar whose extent is kept; lines of one block scalar ask again and again
	extent   int
}

// alluding lists where the comments begin that allude to markers.
func (c *commentScan) alluding() []int {
	var found []int
	for i := 0; i < len(c.src); {
		hash := bytes.IndexByte(c.src[i:], '#')
		if hash < 0 {
			break
		}
		hash += i
		end := c.lineEnd(hash)
		if alludes(c.src[hash:end]) {
			if at := c.comment(c.row(hash), end); at >= 0 && alludes(c.src[at:end]) {
				found = append(found, at)
			}
		}
		i = end
	}
	return found
}

// comment finds where the comment on a line begins; -1 if there is none.
func (c *commentScan) comment(row, end int) int {
	start := c.starts[row]
	next, _ := slices.BinarySearchFunc(c.scalars, row+1, func(s placed, line int) int { return s.node.Line - line })
	i := start
	if next > 0 {
		i = max(i, c.reachFromAbove(next-1))
	}
	column := 1 + runes(c.src[start:min(i, end)])
	for i < end {
		for next < len(c.scalars) && c.scalars[next].node.Line == row+1 && c.scalars[next].node.Column < column {
			next++
		}
		to := i + 1
		for to < end && c.src[to]&0xC0 == 0x80 {
			to++
		}
		switch {
		case next < len(c.scalars) && c.scalars[next].node.Line == row+1 && c.scalars[next].node.Column == column:
			if c.scalars[next].node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 { // a comment may follow the header
				to = max(to, c.reach(next, i))
			}
			next++
		case c.src[i] == '#' && (i == start || strings.IndexByte(" \t\"'],}", c.src[i-1]) >= 0):
			return i
		}
		column += runes(c.src[i:min(to, end)])
		i = to
	}
	return -1
}

// runes counts the runes that begin in b.
func runes(b []byte) int {
	n := 0
	for _, c := range b {
		if c&0xC0 != 0x80 {
			n++
		}
	}
	return n
}

// reachFromAbove is where the k-th scalar, which begins on a line above, ends;
// 0 if that is not known or does not matter, as with a plain one, which no
// comment can be inside of.
func (c *commentScan) reachFromAbove(k int) int {
	if c.extentOf == k {
		return c.extent
	}
	n := c.scalars[k].node
	if n.Style&^yaml.TaggedStyle == 0 {
		return 0
	}
	return c.reach(k, c.offset(n.Line, n.Column))
}

// reach is where the k-th scalar ends whose place is i, a plain one on its
// first line; 0 if that is not known.
func (c *commentScan) reach(k, i int) int {
	if c.extentOf == k {
		return c.extent
	}
	c.extentOf, c.extent = k, 0
	n := c.scalars[k].node
	at, err := c.content(n, i)
	if err != nil {
		return 0
	}
	switch {
	case n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		end, _ := c.closing(at)
		c.extent = min(end+1, len(c.src))
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		c.extent = c.blockEnd(n, at)
	default:
		c.extent = c.plainEnd(at, c.scalars[k].flow)
	}
	return c.extent
}

// blockEnd is where the content of the block scalar ends whose "|" or ">" is
// at header: before the first line that is indented less than the content.
func (c *commentScan) blockEnd(n *yaml.Node, header int) int {
	lines := strings.Split(n.Value, "\n")
	first := slices.IndexFunc(lines, func(line string) bool { return line != "" })
	if first < 0 {
		return 0
	}
	indent := -1
	for row := c.row(header) + 1; row < len(c.starts); row++ {
		start := c.starts[row]
		begin := start
		for c.at(begin) == ' ' {
			begin++
		}
		if begin == len(c.src) || breakAt(c.src, begin) > 0 {
			continue
		}
		if indent < 0 {
			// What the value keeps of the first line's indentation is no part of the block's.
			indent = begin - start - (len(lines[first]) - len(strings.TrimLeft(lines[first], " ")))
		}
		if begin-start < indent {
			return start
		}
	}
	return len(c.src)
}
