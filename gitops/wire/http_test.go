package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxcd/pkg/git"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

const canary = "c4n4ry-s3cr3t"

// lost is how many connections over HTTP/1 may be given up in a test because this
// process did not notice within 50 ms that a request had gone out: net/http keeps no
// such connection.
const lost = 1

func serveHTTP(t *testing.T, o lab.GitOptions) (*lab.Git, served) {
	t.Helper()
	server := lab.NewGit(t, o)
	url := server.Create("apps/podinfo.git")
	work, heads := fill(t, server.Dir("apps/podinfo.git"), 8)
	return server, served{remote: dial(t, wire.Options{URL: url}), dir: server.Dir("apps/podinfo.git"), work: work, heads: heads}
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	server, s := serveHTTP(t, lab.GitOptions{})
	story(t, s, true)
	if server.Conns() > 2+lost {
		t.Errorf("%d connections for one remote, want one (and one more where a pack was closed early)", server.Conns())
	}
}

func TestHTTPVersion0(t *testing.T) {
	t.Parallel()
	_, s := serveHTTP(t, lab.GitOptions{V0: true})
	story(t, s, false)
}

// Version 0 gives any commit where the server says so.
func TestHTTPVersion0AnyCommit(t *testing.T) {
	t.Parallel()
	_, s := serveHTTP(t, lab.GitOptions{V0: true, Config: map[string]string{"uploadpack.allowAnySHA1InWant": "true"}})
	story(t, s, true)
}

func TestHTTPVersion1(t *testing.T) {
	t.Parallel()
	_, s := serveHTTP(t, lab.GitOptions{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Git-Protocol", "version=1")
			next.ServeHTTP(w, r)
		})
	}})
	story(t, s, false)
}

func TestHTTPCredentials(t *testing.T) {
	t.Parallel()
	basic := git.AuthOptions{Username: "ada", Password: canary}
	tests := map[string]struct {
		server lab.GitOptions
		auth   git.AuthOptions
	}{
		"basic":              {lab.GitOptions{TLS: true, Username: "ada", Password: canary}, basic},
		"bearer":             {lab.GitOptions{TLS: true, Bearer: canary}, git.AuthOptions{BearerToken: canary + "\n"}},
		"client certificate": {lab.GitOptions{TLS: true, ClientCert: true, Username: "ada", Password: canary}, basic},
		"loopback":           {lab.GitOptions{Username: "ada", Password: canary}, basic},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, s := serveHTTP(t, test.server)
			auth := test.auth
			if test.server.TLS {
				auth.CAFile = server.CA.PEM
			}
			if test.server.ClientCert {
				auth.ClientCert, auth.ClientKey = server.CA.Issue(t, "towpath")
			}
			s.remote = dial(t, wire.Options{URL: server.RepoURL("apps/podinfo.git"), Auth: as(auth)})
			story(t, s, true)
		})
	}
}

// refusal lists with a remote that must fail, and looks at the error.
func refusal(t *testing.T, remote *wire.Remote, target error, hint string) *wire.Error {
	t.Helper()
	_, err := remote.Refs(t.Context(), "refs/heads/main")
	var e *wire.Error
	if !errors.As(err, &e) {
		t.Fatalf("no *Error: %v", err)
	}
	if target != nil && !errors.Is(err, target) {
		t.Errorf("%v is not: %v", err, target)
	}
	if !strings.Contains(e.Hint(), hint) || hint == "" && e.Hint() != "" {
		t.Errorf("hint of %v: %q, want %q in it", err, e.Hint(), hint)
	}
	if text := fmt.Sprintf("%v %+v %s %s", err, err, e.Hint(), e.URL); strings.Contains(text, canary) {
		t.Errorf("the secret is in the error: %s", text)
	}
	return e
}

