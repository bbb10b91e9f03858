// Package executor knows how kaniko's executor is called: its arguments, its
// environment, and which further arguments a config may add. The sandbox and a
// build Job both take them from here, so a commit is built the same way in
// either.
//
// It starts nothing, and knows neither machines nor clusters. No secret is ever
// among what it renders.
package executor

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/dockerfile"
)

// Program is where the executor is, in kaniko's images and in the sandbox.
const Program = "/kaniko/executor"

// What the build sees is below kaniko's own directory, the only one that cannot
// be in the way of an image: whoever builds in /workspace finds it empty. Stages
// and images copied from have directories there too, none of which begins with
// a dot.
const (
	Context = "/kaniko/.context" // the commit's files, read-only
	Bases   = "/kaniko/.bases"   // base images that fetch pulled, read-only
	Out     = "/kaniko/.out"     // the build's output
	Layout  = Out + "/image"     // the OCI layout in it
)

// Environment is all that the executor starts with, as NAME=value. A RUN step
// can read it.
func Environment() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/kaniko",
		"HOME=/root",
		"USER=root",
		"SSL_CERT_DIR=/kaniko/ssl/certs",
		"DOCKER_CONFIG=/kaniko/.docker",
		// The two switches of the live fork that we rely on: its slim image has no
		// tini, and base images are laid out as archives.
		"FF_KANIKO_RUN_VIA_TINI=false",
		"FF_KANIKO_OCI_WARMER=false",
	}
}

// Arguments are the executor's arguments for an order, without the program, in
// words that every release of it understands. bases says whether fetch has
// pulled, or may have pulled, images into Bases.
func Arguments(order kaniko.Order, bases bool) []string {
	args := []string{
		"--force", // it does not recognise this kind of container
		"--log-format=text",
		"--context=dir://" + Context,
		"--dockerfile=" + Context + "/" + order.Dockerfile,
		"--custom-platform=" + order.Platform,
		"--no-push",
		"--oci-layout-path=" + Layout,
		"--destination=towpath.invalid/image:1", // asked for, never reached
		// By content: every file of the context has the commit's time, and a
		// step may restore times, so times alone would miss changes.
		"--snapshot-mode=full",
	}
	if order.Target != "" {
		args = append(args, "--target="+order.Target)
	}
	given := dockerfile.PlatformArgs(order.Platform, order.Target)
	maps.Copy(given, order.Args)
	for _, name := range slices.Sorted(maps.Keys(given)) {
		args = append(args, "--build-arg="+name+"="+given[name])
	}
	if bases {
		// The base cache is consulted only together with the layer cache, so that
		// one is switched on and everything in it off.
		args = append(args, "--cache=true", "--cache-dir="+Bases, "--cache-ttl=8760h", "--cache-repo=oci:/kaniko/no-layers", "--no-push-cache", "--cache-run-layers=false", "--cache-copy-layers=false")
	}
	if order.Destination.Insecure {
		// Plain HTTP was allowed for this one registry.
		args = append(args, "--insecure-registry="+order.Destination.Host())
	}
	return append(args, order.KanikoArgs...)
}

// Allowed are the flags of the executor that a config may add, without dashes.
// Some change the image (labels, compression, what is left out of it), which is
// why an order's key has them. None changes where it goes, what is read, or whom
// kaniko trusts.
func Allowed() []string {
	return []string{
		"annotation", "compressed-caching", "compression", "compression-level", "force-build-metadata", "ignore-path", "ignore-var-run",
		"image-download-retry", "image-fs-extract-retry", "label", "log-timestamp", "registry-map", "registry-mirror", "reproducible",
		"single-snapshot", "skip-default-registry-fallback", "skip-unused-stages", "snapshot-mode", "use-new-run", "verbosity",
	}
}

// CheckArguments returns an error for every further argument that the executor
// must not be given. An argument is --name or --name=value, in one word.
func CheckArguments(args []string) []error {
	var problems []error
	allowed := Allowed()
	for _, arg := range args {
		name, dashed := strings.CutPrefix(arg, "--")
		name, value, _ := strings.Cut(name, "=")
		switch {
		case !dashed || strings.ContainsRune(arg, 0):
			problems = append(problems, fmt.Errorf("kaniko argument %q: want --name=value in one word", arg))
		case !slices.Contains(allowed, name):
			problems = append(problems, fmt.Errorf("kaniko argument --%s is not allowed: allowed are --%s", name, strings.Join(allowed, ", --")))
		case strings.HasPrefix(name, "registry-") && strings.Contains(value, "@"):
			// A RUN step can read arguments, and the provenance shows them.
			problems = append(problems, fmt.Errorf("kaniko argument --%s holds a credential: a registry is host[:port][/path]", name))
		}
	}
	return problems
}

// CompressionLevel is the level that a config asks layers to be compressed at; 0
// where it asks for none.
func CompressionLevel(args []string) int {
	level := 0
	for _, arg := range args {
		if value, ok := strings.CutPrefix(arg, "--compression-level="); ok {
			if n, err := strconv.Atoi(value); err == nil {
				level = n // the last one counts
			}
		}
	}
	return level
}

// CheckOrder refuses an order whose words the executor would take for something
// else.
func CheckOrder(order kaniko.Order) error {
	system, architecture, _ := strings.Cut(order.Platform, "/")
	if system != "linux" || architecture == "" {
		return fmt.Errorf("platform %q: want linux/ARCHITECTURE", order.Platform)
	}
	// The executor would fetch a Dockerfile whose path is a URL.
	if !filepath.IsLocal(order.Dockerfile) {
		return fmt.Errorf("path %q of the Dockerfile: want a path inside the build context", order.Dockerfile)
	}
	for name := range order.Args {
		if name == "" || strings.ContainsAny(name, "= \t\n\x00") {
			return fmt.Errorf("build argument %q: not a name", name)
		}
	}
	if order.Image == "" || order.Source.Commit == "" {
		return errors.New("an order needs an image and a commit")
	}
	return errors.Join(CheckArguments(order.KanikoArgs)...)
}
