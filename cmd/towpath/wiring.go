package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/bump"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/gitops/trust"
	"towpath.dev/towpath/gitops/wire"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/registry"
	"towpath.dev/towpath/kaniko/seal"
	"towpath.dev/towpath/reconcile"
)

// wiring turns configs into deliveries. It keeps what is open (repositories,
// targets, the builder) from one config to the next, as long as the config
// says the same about it.
type wiring struct {
	log      *slog.Logger
	progress func(string)

	mu      sync.Mutex
	config  *config.Config    // the newest: what results are checked against
	newest  []reconcile.Group // of it
	sources map[string]*opened[*source.Repository]
	fleets  map[string]*opened[*fleet.Fleet]
	remotes []*wire.Remote   // of nothing that is kept here
	lines   wire.Connections // that all of them share
	builds  *reconcile.Builds
	builder builder
	built   string // digest of the config's builder that builds and builder were made for
	keys    seal.Ring

	registries registry.Connections // of all images
}

// opened is a repository that is open, and the connection that it has.
type opened[T interface{ Close() error }] struct {
	it     T
	remote *wire.Remote
}

func (o *opened[T]) close() error { return errors.Join(o.it.Close(), o.remote.Close()) }

func newWiring(log *slog.Logger, progress func(string)) *wiring {
	return &wiring{
		log: log, progress: progress,
		sources: map[string]*opened[*source.Repository]{}, fleets: map[string]*opened[*fleet.Fleet]{},
	}
}

// groups makes the deliveries of a config, or of one image of it, grouped by
// source. From now on results are checked against this config.
func (w *wiring) groups(cfg *config.Config, only string) ([]reconcile.Group, error) {
	if only != "" && cfg.Image(only) == nil {
		return nil, usageError{fmt.Errorf("--image %s: the config has no such image", only), "towpath status lists them"}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range cfg.GitOps {
		commit := &cfg.GitOps[i].Git.Commit
		if err := bump.CheckTemplate(commit.MessageTemplate, commit.MessageTemplateValues); err != nil {
			return nil, fmt.Errorf("target %s: git.commit.messageTemplate: %w", cfg.GitOps[i].Name, err)
		}
	}

	if err := w.prepareBuilder(cfg); err != nil {
		return nil, err
	}

	policies := map[string][]marker.Policy{} // by target
	for i := range cfg.Images {
		policy, err := marker.ParsePolicy(cfg.Images[i].Policy)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", cfg.Images[i].Name, err)
		}
		for _, target := range cfg.Images[i].Targets(cfg) {
			policies[target.Name] = append(policies[target.Name], policy)
		}
	}

	var groups []reconcile.Group
	index := map[string]int{}
	for i := range cfg.Images {
		image := &cfg.Images[i]
		if only != "" && image.Name != only {
			continue
		}
		repository, name, err := w.source(cfg, image)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", image.Name, err)
		}
		at, known := index[name]
		if !known {
			at = len(groups)
			index[name] = at
			groups = append(groups, reconcile.Group{Name: name, Interval: cfg.Interval})
		}
		for _, target := range image.Targets(cfg) {
			delivery, err := w.delivery(cfg, image, target, repository, policies[target.Name])
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", image.Name, err)
			}
			groups[at].Deliveries = append(groups[at].Deliveries, delivery)
		}
	}
	// Only now: a config that cannot be wired leaves the one before it in force.
	w.builds.Forget()
	w.config, w.newest = cfg, groups
	return groups, nil
}

// delivery wires one image to one target.
func (w *wiring) delivery(cfg *config.Config, image *config.Image, target *config.Target, repository *source.Repository, ours []marker.Policy) (*reconcile.Delivery, error) {
	policy, err := marker.ParsePolicy(image.Policy)
	if err != nil {
		return nil, err
	}
	gitopsTarget, err := w.fleet(cfg, target)
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", target.Name, err)
	}
	gitopsTarget.Known(ours)
	accept := map[gitops.Hash]string{}
	for _, word := range image.Source.Accept {
		commit, err := gitops.ParseHash(word.Commit)
		if err != nil {
			return nil, err
		}
		accept[commit] = word.Reason
	}
	digest, builder := image.Digest(cfg), w.builder
	return &reconcile.Delivery{
		Image:  fleet.Image{Name: image.Name, Policy: policy, Pin: image.Pin == config.PinDigest},
		Target: target.Name,
		Rules: reconcile.Rules{
			Observe: image.Start == config.StartObserve, HoldAfterRevert: target.AfterRevert == config.RevertHold,
			Branch: target.Branch(), Policy: policy.String(),
		},
		Query:     source.Query{Branch: image.Source.Branch, Watch: image.Source.Watch, Accept: accept},
		SourceURL: image.Source.URL,
		SourceRef: "refs/heads/" + image.Source.Branch,
		Suspended: image.Suspended(cfg),
		Hosts:     hosts(image, target),
		Order: func(commit gitops.Commit) (kaniko.Order, error) {
			return order(builder, cfg.Builder.Kaniko.Args, image, commit)
		},
		Current: func() bool { return w.current(image.Name, digest) },
		Source:  repository,
		Images:  w.images(cfg, image),
		Builds:  w.builds,
		Fleet:   gitopsTarget,
	}, nil
}

