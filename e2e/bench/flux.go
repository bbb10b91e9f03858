package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/fluxcd/pkg/git"
	"github.com/fluxcd/pkg/git/gogit"
	"github.com/fluxcd/pkg/git/repository"
	"github.com/fluxcd/pkg/git/signature"
	"golang.org/x/sys/unix"
)

// bumpFlux bumps one image as image-automation-controller 1.2 does, with its
// libraries and its defaults: a shallow clone, kyaml's setters over the work
// tree, a signed commit of what has changed, a push, and the directory removed.
// Of its other work (listing policies, conditions, events, the message's
// template) it is spared, and it knows the one policy alone.
func bumpFlux(s *stand, args []string) func(order) any {
	address, err := url.Parse(args[0])
	s.must(err)
	auth, err := git.NewAuthOptions(*address, nil)
	s.must(err)
	signer, err := signature.NewSSHSigner(readSecret(s, args[1])["identity"], nil)
	s.must(err)
	prepareSetters()
	return func(o order) any {
		app := o.Images[0]
		image := fmt.Sprintf("%s:%s@%s", repositoryOf(app), tagOf(o.Number), digestOf(app, o.Number))
		return measure(s, unix.RUSAGE_SELF, func() {
			s.must(automate(address.String(), auth, signer, policyNamespace+":"+app, image))
		})
	}
}

func automate(address string, auth *git.AuthOptions, signer signature.Signer, policy, image string) error {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "flux-system-fleet")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	client, err := gogit.NewClient(dir, auth, gogit.WithDiskStorage(), gogit.WithInsecureCredentialsOverHTTP())
	if err != nil {
		return err
	}
	if _, err := client.Clone(ctx, address, repository.CloneConfig{
		CheckoutStrategy: repository.CheckoutStrategy{Branch: "main"}, ShallowClone: true,
	}); err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	changed, err := applySetters(filepath.Join(dir, "clusters"), policy, image)
	if err != nil {
		return fmt.Errorf("setters: %w", err)
	}
	if changed != 1 {
		return fmt.Errorf("setters: %d values of %s changed", changed, policy)
	}
	if _, err := client.Commit(git.Commit{
		Author:  git.Signature{Name: "Flux", Email: "flux@example.com", When: time.Now()},
		Message: "Update from image update automation",
	}, repository.WithSigner(signer)); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if err := client.Push(ctx, repository.PushConfig{}); err != nil {
		return fmt.Errorf("push: %w", err)
	}
	return nil
}
