package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops/bump"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/gitops/wire"
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

	mu      sync.Mutex                             // guards what follows
	config  *config.Config                         // the newest: what results are checked against
	newest  []reconcile.Group                      // the deliveries of that config
	sources map[string]*opened[*source.Repository] // by URL and credential, see source
	fleets  map[string]*opened[*fleet.Fleet]       // by what the config says about a target, see fleet
	remotes []*wire.Remote                         // of openRemote: closed at the end
	builds  *reconcile.Builds
	builder builder
	built   string // digest of the settings that builds and builder were made for

	// What all repositories, all images and all provenance keys have in common.
	lines      wire.Connections
	registries registry.Connections
	keys       seal.Ring
}

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

// release closes the repositories and targets that the config names no more. The
// loop calls it when only these groups are still at work. If the config has changed
// again meanwhile, it closes nothing: release is called for the newer groups, too.
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

// unused takes out what these groups do not use, and returns the functions that
// close it; none where the groups are not the newest.
func (w *wiring) unused(atWork []reconcile.Group, used map[any]bool) []func() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(atWork) != len(w.newest) || len(atWork) > 0 && &atWork[0] != &w.newest[0] {
		return nil
	}
	return slices.Concat(takeUnused(w.sources, used), takeUnused(w.fleets, used))
}

// takeUnused takes those out of a map that are not used, and returns the functions
// that close them.
func takeUnused[T interface{ Close() error }](all map[string]*opened[T], used map[any]bool) (closers []func() error) {
	for name, open := range all {
		if !used[any(open.it)] {
			delete(all, name)
			closers = append(closers, open.close)
		}
	}
	return closers
}

// warm decrypts the provenance key at the start of a daemon: that takes 64 MiB for a
// moment, and at the start there is little else in memory. A key that cannot be read
// is reported when it is needed.
func (w *wiring) warm(cfg *config.Config) {
	secret, err := config.Secrets{Dir: cfg.Secrets}.Read(cfg.Signing.Provenance.SecretRef.Name)
	if err == nil {
		_, _ = w.keys.Load(secret)
	}
}

// sweep clears what sandbox builds left behind whose daemon was killed. Build Jobs
// need no sweep: they go on without a daemon.
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

// digestOf is a short name for the content of some settings, 12 hexadecimal digits.
// What was opened for them is kept as long as the name stays the same.
func digestOf(settings ...any) string {
	encoded, err := json.Marshal(settings)
	if err != nil {
		panic(fmt.Sprintf("settings always encode: %v", err))
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:6])
}
