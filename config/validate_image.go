package config

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/apimachinery/pkg/util/validation"
)

func (l *loader) images() {
	names, policies, tags := map[string]place{}, map[string]string{}, map[string]string{}
	for i := range l.config.Images {
		image := &l.config.Images[i]
		if at := l.imageAt(i, "name"); l.label(at, image.Name) {
			if other, again := names[image.Name]; again {
				l.flag(at, quote(image.Name)+" is taken by "+l.where(other), "")
			} else {
				names[image.Name] = at
			}
		}
		l.source(i, &image.Source)
		l.build(i, image)
		l.imageTargets(i, image)
		l.policy(i, image, policies)
		l.destination(i, image, tags)
		l.oneOf(l.imageAt(i, "pin"), image.Pin, PinDigest, PinTag)
		l.oneOf(l.imageAt(i, "start"), image.Start, StartBuild, StartObserve)
	}
}

// imageAt is where a key of an image is written: in the image, or else under
// defaults. A mistake there is one mistake, however many images share it.
func (l *loader) imageAt(i int, key string) place {
	own := place{l.origins[i].file, l.origins[i].path + "." + key}
	if shared := l.at("defaults." + key); !l.report.written(own) && l.report.written(shared) {
		return shared
	}
	return own
}

func (l *loader) source(i int, s *Source) {
	l.gitURL(l.imageAt(i, "source.url"), s.URL)
	l.secretRef(l.imageAt(i, "source.secretRef"), s.SecretRef, false)
	l.branch(l.imageAt(i, "source.branch"), s.Branch)
	if at := l.imageAt(i, "source.path"); l.notEmpty(at, s.Path) {
		l.inside(at, s.Path)
	}
	l.verify(l.imageAt(i, "source.verify.mode"), s.Verify.Mode)
	positive := s.Watch == nil
	for j, pattern := range s.Watch {
		at := l.imageAt(i, index("source.watch", j))
		switch {
		case strings.TrimSpace(pattern) == "", pattern == "!", strings.HasPrefix(pattern, "#"), strings.ContainsAny(pattern, "\n\r\x00"):
			l.flag(at, quote(pattern)+" is no pattern", "gitignore's patterns, from the repository's root")
		case strings.HasPrefix(pattern, "./"), slices.Contains(strings.Split(pattern, "/"), ".."):
			l.flag(at, quote(pattern)+" matches nothing", "patterns start at the repository's root: /app/, *.go")
		}
		positive = positive || !strings.HasPrefix(pattern, "!")
	}
	if !positive {
		l.flag(l.imageAt(i, "source.watch"), "matches nothing", `"/" is everything; leave it out to watch the path`)
	}
	first := map[string]bool{}
	for j, accept := range s.Accept {
		path := index("source.accept", j)
		at := l.imageAt(i, path+".commit")
		switch {
		case !l.notEmpty(at, accept.Commit):
		case len(accept.Commit) != hashSize || strings.Trim(accept.Commit, "0123456789abcdef") != "":
			l.flag(at, quote(accept.Commit)+" is no full commit hash", "40 hexadecimal digits, lower case")
		case first[accept.Commit]:
			l.flag(at, quote(accept.Commit)+" is accepted twice", "")
		}
		first[accept.Commit] = true
		at = l.imageAt(i, path+".reason")
		switch {
		case strings.TrimSpace(accept.Reason) == "":
			l.flag(at, "gives none", "one line that says why: it goes into the bump")
		case len(accept.Reason) > 500 || strings.ContainsFunc(accept.Reason, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 }):
			l.flag(at, "is not one line of up to 500 bytes", "")
		}
	}
}

func (l *loader) build(i int, image *Image) {
	b := &image.Build
	if at := l.imageAt(i, "build.dockerfile"); l.notEmpty(at, b.Dockerfile) {
		l.inside(at, b.Dockerfile)
		if strings.HasSuffix(b.Dockerfile, "/") || path.Base(b.Dockerfile) == "." {
			l.flag(at, quote(b.Dockerfile)+" is a directory", "")
		}
	}
	if strings.ContainsFunc(b.Target, func(r rune) bool { return r <= ' ' || r == 0x7f }) || strings.HasPrefix(b.Target, "-") {
		l.flag(l.imageAt(i, "build.target"), quote(b.Target)+" is no name of a stage", "")
	}
	for _, key := range slices.Sorted(maps.Keys(b.Args)) {
		if key == "" || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == '=' || r == 0x7f }) || strings.ContainsRune(b.Args[key], 0) {
			l.flag(l.imageAt(i, step("build.args", key)), "is no build argument", "a name without spaces and =, and a text")
		}
	}
	switch at := l.imageAt(i, "build.platforms"); {
	case len(b.Platforms) != 1:
		l.flag(at, fmt.Sprintf("lists %d platforms: this version builds for exactly one", len(b.Platforms)), "")
	case !platform(b.Platforms[0]):
		l.flag(l.imageAt(i, "build.platforms[0]"), quote(b.Platforms[0])+" is no platform", "linux/arch or linux/arch/variant, as in linux/amd64")
	}
	l.pull(i, image)
}

// platform tells linux/arch[/variant]: kaniko builds for no other system.
func platform(s string) bool {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] != "linux" {
		return false
	}
	for _, part := range parts {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			return false
		}
	}
	return true
}

