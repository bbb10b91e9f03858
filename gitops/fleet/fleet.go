// Package fleet knows one target of a GitOps repository: which images were
// promoted to it, whether its markers still say so, and how to promote the next.
//
// It provides three verbs. Promoted reads the branch and the ledger and says
// how an image stands. Promote edits the image's markers, commits, signs and
// pushes, together with whatever other images are ready at that moment; it is
// the point of no return. Preview shows the edit without making it.
//
// The ledger is one ref an image, refs/towpath/TARGET/IMAGE, that points to the
// newest bump commit. It moves in the same push as the branch, compared and
// swapped with what was read, and it alone says what was promoted. An entry
// counts when its commit is signed by our key, or one that was ours, and names
// this target and image; any other is an error, never "nothing was promoted".
//
// The package refuses to know images and registries (a reference is text to
// it), where source commits come from and which of them may be promoted, and
// when to ask again.
//
// What always holds: nothing but marked scalars below the target's path
// changes; every push is a fast-forward of what was read, but for Towpath's own
// review branch, which is swapped only for what was read of it; a source commit
// is promoted to a target at most once, unless a person's word (Bump.Accepted)
// says otherwise; what is decided depends on the repository alone and never on
// what a cache remembers. There is no work tree: blobs are edited, trees are
// spliced, and a push sends exactly the objects made.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"text/template"
	"time"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/store"
	"towpath.dev/towpath/gitops/trust"
	"towpath.dev/towpath/gitops/wire"
)

// Options are one entry of `gitops:` in the config, with what it refers to.
type Options struct {
	Name   string // of the target; a DNS label, part of the ledger's refs
	URL    string // of the repository, without credentials, for messages
	Branch string // that Flux applies, "main"
	Path   string // below which markers count, relative to the repository; "", "." and "./": all of it

	// PushBranch is where bumps go for review: the name of a branch that is
	// Towpath's own, or a template of names over .Image ("towpath/{{ .Image }}").
	// Empty, or equal to Branch: bumps go to Branch itself.
	PushBranch string
	// Refspec is Flux's push.refspec: after a promotion, its newest commit is
	// pushed once more, to the ref that the refspec names.
	Refspec string
	// PushOptions go with every push, and a server that takes none
	// refuses the push.
	PushOptions map[string]string

	Author    gitops.Person     // of bump commits; When is ignored
	Namespace string            // of Flux's objects, for Template; may be empty
	Template  string            // of their messages; empty: Towpath's own
	Values    map[string]string // for Template, as .Values

	Remote *wire.Remote
	Dir    string // of the bare copy: disposable, owned by this Fleet alone
	// Progress takes how a long fetch goes, a clean line now and then; nil:
	// nobody wants to know.
	Progress func(string)
	// Signer and Keys are asked anew whenever a key is needed, so that a
	// rotated one is used.
	Signer func() (*trust.Signer, error)
	Keys   func() (*trust.Keyring, error)
	// MaxAge is how old a reading of the branch and the ledger may be that
	// Promoted reuses, and that Promote begins with: it decides by what was
	// read, and the push compares that with what is.
	MaxAge time.Duration
	Log    *slog.Logger     // nil: silent
	Now    func() time.Time // nil: time.Now
}

// Fleet is one target of a GitOps repository. It is safe for concurrent use.
type Fleet struct {
	Options
	store *store.Store
	path  []string           // Path, split
	dst   string             // the ref that Refspec names; empty: none
	push  *template.Template // PushBranch

	// life ends with Close. Readings and batches serve several callers, so
	// they live as long as the Fleet and not as long as one caller.
	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup

	readings readings
	batches  batches

	// mu guards what follows and the store: one reading or batch at a time.
	mu        sync.Mutex
	scanner   *scanner
	effort    int           // of a comparison: maxEffort
	patience  time.Duration // with a reading, a judgement or an attempt: maxTime
	history   *history
	verdicts  map[string]verdict // by image: the last judgement and what it depended on
	lastHead  gitops.Hash        // the branch when it was last read
	rewritten string             // what callers of Promoted are still to be told of the branch
	caps      *wire.Capabilities // nil: not asked yet
	bare      bool               // the server takes branches and no ledger refs: the branch alone tells
	ring      *trust.Keyring     // our keys at the last reading
	ringNames string

	known knownImages
}

// Image names what is promoted.
type Image struct {
	Name   string        // unique in the config; a DNS label, part of the ledger's refs
	Policy marker.Policy // whose markers it edits
	Pin    bool          // full markers hold the digest too
}

