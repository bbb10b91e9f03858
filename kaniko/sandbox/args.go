package sandbox

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/dockerfile"
)

// kanikoArgs are the executor's arguments, in words that every release of it
// understands.
func (b *Builder) kanikoArgs(job Job, bases bool) []string {
	order := job.Order
	args := []string{
		"/kaniko/executor",
		"--force", // it does not recognise this kind of container
		"--log-format=text",
		"--context=dir://" + seenContext,
		"--dockerfile=" + seenContext + "/" + order.Dockerfile,
		"--custom-platform=" + order.Platform,
		"--no-push",
		"--oci-layout-path=" + seenOut + "/image",
		"--destination=towpath.invalid/image:1", // asked for, never reached
		// By content: every file of the context has the commit's time, and a
		// step may restore times, so times alone would miss changes.
		"--snapshot-mode=full",
	}
	if order.Target != "" {
		args = append(args, "--target="+order.Target)
	}
	given := dockerfile.PlatformArgs(order.Platform)
	maps.Copy(given, order.Args)
	for _, name := range slices.Sorted(maps.Keys(given)) {
		args = append(args, "--build-arg="+name+"="+given[name])
	}
	if bases {
		// The base cache is consulted only together with the layer cache, so that
		// one is switched on and everything in it off.
		args = append(args, "--cache=true", "--cache-dir="+seenBases, "--cache-ttl=8760h", "--cache-repo=oci:/kaniko/no-layers", "--no-push-cache", "--cache-run-layers=false", "--cache-copy-layers=false")
	}
	if job.Insecure {
		for _, entry := range b.Allow {
			if a, err := parseAllow(entry); err == nil && a.host != "" {
				args = append(args, "--insecure-registry="+entry)
			}
		}
	}
	return append(args, b.Args...)
}

// harmless are the flags of kaniko that a config may add. None of them changes
// what is built, where it goes, what is read, or whom kaniko trusts.
var harmless = []string{
	"annotation", "compressed-caching", "compression", "compression-level", "force-build-metadata", "ignore-path", "ignore-var-run",
	"image-download-retry", "image-fs-extract-retry", "label", "log-timestamp", "registry-map", "registry-mirror", "reproducible",
	"single-snapshot", "skip-default-registry-fallback", "skip-unused-stages", "snapshot-mode", "use-new-run", "verbosity",
}

// CheckArgs returns an error for every extra argument that kaniko must not be
// given. An argument is --name or --name=value, in one word.
func CheckArgs(args []string) []error {
	var problems []error
	for _, arg := range args {
		name, dashed := strings.CutPrefix(arg, "--")
		name, _, _ = strings.Cut(name, "=")
		switch {
		case !dashed:
			problems = append(problems, fmt.Errorf("kaniko argument %q: want --name=value in one word", arg))
		case !slices.Contains(harmless, name):
			problems = append(problems, fmt.Errorf("kaniko argument --%s is not allowed: allowed are --%s", name, strings.Join(harmless, ", --")))
		}
	}
	return problems
}

// checkOrder refuses an order whose words kaniko would take for something else.
func checkOrder(order kaniko.Order) error {
	system, architecture, _ := strings.Cut(order.Platform, "/")
	if system != "linux" || architecture == "" {
		return fmt.Errorf("platform %q: want linux/ARCHITECTURE", order.Platform)
	}
	// kaniko would fetch a Dockerfile whose path is a URL.
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
	return nil
}
