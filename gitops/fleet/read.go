package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
	"towpath.dev/towpath/gitops/trust"
)

// world is one reading of the repository: where its refs stood, and what the
// branch's tree says in markers.
type world struct {
	refs      map[string]gitops.Hash // branch, ledger, review branches, the refspec's ref
	head      gitops.Hash
	tree      gitops.Hash
	view      *view
	rewritten string
	proposed  map[string]*proposals // by review branch, once asked for
}

// Promoted says how an image stands. Callers share readings: each gets one that
// began after its call, or one that is younger than MaxAge. An error is about
// this image, or about the whole target.
func (f *Fleet) Promoted(ctx context.Context, image Image) (State, error) {
	if err := f.life.Err(); err != nil {
		return State{}, f.fault("read", err)
	}
	f.known.add(image)
	for mended := 0; ; mended++ {
		w, err := f.readings.get(ctx, f)
		if err != nil {
			return State{}, f.fault("read", err)
		}
		s, damaged, err := f.judged(ctx, w, image)
		if err == nil {
			return s, nil
		}
		if !damaged || mended == maxMends || ctx.Err() != nil {
			return State{}, f.fault("read", err)
		}
	}
}

// maxMends is how often a damaged copy is begun anew before that is an error.
const maxMends = 2

// judged is state within its time. damaged: the copy was thrown away, and another
// reading may succeed.
func (f *Fleet) judged(ctx context.Context, w *world, image Image) (s State, damaged bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	limited, cancel := context.WithTimeout(ctx, f.patience)
	defer cancel()
	if s, err = f.state(limited, w, image); ctx.Err() == nil {
		err = f.slow(limited, err)
	}
	return s, f.damaged(err), err
}

// damaged tells whether an error comes from damage to the copy on disk, and if so
// throws the copy away, so that the next reading fetches again. What was concluded
// before stays true: every object was hashed when it was read.
func (f *Fleet) damaged(err error) bool {
	if !errors.Is(err, store.ErrCorrupt) {
		return false
	}
	f.readings.forget()
	return f.store.Reset() == nil
}

// state judges one image by a reading. Callers hold f.mu.
func (f *Fleet) state(ctx context.Context, w *world, image Image) (State, error) {
	if err := f.fetchLedgers(ctx, w); err != nil {
		return State{}, err
	}
	entry, behind, err := f.entry(ctx, w, image.Name)
	if err != nil {
		return State{}, err
	}
	lost, err := f.lost(ctx, w, image.Name, entry)
	if err != nil {
		return State{}, err
	}
	v, err := f.judge(ctx, w, image, entry)
	if err != nil {
		return State{}, err
	}
	_, recorded := w.refs[f.ledgerRef(image.Name)]
	others, first := w.view.others(f.known.ours())
	return State{
		Head: w.head, Entry: entry, Lost: lost, Standing: v.standing, Sites: w.view.sites[image.Policy],
		Foreign: v.foreign, Problems: w.view.problems(image.Policy), Others: others, OthersAt: first,
		Branch: strings.TrimPrefix(f.pushRef(image.Name), "refs/heads/"),
		Stale:  v.stale, Rejected: v.rejected, Unmerged: v.unmerged, Stranger: v.stranger, Rewritten: w.rewritten,
		LedgerRefused: f.bare || entry != nil && !recorded && !f.keepsLedger(w),
		LedgerBehind:  behind && (recorded || f.keepsLedger(w)),
	}, nil
}

// keepsLedger tells whether the server has ledger refs of this target, and so takes
// them.
func (f *Fleet) keepsLedger(w *world) bool {
	for ref := range w.refs {
		if strings.HasPrefix(ref, f.ledgerPrefix()) {
			return true
		}
	}
	return false
}

// read asks the server once for everything that the target's images need, and
// scans the branch's tree. Callers hold f.mu.
func (f *Fleet) read(ctx context.Context) (*world, error) {
	if err := f.watchKeys(); err != nil {
		return nil, err
	}
	w, err := f.look(ctx)
	if f.damaged(err) {
		w, err = f.look(ctx)
	}
	return w, err
}

