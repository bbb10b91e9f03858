package trust

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"towpath.dev/towpath/gitops"
)

// Raw is a commit that every parser reads alike. Texts are as stored: they
// come from whoever wrote the commit and are not safe to print.
type Raw struct {
	Tree      gitops.Hash
	Parents   []gitops.Hash
	Author    gitops.Person
	Committer gitops.Person
	Encoding  string // the message's character set; empty: UTF-8
	Message   string
	// Signature is the armored text of the gpgsig header, its lines without
	// the leading space; empty: unsigned.
	Signature string
	// Payload is what was signed: the commit's bytes without the gpgsig
	// header. For an unsigned commit, all of them.
	Payload []byte

	signedAt int // where in Payload the gpgsig header was
}

// ParseCommit reads the bytes of a commit object (without git's "commit N\x00"
// prefix) and refuses, with ErrMalformed, whatever two parsers might read
// differently:
//
//   - headers other than tree, parent…, author and committer, once each and in
//     this order, then encoding, mergetag…, change-id and gpgsig in any order,
//     each but mergetag at most once;
//   - continuation lines anywhere but after mergetag and gpgsig;
//   - more than one signature: a second gpgsig, gpgsig-sha256 or any other
//     header whose name starts so (git drops those from the payload), or
//     several armored blocks in one header;
//   - hashes that are not 40 lower-case digits, idents and dates that git
//     fsck would report, carriage returns in headers (but for mergetag's), NUL
//     anywhere, a header block without its end.
//
// The allowed headers are those that git writes today, and change-id, which
// Jujutsu and GitButler add and everybody ignores. Their order follows git's
// parsers, which look for them wherever they are: JGit and forges put gpgsig
// before encoding.
func ParseCommit(raw []byte) (*Raw, error) {
	c := new(Raw)
	if err := c.parse(raw); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return c, nil
}

func (c *Raw) parse(raw []byte) error {
	if i := bytes.IndexByte(raw, 0); i >= 0 {
		return fmt.Errorf("NUL at byte %d", i)
	}
	headers := &headerReader{rest: raw}
	var err error
	if c.Tree, err = headers.hash("tree"); err != nil {
		return err
	}
	for headers.next("parent") {
		parent, err := headers.hash("parent")
		if err != nil {
			return err
		}
		c.Parents = append(c.Parents, parent)
	}
	if c.Author, err = headers.person("author"); err != nil {
		return err
	}
	if c.Committer, err = headers.person("committer"); err != nil {
		return err
	}

	c.Payload = raw
	seen := map[string]bool{}
	for !headers.atEnd() {
		start := len(raw) - len(headers.rest)
		name, value, err := headers.extra()
		if err != nil {
			return err
		}
		if seen[name] && name != "mergetag" {
			return fmt.Errorf("header %s twice", name)
		}
		seen[name] = true
		switch name {
		case "encoding":
			if !encodingName.MatchString(value) {
				return fmt.Errorf("header encoding is no character set's name")
			}
			c.Encoding = value
		case "gpgsig":
			if err := oneArmor(value); err != nil {
				return err
			}
			end := len(raw) - len(headers.rest)
			c.Signature = value + "\n"
			c.signedAt = start
			c.Payload = append(append(make([]byte, 0, len(raw)-(end-start)), raw[:start]...), raw[end:]...)
		}
	}
	c.Message = string(headers.rest[1:])
	return nil
}

// headerReader walks the header lines of a commit.
type headerReader struct{ rest []byte }

// atEnd tells whether what comes next is the empty line before the message.
func (h *headerReader) atEnd() bool { return len(h.rest) > 0 && h.rest[0] == '\n' }

// next tells whether what comes next is a header of that name.
func (h *headerReader) next(name string) bool {
	return bytes.HasPrefix(h.rest, []byte(name+" "))
}

func (h *headerReader) line() (string, error) {
	line, rest, found := bytes.Cut(h.rest, []byte{'\n'})
	if !found {
		return "", fmt.Errorf("the headers have no end")
	}
	h.rest = rest
	return string(line), nil
}

// value consumes the header of that name, which must come next and have no
// continuation.
func (h *headerReader) value(name string) (string, error) {
	if !h.next(name) {
		line, _, _ := bytes.Cut(h.rest, []byte{'\n'})
		return "", fmt.Errorf("header %s expected, found %q", name, gitops.Line(string(line), 40))
	}
	line, err := h.line()
	if err != nil {
		return "", err
	}
	if h.continued() {
		return "", fmt.Errorf("header %s goes on in a second line", name)
	}
	if strings.Contains(line, "\r") {
		return "", fmt.Errorf("carriage return in header %s", name)
	}
	return line[len(name)+1:], nil
}

