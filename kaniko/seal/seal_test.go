package seal_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/registry"
	"towpath.dev/towpath/kaniko/seal"
)

// registries are one without the referrers API and one with it.
var registries = map[string]func(testing.TB, lab.RegistryOptions) *lab.Registry{
	"docker": lab.NewRegistry,
	"memory": lab.NewMemoryRegistry,
}

var started = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

// world is a registry, an order for it and the seals of one Towpath.
type world struct {
	*lab.Registry
	order  kaniko.Order
	client *registry.Client
	secret map[string][]byte
	images *seal.Images
}

func newWorld(t testing.TB, server *lab.Registry) *world {
	t.Helper()
	w := &world{Registry: server, secret: plainKey(t)}
	w.order = kaniko.Order{
		Image: "demo",
		Source: kaniko.Source{
			URL: "https://git.example.com/apps/demo.git", Ref: "refs/heads/master",
			Commit: strings.Repeat("8b07d4aa", 5), Time: started,
		},
		Path: ".", Dockerfile: "Dockerfile", Args: map[string]string{"VERSION": "1.2"}, Platform: "linux/amd64",
		Executor: "sha256:" + strings.Repeat("e", 64), Policy: "sha256:" + strings.Repeat("f", 64),
		Destination: kaniko.Destination{Repository: server.Repository("apps/demo"), Tag: "master-8b07d4aa8b07-1763750000"},
	}
	w.client = w.open(t)
	w.images = w.sealer(t)
	return w
}

// plainKey is a secret whose key is not encrypted: opening cosign.key is slow on
// purpose.
func plainKey(t testing.TB) map[string][]byte {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})}
}

func public(t testing.TB, secret map[string][]byte) []byte {
	t.Helper()
	key, err := seal.LoadKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return key.Public()
}

func (w *world) open(t testing.TB) *registry.Client {
	t.Helper()
	client, err := registry.New(registry.Options{
		Repository: w.order.Destination.Repository,
		Secret:     w.ReadSecret(),
		Pause:      time.Millisecond,
		Attempts:   2,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// sealer is a Towpath that has just been started.
func (w *world) sealer(testing.TB) *seal.Images {
	return &seal.Images{
		Key:    func() (map[string][]byte, error) { return w.secret, nil },
		Client: func(kaniko.Destination) (*registry.Client, error) { return w.client, nil },
	}
}

// push is what the publish step does.
func (w *world) push(t testing.TB) kaniko.Image {
	t.Helper()
	image, err := random.Image(500, 2)
	if err != nil {
		t.Fatal(err)
	}
	digest, size, err := w.client.Push(t.Context(), image, nil)
	if err != nil {
		t.Fatal(err)
	}
	return kaniko.Image{Repository: w.order.Destination.Repository, Digest: digest, Size: size}
}

// foreign puts somebody else's image under a tag.
func (w *world) foreign(t testing.TB, tag string) string {
	t.Helper()
	image := w.push(t)
	manifest, err := w.client.Manifest(t.Context(), image.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.client.Tag(t.Context(), manifest, tag); err != nil {
		t.Fatal(err)
	}
	return image.Digest
}

func (w *world) names(t testing.TB, tag string) string {
	t.Helper()
	manifest, err := w.client.Resolve(t.Context(), tag)
	if errors.Is(err, registry.ErrNotFound) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return manifest.Digest
}

func (w *world) run() seal.Run {
	return seal.Run{ID: "run-1", Started: started, Finished: started.Add(time.Minute), Versions: map[string]string{"towpath": "v0.1.0"}}
}

func each(t *testing.T, test func(t *testing.T, w *world)) {
	t.Parallel()
	for kind, start := range registries {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			test(t, newWorld(t, start(t, lab.RegistryOptions{Volatile: true})))
		})
	}
}

func TestSealThenFind(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		if found, err := w.images.Find(t.Context(), w.order); err != nil || found.Image.Digest != "" || found.Clash != nil {
			t.Fatalf("in an empty repository: %+v, %v", found, err)
		}
		pushed := w.push(t)
		if found, err := w.images.Find(t.Context(), w.order); err != nil || found.Image.Digest != "" || found.Clash != nil {
			t.Fatalf("pushed by digest alone: %+v, %v", found, err)
		}
		sealed, err := w.images.Seal(t.Context(), w.order, pushed, w.run())
		if err != nil {
			t.Fatal(err)
		}
		want := pushed
		want.Tag, want.Provenance = w.order.Destination.Tag, sealed.Image.Provenance
		if diff := cmp.Diff(seal.Sealed{Image: want}, sealed); diff != "" || want.Provenance == "" {
			t.Errorf("sealed (-want +got):\n%s", diff)
		}
		if got := w.names(t, w.order.Destination.Tag); got != pushed.Digest {
			t.Errorf("the tag names %q", got)
		}
		found, err := w.sealer(t).Find(t.Context(), w.order)
		if diff := cmp.Diff(sealed, found); err != nil || diff != "" {
			t.Errorf("found: %v (-sealed +found):\n%s", err, diff)
		}

		t.Run("sealing again changes nothing", func(t *testing.T) {
			w.Forget()
			again, err := w.sealer(t).Seal(t.Context(), w.order, pushed, w.run())
			if diff := cmp.Diff(sealed, again); err != nil || diff != "" {
				t.Errorf("%v (-first +again):\n%s", err, diff)
			}
			if puts := w.Requests(lab.ManifestPut, lab.UploadStart); len(puts) > 0 {
				t.Errorf("it wrote %v", puts)
			}
		})
		t.Run("another build key is not adopted", func(t *testing.T) {
			other := w.order
			other.Args = map[string]string{"VERSION": "1.3"}
			found, err := w.images.Find(t.Context(), other)
			if err != nil || found.Image.Digest != "" || found.Clash == nil || found.Clash.Digest != pushed.Digest {
				t.Fatalf("%+v, %v", found, err)
			}
			if said := found.Clash.String(); !strings.Contains(said, "which we sealed for another build of that commit") {
				t.Errorf("our own image is told as somebody else's: %s", said)
			}
		})
		t.Run("a rotated key adopts with the former public key alone", func(t *testing.T) {
			next := plainKey(t)
			rotated := w.sealer(t)
			rotated.Key = func() (map[string][]byte, error) { return next, nil }
			if found, err := rotated.Find(t.Context(), w.order); err != nil || found.Image.Digest != "" {
				t.Errorf("without the former key: %+v, %v", found, err)
			}
			next["former.pub"] = public(t, w.secret)
			if found, err := rotated.Find(t.Context(), w.order); err != nil || found.Image != sealed.Image {
				t.Errorf("with the former key: %+v, %v", found, err)
			}
		})
	})
}

