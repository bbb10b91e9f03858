package registry_test

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko/registry"
)

// TestPullBase pulls what a Dockerfile names by digest and reads it as kaniko
// does: as a Docker archive called by the digest, its manifest beside it.
func TestPullBase(t *testing.T) {
	t.Parallel()
	server := lab.NewRegistry(t, lab.RegistryOptions{})
	image, err := random.Image(50_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	other, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
	)
	tag, err := name.NewTag(server.Repository("bases/debian") + ":12")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(tag, index); err != nil {
		t.Fatal(err)
	}
	bases := &registry.Bases{
		Options:   registry.Options{Secret: server.ReadSecret(), Pause: time.Millisecond},
		Allow:     []string{server.Repository("bases/debian")},
		Platform:  "linux/amd64",
		Directory: t.TempDir(),
	}
	digestOf := func(of interface{ Digest() (v1.Hash, error) }) string {
		hash, err := of.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return hash.String()
	}
	server.Fail(lab.Fault{Kind: lab.BlobGet, Status: 503}, lab.Fault{Kind: lab.ManifestGet, Cut: true})
	for _, digest := range []string{digestOf(index), digestOf(image)} {
		reference := tag.Name() + "@" + digest
		if !bases.Allowed(reference) {
			t.Errorf("%s is not allowed", reference)
		}
		for range 2 {
			if err := bases.Pull(t.Context(), reference); err != nil {
				t.Fatal(err)
			}
		}
		file := filepath.Join(bases.Directory, digest)
		pulled, err := tarball.ImageFromPath(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(pulled); err != nil {
			t.Error(err)
		}
		want, _ := image.ConfigName()
		if got, err := pulled.ConfigName(); err != nil || got != want {
			t.Errorf("config %s, want %s, %v", got, want, err)
		}
		beside, err := os.ReadFile(file + ".json")
		raw, _ := image.RawManifest()
		if diff := cmp.Diff(string(raw), string(beside)); err != nil || diff != "" {
			t.Errorf("the manifest beside it: %v\n%s", err, diff)
		}
	}
	left, err := filepath.Glob(filepath.Join(bases.Directory, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	t.Run("refused", func(t *testing.T) {
		server.Forget()
		digest := "@" + digestOf(image)
		for reference, reason := range map[string]string{
			tag.Name(): "not pinned by digest",
			server.Repository("bases/debian2") + digest:         "not allowed",
			server.Repository("bases") + digest:                 "not allowed",
			server.Repository("bases/debian/slim") + digest:     "not allowed",
			server.Repository("apps/other-team") + digest:       "not allowed",
			"evil.example.com/bases/debian" + digest:            "not allowed",
			"debian" + digest:                                   "not allowed",
			server.Host + "/bases/debian@sha256:../../../etc/x": "not pinned by digest",
		} {
			err := bases.Pull(t.Context(), reference)
			var refused *registry.NotAllowedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), reason) || bases.Allowed(reference) != (reference == tag.Name()) {
				t.Errorf("%s: %v", reference, err)
			}
		}
		if asked := server.Requests(); len(asked) > 0 {
			t.Errorf("the registry was asked %v", asked)
		}
	})
	t.Run("too large", func(t *testing.T) {
		small := &registry.Bases{Options: bases.Options, Allow: bases.Allow, Platform: bases.Platform, Directory: t.TempDir(), MaxSize: 1000}
		if err := small.Pull(t.Context(), tag.Name()+"@"+digestOf(index)); err == nil || !strings.Contains(err.Error(), "larger than 1000 bytes") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no such platform", func(t *testing.T) {
		odd := &registry.Bases{Options: bases.Options, Allow: bases.Allow, Platform: "linux/s390x", Directory: t.TempDir()}
		if err := odd.Pull(t.Context(), tag.Name()+"@"+digestOf(index)); err == nil || !strings.Contains(err.Error(), "no image for linux/s390x") {
			t.Errorf("got %v", err)
		}
	})
}

// TestPlainHTTPForOneRegistry: what is allowed for the destination's registry
// sends the pull credential unencrypted to no other.
func TestPlainHTTPForOneRegistry(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", lab.OuterAddress(t)+":0")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int64
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusNotFound)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	host := listener.Addr().String()
	for plain, wanted := range map[string]bool{"": false, "registry.example.com": false, "registry.example.com:5000": false, host: true} {
		asked.Store(0)
		bases := &registry.Bases{
			// Insecure is the destination's word: it must not count here.
			Options: registry.Options{Insecure: true, Attempts: 1, Secret: func() (map[string][]byte, error) {
				return map[string][]byte{"username": []byte("u"), "password": []byte("p")}, nil
			}},
			Plain:    plain,
			Allow:    []string{host + "/base"},
			Platform: "linux/amd64", Directory: t.TempDir(),
		}
		err := bases.Pull(t.Context(), host+"/base@sha256:"+strings.Repeat("a", 64))
		if err == nil || strings.Contains(err.Error(), "HTTP response to HTTPS client") == wanted || wanted != (asked.Load() > 0) {
			t.Errorf("plain HTTP with %q: asked %d times, %v", plain, asked.Load(), err)
		}
	}
}
