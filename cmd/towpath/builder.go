package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/job"
	"towpath.dev/towpath/kaniko/sandbox"
	"towpath.dev/towpath/reconcile"
)

// builder builds images and pushes them by digest, in a sandbox or in Jobs.
type builder interface {
	// Build builds an order. A *kaniko.BuildError is the commit's own fault;
	// anything else is worth another try. Notices are given in any case.
	Build(ctx context.Context, order kaniko.Order, with credentials) (kaniko.Result, error)
	// ExecutorDigest is the digest of the kaniko that builds, sha256:<hex>.
	ExecutorDigest() (string, error)
	// Check returns what keeps builds from running.
	Check(ctx context.Context) []error
}

// credentials name the secrets of a build; an empty name is no secret.
type credentials struct{ git, pull, push string }

// prepareBuilder makes the builder that the config describes, unless the one
// there is still it. Builds at work go on in the one they began in.
func (w *wiring) prepareBuilder(cfg *config.Config) error {
	digest := digestOf(cfg.Builder, cfg.Cache, cfg.Secrets)
	if w.builder != nil && w.built == digest {
		return nil
	}
	prepare, concurrency := w.sandboxBuilder, cfg.Builder.Concurrency
	if cfg.Builder.Type == config.BuilderKubernetes {
		// Jobs that are at work already are waited for side by side: how many run at
		// once is counted among the Jobs themselves.
		prepare, concurrency = w.clusterBuilder, unbounded
	}
	next, err := prepare(cfg)
	if err != nil {
		return fmt.Errorf("builder: %w", err)
	}
	if jobs, ok := w.builder.(*inCluster); ok {
		jobs.Retire()
	}
	w.builder, w.builds, w.built = next, reconcile.NewBuilds(concurrency), digest
	return nil
}

// unbounded is more builds than anybody waits for.
const unbounded = 1 << 20

// sandboxBuilder builds on this machine.
func (w *wiring) sandboxBuilder(cfg *config.Config) (builder, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	executor := cfg.Builder.Kaniko.Executor
	if found, err := exec.LookPath(executor); err == nil {
		executor = found // the builder says what is missing
	}
	return &inSandbox{
		Builder: &sandbox.Builder{
			Self: self, Executor: executor, Runtime: cfg.Builder.Sandbox.Runtime,
			Dir:    filepath.Join(cfg.Cache, "builds"),
			Memory: int64(cfg.Builder.Sandbox.Memory), Pids: cfg.Builder.Sandbox.PIDs,
			Timeout: cfg.Builder.Timeout, Allow: cfg.Builder.Sandbox.Allow,
			Log: w.log, Progress: w.progress,
		},
		secrets: config.Secrets{Dir: cfg.Secrets},
	}, nil
}

// inSandbox builds on this machine, with secrets from its files.
type inSandbox struct {
	*sandbox.Builder
	secrets config.Secrets
}

func (b *inSandbox) Build(ctx context.Context, order kaniko.Order, with credentials) (kaniko.Result, error) {
	directory := func(name string) string {
		if name == "" {
			return ""
		}
		return b.secrets.Directory(name)
	}
	began := time.Now()
	built, err := b.Run(ctx, sandbox.Job{
		Order: order, GitSecret: directory(with.git), PullSecret: directory(with.pull), PushSecret: directory(with.push),
	})
	if err != nil {
		return kaniko.Result{Started: began, Finished: time.Now(), Notices: built.Warnings}, err
	}
	return kaniko.Result{
		Image:   kaniko.Image{Repository: order.Destination.Repository, Digest: built.Digest, Size: built.Size},
		Started: began, Finished: time.Now(), Notices: built.Warnings,
	}, nil
}

// clusterBuilder builds in Jobs of the cluster that KUBECONFIG names or that this
// process runs in. Without one, what needs no build still works.
func (w *wiring) clusterBuilder(cfg *config.Config) (builder, error) {
	settings := jobSettings(cfg)
	cluster, err := openCluster(w.log)
	if err != nil {
		return nil, err
	}
	if cluster == nil {
		return &nowhere{kaniko: settings.Kaniko}, nil
	}
	client, err := job.Client(cluster.config, w.log)
	if err != nil {
		return nil, err
	}
	jobs, err := job.New(client, settings, w.log)
	if err != nil {
		return nil, err
	}
	jobs.Progress = w.progress
	return &inCluster{jobs}, nil
}

// jobSettings are a config's settings for build Jobs.
func jobSettings(cfg *config.Config) job.Settings {
	k := cfg.Builder.Kubernetes
	return job.Settings{
		Namespace: k.Namespace, Image: k.Image, Kaniko: cfg.Builder.Kaniko.Image,
		Timeout: cfg.Builder.Timeout, TTL: k.TTL, Concurrency: cfg.Builder.Concurrency,
		Resources: k.Resources, HostUsers: k.HostUsers, RuntimeClassName: k.RuntimeClassName,
		NodeSelector: k.NodeSelector, Tolerations: k.Tolerations, Affinity: k.Affinity, PriorityClassName: k.PriorityClassName,
		Annotations: k.Annotations, CABundle: k.CABundle.ConfigMap,
		Proxy:        job.Proxy{HTTP: k.Proxy.HTTP, HTTPS: k.Proxy.HTTPS, No: k.Proxy.No},
		FetchToken:   job.Token{Audience: k.Identity.Fetch.Audience, Path: k.Identity.Fetch.Path},
		PublishToken: job.Token{Audience: k.Identity.Publish.Audience, Path: k.Identity.Publish.Path},
	}
}

// inCluster builds in Jobs, with the Secrets of the builds' namespace.
type inCluster struct{ *job.Builder }

func (b *inCluster) Build(ctx context.Context, order kaniko.Order, with credentials) (kaniko.Result, error) {
	built, err := b.Run(ctx, job.Job{Order: order, GitSecret: with.git, PullSecret: with.pull, PushSecret: with.push})
	if err != nil {
		return kaniko.Result{}, err
	}
	return kaniko.Result{
		Image:   kaniko.Image{Repository: order.Destination.Repository, Digest: built.Digest, Size: built.Size},
		Started: built.Started, Finished: built.Finished, Run: built.Run, Notices: built.Warnings,
	}, nil
}

// nowhere stands for the cluster that is not there.
type nowhere struct{ kaniko string }

var errNowhere = hinted{errors.New("builds run as Jobs, and this process belongs to no cluster"), "name a cluster by KUBECONFIG, or run towpath in a pod"}

func (*nowhere) Build(context.Context, kaniko.Order, credentials) (kaniko.Result, error) {
	return kaniko.Result{}, errNowhere
}

func (*nowhere) Check(context.Context) []error { return []error{errNowhere} }

func (n *nowhere) ExecutorDigest() (string, error) { return job.Pinned(n.kaniko) }
