package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"towpath.dev/towpath/gitops"
)

// A review branch is Towpath's own. It holds one commit for each image, the newest,
// in a chain on top of the branch. It is made anew, on the branch's newest head, in
// two cases: an image on it gets a newer source commit, or what it changes no longer
// merges. Otherwise it stays as it is, however the branch moves on, so that approvals
// last. When one of several images on it is bumped, the commits of the others are made
// again on the new head with the same messages, unless they can stay as they are.
//
// The branch is ours as long as its tip is. The commit that our oldest one stands on
// was the branch's head when we signed, so a commit of somebody else can only be above
// ours. Such a commit stops us, and so does a merge by anybody. All of that is read
// from the review branch alone, so that every copy of Towpath reads it alike.

// reviewed tells whether bumps go to a review branch first.
func (f *Fleet) reviewed() bool { return f.PushBranch != "" && f.PushBranch != f.Branch }

// pushRef is where an image's bumps go.
func (f *Fleet) pushRef(image string) string {
	if f.reviewed() {
		return f.reviewRef(image)
	}
	return f.branchRef()
}

// reviewRef is the ref of the review branch of an image; without reviews, the branch.
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

// ownChain reads the proposals from the newest down, as long as they are ours. The
// commit below the oldest of them was the branch's head when we signed. If the branch
// does not have it any more, the branch was reset; it is not somebody else's work on
// the review branch.
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