// pull keeps the credential of base images apart from the one that pushes: who
// holds that could read other teams' images.
func (l *loader) pull(i int, image *Image) {
	pull := &image.Build.Pull
	l.secretRef(l.imageAt(i, "build.pull.secretRef"), pull.SecretRef, false)
	for j, repository := range pull.Allow {
		l.repository(l.imageAt(i, index("build.pull.allow", j)), repository)
	}
	if pull.SecretRef.Name == "" {
		return
	}
	if len(pull.Allow) == 0 {
		l.flag(l.imageAt(i, "build.pull.allow"), "is missing: the credential would serve no repository", "list the repositories that may be pulled")
	}
	if pull.SecretRef.Name == l.config.RegistrySecret(image.Destination.Repository, image.Destination.SecretRef.Name) {
		l.flag(l.imageAt(i, "build.pull.secretRef.name"), quote(pull.SecretRef.Name)+" is also the credential that pushes", "make one that can only pull")
	}
}

func (l *loader) imageTargets(i int, image *Image) {
	if image.GitOps != nil && len(image.GitOps) == 0 {
		l.flag(l.imageAt(i, "gitops"), "names no target", "leave it out for every target")
	}
	for j, target := range image.GitOps {
		at := l.imageAt(i, index("gitops", j))
		switch {
		case l.config.Target(target) == nil:
			l.flag(at, quote(target)+" is no target", l.similarTarget(target))
		case slices.Index(image.GitOps, target) < j:
			l.flag(at, quote(target)+" is named twice", "")
		}
	}
}

// goesTo tells whether the image goes to a target, before that is settled.
func (i *Image) goesTo(target string) bool {
	return i.GitOps == nil || slices.Contains(i.GitOps, target)
}

func (l *loader) similarTarget(named string) string {
	var all []string
	for _, target := range l.config.GitOps {
		all = append(all, target.Name)
	}
	if near := Similar(named, all); near != "" {
		return "did you mean " + near + "?"
	}
	if len(all) == 0 {
		return ""
	}
	return "the targets are " + strings.Join(all, ", ")
}

// policy checks the marker's name. Two images that edit the same markers would
// undo each other for ever.
func (l *loader) policy(i int, image *Image, taken map[string]string) {
	at := l.imageAt(i, "policy")
	if !l.notEmpty(at, image.Policy) {
		return
	}
	namespace, policy, ok := strings.Cut(image.Policy, ":")
	if !ok || len(validation.IsDNS1123Label(namespace)) > 0 || len(validation.IsDNS1123Subdomain(policy)) > 0 {
		l.flag(at, quote(image.Policy)+" is not namespace:name", `as in the marker: # {"$imagepolicy": "flux-system:podinfo"}`)
		return
	}
	for _, target := range l.config.GitOps {
		if !image.goesTo(target.Name) {
			continue
		}
		key := target.Name + " " + image.Policy
		if other, again := taken[key]; again && other == image.Name {
			continue // of two targets of one name, or two images: reported already
		} else if again {
			l.flag(at, fmt.Sprintf("%s is also the policy of image %s in target %s", quote(image.Policy), other, target.Name), "two images cannot edit one marker")
			return
		}
		taken[key] = image.Name
	}
}

// destination checks the repository and the tag together: where two images go
// to one repository, their tags have to tell them apart.
func (l *loader) destination(i int, image *Image, taken map[string]string) {
	d := &image.Destination
	l.secretRef(l.imageAt(i, "destination.secretRef"), d.SecretRef, false)
	repository, sound := l.repository(l.imageAt(i, "destination.repository"), d.Repository)
	at := l.imageAt(i, "tag")
	var tag string
	for _, sample := range samples() {
		var err error
		if tag, err = image.Tag(image.Source.Branch, sample, time.Unix(1763750000, 0)); err != nil {
			l.flag(at, strings.ReplaceAll(strings.TrimPrefix(err.Error(), "tag: "), sample, "<commit>"), "as in "+DefaultTag)
			return
		}
	}
	if !sound {
		return
	}
	key := repository + ":" + tag
	if other, again := taken[key]; again {
		l.flag(l.imageAt(i, "destination.repository"), "gets the same tags from image "+other, "give each a repository, or put {{ .Image }} into the tag")
		return
	}
	taken[key] = image.Name
}

// samples are two commits of no repository. A tag that is right for both
// contains the commit and not a text that happens to look like one.
func samples() [2]string {
	return [2]string{"8b07d4aa0c115f7e2c3d9b64a1f0e5d2c7b89a36", "3f2a9c1e77d0b4856e19fa20c3d8b7651f04e9aa"}
}

// repository checks host[:port]/path and returns it in its full form.
func (l *loader) repository(at place, repository string) (string, bool) {
	if !l.notEmpty(at, repository) {
		return "", false
	}
	host, path, ok := strings.Cut(repository, "/")
	switch {
	case strings.Contains(repository, "://"):
		l.flag(at, "has a scheme", "write host/path; insecure: true allows plain http")
		return "", false
	case strings.Contains(host, "@"):
		l.flag(at, "holds a credential", "put it into a secret and name that by secretRef")
		return "", false
	case !ok || path == "" || !registryHost(host):
		l.flag(at, quote(repository)+" does not name a registry and a path in it", "as in registry.example.com/apps/podinfo")
		return "", false
	}
	parsed, err := name.NewRepository(repository)
	if err != nil {
		l.flag(at, quote(repository)+" is no repository", "host[:port]/path in lower case, without a tag or digest")
		return "", false
	}
	return parsed.Name(), true
}

// registryHost tells a registry's host from the first part of a path on Docker
// Hub, as all tools do: by a dot, a port, or the name localhost.
func registryHost(host string) bool {
	return host == "localhost" || strings.ContainsAny(host, ".:") && !strings.HasPrefix(host, ".") && !strings.HasPrefix(host, ":")
}
