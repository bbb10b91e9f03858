// Package source watches an application repository: it polls its branches,
// chooses the commit that may be built, and exports one commit's files as a
// build context.
//
// It knows git and the rules of choosing, and neither images nor what was
// promoted: callers tell it the base commit, and decide by what it answers.
//
// What always holds: a choice is a function of the repository and the query,
// whether the cache is warm, cold or damaged; ancestry is read from commits
// whose hashes were checked; what is not known is an error and never "no";
// nothing that a repository holds is followed or trusted on its way to the disk.
package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
	"towpath.dev/towpath/gitops/wire"
)

// Options say which repository is watched.
type Options struct {
	// URL is the repository as people are told of it, without credentials.
	// Empty: the remote's own.
	URL    string
	Remote *wire.Remote
	// Dir is a directory for a cache of this repository alone. It may be
	// deleted between runs.
	Dir string
	// Progress takes how a long fetch goes, a clean line now and then; nil:
	// nobody wants to know.
	Progress func(string)
	// MaxAge is how old a poll may be that Choose still uses; 0: 10 seconds.
	MaxAge time.Duration
}

// Repository is one repository with one credential. All images built from it
// share it, its polls and its cache. It is safe for concurrent use.
type Repository struct {
	url    string
	remote *wire.Remote
	store  *store.Store
	maxAge time.Duration

	// Polls outlive the caller that began them: others may wait for the same.
	alive   context.Context
	endLife context.CancelFunc
	polls   singleflight.Group

	mu      sync.Mutex
	asked   map[string]struct{} // branches
	last    poll
	choices map[string]rememberedChoice
}

const (
	defaultMaxAge = 10 * time.Second
	pollTimeout   = 2 * time.Minute
)

// Open opens a repository's cache. It does not speak with the server.
func Open(o Options) (*Repository, error) {
	s, err := store.Open(o.Dir, o.Remote)
	if err != nil {
		return nil, err
	}
	s.Progress = o.Progress
	r := &Repository{
		url:     o.URL,
		remote:  o.Remote,
		store:   s,
		maxAge:  o.MaxAge,
		asked:   map[string]struct{}{},
		choices: map[string]rememberedChoice{},
	}
	if r.url == "" {
		r.url = o.Remote.URL()
	}
	if r.maxAge <= 0 {
		r.maxAge = defaultMaxAge
	}
	r.alive, r.endLife = context.WithCancel(context.Background())
	return r, nil
}

// Close ends polls that are under way and lets go of the cache. The remote
// stays open.
func (r *Repository) Close() error {
	r.endLife()
	return r.store.Close()
}

// poll is what one look at the branches showed.
type poll struct {
	began    time.Time
	branches []string // that were asked for
	tips     map[string]gitops.Hash
}

// Poll looks at every branch that was asked for so far, in one request. Callers
// that come while one is under way wait for it instead of asking again.
func (r *Repository) Poll(ctx context.Context) error {
	_, err := r.poll(ctx)
	return err
}

func (r *Repository) poll(ctx context.Context) (poll, error) {
	result := r.polls.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(r.alive, pollTimeout)
		defer cancel()
		return r.look(ctx)
	})
	select {
	case <-ctx.Done():
		return poll{}, ctx.Err()
	case result := <-result:
		p, _ := result.Val.(poll)
		return p, result.Err
	}
}

func (r *Repository) look(ctx context.Context) (poll, error) {
	p := poll{began: time.Now(), tips: map[string]gitops.Hash{}}
	r.mu.Lock()
	for branch := range r.asked {
		p.branches = append(p.branches, branch)
	}
	r.mu.Unlock()
	if len(p.branches) == 0 {
		return p, nil
	}
	slices.Sort(p.branches)
	refs := make([]string, len(p.branches))
	for i, branch := range p.branches {
		refs[i] = branchRef(branch)
	}
	found, err := r.remote.Refs(ctx, refs...)
	if err != nil {
		return poll{}, err
	}
	for i, branch := range p.branches {
		if tip, ok := found[refs[i]]; ok {
			p.tips[branch] = tip
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = p
	return p, nil
}

// tip is a branch's newest commit, by a poll no older than MaxAge.
func (r *Repository) tip(ctx context.Context, branch string) (gitops.Hash, error) {
	r.mu.Lock()
	r.asked[branch] = struct{}{}
	p := r.last
	r.mu.Unlock()
	fresh := !p.began.IsZero() && time.Since(p.began) < r.maxAge
	// A poll that was under way already may have begun without this branch.
	for tries := 0; !fresh || !slices.Contains(p.branches, branch); tries++ {
		if tries == 3 {
			return gitops.Hash{}, errors.New("polls do not keep up with the branches asked for")
		}
		var err error
		if p, err = r.poll(ctx); err != nil {
			return gitops.Hash{}, err
		}
		fresh = true
	}
	tip, ok := p.tips[branch]
	if !ok {
		return gitops.Hash{}, NoBranch(ctx, r.remote, branch)
	}
	return tip, nil
}

// forget makes the next look at a branch a new one.
func (r *Repository) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = poll{}
}

func branchRef(branch string) string { return "refs/heads/" + branch }

// BranchError: the repository has no branch of that name.
type BranchError struct {
	URL    string
	Branch string
	Others []string // branches that it has, of those that are often meant
}

func (e *BranchError) Error() string {
	return fmt.Sprintf("%s has no branch %q", e.URL, gitops.Line(e.Branch, 100))
}

// Hint names the branch that was probably meant.
func (e *BranchError) Hint() string {
	if len(e.Others) > 0 {
		return fmt.Sprintf("it has a branch %q: is that the one? (source.branch)", e.Others[0])
	}
	return "check source.branch"
}

// noBranch makes the error for a missing branch. What it cannot find out for
// the hint it leaves out.
// NoBranch is the error for a branch that a repository has not; it asks for
// those that are often meant.
func NoBranch(ctx context.Context, remote *wire.Remote, branch string) *BranchError {
	e := &BranchError{URL: remote.URL(), Branch: branch}
	usual := []string{"main", "master", "trunk", "develop"}
	var refs []string
	for _, name := range usual {
		refs = append(refs, branchRef(name))
	}
	found, err := remote.Refs(ctx, refs...)
	if err != nil {
		return e
	}
	for i, name := range usual {
		if _, ok := found[refs[i]]; ok {
			e.Others = append(e.Others, name)
		}
	}
	return e
}
