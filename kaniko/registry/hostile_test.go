package registry_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko/registry"
)

// TestTokenRealm is a registry that names a token endpoint where credentials
// must not go.
func TestTokenRealm(t *testing.T) {
	t.Parallel()
	trap := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		t.Errorf("the trap got %s with %q", req.URL, req.Header.Get("Authorization"))
	}))
	t.Cleanup(trap.Close)
	for name, realm := range map[string]string{
		"metadata address":       "https://169.254.169.254/token",
		"IPv6 metadata address":  "https://[fd00:ec2::254]/token",
		"plain HTTP":             trap.URL + "/token",
		"mapped IPv4":            "https://[::ffff:169.254.169.254]/token",
		"decimal address":        "https://2852039166/token",
		"link-local with a zone": "https://[fe80::1%25lo]/token",
		"another scheme":         "file:///etc/passwd",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.NewMemoryRegistry(t, lab.RegistryOptions{TLS: true, Username: username, Password: canary, Token: true, Realm: realm})
			_, err := open(t, server).Resolve(t.Context(), "v1")
			if err == nil {
				t.Fatal("it went there")
			}
			judge(t, err, registry.ErrRefused, "realm")
		})
	}
}

// TestSentElsewhere is a registry that redirects, or gives upload addresses,
// to where nothing of ours should go.
func TestSentElsewhere(t *testing.T) {
	t.Parallel()
	trap := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		t.Errorf("the trap got %s", req.URL)
	}))
	t.Cleanup(trap.Close)
	image, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"metadata address": "https://169.254.169.254/latest/meta-data",
		"plain HTTP":       "http://example.invalid/",
		"next page":        trap.URL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := lab.NewMemoryRegistry(t, lab.RegistryOptions{TLS: true, Username: username, Password: canary})
			server.Hook(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				switch {
				case name == "next page":
					w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
					w.Header().Set("Link", fmt.Sprintf("<%s>; rel=\"next\"", target))
					fmt.Fprint(w, `{"schemaVersion":2,"manifests":[],"tags":[]}`)
				case req.Method == http.MethodPost:
					w.Header().Set("Location", target)
					w.WriteHeader(http.StatusAccepted)
				case strings.Contains(req.URL.Path, "/manifests/"):
					http.Redirect(w, req, target, http.StatusTemporaryRedirect)
				default:
					next.ServeHTTP(w, req)
				}
			})
			client := open(t, server)
			if name == "next page" {
				_, _, err := client.Tags(t.Context(), "")
				judge(t, err, registry.ErrRefused, "leads elsewhere")
				_, _, err = client.Referrers(t.Context(), "sha256:"+strings.Repeat("a", 64), "")
				judge(t, err, registry.ErrRefused, "leads elsewhere")
				return
			}
			_, err := client.Resolve(t.Context(), "v1")
			if err == nil {
				t.Error("it followed a redirect")
			} else {
				judge(t, err, nil, "")
			}
			if _, _, err = client.Push(t.Context(), image, nil); err == nil {
				t.Error("it uploaded elsewhere")
			} else {
				judge(t, err, nil, "")
			}
		})
	}
}

// TestLies is a registry that serves other bytes than were asked for, or
// endless ones.
func TestLies(t *testing.T) {
	t.Parallel()
	server := lab.NewMemoryRegistry(t, lab.RegistryOptions{})
	client := open(t, server)
	digest := "sha256:" + strings.Repeat("a", 64)
	answer := func(serve http.HandlerFunc) {
		server.Hook(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if req.URL.Path == "/v2/" {
				next.ServeHTTP(w, req)
				return
			}
			serve(w, req)
		})
	}
	answer(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Content-Digest", digest)
		fmt.Fprint(w, `{"schemaVersion":2}`)
	})
	_, err := client.Manifest(t.Context(), digest)
	judge(t, err, registry.ErrCorrupt, "the registry serves a manifest with digest sha256:")
	_, err = client.Blob(t.Context(), digest, 100)
	judge(t, err, registry.ErrCorrupt, "the registry serves a blob with digest sha256:")

	answer(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		for req.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	})
	for name, ask := range map[string]func() error{
		"manifest": func() error { _, err := client.Manifest(t.Context(), digest); return err },
		"tag":      func() error { _, err := client.Resolve(t.Context(), "v1"); return err },
		"blob":     func() error { _, err := client.Blob(t.Context(), digest, 1000); return err },
		"tags":     func() error { _, _, err := client.Tags(t.Context(), ""); return err },
	} {
		if err := ask(); err == nil || !strings.Contains(err.Error(), "larger than") {
			t.Errorf("an endless %s: %v", name, err)
		}
	}

	if _, more, err := client.Referrers(t.Context(), digest, ""); err != nil || !more {
		t.Errorf("an endless list of referrers: %v, %v", more, err)
	}

	t.Run("lists without end", func(t *testing.T) {
		page := 0
		answer(func(w http.ResponseWriter, req *http.Request) {
			page++
			w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
			w.Header().Set("Link", fmt.Sprintf("<%s?page=%d>; rel=next", req.URL.Path, page))
			fmt.Fprint(w, `{"schemaVersion":2,"manifests":[],"tags":["x"]}`)
		})
		if _, more, err := client.Tags(t.Context(), ""); err != nil || !more {
			t.Errorf("tags: %v, %v", more, err)
		}
		if _, more, err := client.Referrers(t.Context(), digest, ""); err != nil || !more {
			t.Errorf("referrers: %v, %v", more, err)
		}
	})
}

