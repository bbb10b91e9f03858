package main

import (
	"fmt"
	"slices"
	"time"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/reconcile"
)

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

// hosts are the registry and git hosts that an image needs on its way to a target,
// each once.
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

// current tells whether the newest config still says about an image what it said
// when its digest was taken.
func (w *wiring) current(name, digest string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	image := w.config.Image(name)
	return image != nil && image.Digest(w.config) == digest
}

// order is the build order for a commit of an image.
func order(builder builder, kanikoArgs []string, image *config.Image, commit gitops.Commit) (kaniko.Order, error) {
	executor, err := builder.ExecutorDigest()
	if err != nil {
		return kaniko.Order{}, err
	}
	when := commit.Committer.When
	if first := time.Unix(0, 0); when.Before(first) {
		when = first // before 1970, or a date that could not be read
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
