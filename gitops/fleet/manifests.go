package fleet

import (
	"context"
	"errors"
	"fmt"
	"path"

	"towpath.dev/towpath/gitops/store"
)

// Manifests asks the server for the branch and visits every YAML file of it, below
// update.path or not. content is only valid until visit returns. It changes nothing.
func (f *Fleet) Manifests(ctx context.Context, visit func(file string, content []byte)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	w, err := f.read(ctx)
	if err != nil {
		return f.fault("read", err)
	}
	left := maxMarked
	var walk func(dir string, entries []store.Entry, depth int) error
	walk = func(dir string, entries []store.Entry, depth int) error {
		for _, e := range entries {
			switch e.Kind() {
			case store.ModeTree:
				below, err := f.store.Tree(e.Hash)
				if err != nil {
					return err
				}
				if depth == maxDepth {
					return fmt.Errorf("more than %d directories inside each other", maxDepth)
				}
				if err := walk(path.Join(dir, e.Name), below, depth+1); err != nil {
					return err
				}
			case store.ModeFile, store.ModeExecutable:
				if !isYAML(e.Name) {
					continue
				}
				if left--; left < 0 { // trees in trees can hold one file a billion times
					return fmt.Errorf("more than %d files", maxMarked)
				}
				content, err := f.store.BlobUpTo(e.Hash, maxFile)
				if errors.Is(err, store.ErrLarge) {
					continue // left alone wherever files are looked into
				}
				if err != nil {
					return err
				}
				visit(path.Join(dir, e.Name), content)
			}
		}
		return nil
	}
	top, err := f.store.Tree(w.tree)
	if err == nil {
		err = walk("", top, 0)
	}
	if err != nil {
		f.damaged(err)
		return f.fault("read", err)
	}
	return nil
}