func TestHTTPRefusals(t *testing.T) {
	t.Parallel()
	server, _ := serveHTTP(t, lab.GitOptions{TLS: true, Username: "ada", Password: "right"})
	url := server.RepoURL("apps/podinfo.git")
	ca := server.CA.PEM

	e := refusal(t, dial(t, wire.Options{URL: url, Auth: as(git.AuthOptions{CAFile: ca})}), wire.ErrAuth, "name a secretRef")
	if e.Status != 401 || e.Error() != "list refs of "+url+": HTTP 401 Unauthorized: who are you?" {
		t.Errorf("%d %v", e.Status, e)
	}
	refusal(t, dial(t, wire.Options{URL: url, Auth: as(git.AuthOptions{CAFile: ca, Username: "ada", Password: canary})}), wire.ErrAuth, "expired, revoked")
	named := func(o git.AuthOptions) wire.Options { return wire.Options{URL: url, Secret: "git-apps", Auth: as(o)} }
	refusal(t, dial(t, named(git.AuthOptions{CAFile: ca, Username: "ada", Password: canary})), wire.ErrAuth, "another host (secret git-apps)")
	if e := refusal(t, dial(t, named(git.AuthOptions{Username: "ada", Password: canary})), nil, "ca.crt"); strings.Contains(e.Hint(), "git-apps") {
		t.Errorf("a certificate is not the credential's: %s", e.Hint())
	}
	refusal(t, dial(t, wire.Options{URL: url, Auth: as(git.AuthOptions{Username: "ada", Password: canary})}), nil, "ca.crt")
	refusal(t, dial(t, wire.Options{URL: url, Auth: as(git.AuthOptions{CAFile: []byte(canary)})}), nil, "PEM")
	refusal(t, dial(t, wire.Options{URL: url, Auth: as(git.AuthOptions{CAFile: ca, BearerToken: "a " + canary})}), nil, "")
	refusal(t, dial(t, wire.Options{URL: url, Auth: as(git.AuthOptions{CAFile: ca, ClientCert: []byte(canary), ClientKey: []byte(canary)})}), nil, "belong together")
	refusal(t, dial(t, wire.Options{URL: server.RepoURL("nothing.git"), Secret: "git-apps", Auth: as(git.AuthOptions{CAFile: ca, Username: "ada", Password: "right"})}), wire.ErrNotFound, "the repository (secret git-apps)")
	refusal(t, dial(t, wire.Options{URL: "http://git.example.invalid/x", Auth: as(git.AuthOptions{Username: "ada", Password: canary})}), nil, "https://")
	refusal(t, dial(t, wire.Options{URL: "https://ada:" + canary + "@127.0.0.1:1/x"}), nil, "is the server up")
	broken := errors.New("no such secret")
	refusal(t, dial(t, wire.Options{URL: url, Auth: func() (*git.AuthOptions, error) { return nil, broken }}), broken, "")
}

// The credential is read for every request, and the connections follow its TLS
// material.
func TestHTTPRotation(t *testing.T) {
	t.Parallel()
	var wantPassword atomic.Value
	wantPassword.Store("first")
	var moved atomic.Bool
	server := lab.NewGit(t, lab.GitOptions{TLS: true, ClientCert: true, Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, password, _ := r.BasicAuth()
			name := r.TLS.PeerCertificates[0].Subject.CommonName
			if password != wantPassword.Load() || moved.Load() != (name == "second") {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	url := server.Create("x.git")
	fill(t, server.Dir("x.git"), 1)
	auth := git.AuthOptions{CAFile: server.CA.PEM, Username: "ada", Password: "first"}
	auth.ClientCert, auth.ClientKey = server.CA.Issue(t, "first")
	remote := dial(t, wire.Options{URL: url, Auth: func() (*git.AuthOptions, error) { now := auth; return &now, nil }})
	for range 3 {
		if _, err := remote.Refs(t.Context(), "refs/heads/main"); err != nil {
			t.Fatal(err)
		}
	}
	wantPassword.Store("second")
	refusal(t, remote, wire.ErrAuth, "lacks the right")
	auth.Password = "second"
	if _, err := remote.Refs(t.Context(), "refs/heads/main"); err != nil {
		t.Fatal(err)
	}
	moved.Store(true)
	refusal(t, remote, wire.ErrAuth, "lacks the right")
	auth.ClientCert, auth.ClientKey = server.CA.Issue(t, "second")
	if _, err := remote.Refs(t.Context(), "refs/heads/main"); err != nil {
		t.Fatal(err)
	}
	if server.Conns() != 2 {
		t.Errorf("%d connections, want one for each client certificate", server.Conns())
	}
}

func TestHTTPRetryAfter(t *testing.T) {
	t.Parallel()
	for value, want := range map[string][2]time.Duration{
		"120":     {120 * time.Second, 120 * time.Second},
		"-5":      {0, 0},
		"1e9":     {0, 0},
		"9999999": {24 * time.Hour, 24 * time.Hour},
		"":        {0, 0},
		time.Now().Add(time.Hour).UTC().Format(http.TimeFormat): {50 * time.Minute, time.Hour},
		"Mon, 02 Jan 2006 15:04:05 GMT":                         {0, 0},
	} {
		for _, status := range []int{429, 503} {
			server := lab.NewGit(t, lab.GitOptions{Middleware: answer(status, "text/plain", "slow \x1b[31mdown\n", "Retry-After", value)})
			e := refusal(t, dial(t, wire.Options{URL: server.RepoURL("x")}), nil, map[int]string{429: "less often"}[status])
			if e.Status != status || e.RetryAfter() < want[0] || e.RetryAfter() > want[1] {
				t.Errorf("Retry-After %q: %s, want %s", value, e.RetryAfter(), want)
			}
			if !strings.HasSuffix(e.Error(), ": slow [31mdown") {
				t.Errorf("%q", e)
			}
		}
	}
}

// answer is a server that gives everybody the same answer.
func answer(status int, contentType, body string, headers ...string) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			for i := 0; i < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		})
	}
}

