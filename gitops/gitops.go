// Package gitops holds the nouns of git that every package below it shares:
// an object's hash, a commit as Towpath tells of it, and how two commits
// relate.
//
// It and the packages below it know git and nothing of images: what a bump
// writes into a marker reaches them as text.
package gitops

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
)

// Hash is the SHA-1 name of a git object. The zero Hash names none.
type Hash = plumbing.Hash

// ParseHash reads a full object name: 40 lower-case hexadecimal digits. It
// accepts no abbreviation, since what an abbreviation names changes with time.
func ParseHash(s string) (Hash, error) {
	var h Hash
	if len(s) != hex.EncodedLen(len(h)) || strings.ToLower(s) != s {
		return Hash{}, fmt.Errorf("%q is no full commit hash (40 hexadecimal digits, lower case)", Line(s, 60))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return Hash{}, fmt.Errorf("%q is no full commit hash (40 hexadecimal digits, lower case)", Line(s, 60))
	}
	return h, nil
}

// Short is the form in which people are shown a hash: its first 8 digits.
func Short(h Hash) string { return h.String()[:8] }

// Commit is what Towpath tells about a commit. Its texts come from whoever
// wrote the commit; they have passed Line and are safe to show on one line.
type Commit struct {
	Hash      Hash
	Tree      Hash
	Parents   []Hash
	Author    Person
	Committer Person
	Subject   string // the message's first line
}

// Person is the author or committer of a commit, as the commit claims.
type Person struct {
	Name  string
	Email string
	When  time.Time
}

// Relation is how a candidate commit stands to a base commit in the history
// they share.
type Relation int

const (
	// Unknown says that the history at hand does not tell. It is never "no".
	Unknown Relation = iota
	// NoBase says that there is no base commit to compare with.
	NoBase
	// Same says that the candidate is the base.
	Same
	// Ahead says that the base is a proper ancestor of the candidate.
	Ahead
	// Behind says that the candidate is a proper ancestor of the base.
	Behind
	// Unrelated says that neither descends from the other, and the history that says
	// so was complete.
	Unrelated
)

func (r Relation) String() string {
	switch r {
	case NoBase:
		return "no base"
	case Same:
		return "same"
	case Ahead:
		return "ahead"
	case Behind:
		return "behind"
	case Unrelated:
		return "unrelated"
	default:
		return "unknown"
	}
}

// Line makes text from outside safe to show on one line: control characters,
// terminal escapes, line and paragraph separators and invisible direction
// marks become spaces, runs of spaces one, invalid UTF-8 U+FFFD, and the whole
// is cut to at most limit runes (an ellipsis marks the cut; 0: no limit).
func Line(s string, limit int) string {
	if limit > 0 && len(s) > 8*utf8.UTFMax*limit {
		s = strings.Clone(s[:8*utf8.UTFMax*limit]) // bounds the work that a hostile text can ask for, and what is kept of it
	}
	clean := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	clean = strings.Join(strings.Fields(clean), " ")
	if limit > 0 && utf8.RuneCountInString(clean) > limit {
		runes := []rune(clean)
		clean = string(runes[:limit-1]) + "…"
	}
	return clean
}