// look is one attempt at read.
func (f *Fleet) look(ctx context.Context) (*world, error) {
	refs, err := f.Remote.Refs(ctx, f.prefixes()...)
	if err != nil {
		return nil, err
	}
	w := &world{refs: refs, head: refs[f.branchRef()], proposed: map[string]*proposals{}}
	if w.head.IsZero() {
		return nil, &NoBranchError{Branch: f.Branch}
	}
	if err := f.fetchHead(ctx, w); err != nil {
		return nil, err
	}
	if err := f.fetchLedgers(ctx, w); err != nil {
		return nil, err
	}
	head, err := f.store.Commit(w.head)
	if err != nil {
		return nil, err
	}
	w.tree = head.Tree
	var found bool
	if w.view, found, err = f.scanner.view(ctx, f.store, w.tree, f.path); err != nil {
		return nil, fmt.Errorf("scan: %w", err)
	}
	if !found {
		return nil, &NoPathError{Path: f.Path, Branch: f.Branch}
	}
	return w, nil
}

// prefixes are the refs that a reading asks for: nothing else is listed or sent.
func (f *Fleet) prefixes() []string {
	all := []string{f.branchRef(), f.ledgerPrefix()}
	if f.reviewed() {
		all = append(all, f.reviewPrefix())
	}
	if f.dst != "" {
		all = append(all, f.dst)
	}
	return all
}

// fetchHead brings the branch's newest commit. The first time that commit
// alone; then whatever came since the last one, which tells whether the branch
// was rewritten.
func (f *Fleet) fetchHead(ctx context.Context, w *world) error {
	before := f.lastHead
	grown := !before.IsZero() && f.store.Has(before)
	if !f.store.Has(w.head) {
		wants, depth := []gitops.Hash{w.head}, 0
		if !grown {
			// All that is needed at once: most of it is the same trees.
			wants, depth = append(wants, f.missing(w)...), 1
		}
		if err := f.store.Fetch(ctx, wants, depth); err != nil {
			return fmt.Errorf("branch %s: %w", f.Branch, err)
		}
	}
	if grown && before != w.head {
		descends, err := f.history.contains(ctx, w.head, before)
		switch {
		case err != nil && ctx.Err() != nil:
			return err
		case err != nil:
			// The old head may be out of reach for good. Nothing depends on it:
			// the ledger says what was promoted, whatever became of the branch.
			f.rewritten = fmt.Sprintf("branch %s: whether it descends from %s, its head before, could not be told: %v", f.Branch, gitops.Short(before), err)
		case !descends:
			f.rewritten = fmt.Sprintf("branch %s was rewritten: %s does not descend from %s, its head before", f.Branch, gitops.Short(w.head), gitops.Short(before))
		}
	}
	f.lastHead = w.head
	return nil
}

// fetchLedgers brings the ledger and review commits of every image that was
// asked about, in one request.
func (f *Fleet) fetchLedgers(ctx context.Context, w *world) error {
	missing := f.missing(w)
	if len(missing) == 0 {
		return nil
	}
	if err := f.store.Fetch(ctx, missing, 1); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// missing lists the ledger and review commits that are not here yet, and notes
// what the server's refs name.
func (f *Fleet) missing(w *world) []gitops.Hash {
	f.history.tips = []gitops.Hash{w.head}
	var missing []gitops.Hash
	want := func(ref string) {
		tip, ok := w.refs[ref]
		if !ok || slices.Contains(f.history.tips, tip) {
			return
		}
		f.history.tips = append(f.history.tips, tip)
		if !f.store.Has(tip) {
			missing = append(missing, tip)
		}
	}
	for _, image := range f.known.names() {
		want(f.ledgerRef(image))
		if f.reviewed() {
			want(f.reviewRef(image))
		}
	}
	return missing
}

// atomic tells whether the server moves several refs together or not at all.
func (f *Fleet) atomic(ctx context.Context) (bool, error) {
	if f.caps == nil {
		caps, err := f.Remote.PushCapabilities(ctx)
		if err != nil {
			return false, err
		}
		f.caps = &caps
	}
	return f.caps.Atomic, nil
}

// keys loads our public keys once for each reading.
func (f *Fleet) keys() (*trust.Keyring, error) {
	if f.ring == nil {
		ring, err := f.Keys()
		if err != nil {
			return nil, &keysError{err}
		}
		f.ring = ring
	}
	return f.ring, nil
}

// watchKeys reads our keys anew, and forgets what was concluded with others.
func (f *Fleet) watchKeys() error {
	f.ring = nil
	ring, err := f.keys()
	if err != nil {
		return err
	}
	names := fmt.Sprint(ring.Keys())
	if names != f.ringNames {
		f.ringNames = names
		f.history.forget()
		clear(f.verdicts)
	}
	return nil
}

// fault adds to an error the target, and the step that failed.
func (f *Fleet) fault(step string, err error) error {
	return fmt.Errorf("target %s: %s: %w", f.Name, step, err)
}
