package trust

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unicode"

	"towpath.dev/towpath/gitops"
)

// Unsigned is a commit to be made.
type Unsigned struct {
	Tree      gitops.Hash
	Parents   []gitops.Hash
	Author    gitops.Person
	Committer gitops.Person
	Message   string // UTF-8
}

// FormatCommit returns the bytes of a commit object, as git commit-tree would
// write them. Whatever the names and the message hold, ParseCommit reads the
// result: characters that would end an ident or a header are dropped, a
// missing name becomes the address, the message ends with one newline at
// least.
func FormatCommit(u Unsigned) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "tree %s\n", u.Tree)
	for _, parent := range u.Parents {
		fmt.Fprintf(&b, "parent %s\n", parent)
	}
	fmt.Fprintf(&b, "author %s\n", formatPerson(u.Author))
	fmt.Fprintf(&b, "committer %s\n", formatPerson(u.Committer))
	message := strings.ReplaceAll(strings.ToValidUTF8(u.Message, "\uFFFD"), "\x00", "")
	b.WriteString("\n" + message)
	if !strings.HasSuffix(message, "\n") {
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// Attach returns the commit with the signature in its gpgsig header, after all
// other headers, where git puts it. unsigned is what was signed, byte for byte.
func Attach(unsigned []byte, armored string) []byte {
	at := bytes.Index(unsigned, []byte("\n\n"))
	if at < 0 {
		at = len(unsigned) - 1 // no commit; ParseCommit will say so
	}
	return attachAt(unsigned, armored, at+1)
}

func attachAt(payload []byte, armored string, at int) []byte {
	header := "gpgsig " + strings.ReplaceAll(strings.TrimSuffix(armored, "\n"), "\n", "\n ") + "\n"
	signed := make([]byte, 0, len(payload)+len(header))
	signed = append(signed, payload[:at]...)
	signed = append(signed, header...)
	return append(signed, payload[at:]...)
}

func formatPerson(p gitops.Person) string {
	name, email := identText(p.Name), identText(p.Email)
	if name == "" {
		name = email
	}
	when := p.When
	if when.Unix() < 0 || when.Unix() > latest {
		when = time.Unix(0, 0).UTC() // what git cannot read back
	}
	return fmt.Sprintf("%s <%s> %d %s", name, email, when.Unix(), when.Format("-0700"))
}

// latest is the last second of the year 9999, past which neither git nor Go
// print a date.
const latest = 253402300799

// identText drops what would end an ident, and what git itself trims from the
// ends of one (its ident.c calls it crud).
func identText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '<' || r == '>' || unicode.IsControl(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	return strings.Trim(s, " .,:;\"\\'")
}