// One idle poll of a repository with 20,000 refs receives less than 2 KiB, the
// first one included.
func TestHTTPManyRefs(t *testing.T) {
	t.Parallel()
	server := lab.NewGit(t)
	url := server.Create("big.git")
	_, heads := fill(t, server.Dir("big.git"), 1)
	manyRefs(t, server.Dir("big.git"), heads[0], 20_000)
	remote := dial(t, wire.Options{URL: url})
	for range 2 {
		before := server.Sent()
		refs, err := remote.Refs(t.Context(), "refs/heads/main")
		if err != nil || refs["refs/heads/main"] != heads[0] || len(refs) != 1 {
			t.Fatalf("%v %v", refs, err)
		}
		if got := server.Sent() - before; got > 2<<10 {
			t.Errorf("the server sent %d bytes", got)
		} else {
			t.Logf("the server sent %d bytes", got)
		}
	}
	all, err := remote.Refs(t.Context())
	if err != nil || len(all) != 20_002 { // HEAD and main
		t.Errorf("%d refs, %v", len(all), err)
	}
	if server.Conns() > 1+lost {
		t.Errorf("%d connections for %d requests", server.Conns(), server.Requests())
	}
}

// manyRefs writes packed-refs by hand: git would take long to make them.
func manyRefs(t testing.TB, dir string, h gitops.Hash, n int) {
	t.Helper()
	var out strings.Builder
	out.WriteString("# pack-refs with: peeled fully-peeled sorted \n")
	for i := range n {
		fmt.Fprintf(&out, "%s refs/pull/%06d/head\n", h, i)
	}
	if err := os.WriteFile(filepath.Join(dir, "packed-refs"), []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestHTTPRedirects(t *testing.T) {
	t.Parallel()
	elsewhere := lab.NewGit(t, lab.GitOptions{Middleware: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			t.Errorf("followed to another host: %s %v", r.URL, r.Header)
		})
	}})
	var location atomic.Value
	server := lab.NewGit(t, lab.GitOptions{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/old.git/") && (r.Method == http.MethodGet || location.Load() == "loop") {
				to := location.Load().(string)
				if to == "loop" {
					to = r.URL.Path
				}
				w.Header().Set("Location", to+"?"+r.URL.RawQuery)
				w.WriteHeader(http.StatusMovedPermanently)
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	url := server.Create("new.git")
	_, heads := fill(t, server.Dir("new.git"), 1)
	remote := dial(t, wire.Options{
		URL:  server.RepoURL("old.git"),
		Auth: as(git.AuthOptions{Username: "ada", Password: canary}),
	})
	for _, to := range []string{"/new.git/info/refs", url + "/info/refs", "../../new.git/info/refs"} {
		location.Store(to)
		refs, err := remote.Refs(t.Context(), "refs/heads/main")
		if err != nil || refs["refs/heads/main"] != heads[0] {
			t.Errorf("redirect to %s within the host: %v", to, err)
		}
		// Remembered for what follows, until an error.
		if _, err := remote.Fetch(t.Context(), wire.FetchRequest{Wants: []gitops.Hash{heads[0]}}); err != nil {
			t.Error(err)
		}
		_, _ = remote.Fetch(t.Context(), wire.FetchRequest{})
	}
	for to, hint := range map[string]string{
		elsewhere.URL + "/x/info/refs":                                      "change its URL",
		strings.Replace(elsewhere.URL, "http", "https", 1) + "/x/info/refs": "change its URL",
		"//ada:" + canary + "@evil.example.invalid/x/info/refs":             "change its URL",
		"/new.git/elsewhere":                                                "",
		"loop":                                                              "",
		"http://[::1":                                                       "",
	} {
		location.Store(to)
		refusal(t, remote, nil, hint)
	}
}

func TestHTTPNoDowngrade(t *testing.T) {
	t.Parallel()
	server := lab.NewGit(t, lab.GitOptions{TLS: true, Middleware: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+r.Host+r.URL.String(), http.StatusFound)
		})
	}})
	e := refusal(t, dial(t, wire.Options{URL: server.RepoURL("x.git"), Auth: as(git.AuthOptions{CAFile: server.CA.PEM})}), nil, "change its URL")
	if !strings.Contains(e.Error(), "refused to follow a redirect to http://") {
		t.Error(e)
	}
}

