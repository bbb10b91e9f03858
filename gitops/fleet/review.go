package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"github.com/pmezard/go-difflib/difflib"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
)

// A review branch is Towpath's own. It holds one commit an image, the newest,
// in a chain on the branch. It is made anew, on the branch's newest head, when
// an image on it gets a newer source commit, or when what it changes no longer
// merges; otherwise it stays as it is however the branch moves on, so that
// approvals last. When one of several images on it is bumped, the others'
// commits are made again on the new head with the same messages, unless they
// can stay as they are.
//
// It is ours as long as its tip is, and what ours stand on was the branch's head
// when we signed. A commit of somebody else is therefore always above ours; it
// stops us, and so does a merge by anybody. That is read from the review branch
// alone, so that every copy of Towpath reads it alike.

// reviewed: bumps go to a branch for review first.
func (f *Fleet) reviewed() bool { return f.PushBranch != "" && f.PushBranch != f.Branch }

// pushRef is where an image's bumps go.
func (f *Fleet) pushRef(image string) string {
	if f.reviewed() {
		return f.reviewRef(image)
	}
	return f.branchRef()
}

func (f *Fleet) reviewRef(image string) string {
	if !f.reviewed() {
		return f.branchRef()
	}
	var b strings.Builder
	if err := f.push.Execute(&b, struct{ Image string }{image}); err != nil {
		return "refs/heads/" // refused as a name; Open has tried the template
	}
	return "refs/heads/" + b.String()
}

// reviewPrefix is what the names of all review branches begin with.
func (f *Fleet) reviewPrefix() string {
	fixed, _, _ := strings.Cut(f.PushBranch, "{{")
	return "refs/heads/" + fixed
}

func parsePushBranch(text string) (*template.Template, error) {
	t, err := template.New("push.branch").Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, err
	}
	return t, t.Execute(&strings.Builder{}, struct{ Image string }{"image"})
}

// proposals is what a review branch holds that the branch does not.
type proposals struct {
	tip      gitops.Hash // zero: there is no such branch
	base     gitops.Hash // the commit that they stand on
	records  []*record   // ours, the oldest first
	commits  []gitops.Commit
	stranger *Stranger // the newest commit that is not ours
}

// of finds an image's newest proposal.
func (p *proposals) of(image string) *record {
	for _, r := range slices.Backward(p.records) {
		if r.Image == image {
			return r
		}
	}
	return nil
}

func (p *proposals) holds(bump gitops.Hash) bool {
	return slices.ContainsFunc(p.records, func(r *record) bool { return r.Bump == bump })
}

// proposals reads the review branch of an image.
func (f *Fleet) proposals(ctx context.Context, w *world, image string) (*proposals, error) {
	ref := f.reviewRef(image)
	p := &proposals{base: w.head, tip: w.refs[ref]}
	if !f.reviewed() || p.tip.IsZero() {
		p.tip = gitops.Hash{}
		return p, nil
	}
	if known, ok := w.proposed[ref]; ok {
		return known, nil
	}
	commits, cut, err := f.history.since(ctx, w.head, p.tip)
	if err != nil {
		return nil, fmt.Errorf("review branch: %w", err)
	}
	pending := map[gitops.Hash]gitops.Commit{}
	for _, c := range commits {
		pending[c.Hash] = c
	}
	for _, c := range commits {
		r, reason, err := f.ownProposal(c)
		if err != nil {
			return nil, err
		}
		if r != nil {
			if err := f.ownChain(p, pending, c); err != nil {
				return nil, err
			}
			break
		}
		if p.stranger == nil {
			p.stranger = &Stranger{Branch: strings.TrimPrefix(ref, "refs/heads/"), Commit: c, Reason: reason}
		}
	}
	if cut && p.stranger == nil {
		return nil, fmt.Errorf("review branch: more than %d commits are not on %s", maxHistory, f.Branch)
	}
	w.proposed[ref] = p
	return p, nil
}

// ownChain reads the proposals from the newest down, as long as they are ours.
// What the oldest of them stands on was the branch's head when we signed it:
// where that is not on the branch any more, the branch was reset, and what is
// below is not somebody else's work on the review branch.
func (f *Fleet) ownChain(p *proposals, pending map[gitops.Hash]gitops.Commit, newest gitops.Commit) error {
	for c, left := newest, true; left; c, left = pending[p.base] {
		r, _, err := f.ownProposal(c)
		if err != nil {
			return err
		}
		if r == nil {
			break
		}
		p.records, p.commits, p.base = append(p.records, r), append(p.commits, c), c.Parents[0]
	}
	slices.Reverse(p.records)
	slices.Reverse(p.commits)
	return nil
}

// ownProposal reads one commit of the review branch; nil: it is not ours.
func (f *Fleet) ownProposal(c gitops.Commit) (r *record, reason string, err error) {
	if r, err = f.history.recordAt(c); err != nil {
		return nil, "", err
	}
	switch {
	case r == nil:
		return nil, "it is no bump that we signed for this target", nil
	case !r.signed:
		return nil, "it has our trailers and not our signature", nil
	case len(c.Parents) != 1:
		return nil, "it is a merge", nil
	}
	return r, "", nil
}

// stale tells whether an image's proposal would no longer merge as it should: the
// branch was reset to before the commit that the proposal stands on, or has changed, since the commit that it stands on, a line that it edits or one next
// to it. That is where git sees a conflict.
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

// maxCompared bounds the lines of before times those of after that are compared
// one by one: it takes as many steps, if somebody has made them so.
const maxCompared = 4 << 20

// touches tells whether the change from before to after affects one of these
// lines of before, counted from 1, or a neighbour. Of a change that is too large
// to be looked into, all from its first line to its last counts.
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
