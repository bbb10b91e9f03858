package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fluxcd/pkg/git"

	"towpath.dev/towpath/e2e/cluster"
	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/trust"
	"towpath.dev/towpath/gitops/wire"
)

// account is how everything in the cluster is reached over HTTPS.
const (
	accountName     = "bench"
	accountPassword = "measures-and-no-more"
)

const (
	towpathNamespace = "towpath"
	buildsNamespace  = "towpath-builds"
	fluxNamespace    = "flux-system"
	towpathAccount   = "system:serviceaccount:towpath:towpath"
)

// site is a Kubernetes node with Flux and everything that a Towpath in it deals
// with. The node serves every experiment; each installs Towpath anew, with a
// config and a GitOps repository of its own.
type site struct {
	*cluster.Cluster
	s        *stand
	platform *lab.Registry // of what the node itself pulls
	registry *lab.Registry // of applications and their base, over TLS
	pushes   *pushes       // what the registry sees
	towpath  string        // images, pinned
	kaniko   string
	base     string
	keys     string // directory of Towpath's own
	dir      string
}

// theSite is the node, started by the experiment that comes first.
func theSite(s *stand) *site {
	if s.site != nil {
		return s.site
	}
	s.say("starting a Kubernetes node with Flux")
	here := &site{Cluster: cluster.Up(s), s: s, dir: s.TempDir(), pushes: &pushes{}}
	if here.Node == nil {
		s.Fatal("what a Towpath in a cluster costs is measured on a node of our own: unset TOWPATH_E2E_KUBECONFIG")
	}
	here.platform = here.Registry(s, lab.RegistryOptions{})
	here.registry = here.Registry(s, lab.RegistryOptions{TLS: true, Username: accountName, Password: accountPassword})
	here.registry.Hook(here.pushes.watch)
	here.towpath = here.platform.Push(s, "towpath/towpath", "1", lab.Towpath(s, s.options.towpath))
	here.kaniko = here.platform.Push(s, "towpath/kaniko", "1", lab.Kaniko(s))
	here.base = here.registry.Push(s, "bases/busybox", "1", lab.Busybox(s))
	here.Namespaces(s)
	here.keys = filepath.Join(here.dir, "keys")
	here.SigningKeys(s, s.options.towpath, here.keys)
	for _, namespace := range []string{towpathNamespace, buildsNamespace} {
		here.Secret(s, namespace, "registry", here.registry.Secret())
	}
	here.Secret(s, buildsNamespace, "bases", here.registry.Secret())
	s.site = here
	return here
}

// estate is what one installation is about: a git server with the sources and
// the GitOps repository.
type estate struct {
	*site
	git   *lab.Git
	fleet *lab.Work // the platform engineer's clone, on main
}

// newEstate starts a git server whose requests a witness sees.
func (here *site) newEstate(seen func(http.Handler) http.Handler) *estate {
	e := &estate{site: here}
	e.git = here.Git(here.s, lab.GitOptions{TLS: true, Username: accountName, Password: accountPassword, Middleware: seen})
	e.git.Create("fleet.git")
	e.fleet = lab.NewWork(here.s, e.git.Dir("fleet.git"))
	e.fleet.Git("switch", "--quiet", "--orphan", "main")
	return e
}

// secret is how the estate's git server is reached.
func (e *estate) secret() map[string][]byte {
	return map[string][]byte{"username": []byte(accountName), "password": []byte(accountPassword), "ca.crt": e.git.CA.PEM}
}

// install makes Flux apply the GitOps repository and Towpath serve it, in place
// of those of the experiment before. More is added to the config; the images
// follow "images:".
func (e *estate) install(interval time.Duration, builder, images string) {
	s := e.s
	for _, namespace := range []string{towpathNamespace, buildsNamespace} {
		e.replaceSecret(namespace, "git", e.secret())
	}
	e.replaceSecret(fluxNamespace, "flux-system", e.secret())
	e.Apply(s, cluster.Followed(e.git.RepoURL("fleet.git")))
	config := fmt.Sprintf(`apiVersion: towpath.dev/v1
kind: Config
interval: %[1]s
signing:
  provenance: {secretRef: {name: towpath-provenance}}
gitops:
  - name: production
    url: %[2]s
    secretRef: {name: git}
    git:
      checkout: {ref: {branch: main}}
      commit:
        author: {name: Towpath, email: towpath@example.com}
        signingKey: {type: ssh, secretRef: {name: towpath-signing}}
    update: {strategy: Setters, path: ./clusters/production}
    flux: {gitRepository: {namespace: flux-system, name: flux-system}}
builder:
  type: kubernetes
  egress: [%[3]s, %[4]s]
  kaniko: {image: %[5]s}
  kubernetes:
    image: %[6]s
    caBundle: {configMap: authorities}
    resources: {requests: {cpu: 250m, memory: 128Mi, ephemeral-storage: 64Mi}, limits: {memory: 4Gi, ephemeral-storage: 8Gi}}
%[7]simages:
%[8]s`, interval, e.git.RepoURL("fleet.git"), e.registry.Host, strings.TrimPrefix(e.git.URL, "https://"), e.kaniko, e.towpath, builder, images)
	e.Deploy(s, cluster.Overlay{
		Dir: filepath.Join(e.dir, "overlay"), Towpath: e.towpath, Kaniko: e.kaniko, Config: config,
		Authorities: append(append([]byte(nil), e.registry.CA...), e.git.CA.PEM...), Secrets: []string{"git", "registry"},
	})
	e.Kubectl(s, "", "-n", towpathNamespace, "rollout", "status", "--timeout=120s", "deployment/towpath")
}

