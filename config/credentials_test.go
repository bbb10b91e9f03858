package config_test

import (
	"net/url"
	"path"
	"strings"
	"testing"

	"towpath.dev/towpath/config"
)

func credentials(matches ...string) *config.Config {
	c := &config.Config{}
	for _, match := range matches {
		c.Credentials = append(c.Credentials, config.Credential{Match: match, SecretRef: config.SecretRef{Name: match}})
	}
	return c
}

func TestGitSecret(t *testing.T) {
	t.Parallel()
	c := credentials(
		"https://git.example.com/",
		"https://git.example.com/apps",
		"https://git.example.com/apps/deep/",
		"https://git.example.com:8443/",
		"ssh://git.example.com/",
		"ssh://deploy@git.example.com/",
		"git@git.example.com:platform/",
		"git.example.com/", // a registry
		"ssh://[::1]:2222/",
	)
	for url, want := range map[string]string{
		"https://git.example.com/x.git":                 "https://git.example.com/",
		"https://GIT.Example.com:443/x.git":             "https://git.example.com/",
		"HTTPS://git.example.com/apps/podinfo.git":      "https://git.example.com/apps",
		"https://git.example.com//apps//podinfo.git":    "https://git.example.com/apps",
		"https://git.example.com/apps":                  "https://git.example.com/apps",
		"https://git.example.com/apps-evil/podinfo.git": "https://git.example.com/",
		"https://git.example.com/Apps/podinfo.git":      "https://git.example.com/",
		"https://git.example.com/apps%2fx/podinfo.git":  "https://git.example.com/",
		"https://git.example.com/%61pps/podinfo.git":    "https://git.example.com/apps",
		"https://git.example.com/apps/deep/er/x":        "https://git.example.com/apps/deep/",
		"https://git.example.com/apps/deeper/x":         "https://git.example.com/apps",
		"https://git.example.com/apps/../x.git":         "",
		"https://git.example.com.evil.com/apps/x":       "",
		"https://git.example.com@evil.com/apps/x":       "",
		"https://evil.com/git.example.com/apps/x":       "",
		"https://git.example.com:8443/x.git":            "https://git.example.com:8443/",
		"https://git.example.com:9443/x.git":            "",
		"http://git.example.com/apps/x.git":             "",
		"ssh://git@git.example.com/apps/x.git":          "ssh://git.example.com/",
		"ssh://deploy@git.example.com:22/apps/x.git":    "ssh://deploy@git.example.com/",
		"git@git.example.com:apps/x.git":                "ssh://git.example.com/",
		"git@git.example.com:platform/fleet.git":        "git@git.example.com:platform/",
		"ssh://git@git.example.com/platform/fleet.git":  "git@git.example.com:platform/",
		"ssh://root@git.example.com/platform/fleet.git": "ssh://git.example.com/",
		"ssh://git@[::1]:2222/fleet.git":                "ssh://[::1]:2222/",
		"not a url":                                     "",
	} {
		if got := c.GitSecret(url, ""); got != want {
			t.Errorf("%s: secret %q, want %q", url, got, want)
		}
	}
	if got := c.GitSecret("https://git.example.com/apps/x.git", "own"); got != "own" {
		t.Errorf("explicit: %q", got)
	}
}

func TestRegistrySecret(t *testing.T) {
	t.Parallel()
	c := credentials("registry.example.com/", "Registry.Example.com/apps", "registry.example.com:5000", "docker.io/acme", "https://registry.example.com/apps/deep", "localhost/x")
	for repository, want := range map[string]string{
		"registry.example.com/x":            "registry.example.com/",
		"registry.example.com/apps/podinfo": "Registry.Example.com/apps",
		"registry.example.com/apps-evil/x":  "registry.example.com/",
		"registry.example.com:5000/apps/x":  "registry.example.com:5000",
		"registry.example.com:5001/apps/x":  "",
		"registry.example.com.evil.com/x":   "",
		"docker.io/acme/app":                "docker.io/acme",
		"index.docker.io/acme/app":          "docker.io/acme",
		"docker.io/nginx":                   "",
		"localhost/x/y":                     "localhost/x",
		"UPPER/..":                          "",
	} {
		if got := c.RegistrySecret(repository, ""); got != want {
			t.Errorf("%s: secret %q, want %q", repository, got, want)
		}
	}
	if got := c.RegistrySecret("registry.example.com/x", "own"); got != "own" {
		t.Errorf("explicit: %q", got)
	}
}

// FuzzGitSecret: a credential never goes to another host, another scheme or
// another path than it is for, as Go's own HTTP client reads the URL.
func FuzzGitSecret(f *testing.F) {
	for _, seed := range []string{
		"https://git.example.com/apps/x.git", "https://git.example.com/apps-evil/x", "https://git.example.com/apps/../x",
		"https://git.example.com@evil.com/apps/x", "https://git.example.com:443/apps", "https://evil.com\\@git.example.com/apps/",
		"git@git.example.com:apps/x.git", "git@[::1]:x", "https://git.example.com/%61pps/", "://", "ssh:///apps", "https://git.example.com/apps/.%2e/x",
	} {
		f.Add(seed)
	}
	c := credentials("https://git.example.com/apps/")
	f.Fuzz(func(t *testing.T, raw string) {
		if c.GitSecret(raw, "") == "" {
			return
		}
		u, err := url.Parse(raw)
		if err != nil {
			t.Fatalf("%q is no URL and has a credential", raw)
		}
		clean := path.Clean(u.Path) + "/"
		if !strings.EqualFold(u.Scheme, "https") || !strings.EqualFold(u.Hostname(), "git.example.com") || u.User != nil || !strings.HasPrefix(clean, "/apps/") {
			t.Fatalf("%q has a credential that is not for it", raw)
		}
	})
}
