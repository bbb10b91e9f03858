package sandbox

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
)

// output is where everything goes that the steps of one build print: whole into
// a file, up to a bound, and its last lines, cleaned, into an error.
type output struct {
	progress func(line string)

	mu   sync.Mutex
	file *os.File
	left int64
	line []byte // begun and not ended
	tail []string
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
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.keep(p)
	for rest := p; len(rest) > 0; {
		line, after, ended := bytes.Cut(rest, []byte("\n"))
		if room := maxLine - len(o.line); room > 0 {
			o.line = append(o.line, line[:min(room, len(line))]...)
		}
		if !ended {
			break
		}
		o.endLine()
		rest = after
	}
	return len(p), nil
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

func (o *output) endLine() {
	line := clean(o.line)
	o.line = o.line[:0]
	if line == "" {
		return
	}
	if len(o.tail) == tailSize {
		o.tail = append(o.tail[:0], o.tail[1:]...)
	}
	o.tail = append(o.tail, line)
	if o.progress != nil {
		o.progress(line)
	}
}

// say adds a line of our own.
func (o *output) say(format string, args ...any) { fmt.Fprintf(o, format+"\n", args...) }

// lines are the last lines, cleaned.
func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.line) > 0 {
		o.endLine()
	}
	return slices.Clone(o.tail)
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
