// Package console makes what a build prints fit to be shown and judged: lines
// without terminal escapes, the last few of them, the instruction that kaniko
// was at, and whether its last word tells of the machinery or of the build.
//
// All of it was written by somebody else. Whatever comes in, what comes out is
// one line of printable text and bounded, and it is believed for nothing but to
// tell a person what happened and whether to try again.
package console

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	tailSize = 20       // lines that are kept
	maxLine  = 400      // bytes of one
	maxRead  = 16 << 10 // bytes of a line that are looked at
)

// Tail is the end of what a build printed, on all its streams, in the order it
// arrived. It is not safe for concurrent use.
type Tail struct {
	lines       []string  // the last of all, at most tailSize
	told        []telling // the last without what kaniko says of itself, at most tailSize
	outcome     bool      // one of those was more than the beginning of an instruction
	instruction string    // of the Dockerfile, the last that kaniko has begun
	verdict     string    // the last line of kaniko's own stream
	exit        string    // its last line that tells of a process that failed
	since       int       // lines of its stream after that
}

// A pod's streams are told as one, in nearly the order of their lines: what a RUN
// step printed last may come after kaniko's word that it failed.
const (
	failing = "waiting for process to exit: "
	nearly  = 5
)

// telling is a line that is not kaniko's talk of itself: what a step printed, or
// kaniko's warnings and errors; or the instruction that it was at.
type telling struct {
	text        string
	instruction bool
}

// Lines are the last lines of what tells why a build failed: the instruction that
// it was at, what its steps printed, and kaniko's warnings and errors. Where there
// is nothing of that, they are what kaniko said it was doing.
func (t *Tail) Lines() []string {
	if !t.outcome {
		return slices.Clone(t.lines)
	}
	var lines []string
	named := false
	for _, one := range t.told {
		lines = append(lines, one.text)
		named = named || one.instruction
	}
	if !named && t.instruction != "" {
		lines = slices.Insert(lines[max(0, len(lines)-tailSize+1):], 0, t.instruction)
	}
	return lines
}

// add keeps a line, and returns it as it is shown; empty: nothing to show.
func (t *Tail) add(raw []byte, kaniko bool) string {
	line := Clean(raw)
	if line == "" {
		return ""
	}
	kind := output
	if kaniko {
		line, kind = t.plainer(line)
		t.verdict, t.since = line, t.since+1
		if strings.Contains(line, failing) {
			t.exit, t.since = line, 0
		}
	}
	line = Cut(line, maxLine)
	t.lines = last(t.lines, line)
	switch kind {
	case output:
		t.told, t.outcome = last(t.told, telling{line, false}), true
	case begins:
		t.told = slices.DeleteFunc(t.told, func(one telling) bool { return one.instruction })
		t.told = last(t.told, telling{line, true})
	}
	return line
}

// last appends to the newest lines and drops the oldest.
func last[T any](lines []T, line T) []T {
	if len(lines) == tailSize {
		lines = append(lines[:0], lines[1:]...)
	}
	return append(lines, line)
}

// Stream is one of the streams that a build prints to, with lines of its own.
type Stream struct {
	Tail   *Tail
	Kaniko bool              // kaniko's own words come here
	Line   func(line string) // called with each line, cleaned; may be nil

	line []byte
}

// Write takes what a build printed. It never fails.
func (s *Stream) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		if room := maxRead - len(s.line); room > 0 {
			s.line = append(s.line, line[:min(room, len(line))]...)
		}
		if !ended {
			break
		}
		s.Flush()
		rest = after
	}
	return len(p), nil
}

// Flush ends a line that has no end.
func (s *Stream) Flush() {
	line := s.Tail.add(s.line, s.Kaniko)
	s.line = s.line[:0]
	if line != "" && s.Line != nil {
		s.Line(line)
	}
}

var (
	logLine     = regexp.MustCompile(`^time=\S+ level=(\w+) msg=(".*"|\S+)`)
	instruction = regexp.MustCompile(`^(RUN|COPY|ADD|WORKDIR|USER|ENV|ARG|LABEL|VOLUME|EXPOSE|CMD|ENTRYPOINT|SHELL|STOPSIGNAL|HEALTHCHECK|ONBUILD) `)
)

// kind tells what a line is about.
type kind int

const (
	output kind = iota // a step's, or kaniko's warning or error
	begins             // an instruction of the Dockerfile
	talk               // what kaniko says of itself
)

// plainer takes kaniko's log format off a line.
func (t *Tail) plainer(line string) (string, kind) {
	parts := logLine.FindStringSubmatch(line)
	if parts == nil {
		return line, output
	}
	message := parts[2]
	if unquoted, err := strconv.Unquote(message); err == nil {
		message = Clean([]byte(unquoted))
	}
	switch {
	case parts[1] == "debug", parts[1] == "trace":
		return parts[1] + ": " + message, talk
	case parts[1] != "info":
		return parts[1] + ": " + message, output
	case instruction.MatchString(message):
		t.instruction = Cut(message, maxLine/2)
		return message, begins
	}
	return message, talk
}

// machinery matches kaniko's own last line when a registry or the network between
// failed, or the runtime's where the executor is no program for this machine. A
// RUN step that fails for want of network is not told from others.
var machinery = regexp.MustCompile(`(?i)\bdial (tcp|udp)\b|i/o timeout|no such host|connection (refused|reset)|TLS handshake timeout|unexpected EOF|` +
	`no route to host|network is unreachable|TOOMANYREQUESTS|UNAVAILABLE|unexpected status code (429|5\d\d)|no space left on device|` +
	`^exec /kaniko/executor: `)

// denied matches kaniko's own last line when a registry would not give it a base
// image: so it is until the config, or the Dockerfile, says otherwise.
var denied = regexp.MustCompile(`\b(UNAUTHORIZED|DENIED): |unexpected status code 40[13]\b|server gave HTTP response to HTTPS client`)

// Judge says why kaniko, which ended with a status other than 0, failed, and
// whether the build is to blame: if not, the same build may do better later.
func (t *Tail) Judge(status int) (fault bool, err error) {
	if _, said, found := strings.Cut(t.exit, failing); found && t.since <= nearly && t.instruction != "" {
		return true, fmt.Errorf("%s: %s", t.instruction, said)
	}
	if machinery.MatchString(t.verdict) {
		return false, errors.New(t.verdict)
	}
	if denied.MatchString(t.verdict) {
		return true, errors.New(t.verdict)
	}
	return true, fmt.Errorf("kaniko ended with status %d", status)
}

// Cut shortens a line to so many bytes, and says so.
func Cut(line string, bytes int) string {
	if len(line) <= bytes {
		return line
	}
	for bytes > 0 && !utf8.RuneStart(line[bytes]) {
		bytes--
	}
	return line[:bytes] + "…"
}
