package config

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"k8s.io/apimachinery/pkg/util/validation"
)

// validate reports what is missing, contradictory or beyond this version. What
// the decoder reported already is not reported again.
func (l *loader) validate() {
	c := &l.config
	l.head(l.file, c.APIVersion, c.Kind)
	l.duration("interval", c.Interval)
	l.notEmpty(l.at("secrets"), c.Secrets)
	l.notEmpty(l.at("cache"), c.Cache)
	l.credentials()
	if at := l.at("signing.provenance.secretRef"); c.Signing.Provenance.SecretRef.Name == "" && !l.report.written(at) {
		l.flag(at, "is missing: every image is vouched for", "`towpath keygen` makes a key")
	} else {
		l.secretRef(at, c.Signing.Provenance.SecretRef, true)
	}
	l.builder(&c.Builder)
	l.events(l.at("events.address"), c.Events.Address)
	if len(c.GitOps) == 0 {
		l.flag(l.at("gitops"), "is missing", "a target says where bumps are committed")
	}
	l.targets()
	if name := c.Defaults.Name; name != "" || l.report.written(l.at("defaults.name")) {
		l.flag(l.at("defaults.name"), "has no default: a name is unique", "")
	}
	l.images()
	l.together()
}

// at is a place in the config's own file.
func (l *loader) at(path string) place { return place{l.file, path} }

// flag reports a problem unless the place is known to be wrong.
func (l *loader) flag(at place, text, hint string) {
	if !l.report.blamed(at) {
		l.report.add(at, text, hint)
	}
}

// head checks what a file says it is.
func (l *loader) head(file, apiVersion, kind string) {
	l.mustBe(place{file, "apiVersion"}, apiVersion, APIVersion)
	l.mustBe(place{file, "kind"}, kind, Kind)
}

func (l *loader) mustBe(at place, value, want string) {
	hint := "it has to be " + want
	switch {
	case value == "" && !l.report.written(at):
		l.flag(at, "is missing", hint)
	case value != want:
		l.flag(at, quote(value)+" is not "+want, "")
	}
}

func (l *loader) notEmpty(at place, value string) bool {
	switch {
	case value != "":
		return true
	case l.report.written(at):
		l.flag(at, "is empty", "")
	default:
		l.flag(at, "is missing", "")
	}
	return false
}

func (l *loader) oneOf(at place, value string, allowed ...string) {
	if l.notEmpty(at, value) && !slices.Contains(allowed, value) {
		l.flag(at, quote(value)+" is not "+strings.Join(allowed, " or "), "")
	}
}

func (l *loader) duration(path string, value time.Duration) {
	if value < time.Second || value > 24*time.Hour {
		l.flag(l.at(path), value.String()+" is not between 1s and 24h", "")
	}
}

func (l *loader) within(path string, value, least, most int64) {
	if value < least || value > most {
		l.flag(l.at(path), fmt.Sprintf("%d is not between %d and %d", value, least, most), "")
	}
}

// label checks a name that becomes part of a ref, a directory or a Kubernetes
// object.
func (l *loader) label(at place, value string) bool {
	if !l.notEmpty(at, value) {
		return false
	}
	if len(validation.IsDNS1123Label(value)) > 0 {
		l.flag(at, quote(value)+" is no DNS label", "up to 63 lower-case letters, digits and -, the first and last no -")
		return false
	}
	return true
}

func (l *loader) secretRef(at place, ref SecretRef, required bool) {
	if required || ref.Name != "" || l.report.written(at) {
		l.label(place{at.file, step(at.path, "name")}, ref.Name)
	}
}

// verify refuses what this version cannot enforce.
func (l *loader) verify(at place, mode string) {
	switch mode {
	case VerifyNone:
	case "head", "history":
		l.flag(at, quote(mode)+" is not in this version", "this version checks descent alone: mode none")
	default:
		l.oneOf(at, mode, VerifyNone)
	}
}

func (l *loader) credentials() {
	first := map[string]int{}
	for i, credential := range l.config.Credentials {
		path := index("credentials", i)
		l.secretRef(l.at(path+".secretRef"), credential.SecretRef, true)
		at := l.at(path + ".match")
		if !l.notEmpty(at, credential.Match) {
			continue
		}
		var key string
		if registryMatch(credential.Match) {
			host, segments := splitRegistry(credential.Match)
			if !registryHost(host) {
				l.flag(at, "names no registry", "host/path for a registry, https://host/path or ssh://host/path for git")
				continue
			}
			key = strings.Join(append([]string{host}, segments...), "/")
		} else {
			match, err := parseRemote(credential.Match)
			if err != nil {
				l.flag(at, err.Error(), "")
				continue
			}
			l.plainHTTP(at, match)
			key = match.scheme + "://" + match.user + "@" + strings.Join(append([]string{match.host}, match.segments...), "/")
		}
		if other, again := first[key]; again {
			l.flag(at, "matches the same as "+index("credentials", other)+".match", "")
			continue
		}
		first[key] = i
	}
}

// gitURL checks the URL of a repository.
func (l *loader) gitURL(at place, url string) {
	if !l.notEmpty(at, url) {
		return
	}
	parsed, err := parseRemote(url)
	switch {
	case err != nil && err.Error() == "holds a credential":
		l.flag(at, "holds a credential", "put it into a secret and name that by secretRef")
	case err != nil:
		l.flag(at, err.Error(), "")
	case len(parsed.segments) == 0:
		l.flag(at, "names no repository", "")
	default:
		l.plainHTTP(at, parsed)
	}
}

func (l *loader) plainHTTP(at place, r remote) {
	if r.scheme == "http" && !loopback(r.host) {
		l.flag(at, "is plain http, which only this machine's loopback may use", "use https or ssh")
	}
}

// branch checks the name of a branch.
func (l *loader) branch(at place, name string) bool {
	if !l.notEmpty(at, name) {
		return false
	}
	if short, ok := strings.CutPrefix(name, "refs/heads/"); ok {
		l.flag(at, quote(name)+" is a ref, not a branch", "write "+short)
		return false
	}
	if name == "HEAD" || plumbing.NewBranchReferenceName(name).Validate() != nil {
		l.flag(at, quote(name)+" is no name that git allows for a branch", "")
		return false
	}
	return true
}

// inside checks a path that must not leave what it is relative to.
func (l *loader) inside(at place, p string) {
	switch clean := path.Clean(p); {
	case path.IsAbs(p):
		l.flag(at, quote(p)+" is absolute", "paths start at the repository's root: "+strings.TrimLeft(clean, "/"))
	case slices.Contains(strings.Split(p, "/"), ".."):
		l.flag(at, quote(p)+" holds ..", "")
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }), clean == ".git", strings.HasPrefix(clean, ".git/"):
		l.flag(at, quote(p)+" is no path inside a repository", "")
	}
}
