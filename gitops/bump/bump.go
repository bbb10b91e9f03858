// Package bump says what a bump commit says: its subject, its body, and the
// trailers that reviewers and audit read.
//
// It refuses to know how a bump is made, signed and pushed; text comes in and
// a message goes out.
//
// What always holds: the message's last paragraph is the trailers that were
// given and nothing else, whatever the source commits and the user's template
// say. Text from a source commit is data: one line, never a trailer, never
// evaluated, and unable to act on the repository that it is shown in (see
// Defuse). The same Data give the same message.
package bump

import (
	"fmt"
	"regexp"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/gitops"
)

// Data is what a bump is about.
type Data struct {
	// Trailers are what the message must claim. Accepted may be any text: it
	// becomes one line.
	Trailers Trailers
	// Commit is the source commit that is promoted, the one of
	// Trailers.Commit.
	Commit gitops.Commit
	// Commits are the source commits that come with it, newest first, Commit
	// among them; More counts those that are not listed.
	Commits []gitops.Commit
	More    int
	// Base is the source commit promoted before; zero: none.
	Base gitops.Hash
	// Size and SizeBefore are the image's compressed bytes and those of the
	// one before it; 0: unknown.
	Size, SizeBefore int64
	// Fill: the image was promoted before; only markers that never held one
	// are filled.
	Fill bool
	// Changes are the values that change, for templates.
	Changes []Change
	// Automation is what Flux calls the automation object: the target's name,
	// in the namespace of its GitRepository where Flux's is configured.
	Automation types.NamespacedName
	// Template is the user's messageTemplate; empty: the default.
	Template string
	// Values are the template's messageTemplateValues.
	Values map[string]string
}

// Limits of a default message, in runes and lines.
const (
	maxSubject = 72 // of a source commit's subject; git's own custom for a line
	maxAuthor  = 40
	maxCommits = 20
	maxReason  = 400
	maxBefore  = 200 // of a value that a marker held
	maxValues  = 3
)

// Message returns the commit message of a bump, which ends in its trailers and
// one newline. ParseTrailers reads them back. An error is a fault of the
// trailers given or of the template, and says which.
func Message(d Data) (string, error) {
	if reason := d.Trailers.Accepted; reason != "" {
		// A reason that vanished here would be used again and again.
		if d.Trailers.Accepted = gitops.Line(reason, maxReason); d.Trailers.Accepted == "" {
			return "", fmt.Errorf("bump message: %q is no reason to accept a commit", reason)
		}
	}
	if err := d.Trailers.check(); err != nil {
		return "", fmt.Errorf("bump message: %w", err)
	}
	if hash := d.Commit.Hash.String(); hash != d.Trailers.Commit {
		return "", fmt.Errorf("bump message: it is about commit %s, and its trailer names %s", hash, d.Trailers.Commit)
	}
	text := ""
	if d.Template != "" {
		var err error
		if text, err = render(d); err != nil {
			return "", fmt.Errorf("bump message: %w", err)
		}
	}
	if text == "" {
		// Also where the template had nothing to say, say of a commit
		// without a subject: that is no reason to hold it back.
		text = subject(d) + "\n\n" + body(d)
	}
	return strings.TrimRight(text, "\n") + "\n\n" + d.Trailers.String(), nil
}

// subject is "podinfo: 3f2a9c1e → 8b07d4aa Fix readiness probe".
func subject(d Data) string {
	from := ""
	if !d.Base.IsZero() && d.Base != d.Commit.Hash {
		from = gitops.Short(d.Base) + " → "
	}
	verb := ""
	if d.Trailers.Observed() {
		verb = "observe "
	}
	return strings.TrimRight(fmt.Sprintf("%s: %s%s%s %s", d.Trailers.Image, verb, from, gitops.Short(d.Commit.Hash), Defuse(d.Commit.Subject, maxSubject)), " ")
}

func body(d Data) string {
	var b strings.Builder
	switch {
	case d.Trailers.Observed():
		b.WriteString("The source is observed from this commit on; nothing is promoted.\n\n")
	case d.Fill:
		b.WriteString("Fills markers that never held an image of ours.\n\n")
	}
	b.WriteString(commitList(d))
	if !d.Trailers.Observed() {
		// The reference, over two lines: digests are long.
		name, tag, digest := d.Trailers.image()
		fmt.Fprintf(&b, "Image: %s:%s\n       %s\n", name, tag, digest)
		if values := before(d); values != "" {
			fmt.Fprintf(&b, "Before: %s\n", values)
		}
		if d.Size > 0 {
			fmt.Fprintf(&b, "Size: %s\n", size(d.Size, d.SizeBefore))
		}
	}
	return b.String()
}

// commitList is a line for each source commit, indented, so that none begins
// a line with what somebody else wrote.
func commitList(d Data) string {
	commits, more := d.Commits, max(d.More, 0)
	if len(commits) == 0 {
		commits = []gitops.Commit{d.Commit}
	}
	if len(commits) > maxCommits {
		more += len(commits) - maxCommits
		commits = commits[:maxCommits]
	}
	var b strings.Builder
	for _, c := range commits {
		line := gitops.Short(c.Hash) + " " + Defuse(c.Subject, maxSubject)
		if name := Defuse(c.Author.Name, maxAuthor); name != "" {
			line = strings.TrimRight(line, " ") + " (" + name + ")"
		}
		b.WriteString("  " + strings.TrimRight(line, " ") + "\n")
	}
	if more > 0 {
		fmt.Fprintf(&b, "  … and %d more\n", more)
	}
	return b.String() + "\n"
}

// before names what the markers held, where the subject does not: a commit that
// is promoted once more has no other before it, and after a revert, a rejected
// review or another writer the markers hold something else than the base's image.
func before(d Data) string {
	if d.Fill || d.Base.IsZero() {
		return ""
	}
	base, again := d.Base.String()[:minTagged], d.Base == d.Commit.Hash
	var values []string
	seen := map[string]bool{"": true}
	for _, c := range d.Changes {
		if untagged.MatchString(c.Setter) || !again && strings.Contains(c.Old, base) {
			continue
		}
		if value := shown(c.Old); !seen[value] {
			seen[value] = true
			values = append(values, value)
		}
	}
	more := ""
	if n := len(values) - maxValues; n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(values[:min(len(values), maxValues)], ", ") + more
}

// minTagged is how many digits of its commit every tag has at least.
const minTagged = 7

var (
	// untagged is a marker that holds no tag.
	untagged  = regexp.MustCompile(`^[^:]*:[^:]*:(name|digest)$`)
	imageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/:-]*$`)
)

// shown is a marker's value for people: without the digest, and defused unless
// it is the name of an image.
func shown(value string) string {
	name, _, _ := strings.Cut(value, "@sha256:")
	if imageName.MatchString(name) && !strings.Contains(name, "://") && len(name) <= maxBefore {
		return name
	}
	return Defuse(name, maxBefore)
}

// size is "12.3 MiB (+1.2 MiB)".
func size(now, before int64) string {
	text := bytesText(now)
	switch {
	case before <= 0:
		return text
	case now == before:
		return text + " (as before)"
	case now > before:
		return text + " (+" + bytesText(now-before) + ")"
	default:
		return text + " (−" + bytesText(before-now) + ")"
	}
}

func bytesText(n int64) string {
	const unit = 1 << 10
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefixes := float64(n)/unit, "KMGTPE"
	// 1023.95 would print as 1024.0.
	for value >= unit-0.05 && len(prefixes) > 1 {
		value, prefixes = value/unit, prefixes[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, prefixes[0])
}
