package store

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"towpath.dev/towpath/gitops"
)

// Modes of tree entries, as git writes them today. Old and odd trees hold
// others (100664, 40000 with a leading zero), which Entry keeps.
const (
	ModeTree       = "40000"
	ModeFile       = "100644"
	ModeExecutable = "100755"
	ModeSymlink    = "120000"
	ModeSubmodule  = "160000"
)

// Entry is one entry of a tree, exactly as the tree holds it: nothing is
// normalised, nothing is checked.
type Entry struct {
	Mode string // octal digits as stored
	Name string // any bytes but NUL: possibly "..", possibly empty
	Hash gitops.Hash
}

// Kind is the entry's type by the type bits of its mode, as one of the Mode
// constants: odd permission bits do not matter. A type that git does not know
// is "".
func (e Entry) Kind() string { return kindOf(e.Mode) }

func kindOf(digits string) string {
	mode, err := strconv.ParseUint(digits, 8, 32)
	if err != nil {
		return ""
	}
	switch mode & 0o170000 {
	case 0o040000:
		return ModeTree
	case 0o120000:
		return ModeSymlink
	case 0o160000:
		return ModeSubmodule
	case 0o100000:
		if mode&0o100 != 0 {
			return ModeExecutable
		}
		return ModeFile
	}
	return ""
}

// ParseTree reads the content of a tree object: order, odd modes and odd names
// are kept.
func ParseTree(content []byte) ([]Entry, error) {
	var entries []Entry
	err := eachEntry(content, func(mode, name []byte, hash gitops.Hash) {
		entries = append(entries, Entry{Mode: string(mode), Name: string(name), Hash: hash})
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// eachEntry calls visit for every entry; mode and name are parts of content.
func eachEntry(content []byte, visit func(mode, name []byte, hash gitops.Hash)) error {
	for rest := content; len(rest) > 0; {
		space := bytes.IndexByte(rest, ' ')
		if space < 1 || space > 7 {
			return fmt.Errorf("malformed tree: no mode at byte %d", len(content)-len(rest))
		}
		mode := rest[:space]
		for _, digit := range mode {
			if digit < '0' || digit > '7' {
				return fmt.Errorf("malformed tree: mode %q", mode)
			}
		}
		rest = rest[space+1:]
		end := bytes.IndexByte(rest, 0)
		var hash gitops.Hash
		if end < 0 || len(rest)-end-1 < len(hash) {
			return fmt.Errorf("malformed tree: cut short at byte %d", len(content)-len(rest))
		}
		copy(hash[:], rest[end+1:])
		visit(mode, rest[:end], hash)
		rest = rest[end+1+len(hash):]
	}
	return nil
}

// links are what a commit points to.
type links struct {
	tree    gitops.Hash
	parents []gitops.Hash
}

// parseLinks reads a commit's tree and parents where git itself reads them:
// the first line, and the lines right after it. What follows is not looked at,
// so a header that says "parent" further down is none.
func parseLinks(content []byte) (l links, rest []byte, err error) {
	tree, rest, ok := hashLine(content, "tree ")
	if !ok {
		return links{}, nil, fmt.Errorf("malformed commit: it does not begin with its tree")
	}
	l.tree = tree
	for {
		parent, after, ok := hashLine(rest, "parent ")
		if !ok {
			return l, rest, nil
		}
		l.parents, rest = append(l.parents, parent), after
	}
}

func hashLine(content []byte, prefix string) (hash gitops.Hash, rest []byte, ok bool) {
	const digits = 2 * len(hash)
	if len(content) < len(prefix)+digits+1 || string(content[:len(prefix)]) != prefix || content[len(prefix)+digits] != '\n' {
		return gitops.Hash{}, content, false
	}
	if _, err := hex.Decode(hash[:], content[len(prefix):len(prefix)+digits]); err != nil {
		return gitops.Hash{}, content, false
	}
	return hash, content[len(prefix)+digits+1:], true
}

// parseCommit reads a commit to tell of it. It is lenient where git is: who
// must rely on what a commit says reads the raw bytes strictly (package trust).
func parseCommit(hash gitops.Hash, content []byte) (gitops.Commit, error) {
	l, rest, err := parseLinks(content)
	if err != nil {
		return gitops.Commit{}, fmt.Errorf("commit %s: %w", hash, err)
	}
	c := gitops.Commit{Hash: hash, Tree: l.tree, Parents: l.parents}
	header, message, _ := bytes.Cut(rest, []byte("\n\n"))
	if len(rest) > 0 && rest[0] == '\n' { // no header at all after the parents
		header, message = nil, rest[1:]
	}
	author, committer := false, false
	for line := range bytes.Lines(header) {
		if value, ok := bytes.CutPrefix(line, []byte("author ")); ok && !author {
			c.Author, author = parsePerson(string(value)), true
		} else if value, ok := bytes.CutPrefix(line, []byte("committer ")); ok && !committer {
			c.Committer, committer = parsePerson(string(value)), true
		}
	}
	message = bytes.TrimLeft(message, "\n")
	subject, _, _ := bytes.Cut(message, []byte("\n"))
	c.Subject = gitops.Line(string(subject), subjectLimit)
	return c, nil
}

const (
	subjectLimit = 500 // runes; what shows it cuts it further
	nameLimit    = 200
)

// parsePerson reads "Name <email> seconds zone"; what is not there stays zero.
func parsePerson(line string) gitops.Person {
	line = strings.TrimRight(line, "\n")
	open := strings.IndexByte(line, '<')
	if open < 0 {
		return gitops.Person{Name: gitops.Line(line, nameLimit)}
	}
	p := gitops.Person{Name: gitops.Line(line[:open], nameLimit)}
	end := strings.LastIndexByte(line, '>')
	if end < open {
		p.Email = gitops.Line(line[open+1:], nameLimit)
		return p
	}
	p.Email = gitops.Line(line[open+1:end], nameLimit)
	fields := strings.Fields(line[end+1:])
	if len(fields) == 0 {
		return p
	}
	seconds, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil || seconds < 0 || seconds > maxSeconds {
		return p
	}
	zone := 0
	if len(fields) > 1 {
		zone = parseZone(fields[1])
	}
	p.When = time.Unix(seconds, 0).In(time.FixedZone("", zone))
	return p
}

// maxSeconds is the end of the year 9999: later times cannot be written as
// RFC 3339 or as JSON.
const maxSeconds = 253402300799 - 24*3600

// parseZone reads "+hhmm" as seconds east of UTC; anything else is UTC.
func parseZone(s string) int {
	if len(s) != 5 || (s[0] != '+' && s[0] != '-') {
		return 0
	}
	n, err := strconv.ParseUint(s[1:], 10, 16)
	if err != nil || n/100 > 14 || n%100 > 59 {
		return 0
	}
	seconds := int(n/100*3600 + n%100*60)
	if s[0] == '-' {
		return -seconds
	}
	return seconds
}
