package bump

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"

	"towpath.dev/towpath/gitops"
)

// Trailers are what a bump commit claims, one line each. They count only on a
// commit that we signed.
type Trailers struct {
	// Image is the image's name in the config, a DNS label.
	Image string
	// Policy is the marker's policy, "namespace:name".
	Policy string
	// Target is "NAME BRANCH PATH": the target, and where it writes to.
	Target string
	// Source is "URL REF", without credentials; REF is a full ref name.
	Source string
	// Commit is the source commit, 40 hexadecimal digits.
	Commit string
	// Ref is the image, "NAME:TAG@sha256:…". Empty, together with
	// Provenance, where nothing was promoted: see Observed.
	Ref string
	// Provenance is the digest of the provenance's manifest, "sha256:…".
	Provenance string
	// Accepted is a person's reason for what the rules would have refused;
	// empty: none was needed.
	Accepted string
	// AcceptedBefore lists the source commits for which such a word was used in
	// earlier bumps of the image, the newest first, separated by spaces: a word
	// counts once, and the newest entry alone must tell.
	AcceptedBefore string
}

// Observed tells that the commit is only a ledger entry, which says from which source
// commit on changes are promoted (`start: observe`). It names no image.
func (t Trailers) Observed() bool { return t.Ref == "" }

// ErrNoTrailers is the verdict on a message without any trailer of ours.
var ErrNoTrailers = errors.New("no Towpath trailers")

const prefix = "Towpath-"

// field is one trailer: its key, where its value is, and what that must look
// like.
type field struct {
	key      string
	value    *string
	optional bool
	form     *regexp.Regexp
	says     string
}

const (
	label  = `[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?`
	digest = `sha256:[0-9a-f]{64}`
	// word is text without spaces, line separators and control characters.
	word = `[^\pZ\pC]+`
)

// The forms of values. Whatever matches is on one line and has no space at
// either end.
var (
	labelForm      = regexp.MustCompile(`^` + label + `$`)
	policyForm     = regexp.MustCompile(`^` + label + `:` + label + `(?:\.` + label + `)*$`)
	targetForm     = regexp.MustCompile(`^` + label + ` ` + word + ` ` + word + `(?: +` + word + `)*$`)
	sourceForm     = regexp.MustCompile(`^` + word + `(?: +` + word + `)* refs/` + word + `$`)
	commitForm     = regexp.MustCompile(`^[0-9a-f]{40}$`)
	refForm        = regexp.MustCompile(`^([^\pZ\pC@]+):([A-Za-z0-9_][A-Za-z0-9._-]{0,127})@(` + digest + `)$`)
	provenanceForm = regexp.MustCompile(`^` + digest + `$`)
	beforeForm     = regexp.MustCompile(`^[0-9a-f]{40}(?: [0-9a-f]{40})*$`)
	acceptedForm   = regexp.MustCompile(`^[^\pZ\pC](?:[^\p{Zl}\p{Zp}\pC]*[^\pZ\pC])?$`)
)

func (t *Trailers) fields() []field {
	return []field{
		{"Image", &t.Image, false, labelForm, "a DNS label"},
		{"Policy", &t.Policy, false, policyForm, "namespace:name"},
		{"Target", &t.Target, false, targetForm, "a target's name, a branch and a path"},
		{"Source", &t.Source, false, sourceForm, "a URL and a ref"},
		{"Commit", &t.Commit, false, commitForm, "a full commit hash"},
		{"Ref", &t.Ref, true, refForm, "an image with tag and digest"},
		{"Provenance", &t.Provenance, true, provenanceForm, "a digest"},
		{"Accepted", &t.Accepted, true, acceptedForm, "a reason on one line"},
		{"Accepted-Before", &t.AcceptedBefore, true, beforeForm, "full commit hashes"},
	}
}

func (t *Trailers) check() error {
	for _, f := range t.fields() {
		if *f.value == "" && f.optional {
			continue
		}
		if !f.form.MatchString(*f.value) || !utf8.ValidString(*f.value) {
			if f.value == &t.Source {
				return fmt.Errorf("trailer %s%s is not %s", prefix, f.key, f.says) // a URL may hold a secret
			}
			return fmt.Errorf("trailer %s%s: %q is not %s", prefix, f.key, gitops.Line(*f.value, 80), f.says)
		}
	}
	if address, _, _ := strings.Cut(t.Source, " "); secretive(address) {
		return fmt.Errorf("trailer %sSource: its URL holds a credential", prefix)
	}
	if (t.Ref == "") != (t.Provenance == "") {
		return fmt.Errorf("trailers %sRef and %sProvenance come together or not at all", prefix, prefix)
	}
	return nil
}

// secretive tells whether a URL holds what may be a secret: a password, or a token in
// the place of the user. What a commit says cannot be taken back.
func secretive(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.User == nil {
		return false // git@host:path is no URL, and has no place for a password
	}
	_, password := u.User.Password()
	return password || u.Scheme != "ssh"
}

// image splits Ref, which was checked.
func (t *Trailers) image() (name, tag, digest string) {
	m := refForm.FindStringSubmatch(t.Ref)
	if m == nil {
		return "", "", ""
	}
	return m[1], m[2], m[3]
}

// String is the trailers' paragraph as it stands in a message, in their order,
// each line with its newline; those without a value are left out.
func (t Trailers) String() string {
	var b strings.Builder
	for _, f := range t.fields() {
		if *f.value != "" {
			fmt.Fprintf(&b, "%s%s: %s\n", prefix, f.key, *f.value)
		}
	}
	return b.String()
}

// ParseTrailers reads the trailers back from the message of a commit that we
// signed. It accepts what Message writes and nothing else: the last paragraph,
// after a subject, is exactly our trailers, each once, in their order, each in
// its form. Anything in doubt is an error, ErrNoTrailers if nothing in that
// paragraph looks like ours.
func ParseTrailers(message string) (Trailers, error) {
	message = strings.TrimSuffix(message, "\n")
	start := strings.LastIndex(message, "\n\n")
	if start < 0 || strings.TrimSpace(message[:start]) == "" {
		return Trailers{}, fmt.Errorf("%w: the message has one paragraph", ErrNoTrailers)
	}
	paragraph := message[start+2:] + "\n"
	// As git compares keys: without regard to case.
	if !strings.HasPrefix(strings.ToLower(paragraph), strings.ToLower(prefix)) && !strings.Contains(strings.ToLower(paragraph), "\n"+strings.ToLower(prefix)) {
		return Trailers{}, ErrNoTrailers
	}

	var t Trailers
	values := map[string]*string{}
	for _, f := range t.fields() {
		values[prefix+f.key] = f.value
	}
	for line := range strings.Lines(paragraph) {
		line = strings.TrimSuffix(line, "\n")
		key, value, found := strings.Cut(line, ": ")
		target, known := values[key]
		switch {
		case !found || !known:
			return Trailers{}, fmt.Errorf("trailers: unknown line %q", gitops.Line(line, 80))
		case *target != "":
			return Trailers{}, fmt.Errorf("trailers: %s twice", key)
		case value == "":
			return Trailers{}, fmt.Errorf("trailers: %s is empty", key)
		}
		*target = value
	}
	if err := t.check(); err != nil {
		return Trailers{}, err
	}
	if t.String() != paragraph {
		return Trailers{}, errors.New("trailers: not in the order that we write them in")
	}
	return t, nil
}
