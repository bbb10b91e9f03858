package sandbox

import (
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
	"towpath.dev/towpath/kaniko/console"
)

const (
	maxLog   = 64 << 20 // bytes of a log file; what a build prints beyond that is lost
	keptLogs = 20       // log files kept of one image
)

// output is where everything goes that the steps of one build print: whole, but
// for what would act on a terminal, into a file, up to a bound; and its last
// lines into an error.
type output struct {
	progress func(line string)

	mu   sync.Mutex
	file *os.File
	left int64 // bytes that the file still takes
	tail console.Tail
}

// stream is one of the pipes that a step prints to. The runtime copies the two of
// a build apart, so each has lines of its own.
type stream struct {
	*output
	console console.Stream
	log     console.Plain
}

// stream is a pipe of a step; kaniko's own words come to its standard error.
func (o *output) stream(kaniko bool) *stream {
	return &stream{o, console.Stream{Tail: &o.tail, Kaniko: kaniko, Line: o.progress}, console.Plain{To: logFile{o}}}
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
	logs := logsOf(dir, image)
	for _, path := range logs[min(keptLogs, len(logs)):] {
		_ = os.Remove(path) // a log that stays costs little
	}
}

// Logs are the files with what the builds of an image printed, newest first; dir
// is the builder's.
func Logs(dir, image string) []string { return logsOf(filepath.Join(dir, "logs"), image) }

func logsOf(dir, image string) []string {
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
	found := make([]string, len(logs))
	for i, l := range logs {
		found[i] = l.path
	}
	return found
}

// Write takes what a step printed. It never fails: a full disk must not look
// like a fault of the build.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left > 0 { // else endless output would cost us more than it costs the build
		_, _ = s.log.Write(p)
	}
	return s.console.Write(p)
}

// flush ends a line that has no end.
func (s *stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.log.Flush()
	s.console.Flush()
}

// logFile is the file of an output whose lock is held.
type logFile struct{ *output }

// Write writes up to the bound; after an error nothing more.
func (o logFile) Write(p []byte) (int, error) {
	if o.left <= 0 {
		return len(p), nil
	}
	n, err := o.file.Write(p[:min(int64(len(p)), o.left)])
	o.left -= int64(n)
	if err != nil {
		o.left = 0
		return n, err
	}
	if o.left == 0 {
		fmt.Fprintf(o.file, "\n[the output goes on: this log ends after %d bytes]\n", maxLog)
	}
	return len(p), nil
}

// say adds a line of our own.
func (o *output) say(format string, args ...any) {
	fmt.Fprintf(o.stream(false), format+"\n", args...)
}

// lines are the last lines, cleaned.
func (o *output) lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tail.Lines()
}

// judge says why kaniko failed, and whether the build is to blame.
func (o *output) judge(status int) (fault bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tail.Judge(status)
}

func (o *output) path() string { return o.file.Name() }

func (o *output) close() error { return o.file.Close() }
