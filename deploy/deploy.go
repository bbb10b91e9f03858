// Package deploy is the manifests of Towpath beside Flux, as files: a kustomize
// base and, in flux, a component of it. README.md says how they are used.
//
// It refuses to know what is in them. What always holds: they are the files of
// this directory in the version of the program that holds them.
package deploy

import "embed"

// Files are the manifests, by their paths in this directory.
//
//go:embed *.yaml flux/*.yaml
var Files embed.FS
