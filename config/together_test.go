package config_test

import (
	"strings"
	"testing"
)

// Targets of one repository that do not stand in each other's way load: paths
// apart, policies apart, branches apart, or another repository.
func TestTogether(t *testing.T) {
	t.Parallel()
	const image = `  - name: %
    source: {url: "https://git.example.com/%.git"}
    destination: {repository: registry.example.com/%}
    policy: flux-system:%
    gitops: [TARGETS]
`
	images := func(targets ...string) string {
		all := "images:\n"
		for i, name := range []string{"blue", "green"} {
			all += strings.ReplaceAll(strings.ReplaceAll(image, "%", name), "TARGETS", targets[min(i, len(targets)-1)])
		}
		return all
	}
	target := func(name, branch, more, path string) string {
		return `  - name: ` + name + `
    url: git@git.example.com:platform/fleet.git
    git:
      checkout: {ref: {branch: ` + branch + `}}
      commit: {author: {email: towpath@example.com}, signingKey: {secretRef: {name: signing}}}
      push: {` + more + `}
    update: {path: ` + path + `}
`
	}
	head, _, _ := strings.Cut(small, "  - name:")
	for name, text := range map[string]string{
		"paths apart":           target("a", "main", "", "clusters/a") + target("b", "main", "", "clusters/ab") + images("a, b"),
		"policies apart":        target("a", "main", "", ".") + target("b", "main", "", "clusters") + images("a", "b"),
		"branches apart":        target("a", "main", "", ".") + target("b", "staging", "", ".") + images("a, b"),
		"a repository each":     target("a", "main", "", ".") + strings.Replace(target("b", "main", "", "."), "fleet.git", "other.git", 1) + images("a, b"),
		"review branches apart": target("a", "main", `branch: "a-review/{{ .Image }}"`, "a") + target("b", "main", `branch: "b-review/{{ .Image }}"`, "b") + images("a, b"),
		"one template of review branches, images apart": target("a", "main", `branch: "towpath/{{ .Image }}"`, "a") + target("b", "main", `branch: "towpath/{{ .Image }}"`, "b") + images("a", "b"),
		"one mirror of one branch":                      target("a", "main", `refspec: "HEAD:refs/heads/auto"`, "a") + target("b", "main", `refspec: "HEAD:refs/heads/auto"`, "b") + images("a, b"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			load(t, map[string]string{"towpath.yaml": head + text})
		})
	}
}
