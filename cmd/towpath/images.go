package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/registry"
	"towpath.dev/towpath/kaniko/seal"
)

// images is where one image of the config is built, kept and sealed: the
// builder, the registry and the provenance key, as that config names them.
type images struct {
	builder     builder
	secrets     config.Secrets
	with        credentials // for a build; without push, the standard keychains serve here
	insecure    bool
	connections *registry.Connections
	seals       *seal.Images

	mu     sync.Mutex
	client *registry.Client
}

// images wires one image's building and sealing.
func (w *wiring) images(cfg *config.Config, image *config.Image) *images {
	secrets := config.Secrets{Dir: cfg.Secrets}
	i := &images{
		builder: w.builder, secrets: secrets, insecure: image.Destination.Insecure, connections: &w.registries,
		with: credentials{
			git:  sourceSecret(cfg, image),
			pull: image.Build.Pull.SecretRef.Name,
			push: pushSecret(cfg, image),
		},
	}
	i.seals = &seal.Images{
		Ring:   &w.keys,
		Key:    func() (map[string][]byte, error) { return secrets.Read(cfg.Signing.Provenance.SecretRef.Name) },
		Client: func(to kaniko.Destination) (*registry.Client, error) { return i.registry(to.Repository) },
	}
	return i
}

// registry is the client for the image's repository, which keeps its
// connections from one round to the next.
func (i *images) registry(repository string) (*registry.Client, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.client != nil {
		return i.client, nil
	}
	options := registry.Options{Repository: repository, Insecure: i.insecure, SecretName: i.with.push, Connections: i.connections}
	if i.with.push != "" {
		options.Secret = func() (map[string][]byte, error) { return i.secrets.Read(i.with.push) }
	}
	client, err := registry.New(options)
	if err != nil {
		return nil, err
	}
	i.client = client
	return client, nil
}

// Find implements reconcile.Images.
func (i *images) Find(ctx context.Context, order kaniko.Order) (kaniko.Result, bool, error) {
	sealed, err := i.seals.Find(ctx, order)
	if err != nil {
		return kaniko.Result{}, false, err
	}
	return resultOf(sealed), sealed.Image.Digest != "", nil
}

// Build implements reconcile.Images.
func (i *images) Build(ctx context.Context, order kaniko.Order) (kaniko.Result, error) {
	return i.builder.Build(ctx, order, i.with)
}

// Seal implements reconcile.Images.
func (i *images) Seal(ctx context.Context, order kaniko.Order, built kaniko.Result) (kaniko.Result, error) {
	run := seal.Run{
		ID: rand.Text(), Started: built.Started, Finished: built.Finished,
		Builder: seal.BuilderSandbox, Versions: map[string]string{"towpath": version},
	}
	if built.Run != "" {
		run.ID, run.Builder = built.Run, seal.BuilderKubernetes
	}
	sealed, err := i.seals.Seal(ctx, order, built.Image, run)
	if jobs, ok := i.builder.(*inCluster); ok && errors.Is(err, registry.ErrNotFound) {
		// The registry no longer has what the Job pushed: its result is not to be
		// read again.
		err = errors.Join(err, jobs.Forget(ctx, order))
	}
	if err != nil {
		return built, err
	}
	result := resultOf(sealed)
	result.Started, result.Finished, result.Run = built.Started, built.Finished, built.Run
	result.Notices = append(result.Notices, built.Notices...)
	return result, nil
}

func resultOf(sealed seal.Sealed) kaniko.Result {
	result := kaniko.Result{Image: sealed.Image}
	if sealed.Clash != nil {
		result.Notices = []string{sealed.Clash.String()}
	}
	return result
}

// Size implements reconcile.Images.
func (i *images) Size(ctx context.Context, ref string) (int64, error) {
	repository, digest, ok := strings.Cut(ref, "@")
	if !ok {
		return 0, fmt.Errorf("%s names no digest", ref)
	}
	if colon := strings.LastIndex(repository, ":"); colon > strings.LastIndex(repository, "/") {
		repository = repository[:colon]
	}
	client, err := i.registry(repository)
	if err != nil {
		return 0, err
	}
	if client.Repository() != repository {
		return 0, fmt.Errorf("%s is in another repository", ref)
	}
	return seal.Size(ctx, client, digest)
}
