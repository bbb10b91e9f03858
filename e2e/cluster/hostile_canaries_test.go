//go:build cluster

package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"towpath.dev/towpath/e2e/lab"
)

// secret makes up a canary.
func (s *siege) secret(name string) string {
	random := make([]byte, 12)
	_, _ = rand.Read(random)
	return "c4n-" + name + "-" + hex.EncodeToString(random)
}

// plant makes canaries of every secret that there is, and adds some where there is
// none yet.
func (s *siege) plant(t *testing.T) {
	t.Helper()
	plain := func(name, secret string) { s.canaries.Plant(t, name, []byte(secret)) }
	plain("the password that publish has", "only-publish-knows")
	plain("the password for bases", "fetch-knows-this-too")
	plain("the git password", "only-fetch-knows")
	s.canaries.PlantKey(t, "the key of the GitOps repository", s.fleet.Identity)
	keys := filepath.Join(s.dir, "secrets")
	signing, provenance := readSecret(t, filepath.Join(keys, "towpath-signing")), readSecret(t, filepath.Join(keys, "towpath-provenance"))
	s.canaries.PlantKey(t, "the signing key", signing["identity"])
	s.canaries.PlantKey(t, "the provenance key", provenance["cosign.key"])
	plain("the provenance key's password", strings.TrimSpace(string(provenance["cosign.password"])))

	for _, namespace := range []string{towpathNamespace, buildsNamespace, "default"} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "canary"}, StringData: map[string]string{"password": s.secret("secret-in-" + namespace)}}
		secrets := s.Client.CoreV1().Secrets(namespace)
		_ = secrets.Delete(t.Context(), secret.Name, metav1.DeleteOptions{}) // of a test before
		plain("a Secret of "+namespace+" that nobody mounts", secret.StringData["password"])
		if _, err := secrets.Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	request := &authenticationv1.TokenRequest{}
	for account, namespace := range map[string]string{"build": buildsNamespace, "towpath": towpathNamespace} {
		token, err := s.Client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		plain("a token of the account "+account, signature(token.Status.Token))
	}
	plain("the control", s.control())
	if s.Node == nil {
		t.Log("the cluster was given: no canary is planted on its nodes")
		return
	}
	for _, who := range []string{"admin", "kubelet"} {
		config, err := clientcmd.LoadFromFile(s.Node.path(who + ".kubeconfig"))
		if err != nil {
			t.Fatal(err)
		}
		s.canaries.PlantKey(t, "the key of the "+who, config.AuthInfos["user"].ClientKeyData)
	}
	content, err := os.ReadFile(s.Node.path("tokens.key"))
	if err != nil {
		t.Fatal(err)
	}
	s.canaries.PlantKey(t, "the key that signs tokens", content)
	onDisk, inRun := s.secret("node-disk"), s.secret("node-run")
	plain("a file on the node's disk", onDisk)
	plain("a file in the node's /run", inRun)
	s.Node.file(t, "canary", []byte(onDisk))
	if _, err := s.Node.run(t.Context(), "sh", "-ec", `echo "$0" > /run/canary`, inRun); err != nil {
		t.Fatal(err)
	}
	// A container's root is the machine's root to the kernel, and so are its keys.
	inKernel := s.secret("kernel-keyring")
	plain("a key in the kernel's keyring", inKernel)
	key, err := unix.AddKey("user", "towpath-canary", []byte(inKernel), unix.KEY_SPEC_USER_KEYRING)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, key, unix.KEY_SPEC_USER_KEYRING, 0, 0) })
	s.startMetadata(t)
}

// control is a canary that a Dockerfile gives away by itself, to see that the
// search finds what there is.
func (*siege) control() string { return "c4n-control-" + strings.Repeat("7", 12) }

// plantToken makes a canary of the token that the daemon has.
func (s *siege) plantToken(t *testing.T) {
	t.Helper()
	if s.Node == nil {
		return
	}
	pids := s.daemons(t)
	if len(pids) == 0 {
		t.Fatal("no daemon runs")
	}
	for _, pid := range pids {
		token, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "root/var/run/secrets/kubernetes.io/serviceaccount/token"))
		if err != nil {
			t.Fatal(err)
		}
		s.canaries.Plant(t, "the daemon's token", []byte(signature(string(token))))
	}
}

// signature is the part of a token that makes it one.
func signature(token string) string { return token[strings.LastIndex(token, ".")+1:] }

// text looks for canaries in what came from somewhere. What is found once is not
// looked for again in the same place.
func (s *siege) text(t *testing.T, where string, text []byte, allowed ...string) {
	t.Helper()
	for _, found := range s.canaries.In(text) {
		if !slices.ContainsFunc(allowed, func(name string) bool { return strings.HasPrefix(found, name+", ") }) {
			t.Errorf("%s holds %s", where, found)
		}
	}
	for other, canary := range s.own {
		if strings.Contains(string(text), canary) && !slices.Contains(allowed, other) {
			t.Errorf("%s holds what the build context of %s has", where, other)
		}
	}
}

// search looks through what one attack left.
func (s *siege) search(t *testing.T, o *outcome) {
	t.Helper()
	allowed := []string{o.name}
	if o.name == "control" {
		allowed = append(allowed, "the control")
	}
	for name, log := range o.logs {
		s.text(t, "the log of "+name, []byte(log), allowed...)
	}
	for what, object := range map[string]any{"the Job": o.job, "the pod": o.pod, "what is said of it": o.failure} {
		encoded, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		s.text(t, what, encoded, allowed...)
		if bytes.Contains(encoded, []byte(`\u001b`)) && what != "the pod" {
			t.Errorf("%s holds a terminal's escape: %.2000s", what, encoded)
		}
	}
	if o.image == nil {
		return
	}
	config, err := o.image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	s.text(t, "the config", config, allowed...)
	layers, err := o.image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		s.layer(t, layer, allowed...)
	}
}

