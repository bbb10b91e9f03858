package main

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// terminal tells whether a stream is one that shows progress and colour.
func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// paint colours a diff on a terminal, unless NO_COLOR is set
// (https://no-color.org).
func paint(w io.Writer, diff string) string {
	if !terminal(w) || os.Getenv("NO_COLOR") != "" {
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