func TestForeignImageUnderOurTag(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		tag := w.order.Destination.Tag
		foreign := w.foreign(t, tag)
		found, err := w.images.Find(t.Context(), w.order)
		want := seal.Sealed{Clash: &seal.Clash{Repository: w.order.Destination.Repository, Tag: tag, Digest: foreign}}
		if diff := cmp.Diff(want, found); err != nil || diff != "" {
			t.Fatalf("%v (-want +got):\n%s", err, diff)
		}
		pushed := w.push(t)
		sealed, err := w.images.Seal(t.Context(), w.order, pushed, w.run())
		if err != nil {
			t.Fatal(err)
		}
		aside := tag + "-" + strings.TrimPrefix(pushed.Digest, "sha256:")[:8]
		if sealed.Image.Tag != aside || !cmp.Equal(sealed.Clash, want.Clash) {
			t.Errorf("sealed as %+v", sealed)
		}
		if got := w.names(t, tag); got != foreign {
			t.Errorf("the foreign tag was moved to %s", got)
		}
		again, err := w.sealer(t).Find(t.Context(), w.order)
		if diff := cmp.Diff(sealed, again); err != nil || diff != "" {
			t.Errorf("%v (-sealed +found):\n%s", err, diff)
		}
		t.Run("the tag beside it is taken too", func(t *testing.T) {
			second := w.push(t)
			hex := strings.TrimPrefix(second.Digest, "sha256:")
			w.foreign(t, tag+"-"+hex[:8])
			sealed, err := w.images.Seal(t.Context(), w.order, second, w.run())
			if err != nil || sealed.Image.Tag != tag+"-"+hex[:16] {
				t.Errorf("%+v, %v", sealed, err)
			}
		})
	})
}

// TestTwoCopies is a build that is not reproducible, done by two Towpaths.
func TestTwoCopies(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		first, err := w.images.Seal(t.Context(), w.order, w.push(t), w.run())
		if err != nil {
			t.Fatal(err)
		}
		second, err := w.sealer(t).Seal(t.Context(), w.order, w.push(t), w.run())
		if diff := cmp.Diff(first, second); err != nil || diff != "" {
			t.Errorf("%v (-first +second):\n%s", err, diff)
		}
	})
}

