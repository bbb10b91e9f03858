package main

import "testing"

// TestHarmless: a manifest's text may stand around what a diff changes, and acts on
// no terminal.
func TestHarmless(t *testing.T) {
	t.Parallel()
	const diff = " # \x1b]0;title\x07a \u202ecomment\u009b2J\r\n-\timage: a:1\n+\timage: a:2\n"
	if got, want := harmless(diff), " # a comment2J\n-\timage: a:1\n+\timage: a:2\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
