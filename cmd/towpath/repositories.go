package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/gitops/trust"
	"towpath.dev/towpath/gitops/wire"
)

// opened is a repository or target that is open, and its connection to the server.
type opened[T interface{ Close() error }] struct {
	it     T
	remote *wire.Remote
}

func (o *opened[T]) close() error { return errors.Join(o.it.Close(), o.remote.Close()) }

// source opens an application repository, once for each URL and credential, and
// returns the name that tells it from others. Callers hold w.mu.
func (w *wiring) source(cfg *config.Config, image *config.Image) (*source.Repository, string, error) {
	secret := sourceSecret(cfg, image)
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

// fleet opens a target. It is opened anew whenever the config says something else
// about it. Callers hold w.mu.
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
	if target.Flux != nil {
		options.Namespace = target.Flux.GitRepository.Namespace
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

// ofSecret adds to an error the name of the secret that it is about.
func ofSecret(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("secret %s: %w", name, err)
}

// progressOf shows the progress of long fetches, each line under the name given;
// nil where nobody watches.
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

// openFleet is fleet for callers that do not hold w.mu.
func (w *wiring) openFleet(cfg *config.Config, target *config.Target) (*fleet.Fleet, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fleet(cfg, target)
}

// openRemote connects to a repository of which no copy is kept. It is closed with
// the wiring.
func (w *wiring) openRemote(cfg *config.Config, address, secret string) (*wire.Remote, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	remote, err := w.remote(cfg, address, secret)
	if err == nil {
		w.remotes = append(w.remotes, remote)
	}
	return remote, err
}