// layer looks through a layer, once.
func (s *siege) layer(t *testing.T, layer v1.Layer, allowed ...string) {
	t.Helper()
	digest, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if s.searched[digest] {
		return
	}
	s.searched[digest] = true
	plain, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	content, err := io.ReadAll(io.LimitReader(plain, 256<<20))
	if err != nil {
		t.Fatal(err)
	}
	s.text(t, "the layer "+digest.String(), bytes.Trim(content, "\x00"), allowed...)
}

// searchAround looks through everything that is not one attack's: events, the
// daemon's words, what its commands print, the GitOps repository.
func (s *siege) searchAround(t *testing.T, image string) {
	t.Helper()
	for _, namespace := range []string{towpathNamespace, buildsNamespace, fluxNamespace, appsNamespace} {
		events, err := s.Client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		encoded, err := json.Marshal(events)
		if err != nil {
			t.Fatal(err)
		}
		if namespace == buildsNamespace && len(events.Items) == 0 {
			t.Error("there are no events of builds: the search proves less than it should")
		}
		s.text(t, "the events of "+namespace, encoded)
	}
	s.text(t, "the daemon's log", []byte(s.daemonLog(t)))
	if s.Node != nil {
		log, err := os.ReadFile(s.Node.log("notification-controller"))
		if err != nil {
			t.Fatal(err)
		}
		s.text(t, "what Flux was told", log)
	}
	for _, command := range [][]string{{"status"}, {"why", image}, {"logs", image}} {
		out, err := s.TryKubectl(t.Context(), t, "", append([]string{"-n", towpathNamespace, "exec", "deployment/towpath", "--", "towpath"}, command...)...)
		if err != nil && !strings.Contains(err.Error(), "exit code 1") {
			t.Errorf("towpath %v: %v", command, err)
		}
		s.text(t, fmt.Sprintf("what towpath %v prints", command), []byte(out), "the control", strings.TrimPrefix(image, "hostile-"))
		if strings.ContainsAny(out, "\x1b\x07\x00") {
			t.Errorf("towpath %v prints a terminal's escape: %q", command, out)
		}
	}
	dir := s.fleet.Dir("fleet.git")
	s.text(t, "the refs of the GitOps repository", []byte(lab.RunGit(t, dir, "for-each-ref")))
	s.text(t, "the GitOps repository", []byte(lab.RunGit(t, dir, "cat-file", "--batch-all-objects", "--batch")))
}

// searchRegistry looks through every manifest of the hostile images, provenance
// among them, and finds none of images that should not be there.
func (s *siege) searchRegistry(t *testing.T) {
	t.Helper()
	promoted, images, manifests := s.promoted(t), 0, 0
	for attack := range s.own {
		allowed := []string{attack}
		if attack == "control" {
			allowed = append(allowed, "the control")
		}
		repository, err := name.NewRepository(s.registry.Repository("hostile/"+attack), name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		tags, err := remote.List(repository, s.registry.Client(t)...)
		if _, built := promoted["hostile-"+attack]; !built {
			if err == nil && len(tags) > 0 {
				t.Errorf("%s failed, and its repository has the tags %v", attack, tags)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		images++
		for _, tag := range tags {
			found, err := remote.Get(repository.Tag(tag), s.registry.Client(t)...)
			if err != nil {
				t.Fatal(err)
			}
			queue := []*remote.Descriptor{found}
			for len(queue) > 0 {
				manifests++
				s.text(t, attack+"'s manifest "+tag, queue[0].Manifest, allowed...)
				if index, err := queue[0].ImageIndex(); err == nil && queue[0].MediaType.IsIndex() {
					children, err := index.IndexManifest()
					if err != nil {
						t.Fatal(err)
					}
					for _, child := range children.Manifests {
						next, err := remote.Get(repository.Digest(child.Digest.String()), s.registry.Client(t)...)
						if err != nil {
							t.Fatal(err)
						}
						queue = append(queue, next)
					}
				} else if image, err := queue[0].Image(); err == nil {
					layers, err := image.Layers()
					if err != nil {
						t.Fatal(err)
					}
					for _, layer := range layers {
						s.layer(t, layer, allowed...)
					}
				}
				queue = queue[1:]
			}
		}
	}
	if manifests < 2*images {
		t.Errorf("%d manifests of %d images: there is no provenance among them", manifests, images)
	}
}

// ownFiles are those of an image that are in no layer of its base.
func ownFiles(t *testing.T, image v1.Image, base map[v1.Hash]bool) map[string]file {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]file{}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			t.Fatal(err)
		}
		if base[digest] {
			continue
		}
		plain, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for archive := tar.NewReader(plain); ; {
			header, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(io.LimitReader(archive, 8<<20))
			if err != nil {
				t.Fatal(err)
			}
			files[strings.TrimPrefix(header.Name, "/")] = file{header.Uid, string(content)}
		}
		plain.Close()
	}
	return files
}

// baseLayers are those of the images that attacks are built on.
func (s *siege) baseLayers(t *testing.T) map[v1.Hash]bool {
	t.Helper()
	layers, err := thief(t).Layers()
	if err != nil {
		t.Fatal(err)
	}
	known := map[v1.Hash]bool{}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			t.Fatal(err)
		}
		known[digest] = true
	}
	return known
}

// apiAddress is where pods find the API server.
func (s *siege) apiAddress(t *testing.T) string {
	t.Helper()
	service, err := s.Client.CoreV1().Services("default").Get(context.WithoutCancel(t.Context()), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return service.Spec.ClusterIP + ":443"
}
