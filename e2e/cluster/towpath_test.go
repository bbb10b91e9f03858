//go:build cluster

package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/e2e/lab"
)

const (
	towpathNamespace = "towpath"
	buildsNamespace  = "towpath-builds"
	appsNamespace    = "apps"
)

// installation is Towpath in the cluster, as somebody runs it who uses Flux:
// deploy/ with an overlay, an application's repository over HTTPS, the GitOps
// repository over SSH, a registry over TLS, each behind a credential.
type installation struct {
	*Cluster
	platform *lab.Registry // of Towpath's own images
	registry *lab.Registry // of applications
	bases    *lab.Registry // of what they are built on
	apps     *lab.Git
	fleet    *lab.SSH
	app      *lab.Work // the developer's clone, on master
	gitops   *lab.Work // the platform engineer's, on main
	binary   string
	base     string // what applications are built on, pinned
	dir      string
	image    string // Towpath's own that runs, pinned
	kaniko   string // kaniko's, pinned
}

var installed struct {
	sync.Mutex
	*installation
}

// theInstallation is the one that all tests share: the first makes it, and it
// lives as long as the cluster.
func theInstallation(t *testing.T) *installation {
	t.Helper()
	installed.Lock()
	defer installed.Unlock()
	if installed.installation == nil {
		if err := host.Run(func(host testing.TB) { installed.installation = install(host, shared) }); err != nil {
			t.Fatal(err)
		}
	}
	return installed.installation
}

// install brings everything up to where a first commit waits to be built, and
// starts Towpath.
func install(t testing.TB, c *Cluster) *installation {
	t.Helper()
	i := &installation{Cluster: c, dir: t.TempDir()}
	if c.Node == nil {
		// What is made below would replace what somebody's Flux applies from.
		found, err := c.TryKubectl(t.Context(), t, "", "-n", fluxNamespace, "get", "gitrepositories,kustomizations", "-o", "name")
		if err != nil || found != "" {
			t.Fatalf("the cluster that was given has to have Flux's controllers and nothing that they apply: %s%v", found, err)
		}
	}
	i.binary = buildStatic(t, i.dir)
	i.platform = c.Registry(t, lab.RegistryOptions{})
	// A cluster that was given pulls over plain HTTP, and trusts no authority of ours.
	i.registry = c.Registry(t, lab.RegistryOptions{TLS: c.Node != nil, Username: "apps", Password: "only-publish-knows"})
	i.bases = c.Registry(t, lab.RegistryOptions{TLS: true, Username: "bases", Password: "fetch-knows-this-too"})
	i.apps = c.Git(t, lab.GitOptions{TLS: true, Username: "reader", Password: "only-fetch-knows"})
	i.fleet = c.SSH(t, lab.SSHOptions{})
	i.base = i.bases.Push(t, "busybox", "1", lab.Busybox(t))

	i.apps.Create("apps/podinfo.git")
	i.app = lab.NewWork(t, i.apps.Dir("apps/podinfo.git"))
	i.app.Git("switch", "--quiet", "--orphan", "master")
	i.commit("green")
	i.fleet.Create("fleet.git")
	i.gitops = lab.NewWork(t, i.fleet.Dir("fleet.git"))
	i.gitops.Git("switch", "--quiet", "--orphan", "main")
	i.gitops.Commit(lab.Commit{Message: "Deploy podinfo", Files: map[string]string{
		"clusters/production/podinfo.yaml": i.manifest(),
	}})
	i.gitops.Push("HEAD:main")

	i.secrets(t)
	i.Apply(t, Followed(i.fleet.RepoURL("fleet.git")))
	i.image = i.platform.Push(t, "towpath/towpath", "1", lab.Towpath(t, i.binary))
	i.kaniko = i.platform.Push(t, "towpath/kaniko", "1", lab.Kaniko(t))
	i.deploy(t, "")
	return i
}

// commit is a commit of the application's that a person can tell in its pod.
func (i *installation) commit(colour string) (hash string) {
	hash = i.app.Commit(lab.Commit{
		Message: "Say hello in " + colour, Author: "Dana Developer <dana@example.com>",
		Files: map[string]string{
			"Dockerfile": "FROM " + i.base + ` AS build
WORKDIR /src
COPY . .
RUN mkdir /site && sed "s/@COLOUR@/$(cat colour)/" page.html > /site/index.html && chown -R 1000:1000 /site

FROM ` + i.base + `
COPY --from=build /site /site
USER 1000
CMD ["httpd", "-f", "-p", "8080", "-h", "/site"]
`,
			"page.html": "<h1 style=\"color: @COLOUR@\">hello</h1>\n",
			"colour":    colour + "\n",
		},
	})
	i.app.Push("HEAD:master")
	return hash
}

// manifest is the application in the GitOps repository, before Towpath has ever
// touched it: no pod of it can run.
func (i *installation) manifest() string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: podinfo, namespace: %[1]s}
spec:
  replicas: 1
  strategy: {type: Recreate}
  selector: {matchLabels: {app: podinfo}}
  template:
    metadata: {labels: {app: podinfo}}
    spec:
      terminationGracePeriodSeconds: 0
      imagePullSecrets: [{name: registry}]
      containers:
      - name: podinfo
        image: %[2]s:none # {"$imagepolicy": "flux-system:podinfo"}
