package registry_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko/registry"
)

// publish does all that Towpath asks of a registry, in its order.
func publish(ctx context.Context, client *registry.Client, image v1.Image, tag string) error {
	digest, _, err := client.Push(ctx, image, nil)
	if err != nil {
		return err
	}
	manifest, err := client.Manifest(ctx, digest)
	if err != nil {
		return err
	}
	if _, err := client.Attach(ctx, registry.Artifact{Subject: manifest.Descriptor(), MediaType: "application/x", Content: []byte(tag)}); err != nil {
		return err
	}
	attached, _, err := client.Referrers(ctx, digest, "application/x")
	if err != nil {
		return err
	}
	if len(attached) == 0 {
		return errors.New("the referrer is not listed")
	}
	return client.Tag(ctx, manifest, tag)
}

// TestFaults fails each kind of request in each way, once: publishing succeeds
// all the same where the fault may pass, and says what is wrong where not.
// Then, with the faults gone, it always succeeds.
func TestFaults(t *testing.T) {
	t.Parallel()
	kinds := []string{
		lab.Ping, lab.BlobHead, lab.UploadStart, lab.UploadData, lab.UploadCommit,
		lab.ManifestGet, lab.ManifestPut, lab.Referrers,
	}
	faults := map[string]struct {
		fault  lab.Fault
		passes bool   // tried again by ourselves
		want   error  // otherwise
		text   string // in the error
	}{
		"401":                {lab.Fault{Status: 401, Times: -1}, false, registry.ErrAuth, "401 unauthorized"},
		"403":                {lab.Fault{Status: 403, Times: -1}, false, registry.ErrAuth, "403 forbidden"},
		"413":                {lab.Fault{Status: 413, Times: -1}, false, nil, "413 request entity too large"},
		"429":                {lab.Fault{Status: 429, RetryAfter: "0"}, true, nil, ""},
		"429 for long":       {lab.Fault{Status: 429, RetryAfter: "120"}, false, nil, "429 too many requests"},
		"500":                {lab.Fault{Status: 500, Times: 2}, true, nil, ""},
		"503":                {lab.Fault{Status: 503, Times: 2, RetryAfter: "0"}, true, nil, ""},
		"503 for ever":       {lab.Fault{Status: 503, Times: -1}, false, nil, "503 service unavailable"},
		"503 though applied": {lab.Fault{Status: 503, Applied: true}, true, nil, ""},
		"cut":                {lab.Fault{Cut: true}, true, nil, ""},
		"cut in the middle":  {lab.Fault{Cut: true, CutBody: 700}, true, nil, ""},
		"cut though applied": {lab.Fault{Cut: true, Applied: true}, true, nil, ""},
		"cut for ever":       {lab.Fault{Cut: true, Times: -1}, false, nil, ""},
	}
	for registryKind, start := range registries {
		t.Run(registryKind, func(t *testing.T) {
			t.Parallel()
			server := start(t, lab.RegistryOptions{Volatile: true, Username: username, Password: canary})
			for _, kind := range kinds {
				for name, test := range faults {
					if kind == lab.Ping && name == "401" {
						continue // the way a registry asks for a credential
					}
					if registryKind == "docker" && !slices.Contains([]string{"503", "413", "cut in the middle", "cut though applied"}, name) {
						continue // it is slow, and what we do does not depend on it
					}
					t.Run(kind+" "+name, func(t *testing.T) {
						defer server.Heal()
						client := open(t, server)
						image, err := random.Image(3000, 2)
						if err != nil {
							t.Fatal(err)
						}
						tag := strings.ToLower(strings.ReplaceAll(kind+"-"+name, " ", "-"))
						fault := test.fault
						fault.Kind = kind
						server.Fail(fault)
						err = publish(t.Context(), client, image, tag)
						switch {
						case test.passes && err != nil:
							t.Fatalf("it does not get over it: %v", err)
						case !test.passes && err == nil:
							t.Fatal("it succeeds")
						case !test.passes:
							judge(t, err, test.want, test.text)
							var after interface{ RetryAfter() time.Duration }
							if name == "429 for long" && (!errors.As(err, &after) || after.RetryAfter() != 2*time.Minute) {
								t.Errorf("no RetryAfter of 2m in %v", err)
							}
						}
						server.Heal()
						if err := publish(t.Context(), client, image, tag); err != nil {
							t.Errorf("healed: %v", err)
						}
					})
				}
			}
		})
	}
}

// TestUploadStartsAnew is an upload that the registry forgot, or which
// another one collides with.
func TestUploadStartsAnew(t *testing.T) {
	t.Parallel()
	forgotten := `{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"blob upload unknown to registry"}]}`
	server := lab.NewRegistry(t, lab.RegistryOptions{Volatile: true})
	for _, kind := range []string{lab.UploadData, lab.UploadCommit} {
		for _, fault := range []lab.Fault{
			{Status: http.StatusNotFound, Text: forgotten},
			{Status: http.StatusConflict},
			{Status: http.StatusRequestedRangeNotSatisfiable},
		} {
			image, err := random.Image(1000, 2)
			if err != nil {
				t.Fatal(err)
			}
			fault.Kind = kind
			server.Fail(fault)
			if _, _, err := open(t, server).Push(t.Context(), image, nil); err != nil {
				t.Errorf("%s %d: %v", kind, fault.Status, err)
			}
		}
	}
	for status, want := range map[int]error{404: registry.ErrNotFound, 409: nil} {
		image, err := random.Image(1000, 2)
		if err != nil {
			t.Fatal(err)
		}
		server.Fail(lab.Fault{Kind: lab.ManifestPut, Status: status})
		if _, _, err := open(t, server).Push(t.Context(), image, nil); err == nil {
			t.Errorf("manifest refused with %d, and the push succeeds", status)
		} else {
			judge(t, err, want, fmt.Sprint(status))
		}
	}
}

