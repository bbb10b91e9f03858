// Package deploy tries the manifests of deploy/ on a real API server: what they
// allow, and what they must refuse. No kubelet runs and no network plug-in, so
// what a NetworkPolicy does is not seen here.
package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"towpath.dev/towpath/deploy"
	"towpath.dev/towpath/e2e/lab"
)

// Who asks.
const (
	towpathAccount = "system:serviceaccount:towpath:towpath"
	jobController  = "system:serviceaccount:kube-system:job-controller"
)

// The images that the overlay of the tests pins.
const (
	kanikoImage  = "registry.example.com/kaniko@sha256:9f2d4f1c6a3b5e7d8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7"
	towpathImage = "registry.example.com/towpath@sha256:0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9"
)

// overlay is what a user has of their own: images, audiences, a CA bundle.
const overlay = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [base]
components: [base/flux]
images:
  - {name: towpath, newName: registry.example.com/towpath, digest: sha256:0a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f9}
patches:
  - patch: |
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: towpath-admission, namespace: towpath}
      data: {kaniko: "` + kanikoImage + `", towpath: "` + towpathImage + `", audiences: sts.amazonaws.com git, caBundle: authorities}
`

// cluster is an API server with the manifests applied, and Flux's definition of
// a GitRepository with two objects.
type cluster struct {
	admin   *rest.Config
	objects []*unstructured.Unstructured // what was applied
}

var installed struct {
	sync.Mutex
	*cluster
}

// install applies the manifests once, as Flux does: server-side.
func install(t *testing.T) *cluster {
	t.Helper()
	installed.Lock()
	defer installed.Unlock()
	if installed.cluster != nil {
		return installed.cluster
	}
	config := lab.ControlPlane(t)
	config.WarningHandler = rest.NoWarnings{}
	c := &cluster{admin: config, objects: render(t, overlay)}
	admin := kubernetes.NewForConfigOrDie(config)
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "flux-system"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.apply(t, fluxDefinitions(t)...)
	c.apply(t, c.objects...)
	for _, name := range []string{"flux-system", "other"} {
		c.apply(t, gitRepository(name))
	}
	// No controller makes the accounts that admission asks for.
	for _, namespace := range []string{"default", "flux-system", "towpath-builds"} {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		if _, err := admin.CoreV1().ServiceAccounts(namespace).Create(t.Context(), account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	c.settle(t)
	installed.cluster = c
	return c
}

// render is what kustomize makes of an overlay over the embedded manifests.
func render(t *testing.T, overlay string) []*unstructured.Unstructured {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "base"), deploy.Files); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(overlay), 0o600); err != nil {
		t.Fatal(err)
	}
	var problems strings.Builder
	build := exec.CommandContext(t.Context(), lab.Tool(t, "kustomize"), "build", dir)
	build.Stderr = &problems
	out, err := build.Output()
	if err != nil || problems.Len() > 0 {
		t.Fatalf("kustomize build: %v\n%s", err, problems.String())
	}
	return decode(t, string(out))
}

func decode(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096); ; {
		object := &unstructured.Unstructured{}
		if err := decoder.Decode(&object.Object); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) > 0 {
			all = append(all, object)
		}
	}
}

// apply applies objects as they are, namespaces and definitions before others.
func (c *cluster) apply(t *testing.T, objects ...*unstructured.Unstructured) {
	t.Helper()
	for _, object := range objects {
		// A definition is served a moment after it is accepted, and a namespace is
		// known to admission a moment after that.
		err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
			err := c.applyOne(ctx, object)
			if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
				return false, nil
			}
			return err == nil, err
		})
		if err != nil {
			t.Fatalf("apply %s %s: %v", object.GetKind(), object.GetName(), err)
		}
	}
}

func (c *cluster) applyOne(ctx context.Context, object *unstructured.Unstructured) error {
	resource, err := c.resource(c.admin, object)
	if err != nil {
		return err
	}
	_, err = resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: "kustomize-controller", Force: true})
	return err
}

// resource is a client for objects of one kind and namespace.
func (c *cluster) resource(config *rest.Config, object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	admin, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return nil, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(admin.Discovery()))
	kind := object.GroupVersionKind()
	mapping, err := mapper.RESTMapping(schema.GroupKind{Group: kind.Group, Kind: kind.Kind}, kind.Version)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		return client.Resource(mapping.Resource), nil
	}
	return client.Resource(mapping.Resource).Namespace(object.GetNamespace()), nil
}

// settle waits until the admission policies are in force: the API server reads
// them by a watch of its own.
func (c *cluster) settle(t *testing.T) {
	t.Helper()
	admin := kubernetes.NewForConfigOrDie(c.admin)
	repositories, err := c.resource(c.config(towpathAccount), gitRepository("flux-system"))
	if err != nil {
		t.Fatal(err)
	}
	err = wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		// The last policy of all, in the order in which they were applied and are read.
		_, changed := repositories.Patch(ctx, "flux-system", types.MergePatchType, []byte(`{"spec": {"suspend": true}}`), metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		if !apierrors.IsForbidden(changed) {
			return false, nil
		}
		// An administrator may do anything but this.
		_, job := admin.BatchV1().Jobs("towpath-builds").Create(ctx, validJob("settle"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		_, allowed := c.as(towpathAccount).BatchV1().Jobs("towpath-builds").Create(ctx, validJob("settle"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return job != nil && strings.Contains(job.Error(), "only Towpath may create Jobs here") && allowed == nil, nil
	})
	if err != nil {
		_, err := c.as(towpathAccount).BatchV1().Jobs("towpath-builds").Create(t.Context(), validJob("settle"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		t.Fatalf("the policies are not in force, or refuse a build as it should be: %v", err)
	}
}

// accepts waits until a Job of Towpath's would be created.
func (c *cluster) accepts(t *testing.T, job *batchv1.Job) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 2*time.Minute, true, func(ctx context.Context) (bool, error) {
		_, last = c.as(towpathAccount).BatchV1().Jobs("towpath-builds").Create(ctx, job, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return last == nil, nil
	})
	if err != nil {
		t.Fatal(last)
	}
}

// as is a client of somebody else; service accounts have their groups.
func (c *cluster) as(user string, groups ...string) *kubernetes.Clientset {
	return kubernetes.NewForConfigOrDie(c.config(user, groups...))
}

func (c *cluster) config(user string, groups ...string) *rest.Config {
	if rest, ok := strings.CutPrefix(user, "system:serviceaccount:"); ok {
		namespace, _, _ := strings.Cut(rest, ":")
		groups = append(groups, "system:serviceaccounts", "system:serviceaccounts:"+namespace)
	}
	return lab.As(c.admin, user, groups...)
}

func gitRepository(name string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository",
		"metadata": map[string]any{"name": name, "namespace": "flux-system", "labels": map[string]any{"team": "platform"}, "annotations": map[string]any{"note": "kept"}},
		"spec":     map[string]any{"url": "https://git.example.com/fleet.git", "interval": "1m", "ref": map[string]any{"branch": "main"}},
	}}
}

// fluxDefinitions are the definitions of Flux's sources, as its controller brings
// them.
func fluxDefinitions(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	// Not a module that anything here is built with, so no go.sum vouches for it.
	const module, sum = "github.com/fluxcd/source-controller@v1.9.3", "h1:Zj1gfvK/2MFIm/K3vh5fSHoJBoggLKMuLWf5ZEmaF0w="
	download := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", module)
	download.Dir = t.TempDir()
	download.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GONOSUMDB=github.com/fluxcd/*", "GOWORK=off")
	answer, err := download.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", module, err, answer)
	}
	var found struct{ Dir, Sum string }
	if err := json.Unmarshal(answer, &found); err != nil || found.Sum != sum {
		t.Fatalf("%s: %+v, want the sum %s: %v", module, found, sum, err)
	}
	text, err := os.ReadFile(filepath.Join(found.Dir, "config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, string(text))
}
