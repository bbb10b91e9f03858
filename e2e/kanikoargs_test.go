package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko/executor"
)

// TestConfigAllowsKanikosArguments: the config, which imports nothing of kaniko,
// lets pass the arguments that a build is given, and no other.
func TestConfigAllowsKanikosArguments(t *testing.T) {
	t.Parallel()
	loads := func(arg string) error {
		path := filepath.Join(t.TempDir(), "towpath.yaml")
		lab.WriteFile(t, path, []byte(`apiVersion: towpath.dev/v1
kind: Config
signing: {provenance: {secretRef: {name: provenance}}}
gitops:
  - name: production
    url: git@git.example.com:platform/fleet.git
    git:
      checkout: {ref: {branch: main}}
      commit: {author: {email: towpath@example.com}, signingKey: {secretRef: {name: signing}}}
builder: {kaniko: {args: ["`+arg+`"]}}
images:
  - name: podinfo
    source: {url: "https://git.example.com/apps/podinfo.git"}
    destination: {repository: registry.example.com/apps/podinfo}
    policy: flux-system:podinfo
`))
		_, err := config.Load(config.Options{File: path})
		return err
	}
	allowed := executor.Allowed()
	if len(allowed) < 10 {
		t.Fatalf("%d arguments are allowed: the test would see nothing", len(allowed))
	}
	for _, name := range allowed {
		if err := loads("--" + name + "=x"); err != nil {
			t.Errorf("builds may have --%s, and the config refuses it: %v", name, err)
		}
	}
	for _, arg := range []string{"--destination=x", "--no-push=false", "--cache-dir=/x", "--insecure", "--build-arg=A=b", "--registry-mirror=user:password@mirror.example.com", "x"} {
		if len(executor.CheckArguments([]string{arg})) == 0 {
			t.Errorf("builds may have %s", arg)
		}
		if err := loads(arg); err == nil || !strings.Contains(err.Error(), "builder.kaniko.args") {
			t.Errorf("the config allows %s: %v", arg, err)
		}
	}
}