func (h *headerReader) continued() bool { return len(h.rest) > 0 && h.rest[0] == ' ' }

func (h *headerReader) hash(name string) (gitops.Hash, error) {
	value, err := h.value(name)
	if err != nil {
		return gitops.Hash{}, err
	}
	hash, err := gitops.ParseHash(value)
	if err != nil {
		return gitops.Hash{}, fmt.Errorf("header %s: %w", name, err)
	}
	return hash, nil
}

func (h *headerReader) person(name string) (gitops.Person, error) {
	value, err := h.value(name)
	if err != nil {
		return gitops.Person{}, err
	}
	person, err := parsePerson(value)
	if err != nil {
		return gitops.Person{}, fmt.Errorf("header %s: %w", name, err)
	}
	return person, nil
}

// extra consumes one header that may follow the committer, its continuation
// lines joined by newlines.
func (h *headerReader) extra() (name, value string, err error) {
	line, err := h.line()
	if err != nil {
		return "", "", err
	}
	name, value, found := strings.Cut(line, " ")
	if !found || value == "" {
		return "", "", fmt.Errorf("header %q has no value", gitops.Line(line, 40))
	}
	switch name {
	case "encoding", "change-id":
		if h.continued() {
			return "", "", fmt.Errorf("header %s goes on in a second line", name)
		}
	case "mergetag", "gpgsig":
	case "tree", "parent", "author", "committer":
		return "", "", fmt.Errorf("header %s out of place", name)
	default:
		if strings.HasPrefix(name, "gpgsig") {
			return "", "", fmt.Errorf("header %s: a second kind of signature", gitops.Line(name, 40))
		}
		return "", "", fmt.Errorf("unknown header %q", gitops.Line(name, 40))
	}
	lines := []string{value}
	for h.continued() {
		line, err := h.line()
		if err != nil {
			return "", "", err
		}
		lines = append(lines, line[1:])
	}
	value = strings.Join(lines, "\n")
	// A merged tag is another object, whose message may hold what it likes.
	if name != "mergetag" && strings.Contains(value, "\r") {
		return "", "", fmt.Errorf("carriage return in header %s", name)
	}
	return name, value, nil
}

var (
	encodingName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:+-]{0,39}$`)
	// A name may be missing, as imports from other systems leave it; the
	// space before the address may not.
	ident = regexp.MustCompile(`^([^<>]*) <([^<>]*)> (0|[1-9][0-9]{0,11}) ([+-])([0-9]{2})([0-9]{2})$`)
)

func parsePerson(value string) (gitops.Person, error) {
	m := ident.FindStringSubmatch(value)
	if m == nil {
		return gitops.Person{}, fmt.Errorf("%q is no name, address and date", gitops.Line(value, 60))
	}
	seconds, err := strconv.ParseInt(m[3], 10, 64)
	if err != nil {
		return gitops.Person{}, err
	}
	return gitops.Person{Name: m[1], Email: m[2], When: time.Unix(seconds, 0).In(zone(m[4], m[5], m[6]))}, nil
}

// zone is the fixed zone that git writes as +hhmm or -hhmm.
func zone(sign, hours, minutes string) *time.Location {
	h, _ := strconv.Atoi(hours)
	m, _ := strconv.Atoi(minutes)
	offset := h*3600 + m*60
	if sign == "-" {
		offset = -offset
	}
	return time.FixedZone("", offset)
}

// oneArmor refuses a signature header that is not exactly one armored block:
// verifiers differ in which of several they read. GitHub ends its own with an
// empty line.
func oneArmor(signature string) error {
	if !strings.HasPrefix(signature, "-----BEGIN ") {
		return fmt.Errorf("header gpgsig holds no armored signature")
	}
	begins, ends := 0, 0
	for line := range strings.Lines(signature) {
		switch {
		case ends > 0 && strings.TrimSpace(line) != "":
			return fmt.Errorf("header gpgsig holds more than one armored signature")
		case strings.HasPrefix(line, "-----BEGIN "):
			begins++
		case strings.HasPrefix(line, "-----END "):
			ends++
		}
	}
	if begins != 1 || ends != 1 {
		return fmt.Errorf("header gpgsig holds more or less than one armored signature")
	}
	return nil
}
