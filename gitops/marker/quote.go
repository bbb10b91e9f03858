package marker

import (
	"regexp"
	"strings"
)

// literal is the bytes that say text in the given quotes, 0 for none. The text
// has passed Value.check, so quotes need no escapes. A plain one gets double
// quotes where some YAML would not read it as this string.
func literal(text string, quote byte) string {
	if quote == 0 && needsQuotes(text) {
		quote = '"'
	}
	if quote == 0 {
		return text
	}
	return string(quote) + text + string(quote)
}

// What a plain scalar without blanks may be read as instead of a string. The
// union of YAML 1.1's types (https://yaml.org/type/), YAML 1.2's core schema
// (https://yaml.org/spec/1.2.2/#103-core-schema) and what Go's and Ruby's
// libraries accept beyond both.
var (
	integerForm   = regexp.MustCompile(`^[-+]?(0[xX][0-9A-Fa-f_]+|0[oO]?[0-7_]+|0[bB][01_]+|[0-9][0-9_,]*)$`)
	floatForm     = regexp.MustCompile(`^[-+]?(\.[0-9][0-9_]*|[0-9][0-9_,]*(\.[0-9_]*)?)([eE][-+]?[0-9_]+)?$`)
	base60Form    = regexp.MustCompile(`^[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?$`)
	timestampForm = regexp.MustCompile(`^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt].*)?$`)
)

// needsQuotes tells whether a text of an image, standing plain, would be read
// as anything but this string.
func needsQuotes(text string) bool {
	if text == "" || strings.ContainsAny(text[:1], "-?:,[]{}#&*!|>'\"%@`~=<") ||
		strings.HasSuffix(text, ":") || strings.ContainsAny(text, ",[]{}# \t") {
		return true
	}
	switch strings.ToLower(text) {
	case "null", "true", "false", "yes", "no", "on", "off", "y", "n",
		".inf", "+.inf", ".nan":
		return true
	}
	return integerForm.MatchString(text) || floatForm.MatchString(text) ||
		base60Form.MatchString(text) || timestampForm.MatchString(text)
}
