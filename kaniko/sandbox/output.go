package sandbox

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"towpath.dev/towpath/kaniko"
)

const (
	maxLog   = 64 << 20 // bytes of a log file; what a build prints beyond that is lost
	keptLogs = 20       // log files kept of one image
	tailSize = 20       // lines in an error
	maxLine  = 400      // bytes of a line in an error or in progress
	maxRead  = 16 << 10 // bytes of a line that are looked at
)

// output is where everything goes that the steps of one build print: whole into
// a file, up to a bound, and its last lines, cleaned, into an error.
type output struct {
	progress func(line string)

	mu          sync.Mutex
	file        *os.File
	left        int64    // bytes that the file still takes
	tail        []string // of all streams, in the order they arrived
	instruction string   // of the Dockerfile, the last that kaniko has begun
	verdict     string   // the last line of kaniko's own stream
}

// stream is one of the pipes that a step prints to. The runtime copies the two of
// a build apart, so each has lines of its own.
type stream struct {
	*output
	kaniko bool // kaniko's own words come here: its standard error
	line   []byte
}

// openOutput opens the build's log file and drops the image's oldest ones.
func (b *Builder) openOutput(order kaniko.Order) (*output, error) {
	dir := filepath.Join(b.Dir, "logs")
	prefix := fmt.Sprintf("%s-%.12s-", plain(order.Image), plain(order.Source.Commit))
	for n := 1; ; n++ {
		file, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s%d.log", prefix, n)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if os.IsExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("open build log: %w", err)
		}
		dropOldLogs(dir, order.Image)
		return &output{progress: b.Progress, file: file, left: maxLog}, nil
	}
}

// plain makes a name fit for a file's name.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._-", r)) {
			return r
		}
		return '_'
	}, name)
}

func dropOldLogs(dir, image string) {
	type log struct {
		path string
		info fs.FileInfo
	}
	var logs []log
	paths, _ := filepath.Glob(filepath.Join(dir, plain(image)+"-*.log"))
	for _, path := range paths {
		// Another image's name may begin with this one's: what follows the name
		// is a commit and a number.
		rest := strings.TrimPrefix(filepath.Base(path), plain(image)+"-")
		if info, err := os.Lstat(path); err == nil && strings.Count(rest, "-") == 1 {
			logs = append(logs, log{path, info})
		}
	}
	slices.SortFunc(logs, func(a, b log) int { return b.info.ModTime().Compare(a.info.ModTime()) })
	for _, l := range logs[min(keptLogs, len(logs)):] {
		_ = os.Remove(l.path) // a log that stays costs little
	}
}

// Write takes what a step printed. It never fails: a full disk must not look
// like a fault of the build.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(p)
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		if room := maxRead - len(s.line); room > 0 {
			s.line = append(s.line, line[:min(room, len(line))]...)
		}
		if !ended {
			break
		}
		s.endLine()
		rest = after
	}
	return len(p), nil
}

// flush ends a line that has no end.
func (s *stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLine()
}

func (o *output) keep(p []byte) {
	if o.left <= 0 {
		return
	}
	n, err := o.file.Write(p[:min(int64(len(p)), o.left)])
	o.left -= int64(n)
	if err != nil {
		o.left = 0
		return
	}
	if o.left == 0 {
		fmt.Fprintf(o.file, "\n[the output goes on: this log ends after %d bytes]\n", maxLog)
	}
}

func (s *stream) endLine() {
	line := clean(s.line)
	s.line = s.line[:0]
	if line == "" {
		return
	}
	if s.kaniko {
		line = s.plainer(line)
		s.verdict = line
	}
	line = cut(line, maxLine)
	if len(s.tail) == tailSize {
		s.tail = append(s.tail[:0], s.tail[1:]...)
	}
	s.tail = append(s.tail, line)
	if s.progress != nil {
		s.progress(line)
	}
}

var (
	logLine     = regexp.MustCompile(`^time=\S+ level=(\w+) msg=(".*"|\S+)`)
	instruction = regexp.MustCompile(`^(RUN|COPY|ADD|WORKDIR|USER|ENV|ARG|LABEL|VOLUME|EXPOSE|CMD|ENTRYPOINT|SHELL|STOPSIGNAL|HEALTHCHECK|ONBUILD) `)
)

// plainer takes kaniko's log format off a line.
func (s *stream) plainer(line string) string {
	parts := logLine.FindStringSubmatch(line)
	if parts == nil {
		return line
	}
	message := parts[2]
	if unquoted, err := strconv.Unquote(message); err == nil {
		message = clean([]byte(unquoted))
	}
	if parts[1] != "info" {
		return parts[1] + ": " + message
	}
	if instruction.MatchString(message) {
		s.instruction = cut(message, maxLine/2)
	}
	return message
}

// cut shortens a line to so many bytes, and says so.
func cut(line string, bytes int) string {
	if len(line) <= bytes {
		return line
	}
	for bytes > 0 && !utf8.RuneStart(line[bytes]) {
		bytes--
	}
	return line[:bytes] + "…"
}

// say adds a line of our own.
func (o *output) say(format string, args ...any) {
	s := &stream{output: o}
	fmt.Fprintf(s, format+"\n", args...)
}

// lines are the last lines, cleaned.
func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.tail)
}

// end is how kaniko says that it ended, and at which instruction.
func (o *output) end() (instruction, verdict string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.instruction, o.verdict
}

func (o *output) path() string { return o.file.Name() }

func (o *output) close() error { return o.file.Close() }

// clean makes a line of somebody else's harmless on a terminal: no control or
// format characters, no escape sequences, no broken UTF-8, no end of blanks.
func clean(line []byte) string {
	var b strings.Builder
	for i := 0; i < len(line); {
		if line[i] == 0x1b {
			i += escapeLength(line[i:])
			continue
		}
		r, size := utf8.DecodeRune(line[i:])
		i += size
		switch {
		case r == '\t', r == '\n', r == '\r':
			b.WriteByte(' ')
		case r == utf8.RuneError && size == 1:
			b.WriteByte('?')
		case unicode.Is(unicode.C, r), r == '\u2028', r == '\u2029':
		default:
			b.WriteRune(r)
		}
	}
	return strings.TrimSpace(b.String())
}

// escapeLength is how much of b an escape sequence takes (ECMA-48): CSI up to
// its final byte, OSC and its kin up to BEL or ST, else two bytes.
func escapeLength(b []byte) int {
	if len(b) < 2 {
		return len(b)
	}
	switch b[1] {
	case '[':
		for i := 2; i < len(b); i++ {
			if b[i] >= 0x40 && b[i] <= 0x7e {
				return i + 1
			}
		}
		return len(b)
	case ']', 'P', 'X', '^', '_':
		for i := 2; i < len(b); i++ {
			if b[i] == 0x07 {
				return i + 1
			}
			if b[i] == 0x1b && i+1 < len(b) && b[i+1] == '\\' {
				return i + 2
			}
		}
		return len(b)
	}
	return 2
}
