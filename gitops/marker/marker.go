// Package marker finds Flux's image policy markers in YAML files and rewrites
// the values they stand behind, byte by byte.
//
// A marker is a comment that is one JSON object:
//
//	image: registry.example.com/podinfo:6.5.0 # {"$imagepolicy": "flux-system:podinfo"}
//	tag: 6.5.0 # {"$imagepolicy": "flux-system:podinfo:tag"}
//
// The grammar is the one that Flux's image-automation-controller reads, with
// the same YAML library and thus the same notion of which value a comment
// belongs to (https://fluxcd.io/flux/guides/image-update/#configure-image-update-for-custom-resources).
// Unlike Flux, nothing is encoded again: an edit replaces the bytes of values
// and no other byte of the file. Every edit is checked before it is returned,
// and where anything disagrees the file is left alone and the reason named.
//
// What almost is a marker is never passed over in silence: Problems names it.
//
// The package knows no files, no git and no registry. It allocates in
// proportion to a file's size, which it bounds, and does not panic on any
// input.
package marker

import (
	"fmt"
	"regexp"
	"strings"
)

// The fields of an image that a marker can ask for: what stands behind the
// policy's name. The empty one asks for the whole image.
const (
	FieldImage  = ""
	FieldTag    = "tag"
	FieldName   = "name"
	FieldDigest = "digest"
)

// Policy names an image policy: what a marker refers to.
type Policy struct {
	Namespace string
	Name      string
}

// String is the policy as a marker spells it, "namespace:name".
func (p Policy) String() string { return p.Namespace + ":" + p.Name }

// ParsePolicy reads "namespace:name". Both must be names as Kubernetes has
// them: lower-case letters, digits, "-" and ".", beginning and ending with a
// letter or digit.
func ParsePolicy(s string) (Policy, error) {
	namespace, name, ok := strings.Cut(s, ":")
	if !ok || !isName(namespace) || !isName(name) {
		return Policy{}, fmt.Errorf("%q is no policy: want namespace:name, as in flux-system:podinfo", quotable(s))
	}
	return Policy{Namespace: namespace, Name: name}, nil
}

// isName tells whether s is a DNS subdomain in Kubernetes' sense (RFC 1123,
// at most 253 characters), the form of an object's name.
func isName(s string) bool {
	if s == "" || len(s) > 253 || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && s[i] != '-' && s[i] != '.' {
			return false
		}
	}
	return true
}

func isAlnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// Value is the image that a policy's markers are to hold.
type Value struct {
	Name   string // registry.example.com/apps/podinfo
	Tag    string // master-8b07d4aa0c11-1763750000
	Digest string // sha256:…
	Pin    bool   // whether a marker of the whole image holds the digest too
}

// Text is what a marker's value has to say: for the whole image name:tag, or
// name:tag@digest with Pin; for the fields the tag, the name or the digest
// alone, as Flux writes them. It is empty for a field that there is not.
func (v Value) Text(field string) string {
	switch field {
	case FieldImage:
		if v.Pin {
			return v.Name + ":" + v.Tag + "@" + v.Digest
		}
		return v.Name + ":" + v.Tag
	case FieldTag:
		return v.Tag
	case FieldName:
		return v.Name
	case FieldDigest:
		return v.Digest
	default:
		return ""
	}
}

// The parts of an image reference, a little wider than
// https://pkg.go.dev/github.com/distribution/reference has them, and free of
// everything that could end or escape a YAML scalar, quoted or not.
var (
	nameForm   = regexp.MustCompile(`^[A-Za-z0-9\[][A-Za-z0-9._/:\[\]-]{0,510}[A-Za-z0-9]$|^[A-Za-z0-9]$`)
	tagForm    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	digestForm = regexp.MustCompile(`^[a-z0-9]+([.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,256}$`)
)

// check tells why the value cannot stand at a marker of that field.
func (v Value) check(field string) error {
	image := field == FieldImage
	switch {
	case (image || field == FieldName) && !nameForm.MatchString(v.Name):
		return fmt.Errorf("%q is no image name", quotable(v.Name))
	case (image || field == FieldTag) && !tagForm.MatchString(v.Tag):
		return fmt.Errorf("%q is no image tag", quotable(v.Tag))
	case (image && v.Pin || field == FieldDigest) && !digestForm.MatchString(v.Digest):
		return fmt.Errorf("%q is no digest", quotable(v.Digest))
	}
	return nil
}

// Split takes the text of an image apart: name[:tag][@digest]. It never fails;
// what is not there is empty, and what is no image comes back as a name.
func Split(text string) (name, tag, digest string) {
	name, digest, _ = strings.Cut(text, "@")
	// A colon before the last slash belongs to the registry's port.
	if colon := strings.LastIndexByte(name, ':'); colon > strings.LastIndexByte(name, '/') {
		name, tag = name[:colon], name[colon+1:]
	}
	return name, tag, digest
}

// Site is a marker that stands properly behind a value.
type Site struct {
	Policy Policy
	Field  string // FieldImage, FieldTag, FieldName or FieldDigest

	// Path names the value inside its file and survives edits of values, and
	// of documents and named list items before it: "Deployment.apps
	// prod/podinfo /spec/template/spec/containers/[podinfo]/image". No two
	// sites of a file share it. It is for comparing versions of a file and
	// for people, not for parsing.
	Path string

	Line  int    // of the value, from 1, as editors and grep count
	Value string // as YAML reads it; it comes from whoever wrote the file
}

// Change is one value that an edit replaced. The embedded Site is the one from
// before, its Value equal to Old.
type Change struct {
	Site
	Old string
	New string
}

// Problem is something in a file that a person should look at.
type Problem struct {
	Line int    // from 1; 0: the file as a whole
	Text string // one line, safe to print
}

// Error says why a file was left alone.
type Error struct {
	Line   int    // from 1; 0: the file as a whole
	Reason string // one line, safe to print
	hint   string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Reason
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Reason)
}

// Hint says what a person can do about it; it may be empty.
func (e *Error) Hint() string { return e.hint }
