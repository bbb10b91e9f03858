package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/e2e/lab"
)

// Overlay is what an installation of Towpath has over deploy/, as the README
// there says.
type Overlay struct {
	Dir         string   // takes the overlay
	Towpath     string   // Towpath's own image, pinned
	Kaniko      string   // kaniko's
	Config      string   // towpath.yaml
	Authorities []byte   // that builds trust
	Secrets     []string // that the daemon reads besides its keys
}

// Deploy applies deploy/ with an overlay, and starts Towpath anew where it ran.
// It does not wait until Towpath is ready.
func (c *Cluster) Deploy(t testing.TB, o Overlay) {
	t.Helper()
	again := lab.Exists(o.Dir)
	o.write(t)
	c.Kubectl(t, "", "apply", "--server-side", "--force-conflicts", "-k", o.Dir)
	if again {
		c.Kubectl(t, "", "-n", "towpath", "rollout", "restart", "deployment/towpath")
	}
}

// write makes the overlay's files, of which a GitOps repository could hold each:
// the markers of policy flux-system:towpath are where Towpath's own image is.
func (o Overlay) write(t testing.TB) {
	t.Helper()
	if !lab.Exists(o.Dir) {
		if err := os.CopyFS(filepath.Join(o.Dir, "base"), os.DirFS(repository(t, "deploy"))); err != nil {
			t.Fatal(err)
		}
	}
	var mounts strings.Builder
	for _, kind := range []string{
		"{op: add, path: /spec/template/spec/volumes/-, value: {name: %[1]s, secret: {secretName: %[1]s, defaultMode: 0440}}}",
		"{op: add, path: /spec/template/spec/containers/0/volumeMounts/-, value: {name: %[1]s, mountPath: /etc/towpath/secrets/%[1]s, readOnly: true}}",
	} {
		for _, secret := range o.Secrets {
			fmt.Fprintf(&mounts, "      - "+kind+"\n", secret)
		}
	}
	name, digest, _ := strings.Cut(o.Towpath, "@")
	for file, content := range map[string]string{
		"towpath.yaml": o.Config,
		"ca.crt":       string(o.Authorities),
		"kustomization.yaml": fmt.Sprintf(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [base]
components: [base/flux]
images:
  - name: towpath
    newName: %[1]s # {"$imagepolicy": "flux-system:towpath:name"}
    digest: %[2]s # {"$imagepolicy": "flux-system:towpath:digest"}
configMapGenerator:
  # As init writes it: with a hash, kustomize would also rename the Lease in the Role.
  - {name: towpath, namespace: towpath, files: [towpath.yaml], options: {disableNameSuffixHash: true}}
  - {name: authorities, namespace: towpath-builds, files: [ca.crt], options: {disableNameSuffixHash: true}}
patches:
  - path: admission.yaml
  - target: {kind: Deployment, name: towpath}
    patch: |
%[3]s`, name, digest, &mounts),
		"admission.yaml": fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata: {name: towpath-admission, namespace: towpath}
data:
  towpath: %s # {"$imagepolicy": "flux-system:towpath"}
  kaniko: %s
  caBundle: authorities
`, o.Towpath, o.Kaniko),
	} {
		lab.WriteFile(t, filepath.Join(o.Dir, file), []byte(content))
	}
}

// Namespaces makes those of deploy/, where Secrets go before anything else.
func (c *Cluster) Namespaces(t testing.TB) {
	t.Helper()
	c.Kubectl(t, "", "apply", "--server-side", "-f", repository(t, "deploy", "namespaces.yaml"))
}

// Secret makes one, unless it is there.
func (c *Cluster) Secret(t testing.TB, namespace, name string, keys map[string][]byte) {
	t.Helper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: keys}
	if _, err := c.Client.CoreV1().Secrets(namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// SigningKeys makes Towpath's two keys in a directory, and their Secrets.
func (c *Cluster) SigningKeys(t testing.TB, binary, dir string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), binary, "keygen", "--secrets", dir, "--email", "towpath@example.com").CombinedOutput(); err != nil {
		t.Fatalf("towpath keygen: %v\n%s", err, out)
	}
	for _, name := range []string{"towpath-signing", "towpath-provenance"} {
		c.Secret(t, "towpath", name, readSecret(t, filepath.Join(dir, name)))
	}
}

// repository is a path in this repository.
func repository(t testing.TB, elements ...string) string {
	t.Helper()
	tools, err := toolsDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(slices.Concat([]string{tools, "..", ".."}, elements)...)
}

func readSecret(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string][]byte{}
	for _, entry := range entries {
		if keys[entry.Name()], err = os.ReadFile(filepath.Join(dir, entry.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return keys
}
