package fleet

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/pmezard/go-difflib/difflib"

	"towpath.dev/towpath/gitops/store"
)

// stale tells whether an image's proposal would no longer merge as it should. That is
// so where the branch was reset to before the commit that the proposal stands on, or
// where it has since changed a line that the proposal edits, or a neighbour of one:
// there git sees a conflict.
func (f *Fleet) stale(ctx context.Context, w *world, image Image, proposed *proposals, entry *Entry) (bool, error) {
	if proposed.base == w.head {
		return false, nil
	}
	still, err := f.history.contains(ctx, w.head, proposed.base)
	if err != nil {
		return false, err
	}
	if !still {
		return true, nil // the branch was reset: merged, the proposal would bring back what was taken away
	}
	base, err := f.store.Commit(proposed.base)
	if err != nil {
		return false, err
	}
	then, _, err := f.scanner.view(ctx, f.store, base.Tree, f.path)
	if err != nil {
		return false, err
	}
	edited := map[string][]int{}
	for _, site := range then.sites[image.Policy] {
		if !holds(site, entry.Ref) {
			edited[site.File] = append(edited[site.File], site.Line)
		}
	}
	for file, lines := range edited {
		now, err := resolve(f.store, w.tree, strings.Split(file, "/"))
		var link *LinkError
		if errors.As(err, &link) || err == nil && now.Hash.IsZero() {
			return true, nil // what the proposal edits is gone
		}
		if err != nil {
			return false, err
		}
		if now.Hash == then.files[file] {
			continue
		}
		before, err := f.store.Blob(then.files[file])
		if err != nil {
			return false, err
		}
		after, err := f.store.BlobUpTo(now.Hash, maxFile)
		if errors.Is(err, store.ErrLarge) {
			return true, nil // what the proposal edits is not looked into any more
		}
		if err != nil {
			return false, err
		}
		if touches(string(before), string(after), lines) {
			return true, nil
		}
	}
	return false, nil
}

// maxCompared bounds the number of lines before, times the number of lines after,
// that are compared one by one: in the worst case that many steps are taken.
const maxCompared = 4 << 20

// touches tells whether the change from before to after affects one of these lines
// of before, counted from 1, or a neighbour of one. In a change that is too large to be
// compared line by line, everything from the first changed line to the last counts.
func touches(before, after string, lines []int) bool {
	a, b := difflib.SplitLines(before), difflib.SplitLines(after)
	first := 0
	for first < len(a) && first < len(b) && a[first] == b[first] {
		first++
	}
	end, endB := len(a), len(b)
	for end > first && endB > first && a[end-1] == b[endB-1] {
		end, endB = end-1, endB-1
	}
	affects := func(from, to int) bool { // of a, counted from 0
		return slices.ContainsFunc(lines, func(line int) bool { return first+from <= line && first+to >= line-1 })
	}
	a, b = a[first:end], b[first:endB]
	if len(a)*len(b) > maxCompared {
		return affects(0, len(a))
	}
	for _, op := range difflib.NewMatcherWithJunk(a, b, false, nil).GetOpCodes() {
		if op.Tag != 'e' && affects(op.I1, op.I2) {
			return true
		}
	}
	return false
}