// TestKilledAnywhere cuts Seal off at each of its requests, before and after
// the registry carried it out, then starts anew.
func TestKilledAnywhere(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		pushed := w.push(t)
		w.Forget()
		dry := w.order
		dry.Destination.Tag = "dry-run"
		dry.Args = map[string]string{"dry": "run"}
		if _, err := w.images.Seal(t.Context(), dry, pushed, w.run()); err != nil {
			t.Fatal(err)
		}
		for step, request := range w.Requests() {
			for _, applied := range []bool{false, true} {
				if applied && (request.Method == http.MethodGet || request.Method == http.MethodHead) {
					continue // nothing to apply
				}
				t.Run(fmt.Sprintf("request %d applied %v", step+1, applied), func(t *testing.T) {
					pushed, order := w.push(t), w.order
					order.Destination.Tag = fmt.Sprintf("killed-%d-%v", step, applied)
					ctx, kill := context.WithCancel(t.Context())
					defer kill()
					seen := 0
					w.Hook(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
						if seen++; seen == step+1 {
							if applied {
								next.ServeHTTP(discard{http.Header{}}, req)
							}
							kill()
							panic(http.ErrAbortHandler)
						}
						next.ServeHTTP(rw, req)
					})
					_, err := w.sealer(t).Seal(ctx, order, pushed, w.run())
					w.Heal()
					if seen <= step && err == nil {
						return // the dry run had more to do: what all seals share was pushed by it
					}
					if err == nil {
						t.Fatal("it was not killed")
					}
					sealed, err := w.sealer(t).Seal(t.Context(), order, pushed, w.run())
					if err != nil || sealed.Image.Digest != pushed.Digest || sealed.Image.Tag != order.Destination.Tag || sealed.Clash != nil {
						t.Fatalf("after the kill: %+v, %v", sealed, err)
					}
					found, err := w.sealer(t).Find(t.Context(), order)
					if diff := cmp.Diff(sealed, found); err != nil || diff != "" {
						t.Errorf("%v (-sealed +found):\n%s", err, diff)
					}
				})
			}
		}
	})
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) WriteHeader(int)             {}
func (d discard) Write(p []byte) (int, error) { return len(p), nil }

