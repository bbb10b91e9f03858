package main

import (
	"slices"

	"towpath.dev/towpath/config"
)

// daemonSecrets names the secrets that Towpath itself reads: both signing keys, and
// the credentials of every target, source and registry.
func daemonSecrets(cfg *config.Config) []string {
	names := []string{cfg.Signing.Provenance.SecretRef.Name}
	for i := range cfg.GitOps {
		names = append(names, cfg.GitOps[i].Git.Commit.SigningKey.SecretRef.Name)
	}
	names = append(names, targetSecrets(cfg)...)
	for i := range cfg.Images {
		names = append(names, sourceSecret(cfg, &cfg.Images[i]), pushSecret(cfg, &cfg.Images[i]))
	}
	return distinct(names)
}

// buildSecrets names the secrets that builds are given: the credentials of every
// source, of every registry, and of base images.
func buildSecrets(cfg *config.Config) []string {
	var names []string
	for i := range cfg.Images {
		image := &cfg.Images[i]
		names = append(names, sourceSecret(cfg, image), pushSecret(cfg, image), image.Build.Pull.SecretRef.Name)
	}
	return distinct(names)
}

// connectionSecrets names the secrets by which repositories and registries are
// reached, those of base images among them.
func connectionSecrets(cfg *config.Config) []string {
	return distinct(append(targetSecrets(cfg), buildSecrets(cfg)...))
}

func targetSecrets(cfg *config.Config) []string {
	var names []string
	for i := range cfg.GitOps {
		names = append(names, cfg.GitSecret(cfg.GitOps[i].URL, cfg.GitOps[i].SecretRef.Name))
	}
	return names
}

func sourceSecret(cfg *config.Config, image *config.Image) string {
	return cfg.GitSecret(image.Source.URL, image.Source.SecretRef.Name)
}

func pushSecret(cfg *config.Config, image *config.Image) string {
	return cfg.RegistrySecret(image.Destination.Repository, image.Destination.SecretRef.Name)
}

// distinct sorts names, and drops repetitions and the empty name, which stands for
// no secret.
func distinct(names []string) []string {
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })
}