// remove ends Towpath and what it has built with.
func (e *estate) remove() {
	e.Kubectl(e.s, "", "-n", towpathNamespace, "scale", "--replicas=0", "deployment/towpath")
	e.Kubectl(e.s, "", "-n", towpathNamespace, "wait", "--for=delete", "--timeout=60s", "pod", "-l", "app.kubernetes.io/name=towpath")
	e.Kubectl(e.s, "", "-n", buildsNamespace, "delete", "--wait=false", "jobs", "--all")
	e.Kubectl(e.s, "", "-n", fluxNamespace, "delete", "--timeout=60s", "kustomization,gitrepository", "flux-system")
}

func (here *site) replaceSecret(namespace, name string, keys map[string][]byte) {
	here.Kubectl(here.s, "", "-n", namespace, "delete", "--ignore-not-found", "secret", name)
	here.Secret(here.s, namespace, name, keys)
}

// image is an entry of the config.
func (e *estate) image(name, source, path string) string {
	return fmt.Sprintf(`  - name: %[1]s
    source: {url: %[2]s, path: %[3]q, secretRef: {name: git}}
    build: {pull: {secretRef: {name: bases}, allow: [%[4]s]}}
    destination: {repository: %[5]s, secretRef: {name: registry}}
    policy: flux-system:%[1]s
`, name, e.git.RepoURL(source), path, e.registry.Repository("bases/busybox"), e.registry.Repository("apps/"+name))
}

// manifest is the file of the GitOps repository with an image's marker. Nothing
// of it takes a node's room.
func (e *estate) manifest(image string) (path, content string) {
	return "clusters/production/" + image + ".yaml", fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: default}
spec:
  replicas: 0
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers:
      - name: app
        image: %[2]s:none # {"$imagepolicy": "flux-system:%[1]s"}
`, image, e.registry.Repository("apps/"+image))
}

// settle promotes images to the heads of their sources, as a Towpath has that
// was here before: bumps on the branch and entries in the ledger, signed by the
// same key. All have one digest.
func (e *estate) settle(heads map[string]gitops.Hash, source func(image string) string, digest string) {
	s := e.s
	url := e.git.RepoURL("fleet.git")
	remote, err := wire.New(wire.Options{URL: url, Auth: func() (*git.AuthOptions, error) {
		return &git.AuthOptions{Username: accountName, Password: accountPassword, CAFile: e.git.CA.PEM}, nil
	}})
	s.must(err)
	keys := func() map[string][]byte { return readSecret(s, filepath.Join(e.keys, "towpath-signing")) }
	dir := s.TempDir()
	defer os.RemoveAll(dir)
	f, err := fleet.Open(fleet.Options{
		Name: "production", URL: url, Branch: "main", Path: "./clusters/production",
		Author: gitops.Person{Name: "Towpath", Email: "towpath@example.com"},
		Remote: remote, Dir: dir,
		Signer: func() (*trust.Signer, error) { return trust.LoadSigner(trust.SSH, keys()) },
		Keys:   func() (*trust.Keyring, error) { return trust.OwnKeys(trust.SSH, keys()) },
	})
	s.must(err)
	var bumps []fleet.Bump
	for image, head := range heads {
		commit := gitops.Commit{Hash: head, Subject: "Begin", Author: gitops.Person{Name: "Dana Developer", Email: "dana@example.com", When: lab.Epoch}}
		bumps = append(bumps, fleet.Bump{
			Image: imageOf(image), SourceURL: source(image), SourceRef: "refs/heads/master",
			Commit: commit, Commits: []gitops.Commit{commit},
			Name: e.registry.Repository("apps/" + image), Tag: "old", Digest: digest, Provenance: digestOf("provenance of "+image, 0),
		})
	}
	promoteAll(s, f, bumps)
	s.must(f.Close())
	s.must(remote.Close())
}

// daemon is the process of the one Towpath that runs.
func (here *site) daemon() string {
	pids := here.Node.Processes(here.s, "/usr/local/bin/towpath", "run")
	if len(pids) != 1 {
		here.s.Fatalf("%d processes of towpath run, want 1\n%s", len(pids), here.logs())
	}
	return fmt.Sprint(pids[0])
}

// logs are what Towpath printed.
func (here *site) logs() string {
	logs, err := here.TryKubectl(here.s.Context(), here.s, "", "-n", towpathNamespace, "logs", "--tail=-1", "-l", "app.kubernetes.io/name=towpath")
	if err != nil {
		return err.Error()
	}
	return logs
}

// await waits until something holds.
func (here *site) await(what string, limit time.Duration, holds func() error) {
	for end := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			here.s.Fatalf("not within %s: %s: %v\n%s", limit, what, err, here.logs())
		}
	}
}
