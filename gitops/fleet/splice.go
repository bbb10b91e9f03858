package fleet

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
)

// draft is the objects that a push will send, over those that the copy holds.
type draft struct {
	store   *store.Store
	objects *store.Objects
}

// object reads what was made here, else what the copy holds.
func (d *draft) object(h gitops.Hash, want plumbing.ObjectType) ([]byte, error) {
	typ, content, made := d.objects.Get(h)
	if !made {
		var err error
		if typ, content, err = d.store.Object(h); err != nil {
			return nil, err
		}
	}
	if typ != want {
		return nil, fmt.Errorf("%s is a %s, not a %s", h, typ, want)
	}
	return content, nil
}

// splice returns a tree that differs from another in the contents of some files,
// given by path, and in nothing else. Of every tree on the way exactly the 20
// bytes of one hash change: modes, names and their order stay as they are, odd or
// not.
func (d *draft) splice(tree gitops.Hash, blobs map[string]gitops.Hash) (gitops.Hash, error) {
	raw, err := d.object(tree, plumbing.TreeObject)
	if err != nil {
		return gitops.Hash{}, err
	}
	raw = bytes.Clone(raw)
	below := map[string]map[string]gitops.Hash{} // by directory in this tree
	for file, blob := range blobs {
		dir, rest, nested := strings.Cut(file, "/")
		if nested {
			if below[dir] == nil {
				below[dir] = map[string]gitops.Hash{}
			}
			below[dir][rest] = blob
			continue
		}
		at, err := hashAt(raw, file)
		if err != nil {
			return gitops.Hash{}, err
		}
		copy(at, blob[:])
	}
	for _, dir := range slices.Sorted(maps.Keys(below)) {
		at, err := hashAt(raw, dir)
		if err != nil {
			return gitops.Hash{}, err
		}
		sub, err := d.splice(gitops.Hash(at), below[dir])
		if err != nil {
			return gitops.Hash{}, fmt.Errorf("%s: %w", gitops.Line(dir, 200), err)
		}
		copy(at, sub[:])
	}
	return d.objects.Add(plumbing.TreeObject, raw), nil
}

// hashAt finds the bytes of the hash that a tree has under a name.
func hashAt(tree []byte, name string) ([]byte, error) {
	const size = len(gitops.Hash{})
	for rest := tree; len(rest) > 0; {
		head, after, found := bytes.Cut(rest, []byte{0})
		if !found || len(after) < size {
			return nil, fmt.Errorf("malformed tree")
		}
		if _, entry, _ := bytes.Cut(head, []byte{' '}); string(entry) == name {
			return after[:size:size], nil
		}
		rest = after[size:]
	}
	return nil, fmt.Errorf("%q is not in its tree", gitops.Line(name, 200))
}
