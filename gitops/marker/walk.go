package marker

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"
)

// walker goes through a file's trees in the file's order and finds the
// markers: Flux looks at the values of mappings and at the items of lists, if
// they are scalars, and there at the comment behind the value or, if there is
// none, at the one right above it.
type walker struct {
	file *File
	text *text

	scalars []placed            // every scalar that has bytes, keys included, in the file's order
	taken   map[int]bool        // where the comments of sites and refusals begin
	notes   map[string][]string // comments behind what is no value: why each has no effect, in order
	refused map[string][]string // comments of refusals, the same way
	trail   []step              // from the document's root to the node at hand
	names   names
}

// placed is a scalar, and whether it is part of a flow collection, where some
// more characters end it.
type placed struct {
	node *yaml.Node
	flow bool
}

// step is one step down a tree.
type step struct {
	parent *yaml.Node
	index  int    // of the child in parent.Content
	path   string // down to the child, once asked for
}

func (w *walker) walk() *Error {
	w.taken = make(map[int]bool)
	w.notes = make(map[string][]string)
	w.refused = make(map[string][]string)
	w.names.of(w.file.documents)
	for i, document := range w.file.documents {
		w.names.document = i
		for _, root := range document.Content {
			if err := w.value(root, 0, false); err != nil {
				return err
			}
		}
	}
	w.names.number(w.file.sites)
	if !Mentions(w.text.src) {
		w.file.suspects = nil // a value of several lines may read as if it alluded
		return nil
	}
	w.suspects()
	return nil
}

// value visits a node that stands where a value stands.
func (w *walker) value(n *yaml.Node, depth int, flow bool) *Error {
	if depth > MaxDepth {
		return &Error{Line: w.text.lineOf(n), Reason: fmt.Sprintf("nested deeper than %d", MaxDepth)}
	}
	flow = flow || n.Style&yaml.FlowStyle != 0
	switch n.Kind {
	case yaml.ScalarNode:
		w.scalar(n, flow)
		w.site(n, flow)
	case yaml.AliasNode:
		w.note(n.LineComment, fmt.Sprintf("its value is an alias (*%s)", quotable(n.Value)))
	case yaml.MappingNode:
		w.note(n.LineComment, "it stands behind a mapping, not behind a value")
		for i := 0; i+1 < len(n.Content); i += 2 {
			if err := w.key(n.Content[i], depth+1, flow); err != nil {
				return err
			}
			if err := w.down(n, i+1, depth, flow); err != nil {
				return err
			}
		}
	case yaml.SequenceNode:
		w.note(n.LineComment, "it stands behind a list, not behind a value")
		for i := range n.Content {
			if err := w.down(n, i, depth, flow); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *walker) down(parent *yaml.Node, index, depth int, flow bool) *Error {
	w.trail = append(w.trail, step{parent: parent, index: index})
	err := w.value(parent.Content[index], depth+1, flow)
	w.trail = w.trail[:len(w.trail)-1]
	return err
}

// key visits a mapping's key, and whatever a complex key holds: there are no
// markers in it.
func (w *walker) key(n *yaml.Node, depth int, flow bool) *Error {
	if depth > MaxDepth {
		return &Error{Line: w.text.lineOf(n), Reason: fmt.Sprintf("nested deeper than %d", MaxDepth)}
	}
	flow = flow || n.Style&yaml.FlowStyle != 0
	w.note(n.LineComment, "it stands behind a key, not behind a value")
	if n.Kind == yaml.ScalarNode {
		w.scalar(n, flow)
	}
	if n.Kind == yaml.AliasNode {
		return nil
	}
	for _, child := range n.Content {
		if err := w.key(child, depth+1, flow); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) scalar(n *yaml.Node, flow bool) {
	if n.Value == "" && n.Style == 0 {
		return // nothing in the file stands for it
	}
	w.scalars = append(w.scalars, placed{n, flow})
	if hash := strings.IndexByte(n.Value, '#'); hash >= 0 && n.Style&^yaml.TaggedStyle == 0 && alludes([]byte(n.Value[hash:])) {
		w.suspect(w.text.lineOf(n), "a comment needs a space before its #", mentioned(n.Value[hash:]))
	}
}

func (w *walker) note(comment, reason string) {
	if comment != "" && alludes([]byte(comment)) {
		w.notes[comment] = append(w.notes[comment], reason)
	}
}

// site records a scalar value's marker, if it has one.
func (w *walker) site(n *yaml.Node, flow bool) {
	comment := n.LineComment
	if comment == "" {
		comment = n.HeadComment
	}
	if comment == "" {
		return
	}
	ref, _, ok := parseComment(comment)
	if !ok {
		return // what it is instead, suspects finds out
	}
	span, err := w.text.scalar(n, flow)
	if err != nil {
		w.refuse(n, ref, comment, err.Error())
		return
	}
	at := w.text.before(span.start, comment)
	if n.LineComment != "" {
		at = w.text.behind(span.end, comment, flow)
	}
	if at < 0 {
		w.refuse(n, ref, comment, "the comment was not found where the YAML library places it")
		return
	}
	w.taken[at] = true
	w.file.spots = append(w.file.spots, spot{node: n, span: span})
	w.file.sites = append(w.file.sites, Site{
		Policy: ref.policy,
		Field:  ref.field,
		Path:   w.names.path(w.trail),
		Line:   w.text.line(span.start),
		Value:  n.Value,
	})
}

// refuse records a marker whose value cannot be edited.
func (w *walker) refuse(n *yaml.Node, ref reference, comment, reason string) {
	line := w.text.lineOf(n)
	w.file.refusals = append(w.file.refusals, refusal{policy: ref.policy, line: line, reason: reason})
	w.suspect(line, fmt.Sprintf("the marker of %s cannot be served: %s", ref.policy, reason), []Policy{ref.policy})
	comment = strings.TrimRight(comment, "\n")
	w.refused[comment] = append(w.refused[comment], reason)
}

// behind finds the comment right behind a value that ends at end; -1 if it is
// not there. In a flow collection the comma may come first.
func (t *text) behind(end int, comment string, flow bool) int {
	i := t.skipBlanks(end)
	if flow && t.at(i) == ',' {
		i = t.skipBlanks(i + 1)
	}
	if t.at(i) != '#' || string(t.src[i:t.lineEnd(i)]) != comment {
		return -1
	}
	return i
}

// before finds the comment above a value that begins at start, a few lines at
// most; -1 if it is not there.
func (t *text) before(start int, comment string) int {
	comment = strings.TrimRight(comment, "\n")
	for row := t.row(start) - 1; row >= max(0, t.row(start)-8); row-- {
		end := t.lineEnd(t.starts[row])
		if at := end - len(comment); at >= t.starts[row] && string(t.src[at:end]) == comment {
			return at
		}
	}
	return -1
}
