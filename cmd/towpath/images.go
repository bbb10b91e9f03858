package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"time"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/registry"
	"towpath.dev/towpath/kaniko/sandbox"
	"towpath.dev/towpath/kaniko/seal"
)

// images is where one image of the config is built, kept and sealed: the
// builder, the registry and the provenance key, as that config names them.
type images struct {
	builder  *sandbox.Builder
	secrets  config.Secrets
	job      sandbox.Job // without its order
	push     string      // name of the registry's secret; empty: the standard keychains
	insecure bool
	seals    *seal.Images

	mu     sync.Mutex
	client *registry.Client
}

// images wires one image's building and sealing.
func (w *wiring) images(cfg *config.Config, image *config.Image) *images {
	secrets := config.Secrets{Dir: cfg.Secrets}
	directory := func(name string) string {
		if name == "" {
			return ""
		}
		return secrets.Directory(name)
	}
	i := &images{
		builder: w.builder, secrets: secrets, insecure: image.Destination.Insecure,
		push: cfg.RegistrySecret(image.Destination.Repository, image.Destination.SecretRef.Name),
	}
	i.job = sandbox.Job{
		GitSecret:  directory(cfg.GitSecret(image.Source.URL, image.Source.SecretRef.Name)),
		PullSecret: directory(image.Build.Pull.SecretRef.Name),
		PushSecret: directory(i.push),
	}
	i.seals = &seal.Images{
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
	options := registry.Options{Repository: repository, Insecure: i.insecure, SecretName: i.push}
	if i.push != "" {
		options.Secret = func() (map[string][]byte, error) { return i.secrets.Read(i.push) }
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
	job := i.job
	job.Order = order
	began := time.Now()
	built, err := i.builder.Run(ctx, job)
	if err != nil {
		return kaniko.Result{Started: began, Finished: time.Now(), Notices: built.Warnings}, err
	}
	return kaniko.Result{
		Image:   kaniko.Image{Repository: order.Destination.Repository, Digest: built.Digest, Size: built.Size},
		Started: began, Finished: time.Now(), Notices: built.Warnings,
	}, nil
}

// Seal implements reconcile.Images.
func (i *images) Seal(ctx context.Context, order kaniko.Order, built kaniko.Result) (kaniko.Result, error) {
	sealed, err := i.seals.Seal(ctx, order, built.Image, seal.Run{
		ID: rand.Text(), Started: built.Started, Finished: built.Finished,
		Builder: seal.BuilderSandbox, Versions: map[string]string{"towpath": version},
	})
	if err != nil {
		return built, err
	}
	result := resultOf(sealed)
	result.Started, result.Finished = built.Started, built.Finished
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