// A credential crosses a network in the clear only where that was asked for.
// The address 0.0.0.0 leads here and is no loopback address.
func TestHTTPInsecure(t *testing.T) {
	t.Parallel()
	server, s := serveHTTP(t, lab.GitOptions{Username: "ada", Password: canary})
	url := strings.Replace(server.RepoURL("apps/podinfo.git"), "127.0.0.1", "0.0.0.0", 1)
	auth := as(git.AuthOptions{Username: "ada", Password: canary})
	before := server.Conns()
	e := refusal(t, dial(t, wire.Options{URL: url, Auth: auth}), nil, "https://")
	if !strings.Contains(e.Error(), "in the clear") || server.Conns() != before {
		t.Error(e)
	}
	refs, err := dial(t, wire.Options{URL: url, Auth: auth, Insecure: true}).Refs(t.Context(), "refs/heads/main")
	if err != nil || refs["refs/heads/main"] != s.heads[7] {
		t.Error(err)
	}
	withUser := strings.Replace(url, "http://", "http://ada:"+canary+"@", 1)
	refusal(t, dial(t, wire.Options{URL: withUser}), nil, "https://")
}

// A Remote serves many at once.
func TestHTTPMany(t *testing.T) {
	t.Parallel()
	_, s := serveHTTP(t, lab.GitOptions{TLS: false})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			refs, err := s.remote.Refs(t.Context(), "refs/heads/main")
			if err != nil || refs["refs/heads/main"] != s.heads[7] {
				t.Errorf("%v %v", refs, err)
			}
			pack, err := s.remote.Fetch(t.Context(), wire.FetchRequest{Wants: []gitops.Hash{s.heads[7]}, Depth: 1})
			if err != nil {
				t.Error(err)
				return
			}
			defer pack.Close()
			if _, err := io.Copy(io.Discard, pack); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// An empty repository lists nothing and takes a first push, in both versions.
func TestHTTPEmpty(t *testing.T) {
	t.Parallel()
	for _, v0 := range []bool{false, true} {
		server := lab.NewGit(t, lab.GitOptions{V0: v0})
		url := server.Create("new.git")
		remote := dial(t, wire.Options{URL: url})
		if refs, err := remote.Refs(t.Context()); err != nil || len(refs) != 0 {
			t.Errorf("%v %v", refs, err)
		}
		work := lab.NewWork(t, "")
		first := hash(t, work.Commit(lab.Commit{Files: map[string]string{"a": "b"}}))
		err := remote.Push(t.Context(), wire.PushRequest{
			Updates: []wire.Update{{Ref: "refs/heads/main", New: first}},
			Pack:    bytes.NewReader(packOf(t, work.Dir, first)),
		})
		if err != nil {
			t.Fatal(err)
		}
		if refs, err := remote.Refs(t.Context(), "refs/"); err != nil || refs["refs/heads/main"] != first {
			t.Errorf("%v %v", refs, err)
		}
	}
}

// TestHTTPSharedConnections: Remotes of one host share what they have, also with
// credentials of their own; a client certificate of one's own is a connection of
// one's own, and who closes takes nothing from the others.
func TestHTTPSharedConnections(t *testing.T) {
	t.Parallel()
	server := lab.NewGit(t, lab.GitOptions{TLS: true})
	var shared wire.Connections
	var remotes []*wire.Remote
	for n := range 20 {
		url := server.Create(fmt.Sprintf("%d.git", n))
		fill(t, server.Dir(fmt.Sprintf("%d.git", n)), 1)
		remotes = append(remotes, dial(t, wire.Options{URL: url, Connections: &shared, Auth: as(git.AuthOptions{
			CAFile: server.CA.PEM, Username: "ada", Password: fmt.Sprint(n),
		})}))
	}
	refs := func(remote *wire.Remote) {
		t.Helper()
		if refs, err := remote.Refs(t.Context(), "refs/heads/main"); err != nil || len(refs) != 1 {
			t.Errorf("%s: %v, %v", remote.URL(), refs, err)
		}
	}
	for range 2 {
		for _, remote := range remotes {
			refs(remote)
		}
	}
	if n := server.Conns(); n != 1 {
		t.Errorf("%d connections, want 1 that all share", n)
	}
	own := git.AuthOptions{CAFile: server.CA.PEM}
	own.ClientCert, own.ClientKey = server.CA.Issue(t, "own")
	apart := dial(t, wire.Options{URL: server.RepoURL("0.git"), Connections: &shared, Auth: as(own)})
	refs(apart)
	if n := server.Conns(); n != 2 {
		t.Errorf("%d connections, want 2: a certificate is not shared", n)
	}
	for _, remote := range append(remotes[1:], apart) {
		if err := remote.Close(); err != nil {
			t.Error(err)
		}
	}
	refs(remotes[0])
	if n := server.Conns(); n != 2 {
		t.Errorf("%d connections: the one that is still used was closed", n)
	}
	refs(remotes[1]) // closed, and used again
}
