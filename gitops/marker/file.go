package marker

import "go.yaml.in/yaml/v3"

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
// A file that is no YAML, or beyond MaxSize, MaxEntries, MaxMentions or MaxDepth, is an *Error. Even
// then the File that is returned serves for Problems, which says whether the
// broken file concerns anybody.
func Parse(src []byte) (*File, error) {
	f, err := parse(src)
	if err != nil {
		return &File{broken: err, suspects: anyMentions(src)}, err
	}
	return f, nil
}

func parse(src []byte) (*File, *Error) {
	if err := checkLimits(src); err != nil {
		return nil, err
	}
	f := &File{text: newText(src)}
	documents, err := f.text.decode()
	if err != nil {
		return nil, err
	}
	f.documents = documents
	w := walker{file: f, text: f.text}
	if err := w.walk(); err != nil {
		return nil, err
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

// Problematic is what Problems needs of a file, which is small; nil: it has no
// problem, whomsoever one asks for.
func (f *File) Problematic() *File {
	if len(f.suspects) == 0 {
		return nil
	}
	return &File{suspects: f.suspects, broken: f.broken}
}

// Among returns a function that knows these policies, for Problems.
func Among(policies ...Policy) func(Policy) bool {
	known := make(map[Policy]bool, 2*len(policies))
	for _, p := range policies {
		known[p] = true
		known[Policy{Name: p.Name}] = true
	}
	return func(p Policy) bool { return known[p] }
}
