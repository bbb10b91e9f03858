package marker

import (
	"bytes"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Edit writes what the policies are to hold into the file's markers. The
// result is src with the bytes of values replaced, and src itself where
// nothing changes. Markers of policies that want does not name are left as
// they are.
//
// An *Error means that the file is to be left alone: it cannot be parsed, a
// marker of a wanted policy stands at a value that cannot be replaced with
// certainty, or the result did not pass its check. Any other error is about
// want: a value that is no image, or lacks the part that a marker asks for.
func Edit(src []byte, want map[Policy]Value) (out []byte, changes []Change, err error) {
	f, err := Parse(src)
	if err != nil {
		return nil, nil, err
	}
	return f.Edit(want)
}

// Edit is as the function of that name, for a file already parsed. The File
// itself stays as it was.
func (f *File) Edit(want map[Policy]Value) (out []byte, changes []Change, err error) {
	if f.broken != nil {
		return nil, nil, f.broken
	}
	for _, r := range f.refusals {
		if _, wanted := want[r.policy]; wanted {
			return nil, nil, &Error{
				Line:   r.line,
				Reason: fmt.Sprintf("the marker of %s cannot be served: %s", r.policy, r.reason),
				hint:   "put the value on the marker's line, plain or in quotes",
			}
		}
	}
	edits, changes, err := f.plan(want)
	if err != nil {
		return nil, nil, err
	}
	if len(edits) == 0 {
		return f.text.src, nil, nil
	}
	out = splice(f.text.src, edits)
	if err := f.check(out, edits, want); err != nil {
		return nil, nil, err
	}
	return out, changes, nil
}

// edit is one replacement.
type edit struct {
	site   int // index into File.sites
	span   span
	text   string // what YAML is to read
	source string // the bytes that say so
}

// plan lists the replacements that bring the sites to what is wanted.
func (f *File) plan(want map[Policy]Value) ([]edit, []Change, error) {
	var edits []edit
	var changes []Change
	for i, site := range f.sites {
		value, wanted := want[site.Policy]
		if !wanted {
			continue
		}
		if err := value.check(site.Field); err != nil {
			return nil, nil, fmt.Errorf("marker of %s in line %d: %w", site.Policy, site.Line, err)
		}
		text := value.Text(site.Field)
		spot := f.spots[i]
		// The same text without the quotes it needs is another value to some.
		if site.Value == text && (spot.span.quote != 0 || !needsQuotes(text)) {
			continue
		}
		edits = append(edits, edit{site: i, span: spot.span, text: text, source: literal(text, spot.span.quote)})
		changes = append(changes, Change{Site: site, Old: site.Value, New: text})
	}
	return edits, changes, nil
}

// splice replaces the spans, which are in the file's order and apart.
func splice(src []byte, edits []edit) []byte {
	grown := 0
	for _, e := range edits {
		grown += len(e.source)
	}
	out := make([]byte, 0, len(src)+grown)
	from := 0
	for _, e := range edits {
		out = append(out, src[from:e.span.start]...)
		out = append(out, e.source...)
		from = e.span.end
	}
	return append(out, src[from:]...)
}

// check makes sure that out is the file with these values replaced and nothing
// else: by its bytes, by its trees, and by what a second edit would do.
func (f *File) check(out []byte, edits []edit, want map[Policy]Value) error {
	if err := f.sameBytes(out, edits); err != nil {
		return err
	}
	again, err := Parse(out)
	if err != nil {
		return &Error{Reason: fmt.Sprintf("the edited file would not parse: %v", err)}
	}
	replaced := make(map[*yaml.Node]string, len(edits))
	for _, e := range edits {
		replaced[f.spots[e.site].node] = e.text
	}
	if len(again.documents) != len(f.documents) {
		return &Error{Reason: "the edited file would have another number of documents"}
	}
	for i := range f.documents {
		if err := sameTree(f.documents[i], again.documents[i], replaced); err != nil {
			return err
		}
	}
	if more, _, err := again.plan(want); err != nil || len(more) > 0 {
		return &Error{Reason: "the edited file would not hold what was written into it"}
	}
	return f.sameSites(again, edits)
}

// sameBytes compares what is outside the values, and the values themselves.
func (f *File) sameBytes(out []byte, edits []edit) error {
	src, from, at := f.text.src, 0, 0
	for _, e := range edits {
		kept := src[from:e.span.start]
		if !bytes.HasPrefix(out[at:], kept) || !bytes.HasPrefix(out[at+len(kept):], []byte(e.source)) {
			return &Error{Line: f.sites[e.site].Line, Reason: "the edit would change more than the value"}
		}
		from, at = e.span.end, at+len(kept)+len(e.source)
	}
	if !bytes.Equal(out[at:], src[from:]) {
		return &Error{Reason: "the edit would change more than the values"}
	}
	return nil
}

// sameSites compares the markers found after the edit with those before.
func (f *File) sameSites(again *File, edits []edit) error {
	expected := slices.Clone(f.sites)
	for _, e := range edits {
		expected[e.site].Value = e.text
	}
	if !slices.Equal(expected, again.sites) {
		return &Error{Reason: "the edited file would have other markers"}
	}
	return nil
}

// sameTree compares two nodes and what is below them, where replaced says what
// some of the old ones are to say in the new tree. Only columns may differ: on
// the same line, behind a replaced value.
func sameTree(before, after *yaml.Node, replaced map[*yaml.Node]string) error {
	differ := func(what string) error {
		return &Error{Line: before.Line, Reason: "the edit would change " + what}
	}
	text, changed := replaced[before]
	switch {
	case before.Kind != after.Kind || len(before.Content) != len(after.Content):
		return differ("the structure")
	case before.HeadComment != after.HeadComment || before.LineComment != after.LineComment || before.FootComment != after.FootComment:
		return differ("which value a comment belongs to")
	case before.Line != after.Line:
		return differ("on which line a value stands")
	case before.Anchor != after.Anchor || (before.Alias == nil) != (after.Alias == nil):
		return differ("an anchor or alias")
	case before.Alias != nil && (before.Alias.Line != after.Alias.Line || before.Alias.Anchor != after.Alias.Anchor):
		return differ("what an alias refers to")
	case changed && (after.Value != text || after.Tag != "!!str"):
		return differ("a value to something else than was wanted")
	case !changed && (before.Value != after.Value || before.Tag != after.Tag || before.Style != after.Style):
		return differ("a value that has no marker")
	}
	for i := range before.Content {
		if err := sameTree(before.Content[i], after.Content[i], replaced); err != nil {
			return err
		}
	}
	return nil
}
