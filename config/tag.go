package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/template"
	tree "text/template/parse"
	"time"
	"unicode"
)

// A tag has up to 128 bytes (the OCI distribution specification). Nine stay
// free for the suffix that tells our image from one that somebody else put
// under its tag.
const (
	maxTag   = 128 - 9
	hashSize = 40 // hexadecimal digits
)

// Tag is the tag of the image built from a commit, given by its 40 hexadecimal
// digits and its committer time. A character of the branch that a tag cannot
// have becomes "-", and no more than 80 bytes of the branch are used.
func (i *Image) Tag(branch, commit string, committed time.Time) (string, error) {
	text := i.TagTemplate
	if text == "" {
		text = DefaultTag
	}
	if len(commit) != hashSize {
		return "", fmt.Errorf("tag: %q is no full commit hash", commit)
	}
	tag, err := render(text, struct {
		Branch, Commit, ShortCommit string
		CommitTime                  time.Time
		Image                       string
	}{tagSafe(branch), commit, commit[:12], committed.UTC(), i.Name})
	switch {
	case err != nil:
		return "", fmt.Errorf("tag: %w", err)
	case !validTag(tag):
		return "", fmt.Errorf("tag: %s is no tag: letters, digits, _, . and -, not first . or -", quote(tag))
	case len(tag) > maxTag:
		return "", fmt.Errorf("tag: becomes %d bytes long: more than %d", len(tag), maxTag)
	case !strings.Contains(tag, commit[:7]):
		return "", fmt.Errorf("tag: %s does not contain the commit", quote(tag))
	}
	return tag, nil
}

// PushBranch is the branch that the bumps of an image are pushed to: a review
// branch, or the target's own.
func (t *Target) PushBranch(image string) (string, error) {
	if t.Git.Push == nil || t.Git.Push.Branch == "" {
		return t.Branch(), nil
	}
	return render(t.Git.Push.Branch, struct{ Image string }{image})
}

// Bounds of a template that makes a name. It has no loops and no templates of its
// own, so it ends, and what it makes on the way is bounded as its result is.
const (
	maxTemplate = 512  // bytes of it
	maxName     = 1024 // bytes of what it makes
)

// render executes a template without any functions but Go's own, and bounds
// what comes of it.
func render(text string, data any) (string, error) {
	if len(text) > maxTemplate {
		return "", fmt.Errorf("is a template of more than %d bytes", maxTemplate)
	}
	parsed, err := template.New("").Option("missingkey=error").Funcs(boundedFunctions()).Parse(text)
	if err != nil {
		return "", errors.New(templateError(err))
	}
	for _, t := range parsed.Templates() {
		if err := endless(t.Root); err != nil {
			return "", err
		}
	}
	out := bounded{left: maxName}
	if err := parsed.Execute(&out, data); err != nil {
		return "", errors.New(templateError(err))
	}
	return out.String(), nil
}

// endless refuses what could keep a template busy for ever: nobody can interrupt
// one.
func endless(list *tree.ListNode) error {
	if list == nil {
		return nil
	}
	var faults []error
	for _, node := range list.Nodes {
		switch n := node.(type) {
		case *tree.RangeNode:
			return errors.New("loops ({{ range }}), as no name needs to")
		case *tree.TemplateNode:
			return errors.New("calls another template ({{ template }}), as no name needs to")
		case *tree.IfNode:
			faults = append(faults, endless(n.List), endless(n.ElseList))
		case *tree.WithNode:
			faults = append(faults, endless(n.List), endless(n.ElseList))
		}
	}
	return cmp.Or(faults...)
}

// boundedFunctions are those of Go's that make text, held to what a name may
// have: printed twice into itself thirty times, a letter takes all memory.
func boundedFunctions() template.FuncMap {
	tooLong := errors.New("is too long")
	held := func(text func(...any) string) func(...any) (string, error) {
		return func(args ...any) (string, error) {
			made := text(args...)
			if len(made) > maxName {
				return "", tooLong
			}
			return made, nil
		}
	}
	return template.FuncMap{
		"print": held(fmt.Sprint), "println": held(fmt.Sprintln),
		"html": held(template.HTMLEscaper), "js": held(template.JSEscaper), "urlquery": held(template.URLQueryEscaper),
		"printf": func(format string, args ...any) (string, error) {
			if wide.MatchString(format) {
				return "", tooLong
			}
			return held(func(args ...any) string { return fmt.Sprintf(format, args...) })(args...)
		},
	}
}

// wide is a width or precision in a format that makes much out of little.
var wide = regexp.MustCompile(`\*|[0-9]{4}`)

// templateError is what Go's templates say, less what the reader sees anyway:
// template: :1:3: executing "" at <.X>: can't evaluate field X in type ….
func templateError(err error) string {
	text := strings.TrimPrefix(err.Error(), "template: ")
	text = strings.TrimLeft(text, ":0123456789 ")
	text = strings.TrimPrefix(text, `executing "" `)
	if before, _, ok := strings.Cut(text, " in type "); ok {
		text = before
	}
	return text
}

// bounded is a buffer that refuses more than it was made for.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, fmt.Errorf("is too long: %w", io.ErrShortWrite)
	}
	return b.Buffer.Write(p)
}

func tagSafe(branch string) string {
	safe := strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && tagByte(byte(r)) {
			return r
		}
		return '-'
	}, branch)
	return strings.TrimLeft(safe[:min(len(safe), 80)], ".-")
}

func validTag(tag string) bool {
	if tag == "" || tag[0] == '.' || tag[0] == '-' {
		return false
	}
	for i := range len(tag) {
		if !tagByte(tag[i]) {
			return false
		}
	}
	return true
}

func tagByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '_' || b == '.' || b == '-'
}
