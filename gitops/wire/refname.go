package wire

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"towpath.dev/towpath/gitops"
)

// CheckRef reports why a name is no full name of a ref that git would accept
// (git-check-ref-format(1)); it must begin with refs/.
func CheckRef(name string) error {
	reason := badRef(name)
	if !strings.HasPrefix(name, "refs/") {
		reason = "does not begin with refs/"
	}
	if reason != "" {
		return fmt.Errorf("ref %q %s", gitops.Line(name, 100), reason)
	}
	return nil
}

// badRef says what is wrong with a ref's name, or nothing.
func badRef(name string) string {
	switch {
	case name == "":
		return "is empty"
	case len(name) > 1024:
		return "is too long"
	case !utf8.ValidString(name):
		return "is not UTF-8"
	case name == "@":
		return "is @"
	case strings.Contains(name, ".."):
		return "holds .."
	case strings.Contains(name, "@{"):
		return "holds @{"
	case strings.HasSuffix(name, "."):
		return "ends with a dot"
	}
	for _, c := range []byte(name) {
		if c <= ' ' || c == 0x7f || strings.IndexByte(`~^:?*[\`, c) >= 0 {
			return fmt.Sprintf("holds %q", c)
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "":
			return "has an empty part"
		case strings.HasPrefix(part, "."):
			return "has a part that begins with a dot"
		case strings.HasSuffix(part, ".lock"):
			return "has a part that ends with .lock"
		}
	}
	return ""
}

// checkPrefix refuses what cannot begin a ref's name, above all what would
// break out of its line of a request.
func checkPrefix(prefix string) error {
	if prefix == "" || len(prefix) > 1024 || strings.ContainsFunc(prefix, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("%q begins no ref's name", gitops.Line(prefix, 100))
	}
	return nil
}

// matcher tells whether a ref's name begins with one of the prefixes; without
// prefixes every name does.
func matcher(prefixes []string) func(string) bool {
	return func(name string) bool {
		for _, prefix := range prefixes {
			if strings.HasPrefix(name, prefix) {
				return true
			}
		}
		return len(prefixes) == 0
	}
}

// addRef notes a ref that the server listed. Names that git refuses are left
// out; a ref listed twice with different values is garbage.
func addRef(refs map[string]gitops.Hash, name string, h gitops.Hash) error {
	if badRef(name) != "" || name != "HEAD" && !strings.HasPrefix(name, "refs/") {
		return nil
	}
	if before, found := refs[name]; found && before != h {
		return garbage("%q has two values", gitops.Line(name, 100))
	}
	refs[name] = h
	return nil
}
