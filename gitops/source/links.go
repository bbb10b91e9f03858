package source

import (
	"bytes"
	"maps"
	"path"
	"slices"
	"strings"
)

// links are the symlinks of a context: where each lies, and what it points to.
type links map[string]string

const maxTarget = 4095 // bytes: PATH_MAX without its NUL

// add takes a symlink, or says why it is refused.
func (l links) add(at string, target []byte) (refused string) {
	switch {
	case len(target) == 0:
		return "a symlink to nothing"
	case len(target) > maxTarget:
		return "a symlink to a path that is too long"
	case bytes.IndexByte(target, 0) >= 0:
		return "a symlink with NUL in its target"
	case target[0] == '/':
		return "a symlink to an absolute path, which leads out of the context"
	}
	l[at] = string(target)
	return ""
}

func (l links) sorted() []string { return slices.Sorted(maps.Keys(l)) }

// maxHops is how many symlinks Linux follows in one path.
const maxHops = 40

// escapes says why a symlink is refused, or "": it is followed as the kernel
// would, through the other symlinks, and must never step above the context. It
// may lead nowhere, or in a circle.
func (l links) escapes(at string) string {
	here := strings.Split(path.Dir(at), "/")
	if here[0] == "." {
		here = nil
	}
	rest := strings.Split(l[at], "/")
	for hops := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(here) == 0 {
				return "a symlink that leads out of the context"
			}
			here = here[:len(here)-1]
			continue
		}
		next := slices.Concat(here, []string{part})
		target, isLink := l[strings.Join(next, "/")]
		if !isLink {
			here = next
			continue
		}
		if hops++; hops > maxHops {
			return "" // the kernel gives up too
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return ""
}