`, appsNamespace, i.registry.Repository("apps/podinfo"), i.bases.Host)
}

// secrets makes the namespaces and what is secret in them.
func (i *installation) secrets(t testing.TB) {
	t.Helper()
	i.Namespaces(t)
	i.Kubectl(t, "", "create", "namespace", appsNamespace)
	i.SigningKeys(t, i.binary, filepath.Join(i.dir, "secrets"))
	i.Secret(t, towpathNamespace, "fleet", i.fleet.Secret())
	i.Secret(t, fluxNamespace, "flux-system", i.fleet.Secret())
	apps := map[string][]byte{"username": []byte("reader"), "password": []byte("only-fetch-knows"), "ca.crt": i.apps.CA.PEM}
	for _, namespace := range []string{towpathNamespace, buildsNamespace} {
		i.Secret(t, namespace, "apps", apps)
		i.Secret(t, namespace, "registry", i.registry.Secret())
	}
	i.Secret(t, buildsNamespace, "bases", i.bases.Secret())
	pull := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "registry"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: i.registry.DockerConfig()},
	}
	if _, err := i.Client.CoreV1().Secrets(appsNamespace).Create(t.Context(), pull, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// deploy applies deploy/ with an overlay, as its README says, and starts Towpath
// anew where it ran. More is added to the config.
func (i *installation) deploy(t testing.TB, more string) {
	t.Helper()
	i.Deploy(t, i.overlay("overlay", i.config()+more))
	i.rolledOut(t)
}

// overlay is what this installation has over deploy/, in a directory of its own
// or another.
func (i *installation) overlay(dir, config string) Overlay {
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(i.dir, dir)
	}
	return Overlay{
		Dir: dir, Towpath: i.image, Kaniko: i.kaniko, Config: config,
		Authorities: slices.Concat(i.registry.CA, i.bases.CA, i.apps.CA.PEM), Secrets: []string{"fleet", "apps", "registry"},
	}
}

// rolledOut waits until every copy of Towpath that should run is ready.
func (i *installation) rolledOut(t testing.TB) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	if _, err := i.TryKubectl(ctx, t, "", "-n", towpathNamespace, "rollout", "status", "--timeout=5m", "deployment/towpath"); err != nil {
		t.Fatalf("%v\n%s", err, i.logs(ctx, t))
	}
}

func (i *installation) config() string {
	return fmt.Sprintf(`apiVersion: towpath.dev/v1
kind: Config
interval: 1s
signing:
  provenance: {secretRef: {name: towpath-provenance}}
gitops:
  - name: production
    url: %[1]s
    secretRef: {name: fleet}
    git:
      checkout: {ref: {branch: main}}
      commit:
        author: {name: Towpath, email: towpath@example.com}
        signingKey: {type: ssh, secretRef: {name: towpath-signing}}
    update: {strategy: Setters, path: ./clusters/production}
    flux: {gitRepository: {namespace: flux-system, name: flux-system}}
builder:
  type: kubernetes
  egress: [%[2]s, %[3]s, %[9]s]
  kaniko: {image: %[4]s}
  kubernetes:
    image: %[5]s # {"$imagepolicy": "flux-system:towpath"}
    resources: {requests: {cpu: 100m, memory: 128Mi, ephemeral-storage: 64Mi}, limits: {memory: 4Gi, ephemeral-storage: 8Gi}}
    caBundle: {configMap: authorities}
images:
  - name: podinfo
    source: {url: %[6]s, secretRef: {name: apps}}
    build: {pull: {secretRef: {name: bases}, allow: [%[7]s]}}
    destination: {repository: %[8]s, secretRef: {name: registry}, insecure: %[10]t}
    policy: flux-system:podinfo
`, i.fleet.RepoURL("fleet.git"), i.registry.Host, strings.TrimPrefix(i.apps.URL, "https://"), i.kaniko, i.image,
		i.apps.RepoURL("apps/podinfo.git"), i.bases.Repository("busybox"), i.registry.Repository("apps/podinfo"), i.bases.Host, i.Node == nil)
}

// bumps are the source commits that the ledger's and the branch's bumps of the
// application are of, the branch's oldest first.
func (i *installation) bumps(t testing.TB) (ledger string, branch []string) {
	t.Helper()
	dir := i.fleet.Dir("fleet.git")
	trailers := "--format=%(trailers:key=Towpath-Image,valueonly,separator=%x2C) %(trailers:key=Towpath-Commit,valueonly,separator=%x2C)"
	entry, _ := lab.TryGit(dir, "show", "-s", trailers, "refs/towpath/production/podinfo")
	_, ledger, _ = strings.Cut(strings.TrimSpace(entry), " ")
	for line := range strings.Lines(lab.RunGit(t, dir, "log", "--reverse", trailers, "main")) {
		if image, commit, _ := strings.Cut(strings.TrimSpace(line), " "); image == "podinfo" {
			branch = append(branch, commit)
		}
	}
	return ledger, branch
}

// once tells whether every source commit was promoted once, in the
// order that they have, and the newest is the ledger's.
func (i *installation) once(t *testing.T) {
	t.Helper()
	ledger, branch := i.bumps(t)
	if ledger != i.app.Head() {
		t.Errorf("the ledger has %s, want %s", ledger, i.app.Head())
	}
	history := strings.Fields(i.app.Git("log", "--reverse", "--format=%H"))
	if !cmp.Equal(branch, history) {
		t.Errorf("bumps of %v, want one of each commit:\n%v", branch, history)
	}
}

// logs are what Towpath printed, in all of its pods.
func (i *installation) logs(ctx context.Context, t testing.TB) string {
	t.Helper()
	logs, err := i.TryKubectl(ctx, t, "", "-n", towpathNamespace, "logs", "--all-containers", "--prefix", "--tail=200", "-l", "app.kubernetes.io/name=towpath")
	if err != nil {
		return err.Error()
	}
	return logs
}

// buildStatic compiles towpath as its image holds it.
func buildStatic(t testing.TB, dir string) string {
	t.Helper()
	binary := filepath.Join(dir, "towpath")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", binary, "towpath.dev/towpath/cmd/towpath")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}
