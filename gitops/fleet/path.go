package fleet

import (
	"errors"
	"path"
	"strings"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
)

// resolve finds the entry at a path of a tree; a zero entry: there is none. A path
// that leads through a symbolic link, or to one, is a *LinkError.
func resolve(r reader, root gitops.Hash, segments []string) (store.Entry, error) {
	at := store.Entry{Mode: store.ModeTree, Hash: root}
	for i, name := range segments {
		switch at.Kind() {
		case store.ModeTree:
		case store.ModeSymlink:
			return store.Entry{}, &LinkError{Path: strings.Join(segments, "/"), Link: strings.Join(segments[:i], "/")}
		default:
			return store.Entry{}, nil
		}
		entries, err := r.Tree(at.Hash)
		if err != nil {
			return store.Entry{}, err
		}
		at = store.Entry{}
		for _, e := range entries {
			if e.Name == name {
				at = e
				break
			}
		}
		if at.Hash.IsZero() {
			return store.Entry{}, nil
		}
	}
	if at.Kind() == store.ModeSymlink {
		whole := strings.Join(segments, "/")
		return store.Entry{}, &LinkError{Path: whole, Link: whole}
	}
	return at, nil
}

// isYAML tells whether Flux's image automation looks into a file of this name.
func isYAML(name string) bool {
	ext := path.Ext(name)
	return ext == ".yaml" || ext == ".yml" || name == "Kustomization"
}

// leadsToDirectory tells whether a symbolic link leads to a directory of the same
// tree. A link that leads to another link counts as if it did.
func leadsToDirectory(r reader, root gitops.Hash, file string, link gitops.Hash) (bool, error) {
	to, err := r.BlobUpTo(link, maxTarget)
	if errors.Is(err, store.ErrLarge) {
		return false, nil
	}
	if err != nil || path.IsAbs(string(to)) {
		return false, err
	}
	at := path.Join(path.Dir(file), string(to))
	if at == ".." || strings.HasPrefix(at, "../") {
		return false, nil
	}
	var segments []string
	if at != "." {
		segments = strings.Split(at, "/")
	}
	there, err := resolve(r, root, segments)
	var further *LinkError
	if errors.As(err, &further) {
		return true, nil // or to a file: that is not looked into either
	}
	return err == nil && there.Kind() == store.ModeTree, err
}

// maxTarget is how long the path in a symbolic link may be, as in Linux.
const maxTarget = 4096
