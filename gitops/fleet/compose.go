package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/store"
	"towpath.dev/towpath/gitops/trust"
	"towpath.dev/towpath/gitops/wire"
)

// plan is everything that one push is to do.
type plan struct {
	draft
	signer  *trust.Signer
	bare    bool                   // the branch alone, without its ledger
	chains  map[string]*chain      // by the ref that they go to
	ledgers map[string]gitops.Hash // by ref: the new value
	batch   []*request
}

func newPlan(s *store.Store, signer *trust.Signer, batch []*request) *plan {
	return &plan{
		draft:  draft{store: s, objects: &store.Objects{}},
		signer: signer, batch: batch, chains: map[string]*chain{}, ledgers: map[string]gitops.Hash{},
	}
}

// chain is the commits that a push puts onto a branch.
type chain struct {
	ref   string
	tip   gitops.Hash
	tree  gitops.Hash            // of tip
	blobs map[string]gitops.Hash // of tip: files with markers
}

// compose edits, commits and signs for every request, in their order, a commit
// each. Those that cannot be made are answered; the rest is then composed without
// them, so that nothing of theirs is pushed.
func (f *Fleet) compose(ctx context.Context, w *world, batch []*request) (*plan, []*request) {
	signer, err := f.Signer()
	if err != nil {
		fail(batch, err) // it names the key
		return nil, nil
	}
	for len(batch) > 0 {
		p := newPlan(f.store, signer, batch)
		p.bare = f.bare || batch[0].declined != nil
		var left []*request
		for _, r := range batch {
			var err error
			if r.newest, err = f.add(ctx, w, p, r.bump); f.damaged(err) {
				return nil, unanswered(batch)
			}
			if err != nil {
				r.fail(f.slow(ctx, err))
				continue
			}
			left = append(left, r)
		}
		if len(left) == len(batch) {
			p.note()
			return p, left
		}
		batch = left
	}
	return nil, nil
}

// note records with every request the commit that was made for it in this round, and
// the head that its branch will have.
func (p *plan) note() {
	for _, r := range p.batch {
		if c := p.chains["refs/heads/"+r.newest.Branch]; c != nil {
			r.newest.Head = c.tip
		}
		r.made[r.newest.Bump] = r.newest
	}
}

// add makes the commit of one bump.
func (f *Fleet) add(ctx context.Context, w *world, p *plan, b Bump) (*Promotion, error) {
	entry, v, err := f.admit(ctx, w, b)
	if err != nil {
		return nil, err
	}
	c, err := f.chain(ctx, w, p, b.Image.Name)
	if err != nil {
		return nil, err
	}
	if b.Fill && v.standing == Proposed {
		promotion, err := f.propose(ctx, w, p, c, b.Image, entry)
		if err == nil && promotion == nil {
			err = ErrMoved // the branch holds it by now
		}
		return promotion, err
	}
	if entry != nil {
		b.acceptedBefore = entry.acceptedSoFar()
	}
	if b.Observe {
		return f.record(w, p, c, b, nil, nil)
	}
	value := marker.Value{Name: b.Name, Tag: b.Tag, Digest: b.Digest, Pin: b.Image.Pin}
	if b.Fill {
		b = b.refill(entry)
		value = valueOf(entry.Ref, pinned(w.view.sites[b.Image.Policy], entry.Ref, b.Image.Pin))
	}
	edited, err := p.edit(w, c, b.Image.Policy, value)
	if err != nil {
		return nil, err
	}
	if len(edited.changes) == 0 {
		// The markers hold it already. That is a promotion, too: the ledger has
		// to say so, and the branch has nothing to change.
		return f.record(w, p, c, b, nil, edited.problems)
	}
	return f.record(w, p, c, b, edited, nil)
}

