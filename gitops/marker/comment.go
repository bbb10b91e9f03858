package marker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"towpath.dev/towpath/gitops"
)

// key is the one key of the JSON object that makes a comment a marker.
const key = "$imagepolicy"

// Mentions tells cheaply whether a file may hold a marker, or something that
// was meant as one. A file that it denies need not be parsed.
func Mentions(src []byte) bool {
	for {
		start := bytes.IndexByte(src, '#')
		if start < 0 {
			return false
		}
		src = src[start:]
		end := bytes.IndexByte(src, '\n')
		if end < 0 {
			return alludes(src)
		}
		if alludes(src[:end]) {
			return true
		}
		src = src[end:]
	}
}

// alludes tells whether a text holds the marker's key or something that reads
// like it: imagepolicy, image-policy, $imagePolicy, $imagepolcy.
func alludes(text []byte) bool {
	if bytes.Contains(text, []byte("$image")) || bytes.Contains(text, []byte("$Image")) {
		return true
	}
	for {
		// These letters are rarer than the ones before them.
		i := bytes.Index(text, []byte("olicy"))
		if i < 0 {
			return false
		}
		for _, word := range []string{"imagep", "image-p", "image_p", "image p"} {
			if start := i - len(word); start >= 0 && strings.EqualFold(string(text[start:i]), word) {
				return true
			}
		}
		text = text[i+1:]
	}
}

// reference is what a marker says: a policy and a field of its image.
type reference struct {
	policy Policy
	field  string
}

// parseComment reads a comment, from its "#" to the line's end, as Flux does:
// all leading "#" are cut off, the rest is one JSON object whose values are
// strings. ok tells whether it is a marker. If it is none, but reads as if
// it were meant as one, why says what is wrong with it.
func parseComment(comment string) (ref reference, why string, ok bool) {
	if !alludes([]byte(comment)) {
		return reference{}, "", false
	}
	text := strings.TrimSpace(strings.TrimLeft(comment, "#"))
	var object map[string]string
	if err := json.Unmarshal([]byte(text), &object); err != nil {
		return reference{}, whyNoObject(text), false
	}
	value, found := object[key]
	switch {
	case !found:
		return reference{}, whyNoKey(object), false
	case strings.Count(text, key) > 1:
		return reference{}, fmt.Sprintf("it has the key %q more than once", key), false
	}
	return parseReference(value)
}

// parseReference reads namespace:name[:field].
func parseReference(value string) (ref reference, why string, ok bool) {
	parts := strings.Split(value, ":")
	for _, part := range parts {
		if strings.TrimSpace(part) != part {
			return reference{}, fmt.Sprintf("there are spaces in %q", quotable(value)), false
		}
	}
	switch {
	case len(parts) == 1 && strings.Contains(value, "/"):
		return reference{}, fmt.Sprintf("namespace and name are separated by a colon, not a slash, in %q", quotable(value)), false
	case len(parts) == 1:
		return reference{}, fmt.Sprintf("%q has no namespace", quotable(value)), false
	case len(parts) > 3:
		return reference{}, fmt.Sprintf("%q is not namespace:name[:field]", quotable(value)), false
	case !isName(parts[0]) || !isName(parts[1]):
		return reference{}, fmt.Sprintf("%q is not namespace:name[:field]", quotable(value)), false
	}
	ref.policy = Policy{Namespace: parts[0], Name: parts[1]}
	if len(parts) == 3 {
		switch parts[2] {
		case FieldTag, FieldName, FieldDigest:
			ref.field = parts[2]
		default:
			return reference{}, fmt.Sprintf("%q is none of tag, name and digest", quotable(parts[2])), false
		}
	}
	return ref, "", true
}

// whyNoObject says why a comment that mentions the key is not one JSON object
// with strings for values.
func whyNoObject(text string) string {
	decoder := json.NewDecoder(strings.NewReader(text))
	var object map[string]any
	if err := decoder.Decode(&object); err == nil && object != nil {
		if strings.TrimSpace(text[decoder.InputOffset():]) != "" {
			return "there is text behind the JSON object"
		}
		return "every value in the JSON object must be a string"
	}
	brace := strings.IndexByte(text, '{')
	switch {
	case brace < 0:
		return "it is not a JSON object in braces"
	case brace > 0:
		return "there is text before the JSON object"
	case strings.Contains(text, "'") && !strings.Contains(text, `"`):
		return "JSON wants double quotes, not single ones"
	default:
		return "it is not one valid JSON object"
	}
}

// whyNoKey names the key that was probably meant to be the marker's.
func whyNoKey(object map[string]string) string {
	for name := range object {
		if len(object) == 1 || alludes([]byte(name)) {
			return fmt.Sprintf("its key is %q, not %q", quotable(name), key)
		}
	}
	return fmt.Sprintf("it has no key %q", key)
}

// mentioned lists the policies that a comment may have been meant for:
// whatever in it reads like namespace:name or namespace/name, and, where there
// is nothing of the kind, every word as a name without a namespace.
func mentioned(comment string) []Policy {
	const most = 64 // no honest comment names as many; bounds the work on others
	var pairs, names []Policy
	for i := 0; i < len(comment) && len(pairs)+len(names) < most; {
		word := wordAt(comment[i:])
		if word == "" {
			i++
			continue
		}
		i += len(word)
		if alludes([]byte(word)) {
			continue // the key itself
		}
		names = append(names, Policy{Name: word})
		rest := strings.TrimLeft(comment[i:], " \t")
		if rest != "" && (rest[0] == ':' || rest[0] == '/') {
			if next := wordAt(strings.TrimLeft(rest[1:], " \t")); next != "" {
				pairs = append(pairs, Policy{Namespace: word, Name: next})
			}
		}
	}
	if len(pairs) > 0 {
		return pairs
	}
	return names
}

// wordAt is the name that s begins with, if any.
func wordAt(s string) string {
	if s == "" || !isAlnum(s[0]) {
		return ""
	}
	end := 0
	for end < len(s) && (isAlnum(s[end]) || s[end] == '-' || s[end] == '.') {
		end++
	}
	return strings.TrimRight(s[:end], "-.")
}

// quotable makes a text from a file fit for an error: one line, and short.
func quotable(s string) string { return gitops.Line(s, 80) }
