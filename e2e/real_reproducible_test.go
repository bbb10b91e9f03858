package e2e

import (
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// TestSameCommitSameImage builds one commit twice, into two repositories, and
// wants one digest. The commit's time is in the image's config, and every file
// of the context has it; but kaniko's COPY gives what it writes the time of
// day, as RUN does. Its --reproducible takes these times out.
func TestSameCommitSameImage(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{
		Binary: binary,
		Config: func(w *lab.World, config string) string {
			config = replaceOnce(t, config, replacement{"kaniko: {", "kaniko: {args: [--reproducible], "})
			at := strings.Index(config, "  - name: podinfo\n")
			return config + strings.NewReplacer(
				"name: podinfo", "name: again", "flux-system:podinfo", "flux-system:again",
				w.Repository(), w.Registry.Repository("apps/again"),
			).Replace(config[at:])
		},
		Fleet: func(_ *lab.World, manifests map[string]string) {
			manifests["clusters/production/again.yaml"] = "image: none # {\"$imagepolicy\": \"flux-system:again\"}\n"
		},
	})
	w.MustRun("run", "--once")
	digest := map[string]string{}
	for _, image := range []string{"podinfo", "again"} {
		_, digest[image], _ = strings.Cut(bumpedRef(t, w, image), "@")
	}
	if digest["podinfo"] == "" || digest["podinfo"] != digest["again"] {
		t.Errorf("one commit became %v", digest)
	}
}

// bumpedRef is the reference that an image's newest bump put into the GitOps
// repository.
func bumpedRef(t *testing.T, w *lab.World, image string) string {
	t.Helper()
	bump, _ := w.Ledger(image)
	return strings.TrimSpace(lab.RunGit(t, w.Git.Dir("fleet.git"), "show", "-s", "--format=%(trailers:key=Towpath-Ref,valueonly)", bump))
}