// hosts are those that an image on its way to a target needs, each once.
func hosts(image *config.Image, target *config.Target) []string {
	all := []string{kaniko.Destination{Repository: image.Destination.Repository}.Host()}
	for _, address := range []string{image.Source.URL, target.URL} {
		if parsed, err := gitURL(address); err == nil {
			all = append(all, parsed.Host)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// current tells whether the newest config says the same about an image.
func (w *wiring) current(name, digest string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	image := w.config.Image(name)
	return image != nil && image.Digest(w.config) == digest
}

// order is what to build for a commit.
func order(builder builder, kanikoArgs []string, image *config.Image, commit gitops.Commit) (kaniko.Order, error) {
	executor, err := builder.ExecutorDigest()
	if err != nil {
		return kaniko.Order{}, err
	}
	when := commit.Committer.When
	if first := time.Unix(0, 0); when.Before(first) {
		when = first // a date that no commit has, or that does not parse
	}
	tag, err := image.Tag(image.Source.Branch, commit.Hash.String(), when)
	if err != nil {
		return kaniko.Order{}, err
	}
	return kaniko.Order{
		Image:      image.Name,
		Source:     kaniko.Source{URL: image.Source.URL, Ref: "refs/heads/" + image.Source.Branch, Commit: commit.Hash.String(), Time: when.UTC()},
		Path:       image.Source.Path,
		Dockerfile: image.Build.Dockerfile,
		Target:     image.Build.Target,
		Args:       image.Build.Args,
		Platform:   image.Build.Platforms[0],
		KanikoArgs: kanikoArgs,
		Executor:   executor,
		Policy:     image.Source.Verify.Digest(),
		Destination: kaniko.Destination{
			Repository: image.Destination.Repository, Insecure: image.Destination.Insecure, Tag: tag,
		},
		Pull: kaniko.Pull{Secret: image.Build.Pull.SecretRef.Name, Allow: image.Build.Pull.Allow},
	}, nil
}

// source opens an application repository, once for each URL and credential.
func (w *wiring) source(cfg *config.Config, image *config.Image) (*source.Repository, string, error) {
	secret := cfg.GitSecret(image.Source.URL, image.Source.SecretRef.Name)
	name := image.Source.URL
	if secret != "" {
		name += " with secret " + secret
	}
	key := digestOf(name, cfg.Secrets, cfg.Cache, cfg.Interval)
	if open := w.sources[key]; open != nil {
		return open.it, name, nil
	}
	remote, err := w.remote(cfg, image.Source.URL, secret)
	if err != nil {
		return nil, "", err
	}
	repository, err := source.Open(source.Options{
		URL: image.Source.URL, Remote: remote, MaxAge: cfg.Interval / 4,
		Dir:      filepath.Join(cfg.Cache, "sources", digestOf(name)),
		Progress: w.progressOf(path.Base(image.Source.URL)),
	})
	if err != nil {
		return nil, "", errors.Join(cacheError(err), remote.Close())
	}
	w.sources[key] = &opened[*source.Repository]{repository, remote}
	return repository, name, nil
}

// fleet opens a target, once for each way that the config describes it.
func (w *wiring) fleet(cfg *config.Config, target *config.Target) (*fleet.Fleet, error) {
	secret := cfg.GitSecret(target.URL, target.SecretRef.Name)
	name := digestOf(target, secret, cfg.Secrets, cfg.Interval)
	if open := w.fleets[name]; open != nil {
		return open.it, nil
	}
	remote, err := w.remote(cfg, target.URL, secret)
	if err != nil {
		return nil, err
	}
	secrets := config.Secrets{Dir: cfg.Secrets}
	key := target.Git.Commit.SigningKey
	kind, keyName := string(key.Type), key.SecretRef.Name
	options := fleet.Options{
		Name: target.Name, URL: target.URL, Branch: target.Branch(), Path: target.Path(),
		Author:   gitops.Person{Name: target.Git.Commit.Author.Name, Email: target.Git.Commit.Author.Email},
		Template: target.Git.Commit.MessageTemplate, Values: target.Git.Commit.MessageTemplateValues,
		Remote: remote,
		Dir:    filepath.Join(cfg.Cache, "targets", target.Name+"-"+name),
		Signer: func() (*trust.Signer, error) {
			keys, err := secrets.Read(keyName)
			if err != nil {
				return nil, err
			}
			signer, err := trust.LoadSigner(kind, keys)
			return signer, ofSecret(keyName, err)
		},
		Keys: func() (*trust.Keyring, error) {
			keys, err := secrets.Read(keyName)
			if err != nil {
				return nil, err
			}
			ring, err := trust.OwnKeys(kind, keys)
			return ring, ofSecret(keyName, err)
		},
		Progress: w.progressOf("target " + target.Name),
		MaxAge:   cfg.Interval / 4,
		Log:      w.log,
	}
	if push := target.Git.Push; push != nil {
		options.PushBranch, options.Refspec, options.PushOptions = push.Branch, push.Refspec, push.Options
	}
	open, err := fleet.Open(options)
	if err != nil {
		return nil, errors.Join(cacheError(err), remote.Close())
	}
	w.fleets[name] = &opened[*fleet.Fleet]{open, remote}
	return open, nil
}

// ofSecret tells whose keys an error is about.
func ofSecret(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("secret %s: %w", name, err)
}

// progressOf shows how a fetch goes that is about a repository.
func (w *wiring) progressOf(what string) func(string) {
	if w.progress == nil {
		return nil
	}
	return func(line string) { w.progress(what + ": " + line) }
}

// cacheError says what to do about a cache that belongs to somebody else.
func cacheError(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return hinted{err, "run every command as the one user who may write there (builds need root), or name another directory as cache in the config"}
	}
	return err
}

func (w *wiring) remote(cfg *config.Config, address, secret string) (*wire.Remote, error) {
	dir := ""
	if secret != "" {
		dir = config.Secrets{Dir: cfg.Secrets}.Directory(secret)
	}
	return wire.New(wire.Options{URL: address, Auth: gitAuth(address, dir), Secret: secret, Connections: &w.lines})
}

// release closes the repositories that the config names no more, when nothing
// but these groups is at work. Where the config has changed again meanwhile it
// closes nothing: the groups of that one follow.
func (w *wiring) release(atWork []reconcile.Group) {
	used := map[any]bool{}
	for _, group := range atWork {
		for _, d := range group.Deliveries {
			used[d.Source], used[d.Fleet] = true, true
		}
	}
	// Closed without the lock, for which rounds at work wait.
	for _, closeIt := range w.unused(atWork, used) {
		if err := closeIt(); err != nil {
			w.log.Debug("close what the config names no more", "error", err)
		}
	}
}

func (w *wiring) unused(atWork []reconcile.Group, used map[any]bool) []func() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(atWork) != len(w.newest) || len(atWork) > 0 && &atWork[0] != &w.newest[0] {
		return nil
	}
	return slices.Concat(takeUnused(w.sources, used), takeUnused(w.fleets, used))
}

// takeUnused takes out what is not used, and returns what closes it.
func takeUnused[T interface{ Close() error }](all map[string]*opened[T], used map[any]bool) (closers []func() error) {
	for name, open := range all {
		if !used[any(open.it)] {
			delete(all, name)
			closers = append(closers, open.close)
		}
	}
	return closers
}

// warm decrypts the provenance key, if it can be had. That takes 64 MiB for a
// moment, which are least when there is nothing else yet. What is wrong with the
// key is told when it is needed.
func (w *wiring) warm(cfg *config.Config) {
	secret, err := config.Secrets{Dir: cfg.Secrets}.Read(cfg.Signing.Provenance.SecretRef.Name)
	if err == nil {
		_, _ = w.keys.Load(secret)
	}
}

// sweep clears what builds on this machine left that died with their daemon.
// Jobs go on without one.
func (w *wiring) sweep(ctx context.Context) {
	here, ok := w.builder.(*inSandbox)
	if !ok {
		return
	}
	if err := here.Sweep(ctx); err != nil {
		w.log.Warn("what an earlier build left was not cleared", "error", err)
	}
}

// close gives up everything that is open.
func (w *wiring) close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []error
	if jobs, ok := w.builder.(*inCluster); ok {
		all = append(all, jobs.Close())
	}
	for _, closeIt := range slices.Concat(takeUnused(w.fleets, nil), takeUnused(w.sources, nil)) {
		all = append(all, closeIt())
	}
	for _, remote := range w.remotes {
		all = append(all, remote.Close())
	}
	return errors.Join(all...)
}

// openFleet and openRemote are fleet and remote for who does not hold the lock.
func (w *wiring) openFleet(cfg *config.Config, target *config.Target) (*fleet.Fleet, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fleet(cfg, target)
}

func (w *wiring) openRemote(cfg *config.Config, address, secret string) (*wire.Remote, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	remote, err := w.remote(cfg, address, secret)
	if err == nil {
		w.remotes = append(w.remotes, remote)
	}
	return remote, err
}

// digestOf names what a setting says, so that what was opened for it is kept as
// long as it says the same.
func digestOf(settings ...any) string {
	encoded, err := json.Marshal(settings)
	if err != nil {
		panic(fmt.Sprintf("settings always encode: %v", err))
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:6])
}
