package source

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxName = 255  // bytes: what Linux file systems hold
	maxPath = 3072 // bytes inside the context: leaves room below PATH_MAX
)

// badName says why a name must not become a file's, or "". It refuses what git
// fsck calls wrong, disguises of .git for case-folding file systems among it,
// and control characters.
func badName(name string) string {
	switch {
	case name == "":
		return "an empty name"
	case name == "." || name == "..":
		return fmt.Sprintf("the name %q", name)
	case strings.ContainsAny(name, "/\x00"):
		return "a name with a slash or NUL in it"
	case len(name) > maxName:
		return fmt.Sprintf("a name longer than %d bytes", maxName)
	case isDotGit(name):
		return "a name that is or poses as .git"
	}
	for _, r := range name {
		if unicode.IsControl(r) {
			return "a name with a control character in it"
		}
	}
	return ""
}

// isDotGit sees through the ways in which macOS and Windows read other names
// as .git (git's is_hfs_dotgit and is_ntfs_dotgit).
func isDotGit(name string) bool {
	var visible strings.Builder
	for i := 0; i < len(name); {
		r, size := utf8.DecodeRuneInString(name[i:])
		if !ignoredByHFS(r) {
			visible.WriteString(name[i : i+size])
		}
		i += size
	}
	if strings.EqualFold(visible.String(), ".git") {
		return true
	}
	// NTFS knows streams (:), other separators (\), and drops dots and spaces
	// at the end.
	for _, part := range strings.Split(name, `\`) {
		part, _, _ = strings.Cut(part, ":")
		part = strings.TrimRight(part, ". ")
		if strings.EqualFold(part, ".git") || strings.EqualFold(part, "git~1") {
			return true
		}
	}
	return false
}

func ignoredByHFS(r rune) bool {
	switch {
	case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
		return true
	}
	return false
}