// record commits a bump and lets the ledger name it. Without an edit the commit
// changes nothing and is on no branch, unless the branch is all there is to
// record it in.
func (f *Fleet) record(w *world, p *plan, c *chain, b Bump, e *edit, problems []Problem) (*Promotion, error) {
	changes, parent, tree := []FileChange(nil), w.head, w.tree
	onBranch := e != nil
	if e != nil {
		changes, problems, parent, tree = e.changes, e.problems, c.tip, e.tree
	} else if p.bare {
		if f.reviewed() {
			return nil, ErrLedgerNeeded // an empty proposal is none
		}
		onBranch, parent, tree = true, c.tip, c.tree
	}
	text, err := f.message(b, changes)
	if err != nil {
		return nil, err
	}
	commit, err := f.commit(p, tree, parent, text, f.Author)
	if err != nil {
		return nil, err
	}
	promotion := &Promotion{Bump: commit, Changes: changes, Problems: problems}
	if onBranch {
		c.advance(commit, e)
		promotion.Branch = strings.TrimPrefix(c.ref, "refs/heads/")
	}
	f.nameInLedger(p, b.Image.Name, commit)
	return promotion, nil
}

func (f *Fleet) nameInLedger(p *plan, image string, commit gitops.Hash) {
	if !p.bare {
		p.ledgers[f.ledgerRef(image)] = commit
	}
}

func (c *chain) advance(commit gitops.Hash, e *edit) {
	c.tip = commit
	if e != nil {
		c.tree = e.tree
		maps.Copy(c.blobs, e.blobs)
	}
}

// chain returns the chain that an image's commit goes on. That of a review
// branch begins with what else is proposed there.
func (f *Fleet) chain(ctx context.Context, w *world, p *plan, image string) (*chain, error) {
	ref := f.pushRef(image)
	if c := p.chains[ref]; c != nil {
		return c, nil
	}
	c := &chain{ref: ref, tip: w.head, tree: w.tree, blobs: maps.Clone(w.view.files)}
	if f.reviewed() {
		if err := f.keep(ctx, w, p, c, image); err != nil {
			return nil, err
		}
	}
	p.chains[ref] = c
	return c, nil
}

// keep puts those commits of a review branch on its new chain that belong to
// other images and still wait for review.
func (f *Fleet) keep(ctx context.Context, w *world, p *plan, c *chain, image string) error {
	proposed, err := f.proposals(ctx, w, image)
	if err != nil {
		return err
	}
	for i, r := range proposed.records {
		policy, err := marker.ParsePolicy(r.Policy)
		if err != nil || proposed.of(r.Image) != r || p.replaces(f, r.Image, c.ref) {
			continue
		}
		if ledger, named := w.refs[f.ledgerRef(r.Image)]; named && ledger != r.Bump {
			continue // a newer one was merged, or rejected, since
		}
		other := Image{Name: r.Image, Policy: policy}
		v, err := f.judge(ctx, w, other, &r.Entry)
		if err != nil {
			return err
		}
		if v.standing != Proposed {
			continue
		}
		if own := proposed.commits[i]; own.Parents[0] == c.tip {
			view, _, err := f.scanner.view(ctx, f.store, own.Tree, f.path)
			if err != nil {
				return err
			}
			c.tip, c.tree, c.blobs = own.Hash, own.Tree, maps.Clone(view.files)
			continue
		}
		if _, err := f.propose(ctx, w, p, c, other, &r.Entry); err != nil {
			return err
		}
	}
	return nil
}

// replaces tells whether this batch has a newer commit of an image for a branch.
func (p *plan) replaces(f *Fleet, image, ref string) bool {
	return slices.ContainsFunc(p.batch, func(r *request) bool {
		return r.bump.Image.Name == image && f.pushRef(image) == ref
	})
}

// propose makes an existing proposal again, on the chain's tip: the same image,
// the same message and author, a new commit.
func (f *Fleet) propose(ctx context.Context, w *world, p *plan, c *chain, image Image, entry *Entry) (*Promotion, error) {
	raw, err := f.store.RawCommit(entry.Bump)
	if err != nil {
		return nil, err
	}
	old, err := trust.ParseCommit(raw)
	if err != nil {
		return nil, err
	}
	then, _, err := f.scanner.view(ctx, f.store, old.Tree, f.path)
	if err != nil {
		return nil, err
	}
	e, err := p.edit(w, c, image.Policy, valueOf(entry.Ref, pinned(then.sites[image.Policy], entry.Ref, image.Pin)))
	if err != nil || len(e.changes) == 0 {
		return nil, err
	}
	commit, err := f.commit(p, e.tree, c.tip, old.Message, old.Author)
	if err != nil {
		return nil, err
	}
	c.advance(commit, e)
	f.nameInLedger(p, image.Name, commit)
	return &Promotion{Bump: commit, Branch: strings.TrimPrefix(c.ref, "refs/heads/"), Changes: e.changes, Problems: e.problems}, nil
}

