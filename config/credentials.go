package config

import (
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// GitSecret is the name of the secret that serves a repository's URL: the one
// named explicitly, or that of the credential with the longest match; empty:
// there is none.
func (c *Config) GitSecret(url, explicit string) string {
	if explicit != "" {
		return explicit
	}
	wanted, err := parseRemote(url)
	if err != nil {
		return ""
	}
	secret, longest := "", -1
	for _, credential := range c.Credentials {
		match, err := parseRemote(credential.Match)
		if err != nil || registryMatch(credential.Match) {
			continue
		}
		if length := match.covers(wanted); length > longest {
			secret, longest = credential.SecretRef.Name, length
		}
	}
	return secret
}

// RegistrySecret is the name of the secret that serves a registry's
// repository, host[:port]/path: the one named explicitly, or that of the
// credential with the longest match; empty: there is none, and the standard
// keychains serve.
func (c *Config) RegistrySecret(repository, explicit string) string {
	if explicit != "" {
		return explicit
	}
	wanted, err := name.NewRepository(repository)
	if err != nil {
		return ""
	}
	host, path := strings.ToLower(wanted.RegistryStr()), strings.Split(wanted.RepositoryStr(), "/")
	secret, longest := "", -1
	for _, credential := range c.Credentials {
		if !registryMatch(credential.Match) {
			continue
		}
		matchHost, segments := splitRegistry(credential.Match)
		if matchHost == host && startsWith(path, segments) && len(segments) > longest {
			secret, longest = credential.SecretRef.Name, len(segments)
		}
	}
	return secret
}

// covers tells how closely the prefix matches a URL; negative: not at all.
// A path segment more counts for more than the user.
func (match remote) covers(wanted remote) int {
	if match.scheme != wanted.scheme || match.host != wanted.host || !startsWith(wanted.segments, match.segments) {
		return -1
	}
	switch match.user {
	case "":
		return 2 * len(match.segments)
	case wanted.user:
		return 2*len(match.segments) + 1
	default:
		return -1
	}
}

// registryMatch tells a registry's prefix from a URL's: it has neither a
// scheme nor a user, and what may follow its first colon is a port.
func registryMatch(match string) bool {
	host, _, _ := strings.Cut(match, "/")
	if strings.Contains(match, "://") || strings.Contains(host, "@") {
		return false
	}
	if end := strings.LastIndex(host, "]"); end >= 0 {
		host = host[end+1:]
	}
	_, port, colon := strings.Cut(host, ":")
	return !colon || port != "" && !strings.ContainsFunc(port, func(r rune) bool { return r < '0' || r > '9' })
}

// splitRegistry reads host/path/ as a registry and the path's segments.
func splitRegistry(match string) (host string, segments []string) {
	host, path, _ := strings.Cut(match, "/")
	if host = strings.ToLower(host); host == "docker.io" {
		host = name.DefaultRegistry // as go-containerregistry calls it
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment != "" {
			segments = append(segments, segment)
		}
	}
	return host, segments
}

func startsWith(path, prefix []string) bool {
	return len(path) >= len(prefix) && slices.Equal(path[:len(prefix)], prefix)
}