// Open prepares to work on a target. It talks to nobody; the error is about the
// options or the directory.
func Open(o Options) (*Fleet, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	f := &Fleet{Options: o, verdicts: map[string]verdict{}}
	var err error
	if f.path, err = splitPath(o.Path); err != nil {
		return nil, fmt.Errorf("target %s: update.path: %w", o.Name, err)
	}
	if f.dst, err = destination(o.Refspec); err != nil {
		return nil, fmt.Errorf("target %s: push.refspec: %w", o.Name, err)
	}
	if f.push, err = parsePushBranch(o.PushBranch); err != nil {
		return nil, fmt.Errorf("target %s: push.branch: %w", o.Name, err)
	}
	for what, ref := range map[string]string{"name": f.ledgerRef("image"), "branch": f.branchRef(), "push.branch": f.reviewRef("image")} {
		if err := wire.CheckRef(ref); err != nil {
			return nil, fmt.Errorf("target %s: %s: %w", o.Name, what, err)
		}
	}
	if f.store, err = store.Open(o.Dir, o.Remote); err != nil {
		return nil, fmt.Errorf("target %s: %w", o.Name, err)
	}
	f.store.Progress = o.Progress
	f.scanner, f.effort, f.patience = newScanner(), maxEffort, maxTime
	f.batches.window = window
	f.history = newHistory(f.store, f.recordOf)
	f.life, f.end = context.WithCancel(context.Background())
	return f, nil
}

// Close abandons what is in flight and waits until it has ended. A push that
// was sent may still be applied; the next start reads the world and finds it.
func (f *Fleet) Close() error {
	f.end()
	f.work.Wait()
	return f.store.Close()
}

// Known says which policies the images of the config have that go to this target.
// Markers of other policies are counted, and nothing else is said of them. The policy
// of an image that Promoted or Promote was asked about is known without it.
func (f *Fleet) Known(policies []marker.Policy) { f.known.set(policies) }

// Target is what the trailer Towpath-Target says: name, branch and path. A
// ledger entry belongs to a target by the name alone: the branch or the path of
// a target may be changed without forgetting what was promoted and rolled back.
func (f *Fleet) Target() string {
	return strings.Join([]string{f.Name, f.Branch, path.Join(append([]string{"."}, f.path...)...)}, " ")
}

func (f *Fleet) branchRef() string             { return "refs/heads/" + f.Branch }
func (f *Fleet) ledgerPrefix() string          { return "refs/towpath/" + f.Name + "/" }
func (f *Fleet) ledgerRef(image string) string { return f.ledgerPrefix() + image }

// splitPath reads update.path as Flux does: relative to the repository, however
// it is dotted, and never out of it.
func splitPath(p string) ([]string, error) {
	if strings.ContainsRune(p, 0) {
		return nil, errors.New("NUL in it")
	}
	clean := path.Clean("/" + p) // "/" also keeps ".." from leaving
	if strings.HasPrefix(path.Clean(p), "..") {
		return nil, fmt.Errorf("%q leaves the repository", p)
	}
	if clean == "/" {
		return nil, nil
	}
	return strings.Split(clean[1:], "/"), nil
}

// destination is the ref that a refspec pushes to. Flux's CRD refuses "+" and
// deletions, and so must we: nothing is forced.
func destination(refspec string) (string, error) {
	if refspec == "" {
		return "", nil
	}
	src, dst, found := strings.Cut(refspec, ":")
	if !found {
		dst = src
	}
	switch {
	case strings.HasPrefix(src, "+"):
		return "", fmt.Errorf("%q would force: Towpath never does", refspec)
	case src == "":
		return "", fmt.Errorf("%q would delete", refspec)
	}
	if err := wire.CheckRef(dst); err != nil {
		return "", err
	}
	return dst, nil
}

// knownImages remembers which images and policies are ours.
type knownImages struct {
	mu       sync.Mutex
	policies map[marker.Policy]bool
	images   map[string]Image
}

func (k *knownImages) set(policies []marker.Policy) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.policies = map[marker.Policy]bool{}
	for _, p := range policies {
		k.policies[p] = true
	}
}

func (k *knownImages) add(image Image) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.images == nil {
		k.images = map[string]Image{}
	}
	k.images[image.Name] = image
}

// names lists the images that were asked about.
func (k *knownImages) names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.images))
}

// ours tells whether some image of ours edits a policy's markers.
func (k *knownImages) ours() func(marker.Policy) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := map[marker.Policy]bool{}
	for p := range k.policies {
		all[p] = true
	}
	for _, image := range k.images {
		all[image.Policy] = true
	}
	return func(p marker.Policy) bool { return all[p] }
}
