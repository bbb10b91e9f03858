package trust

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"golang.org/x/text/encoding/htmlindex"

	"towpath.dev/towpath/gitops"
)

// What Read keeps of a text, in runes: enough to show, too little to flood.
const (
	maxSubject = 500
	maxName    = 200
)

// Read reads a commit to show it, whoever made it with whatever tool: old
// character sets, missing names and impossible dates are no errors (a date that
// cannot be read is the zero time). Only a commit whose tree or parents cannot
// be read is. All texts have passed gitops.Line. Nothing is verified: what
// counts for trust goes through ParseCommit.
func Read(raw []byte) (gitops.Commit, error) {
	c := gitops.Commit{Hash: plumbing.ComputeHash(plumbing.CommitObject, raw)}
	headers, message, _ := bytes.Cut(raw, []byte("\n\n"))

	var charset string
	var author, committer []byte
	for number, line := range bytes.Split(headers, []byte{'\n'}) {
		name, value, _ := bytes.Cut(line, []byte{' '})
		switch string(name) {
		case "tree":
			if number > 0 {
				continue // git reads the first line, and no other
			}
			tree, err := gitops.ParseHash(string(value))
			if err != nil {
				return gitops.Commit{}, fmt.Errorf("commit %s: tree: %w", c.Hash, err)
			}
			c.Tree = tree
		case "parent":
			if author != nil || number != len(c.Parents)+1 {
				continue
			}
			parent, err := gitops.ParseHash(string(value))
			if err != nil {
				return gitops.Commit{}, fmt.Errorf("commit %s: parent: %w", c.Hash, err)
			}
			c.Parents = append(c.Parents, parent)
		case "author":
			if author == nil {
				author = value
			}
		case "committer":
			if committer == nil {
				committer = value
			}
		case "encoding":
			charset = string(value)
		}
	}
	if c.Tree.IsZero() {
		return gitops.Commit{}, fmt.Errorf("commit %s: %w", c.Hash, errors.New("it names no tree"))
	}

	decode := decoder(charset)
	c.Author, c.Committer = readPerson(decode(author)), readPerson(decode(committer))
	subject, _, _ := bytes.Cut(bytes.TrimLeft(message, "\n"), []byte{'\n'})
	c.Subject = gitops.Line(decode(subject), maxSubject)
	return c, nil
}

// decoder turns a commit's bytes into UTF-8, from the character set that its
// encoding header names. An unknown one is read as UTF-8: Line marks what is
// none.
func decoder(charset string) func([]byte) string {
	asIs := func(b []byte) string { return string(b) }
	if charset == "" || len(charset) > 40 {
		return asIs
	}
	encoding, err := htmlindex.Get(charset)
	if err != nil {
		return asIs
	}
	return func(b []byte) string {
		text, err := encoding.NewDecoder().Bytes(b[:min(len(b), 64<<10)])
		if err != nil {
			return string(b)
		}
		return string(text)
	}
}

// readPerson takes what it finds of "name <address> seconds zone".
func readPerson(s string) gitops.Person {
	name, rest, _ := strings.Cut(s, "<")
	email, _, _ := strings.Cut(rest, ">")
	p := gitops.Person{Name: gitops.Line(name, maxName), Email: gitops.Line(email, maxName)}
	m := date.FindStringSubmatch(s)
	if m == nil {
		return p
	}
	seconds, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || seconds > latest {
		return p
	}
	p.When = time.Unix(seconds, 0).In(zone(m[2], m[3], m[4]))
	return p
}

var date = regexp.MustCompile(`> *([0-9]+) +([+-])([0-9]{2})([0-9]{2})\s*$`)
