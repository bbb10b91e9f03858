package fleet

import (
	"context"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/pmezard/go-difflib/difflib"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
)

// Unbuilt is what people are shown in place of the digest of an image that is not
// built yet.
const Unbuilt = "sha256:(not built yet)"

// standIn is put into the markers for the digest of an image that is not built yet,
// since a marker takes nothing but a digest there. The diff shows Unbuilt instead.
var standIn = "sha256:" + strings.Repeat("0", 64)

// Preview returns what Promote would commit now, as a unified diff. The diff is
// empty where the markers hold the image already. Preview refuses what Promote
// would refuse, pushes nothing and signs nothing. A bump without a digest is shown
// with Unbuilt.
func (f *Fleet) Preview(ctx context.Context, b Bump) (string, error) {
	f.known.add(b.Image)
	w, err := f.readings.get(ctx, f)
	if err != nil {
		return "", f.fault("preview "+b.Image.Name, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fetchLedgers(ctx, w); err != nil {
		return "", f.fault("preview "+b.Image.Name, err)
	}
	diff, err := f.preview(ctx, w, b)
	if err != nil {
		return "", f.fault("preview "+b.Image.Name, err)
	}
	return diff, nil
}

func (f *Fleet) preview(ctx context.Context, w *world, b Bump) (string, error) {
	entry, _, err := f.admit(ctx, w, b)
	if err != nil || b.Observe {
		return "", err
	}
	unbuilt := b.Digest == "" && !b.Fill
	value := marker.Value{Name: b.Name, Tag: b.Tag, Digest: b.Digest, Pin: b.Image.Pin}
	switch {
	case unbuilt:
		value.Digest = standIn
	case b.Fill:
		value = valueOf(entry.Ref, pinned(w.view.sites[b.Image.Policy], entry.Ref, b.Image.Pin))
	}
	p := newPlan(f.store, nil, nil)
	c := &chain{tip: w.head, tree: w.tree, blobs: w.view.files}
	e, err := p.edit(w, c, b.Image.Policy, value)
	if err != nil {
		return "", err
	}
	var diff strings.Builder
	for _, file := range filesOf(w.view.sites[b.Image.Policy]) {
		after, changed := e.blobs[file]
		if !changed {
			continue
		}
		text, err := p.diff(file, c.blobs[file], after)
		if err != nil {
			return "", err
		}
		if unbuilt {
			text = strings.ReplaceAll(text, standIn, Unbuilt)
		}
		diff.WriteString(text)
	}
	return diff.String(), nil
}

// diff shows one file's change as git does.
func (p *plan) diff(file string, before, after gitops.Hash) (string, error) {
	old, err := p.object(before, plumbing.BlobObject)
	if err != nil {
		return "", err
	}
	now, err := p.object(after, plumbing.BlobObject)
	if err != nil {
		return "", err
	}
	return difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: lines(old), B: lines(now), FromFile: "a/" + file, ToFile: "b/" + file, Context: 3,
	})
}

// lines splits a file into lines that keep their ends. A last line without one
// is told as git tells it.
func lines(content []byte) []string {
	all := strings.SplitAfter(string(content), "\n")
	if last := len(all) - 1; all[last] == "" {
		return all[:last]
	}
	all[len(all)-1] += "\n\\ No newline at end of file\n"
	return all
}