// TestFloodedReferrers hides our seal among a thousand that look alike.
func TestFloodedReferrers(t *testing.T) {
	t.Parallel()
	server := lab.NewMemoryRegistry(t, lab.RegistryOptions{})
	w := newWorld(t, server)
	sealed, err := w.images.Seal(t.Context(), w.order, w.push(t), w.run())
	if err != nil {
		t.Fatal(err)
	}
	subject, err := w.client.Manifest(t.Context(), sealed.Image.Digest)
	if err != nil {
		t.Fatal(err)
	}
	const foreign = 1000
	// The registry says that it lists referrers itself, so Attach need not ask.
	server.Hook(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
		rw.Header().Set("OCI-Subject", sealed.Image.Digest)
		next.ServeHTTP(rw, req)
	})
	for n := range foreign {
		_, err := w.client.Attach(t.Context(), registry.Artifact{
			Subject:     subject.Descriptor(),
			MediaType:   "application/vnd.dev.sigstore.bundle.v0.3+json",
			Content:     fmt.Appendf(nil, `{"forged":%d}`, n),
			Annotations: map[string]string{"dev.sigstore.bundle.predicateType": seal.PredicateType, "dev.towpath.build-key": string(w.order.Key())},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	server.Hook(paged(25))
	found, err := w.sealer(t).Find(t.Context(), w.order)
	if diff := cmp.Diff(sealed, found); err != nil || diff != "" {
		t.Errorf("%v (-sealed +found):\n%s", err, diff)
	}
	if pages := len(server.Requests(lab.Referrers)); pages < foreign/25 {
		t.Errorf("only %d pages were read", pages)
	}
}

// paged answers the referrers API in pages of so many entries, with the
// specification's Link header.
func paged(size int) func(http.ResponseWriter, *http.Request, http.Handler) {
	var list v1.IndexManifest
	var mediaType string
	return func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if !strings.Contains(req.URL.Path, "/referrers/") {
			next.ServeHTTP(w, req)
			return
		}
		if mediaType == "" {
			whole := &kept{header: http.Header{}}
			next.ServeHTTP(whole, req)
			_ = json.Unmarshal(whole.body, &list)
			mediaType = whole.header.Get("Content-Type")
		}
		from := 0
		_, _ = fmt.Sscan(req.URL.Query().Get("from"), &from)
		to := min(from+size, len(list.Manifests))
		if to < len(list.Manifests) {
			w.Header().Set("Link", fmt.Sprintf(`<%s?from=%d>; rel="next"`, req.URL.Path, to))
		}
		page := list
		page.Manifests = list.Manifests[from:to]
		w.Header().Set("Content-Type", mediaType)
		_ = json.NewEncoder(w).Encode(page)
	}
}

type kept struct {
	header http.Header
	body   []byte
}

func (k *kept) Header() http.Header { return k.header }
func (k *kept) WriteHeader(int)     {}
func (k *kept) Write(p []byte) (int, error) {
	k.body = append(k.body, p...)
	return len(p), nil
}

// TestCosign lets the real cosign judge a seal.
func TestCosign(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		sealed, err := w.images.Seal(t.Context(), w.order, w.push(t), w.run())
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		verify := func(public []byte) (string, error) {
			file := filepath.Join(dir, "cosign.pub")
			if err := os.WriteFile(file, public, 0o600); err != nil {
				t.Fatal(err)
			}
			command := exec.CommandContext(t.Context(), lab.Tool(t, "cosign"), "verify-attestation", "--key", file,
				"--type", "slsaprovenance1", "--insecure-ignore-tlog=true", sealed.Image.Repository+"@"+sealed.Image.Digest)
			command.Env = append(os.Environ(), "HOME="+dir)
			output, err := command.CombinedOutput()
			return string(output), err
		}
		output, err := verify(public(t, w.secret))
		if err != nil || !strings.Contains(output, "payload") {
			t.Errorf("cosign refuses our seal: %v\n%s", err, output)
		}
		if output, err := verify(public(t, plainKey(t))); err == nil {
			t.Errorf("cosign accepts another key:\n%s", output)
		}
	})
}

func tagged(t testing.TB, w *world) name.Tag {
	t.Helper()
	tag, err := name.NewTag(w.order.Destination.Repository + ":" + w.order.Destination.Tag)
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

// TestIndexUnderOurTag is not an image, whoever put it there.
func TestIndexUnderOurTag(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		index, err := random.Index(100, 1, 2)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(tagged(t, w), index); err != nil {
			t.Fatal(err)
		}
		digest, err := index.Digest()
		if err != nil {
			t.Fatal(err)
		}
		found, err := w.images.Find(t.Context(), w.order)
		if err != nil || found.Clash == nil || found.Clash.Digest != digest.String() {
			t.Errorf("%+v, %v", found, err)
		}
	})
}

// TestUnreadableReferrers puts entries beside our seal that nobody can read, as
// whoever may push to the repository can: they hide nothing.
func TestUnreadableReferrers(t *testing.T) {
	t.Parallel()
	for name, entry := range map[string]string{
		"another digest":     `{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":7,"digest":"sha512:` + strings.Repeat("ab", 64) + `"}`,
		"no digest":          `{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":7}`,
		"a digest of a kind": `{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":7,"digest":"blake3:00"}`,
		"an odd size":        `{"size":"large"}`,
		"no entry":           `7`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, lab.NewMemoryRegistry(t, lab.RegistryOptions{}))
			sealed, err := w.images.Seal(t.Context(), w.order, w.push(t), w.run())
			if err != nil {
				t.Fatal(err)
			}
			w.Hook(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
				if !strings.Contains(req.URL.Path, "/referrers/") {
					next.ServeHTTP(rw, req)
					return
				}
				honest := &kept{header: http.Header{}}
				next.ServeHTTP(honest, req)
				rw.Header().Set("Content-Type", honest.header.Get("Content-Type"))
				fmt.Fprint(rw, strings.Replace(string(honest.body), `"manifests":[`, `"manifests":[`+entry+`,`, 1))
			})
			found, err := w.sealer(t).Find(t.Context(), w.order)
			if diff := cmp.Diff(sealed, found); err != nil || diff != "" {
				t.Errorf("%v (-sealed +found):\n%s", err, diff)
			}
		})
	}
}