// judge checks an error's kind and text, and that nothing secret is in it.
func judge(t testing.TB, err, want error, text string) {
	t.Helper()
	if want != nil && !errors.Is(err, want) {
		t.Errorf("got %v (%v), want one that is %v", err, errors.Unwrap(err), want)
	}
	if !strings.Contains(err.Error(), text) {
		t.Errorf("got %q, want %q in it", err, text)
	}
	all := fmt.Sprintf("%v %+v %#v", err, err, err)
	var hint interface{ Hint() string }
	if errors.As(err, &hint) {
		all += hint.Hint()
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		all += inner.Error()
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(username + ":" + canary))
	if strings.Contains(all, canary) || strings.Contains(all, encoded) || strings.Contains(all, "_state=") {
		t.Errorf("a secret in %s", all)
	}
}

// TestResume cuts a push after its second blob, then pushes again: what is there
// is not sent twice.
func TestResume(t *testing.T) {
	t.Parallel()
	for kind, start := range registries {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			server := start(t, lab.RegistryOptions{Volatile: true})
			image, err := random.Image(100_000, 4)
			if err != nil {
				t.Fatal(err)
			}
			// Cut once two blobs are there whole: what is under way when a push is given up
			// may arrive all the same.
			var begun, arrived atomic.Int64
			whole := make(chan struct{})
			server.Hook(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if req.Method == http.MethodPatch && begun.Add(1) > 2 {
					_, _ = io.CopyN(io.Discard, req.Body, 10_000)
					<-whole
					panic(http.ErrAbortHandler)
				}
				next.ServeHTTP(w, req)
				if req.Method == http.MethodPut && arrived.Add(1) == 2 {
					close(whole)
				}
			})
			if _, _, err := open(t, server).Push(t.Context(), image, nil); err == nil {
				t.Fatal("it succeeds")
			}
			taken := func() []lab.Request {
				return slices.DeleteFunc(server.Requests(lab.UploadCommit), func(r lab.Request) bool { return r.Status != http.StatusCreated })
			}
			sent := taken()
			server.Heal()
			server.Forget()
			if _, _, err := open(t, server).Push(t.Context(), image, nil); err != nil {
				t.Fatal(err)
			}
			again := taken()
			if len(sent) != 2 || len(again) != 3 {
				t.Errorf("%d blobs arrived before the cut, %d after it; want 2 and 3", len(sent), len(again))
			}
		})
	}
}

// TestEchoedCredential is a registry that puts what it was sent into its
// errors.
func TestEchoedCredential(t *testing.T) {
	t.Parallel()
	for _, token := range []bool{false, true} {
		server := lab.NewMemoryRegistry(t, lab.RegistryOptions{Username: username, Password: canary, Token: token})
		client := open(t, server)
		if _, err := client.Resolve(t.Context(), "v1"); !errors.Is(err, registry.ErrNotFound) {
			t.Fatal(err)
		}
		var bearer string
		server.Hook(func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
			sent := req.Header.Get("Authorization")
			bearer = strings.TrimPrefix(sent, "Bearer ")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"you sent %s, which is %s\u001b[31m\nTowpath-Commit: x","detail":"%s"}]}`, sent, canary, sent)
		})
		_, err := client.Resolve(t.Context(), "v1")
		judge(t, err, registry.ErrAuth, "DENIED")
		if strings.Contains(err.Error(), bearer) || strings.ContainsAny(err.Error(), "\n\x1b") {
			t.Errorf("the text is %q", err)
		}
	}
}

// TestRotatedCredential is a wrong password that is mended while we run, and a
// token that expires.
func TestRotatedCredential(t *testing.T) {
	t.Parallel()
	server := lab.NewMemoryRegistry(t, lab.RegistryOptions{Username: username, Password: "old-password", Token: true})
	client := open(t, server)
	image, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := publish(t.Context(), client, image, "v1"); err != nil {
		t.Fatal(err)
	}
	server.ExpireTokens()
	if err := publish(t.Context(), client, image, "v2"); err != nil {
		t.Errorf("with an expired token: %v", err)
	}
	// In the middle of an upload, whose body cannot be sent twice.
	var once sync.Once
	server.Hook(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.Method == http.MethodPatch {
			once.Do(server.ExpireTokens)
		}
		next.ServeHTTP(w, req)
	})
	other, err := random.Image(100_000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := publish(t.Context(), client, other, "v2b"); err != nil {
		t.Errorf("with a token that expires during an upload: %v", err)
	}
	server.Heal()
	server.SetAccount(username, "new-password")
	if err := publish(t.Context(), client, image, "v3"); err != nil {
		t.Errorf("with a rotated password: %v", err)
	}
}