// edit is what writing an image into a policy's markers changes.
type edit struct {
	tree     gitops.Hash
	blobs    map[string]gitops.Hash
	changes  []FileChange
	problems []Problem // files left alone
}

// edit writes a value into every marker of a policy, on top of a chain. A file
// that cannot be edited is left alone and named, and is no reason not to edit
// the others; if nothing else changes, it is the error.
func (p *plan) edit(w *world, c *chain, policy marker.Policy, value marker.Value) (*edit, error) {
	e := &edit{tree: c.tree, blobs: map[string]gitops.Hash{}}
	for _, file := range filesOf(w.view.sites[policy]) {
		src, err := p.object(c.blobs[file], plumbing.BlobObject)
		if err != nil {
			return nil, err
		}
		out, changes, err := marker.Edit(src, map[marker.Policy]marker.Value{policy: value})
		if err != nil {
			e.problems = append(e.problems, problemOf(file, err))
			continue
		}
		if len(changes) == 0 {
			continue
		}
		e.blobs[file] = p.objects.Add(plumbing.BlobObject, out)
		for _, change := range changes {
			e.changes = append(e.changes, FileChange{File: file, Change: change})
		}
	}
	if len(e.changes) == 0 {
		if len(e.problems) > 0 {
			return nil, &ProblemError{e.problems}
		}
		return e, nil
	}
	var err error
	e.tree, err = p.splice(c.tree, e.blobs)
	return e, err
}

// filesOf are the files that markers are in, each once. The markers are in the order
// of their files.
func filesOf(sites []Found) []string {
	var files []string
	for _, site := range sites {
		if len(files) == 0 || files[len(files)-1] != site.File {
			files = append(files, site.File)
		}
	}
	return files
}

// commit makes a signed commit. It verifies the signature with the public keys that
// will judge it later, since a ledger entry that we could not verify would stop every
// promotion after it.
func (f *Fleet) commit(p *plan, tree, parent gitops.Hash, message string, author gitops.Person) (gitops.Hash, error) {
	committer := f.Author
	committer.When = f.Now()
	if author.When.IsZero() {
		author.When = committer.When
	}
	unsigned := trust.FormatCommit(trust.Unsigned{
		Tree: tree, Parents: []gitops.Hash{parent}, Author: author, Committer: committer, Message: message,
	})
	signature, err := p.signer.Sign(unsigned)
	if err != nil {
		return gitops.Hash{}, fmt.Errorf("sign: %w", err)
	}
	signed := trust.Attach(unsigned, signature)
	keys, err := f.keys()
	if err != nil {
		return gitops.Hash{}, err
	}
	if _, err := keys.Verify(signed); err != nil {
		return gitops.Hash{}, fmt.Errorf("sign: what was signed does not verify with the public keys beside the signing key: %w", err)
	}
	return p.objects.Add(plumbing.CommitObject, signed), nil
}

// updates lists what a push changes, branches first, from what was read.
func (p *plan) updates(w *world) (branches, ledgers []wire.Update) {
	for _, ref := range slices.Sorted(maps.Keys(p.chains)) {
		if c := p.chains[ref]; c.tip != w.refs[ref] && c.tip != w.head {
			branches = append(branches, wire.Update{Ref: ref, Old: w.refs[ref], New: c.tip})
		}
	}
	for _, ref := range slices.Sorted(maps.Keys(p.ledgers)) {
		ledgers = append(ledgers, wire.Update{Ref: ref, Old: w.refs[ref], New: p.ledgers[ref]})
	}
	return branches, ledgers
}