func TestTagsArePaged(t *testing.T) {
	t.Parallel()
	server := lab.NewMemoryRegistry(t, lab.RegistryOptions{})
	all := []string{"main-1", "main-1-aaaaaaaa", "other", "main-1-bbbbbbbb", "\nforged"}
	server.Hook(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if !strings.HasSuffix(req.URL.Path, "/tags/list") {
			next.ServeHTTP(w, req)
			return
		}
		at := slices.Index(all, req.URL.Query().Get("last")) + 1
		if at < len(all)-1 {
			w.Header().Set("Link", fmt.Sprintf(`<%s?n=1&last=%s>; rel="next"`, req.URL.Path, url.QueryEscape(all[at])))
		}
		fmt.Fprintf(w, `{"tags":[%q]}`, all[at])
	})
	tags, more, err := open(t, server).Tags(t.Context(), "main-1-")
	if err != nil || more || !slices.Equal(tags, []string{"main-1-aaaaaaaa", "main-1-bbbbbbbb"}) {
		t.Errorf("%q, %v, %v", tags, more, err)
	}
}

// TestTagIsNeverMoved covers somebody else's tag, a registry whose tags are
// immutable, and an answer that was lost.
func TestTagIsNeverMoved(t *testing.T) {
	t.Parallel()
	for kind, start := range registries {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server := start(t, lab.RegistryOptions{Volatile: true})
			client := open(t, server)
			pushed := func() *registry.Manifest {
				image, err := random.Image(100, 1)
				if err != nil {
					t.Fatal(err)
				}
				digest, _, err := client.Push(t.Context(), image, nil)
				if err != nil {
					t.Fatal(err)
				}
				manifest, err := client.Manifest(t.Context(), digest)
				if err != nil {
					t.Fatal(err)
				}
				return manifest
			}
			first, second := pushed(), pushed()
			if err := client.Tag(t.Context(), first, "v1"); err != nil {
				t.Fatal(err)
			}
			server.Fail(lab.Fault{Kind: lab.ManifestPut, Status: http.StatusBadRequest, Times: -1})
			if err := client.Tag(t.Context(), first, "v1"); err != nil {
				t.Errorf("the same digest under an immutable tag: %v", err)
			}
			server.Heal()
			var taken *registry.TakenError
			if err := client.Tag(t.Context(), second, "v1"); !errors.As(err, &taken) || taken.Digest != first.Digest {
				t.Errorf("somebody else's tag: %v", err)
			}
			if now, err := client.Resolve(t.Context(), "v1"); err != nil || now.Digest != first.Digest {
				t.Errorf("the tag names %v, %v", now, err)
			}
			server.Fail(lab.Fault{Kind: lab.ManifestPut, Status: http.StatusForbidden, Applied: true})
			if err := client.Tag(t.Context(), second, "v2"); err != nil {
				t.Errorf("refused though written: %v", err)
			}
		})
	}
}

// TestFallbackTag is the list of referrers where there is no API for it: others
// write it too, and put in it what they like.
func TestFallbackTag(t *testing.T) {
	t.Parallel()
	server := lab.NewRegistry(t, lab.RegistryOptions{})
	client := open(t, server)
	image, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	digest, _, err := client.Push(t.Context(), image, nil)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := client.Manifest(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	// Not a list at all.
	if err := client.Tag(t.Context(), manifest, strings.Replace(digest, ":", "-", 1)); err != nil {
		t.Fatal(err)
	}
	attach := func(content string) {
		t.Helper()
		_, err := client.Attach(t.Context(), registry.Artifact{Subject: manifest.Descriptor(), MediaType: "application/x", Content: []byte(content)})
		if err != nil {
			t.Fatal(err)
		}
	}
	for n := range 3 {
		attach(fmt.Sprint(n))
	}
	attach("2") // again
	listed, more, err := client.Referrers(t.Context(), digest, "application/x")
	if err != nil || more || len(listed) != 3 {
		t.Errorf("%d listed, %v, %v", len(listed), more, err)
	}
	t.Run("filled by somebody else", func(t *testing.T) {
		image, err := random.Image(100, 1)
		if err != nil {
			t.Fatal(err)
		}
		digest, _, err := client.Push(t.Context(), image, nil)
		if err != nil {
			t.Fatal(err)
		}
		subject, err := client.Manifest(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		full := v1.ImageIndex(empty.Index)
		for range 3 {
			other, err := random.Image(10, 1)
			if err != nil {
				t.Fatal(err)
			}
			full = mutate.AppendManifests(full, mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{
				Annotations: map[string]string{"filler": strings.Repeat("x", 1_300_000)},
			}})
		}
		tag, err := name.NewTag(server.Repository("apps/demo") + ":" + strings.Replace(digest, ":", "-", 1))
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.WriteIndex(tag, full); err != nil {
			t.Fatal(err)
		}
		attached, err := client.Attach(t.Context(), registry.Artifact{Subject: subject.Descriptor(), MediaType: "application/x", Content: []byte("ours")})
		if err != nil {
			t.Fatal(err)
		}
		listed, _, err := client.Referrers(t.Context(), digest, "application/x")
		if err != nil || len(listed) == 0 || listed[0].Digest.String() != attached.Digest {
			t.Errorf("%d listed, %v", len(listed), err)
		}
	})
	if other, _, err := client.Referrers(t.Context(), digest, "application/y"); err != nil || len(other) != 0 {
		t.Errorf("of another type: %v, %v", other, err)
	}
}

func TestUnknownAuthority(t *testing.T) {
	t.Parallel()
	server := lab.NewMemoryRegistry(t, lab.RegistryOptions{TLS: true})
	unknown, err := registry.New(registry.Options{Repository: server.Repository("a/b"), Attempts: 1, Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	_, err = unknown.Resolve(t.Context(), "v1")
	var hint interface{ Hint() string }
	if err == nil || !strings.Contains(err.Error(), "unknown authority") || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "ca.crt") {
		t.Errorf("got %v", err)
	}
}
