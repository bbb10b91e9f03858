package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Problem is one mistake in the config.
type Problem struct {
	File string // as it was named; for a TOWPATH_ variable, the variable
	Line int    // from 1; 0: not of a single line
	Path string // as in images[2].source.url; empty: the whole file
	Text string // what is wrong, without secrets
	Hint string // what a person can do about it; may be empty
}

// Error is the problem on one line: towpath.yaml:12: images[2].source.url: is missing.
func (p Problem) Error() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			b.WriteString(":" + strconv.Itoa(p.Line))
		}
		b.WriteString(": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Text)
	return b.String()
}

// Problems are all the mistakes of a config, in the order of its files and
// lines, the environment's last. There is at least one.
type Problems []Problem

// Error has one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.Error()
	}
	return strings.Join(lines, "\n")
}

// Hint is that of a single problem. Where there are several, each has its own
// in its field.
func (p Problems) Hint() string {
	if len(p) != 1 {
		return ""
	}
	return p[0].Hint
}

// spot is where something is written.
type spot struct {
	file string
	line int
}

// place names something in a file by its path there.
type place struct {
	file string
	path string
}

// report collects problems and knows where everything is written, so that a
// mistake found long after decoding still has its line.
type report struct {
	problems []Problem
	spots    map[place]spot
	reported map[place]bool // what is already known to be wrong, lest it be called missing as well
	files    map[string]int // in the order they were read
}

func newReport() *report {
	return &report{spots: map[place]spot{}, reported: map[place]bool{}, files: map[string]int{}}
}

// add reports a problem with what is at the place, or would be if it were not
// missing: then it is on the line of what surrounds it.
func (r *report) add(at place, text, hint string) {
	where := r.find(at)
	r.problems = append(r.problems, Problem{File: where.file, Line: where.line, Path: at.path, Text: text, Hint: hint})
	r.reported[at] = true
}

// find is where a place, or the nearest that surrounds it, is written.
func (r *report) find(at place) spot {
	for path := at.path; ; {
		if found, ok := r.spots[place{at.file, path}]; ok {
			return found
		}
		if path == "" {
			return spot{file: at.file}
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
}

// written tells whether a key is there at all.
func (r *report) written(at place) bool {
	_, ok := r.spots[at]
	return ok
}

// blamed tells whether a problem of the place, or of what surrounds it, is reported
// already.
func (r *report) blamed(at place) bool {
	for path := at.path; ; {
		if r.reported[place{at.file, path}] {
			return true
		}
		if path == "" {
			return false
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
}

// err is all that was reported; nil: nothing was.
func (r *report) err() error {
	if len(r.problems) == 0 {
		return nil
	}
	rank := func(file string) int {
		if i, ok := r.files[file]; ok {
			return i
		}
		return len(r.files)
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		if order := cmp.Or(cmp.Compare(rank(a.File), rank(b.File)), cmp.Compare(a.Line, b.Line)); order != 0 || a.Line > 0 {
			return order
		}
		return cmp.Compare(a.File, b.File) // variables have no order of their own
	})
	return Problems(slices.Compact(r.problems))
}

// quote shows what somebody wrote: on one line, not too long, without control
// characters.
func quote(s string) string {
	const limit = 60
	if runes := []rune(s); len(runes) > limit {
		s = string(runes[:limit-1]) + "…"
	}
	return strconv.Quote(s)
}

// step is a key as part of a path: .key, or ["key"] where that could be
// misread.
func step(path, key string) string {
	plain := key != "" && !strings.ContainsFunc(key, func(r rune) bool {
		return r != '-' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	switch {
	case !plain:
		return path + "[" + quote(key) + "]"
	case path == "":
		return key
	default:
		return path + "." + key
	}
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
