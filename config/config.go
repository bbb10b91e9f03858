// Package config is what the user wrote: the types of towpath.yaml, whose
// comments are its manual, and how the file is found, read, checked and read
// again when it changes. It also reads the directories of secrets that the
// file names.
//
// It refuses to know what the settings are for: it opens no connection and
// starts no program, and whether a repository exists or a key is any good is
// for others to find out.
//
// What always holds: a *Config that Load returns is whole. Defaults are filled
// in, templates parse, names are unique and what refers to something finds it.
// It is a snapshot that nobody changes: a round of work takes one and keeps it,
// and a change of the file makes another. Whatever is wrong is reported at
// once, each mistake with its file, line and path, and no setting that this
// version cannot enforce is accepted and ignored.
package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Image finds an image by its name; nil: there is none.
func (c *Config) Image(name string) *Image {
	for i := range c.Images {
		if c.Images[i].Name == name {
			return &c.Images[i]
		}
	}
	return nil
}

// Target finds a target by its name; nil: there is none.
func (c *Config) Target(name string) *Target {
	for i := range c.GitOps {
		if c.GitOps[i].Name == name {
			return &c.GitOps[i]
		}
	}
	return nil
}

// Targets are the targets the image goes to, in the order in which it names them.
func (i *Image) Targets(c *Config) []*Target {
	var targets []*Target
	for _, name := range i.GitOps {
		if target := c.Target(name); target != nil {
			targets = append(targets, target)
		}
	}
	return targets
}

// Suspended tells whether the image is at rest, by its own switch or by the
// brake for all.
func (i *Image) Suspended(c *Config) bool { return i.Suspend || c.Suspend }

// Digest names what the config says, sha256:<hex>: two configs with one digest
// say the same, however they are written.
func (c *Config) Digest() string { return digest(c) }

// Digest names all that the config says about one image, sha256:<hex>: its own
// settings with the defaults, its targets, how it is built and by which
// credentials. Work that began under one digest is not promoted under another.
func (i *Image) Digest(c *Config) string {
	type credentials struct{ Git, Registry string }
	said := struct {
		Image       *Image
		Suspended   bool
		Targets     []*Target
		TargetGit   []string
		Credentials credentials
		Provenance  string
		Builder     Builder
	}{
		Image:     i,
		Suspended: i.Suspended(c),
		Targets:   i.Targets(c),
		Credentials: credentials{
			Git:      c.GitSecret(i.Source.URL, i.Source.SecretRef.Name),
			Registry: c.RegistrySecret(i.Destination.Repository, i.Destination.SecretRef.Name),
		},
		Provenance: c.Signing.Provenance.SecretRef.Name,
		Builder:    c.Builder,
	}
	for _, target := range said.Targets {
		said.TargetGit = append(said.TargetGit, c.GitSecret(target.URL, target.SecretRef.Name))
	}
	said.Builder.Concurrency = 0 // how many build at once changes no build
	return digest(said)
}

// Digest names the rules that a commit has to pass, sha256:<hex>. It is part
// of an image's provenance.
func (v Verify) Digest() string { return digest(v) }

func digest(value any) string {
	encoded, err := json.Marshal(value) // fields in the order of their declaration, map keys sorted
	if err != nil {
		panic(fmt.Sprintf("config: texts, numbers, lists and maps always encode: %v", err))
	}
	sum := sha256.Sum256(encoded)
	return "sha256:" + hex.EncodeToString(sum[:])
}
