package main

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"towpath.dev/towpath/kaniko/console"
)

// terminal tells whether a stream is one that shows progress and colour.
func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// paint makes a diff fit for a terminal, where nothing of it may act, and colours
// it there unless NO_COLOR is set (https://no-color.org). Elsewhere it stays as it
// is, byte for byte.
func paint(w io.Writer, diff string) string {
	if !terminal(w) {
		return diff
	}
	diff = harmless(diff)
	if os.Getenv("NO_COLOR") != "" {
		return diff
	}
	var painted strings.Builder
	for line := range strings.Lines(diff) {
		text, end := strings.TrimSuffix(line, "\n"), "\n"
		switch {
		case strings.HasPrefix(line, "+"):
			text = "\x1b[32m" + text + "\x1b[0m"
		case strings.HasPrefix(line, "-"):
			text = "\x1b[31m" + text + "\x1b[0m"
		case strings.HasPrefix(line, "@@"):
			text = "\x1b[36m" + text + "\x1b[0m"
		}
		painted.WriteString(text + end)
	}
	return painted.String()
}

// harmless is text without what a terminal would act on.
func harmless(text string) string {
	var shown strings.Builder
	plain := &console.Plain{To: &shown} // which fails only as its To does
	_, _ = io.WriteString(plain, text)
	_ = plain.Flush()
	return shown.String()
}
