package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"towpath.dev/towpath/config"
)

// A message template that was written for Flux's automation names the automation
// by namespace and name: ours has the namespace of the target's GitRepository.
func TestTargetHasTheNamespaceOfItsGitRepository(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "towpath.yaml")
	if err := os.WriteFile(file, []byte(`apiVersion: towpath.dev/v1
kind: Config
secrets: secrets
cache: cache
signing: {provenance: {secretRef: {name: provenance}}}
gitops:
  - name: production
    url: https://git.example.com/fleet.git
    git:
      checkout: {ref: {branch: main}}
      commit: {author: {email: towpath@example.com}, signingKey: {type: ssh, secretRef: {name: signing}}}
    flux: {gitRepository: {namespace: fleet-system, name: fleet}}
images: []
`), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Options{File: file})
	if err != nil {
		t.Fatal(err)
	}
	w := newWiring(slog.New(slog.DiscardHandler), nil)
	defer w.close()
	target, err := w.openFleet(cfg, &cfg.GitOps[0])
	if err != nil {
		t.Fatal(err)
	}
	if target.Namespace != "fleet-system" {
		t.Errorf("the target's namespace is %q, want that of its GitRepository", target.Namespace)
	}
}
