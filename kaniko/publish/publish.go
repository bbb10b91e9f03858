// Package publish is the last step of a build: it takes what the build left
// behind, checks all of it, and pushes it by digest.
//
// It holds the registry's credential and runs when no process of the build is
// left. It writes no tag and signs nothing: what it pushed counts for nothing
// until it is sealed.
package publish

import (
	"context"
	"errors"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/executor"
	"towpath.dev/towpath/kaniko/layout"
	"towpath.dev/towpath/kaniko/registry"
)

// Options is what the step needs beside its order.
type Options struct {
	// Secret reads every key of the secret in a directory, as it is at this
	// moment.
	Secret func(dir string) (map[string][]byte, error)
}

// Run publishes and says how it went; it never panics on what a build left.
// The report's Fault tells a build that will fail again from a registry or disk
// that is in trouble.
func Run(ctx context.Context, step kaniko.Publish, options Options) kaniko.Report {
	digest, size, err := run(ctx, step, options)
	if err != nil {
		return failure(err)
	}
	return kaniko.Report{Digest: digest, Size: size}
}

func run(ctx context.Context, step kaniko.Publish, options Options) (digest string, size int64, err error) {
	order := step.Order
	built, err := layout.Read(ctx, step.Layout, layout.Limits{})
	if err != nil {
		return "", 0, err
	}
	defer built.Close()
	image, err := built.Image(ctx, order.Platform, order.Source.Time, executor.CompressionLevel(order.KanikoArgs))
	if err != nil {
		return "", 0, err
	}
	var secret func() (map[string][]byte, error)
	if step.Secret != "" {
		secret = func() (map[string][]byte, error) { return options.Secret(step.Secret) }
	}
	client, err := registry.New(registry.Options{
		Repository: order.Destination.Repository,
		Insecure:   order.Destination.Insecure,
		Secret:     secret,
	})
	if err != nil {
		return "", 0, err
	}
	defer client.Close()
	return client.Push(ctx, image, nil)
}

// failure is a report of an error, with what a person can do about it.
func failure(err error) kaniko.Report {
	report := kaniko.Report{Error: err.Error()}
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		report.Hint = hint.Hint()
	}
	var fault *layout.FaultError
	report.Fault = errors.As(err, &fault)
	return report
}
