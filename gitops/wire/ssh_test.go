package wire_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxcd/pkg/git"
	"golang.org/x/crypto/ssh/knownhosts"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

const oddName = "apps/it's one!.git"

func serveSSH(t *testing.T, o lab.SSHOptions) (*lab.SSH, served) {
	t.Helper()
	server := lab.NewSSH(t, o)
	url := server.Create(oddName)
	work, heads := fill(t, server.Dir(oddName), 8)
	remote := dial(t, wire.Options{URL: url, Auth: as(sshAuth(server))})
	return server, served{remote: remote, dir: server.Dir(oddName), work: work, heads: heads}
}

func sshAuth(server *lab.SSH) git.AuthOptions {
	return git.AuthOptions{Identity: server.Identity, KnownHosts: server.KnownHosts}
}

func TestSSH(t *testing.T) {
	t.Parallel()
	server, s := serveSSH(t, lab.SSHOptions{})
	story(t, s, true)
	if server.Conns() != 1 {
		t.Errorf("%d connections, want 1", server.Conns())
	}
}

func TestSSHVersion0(t *testing.T) {
	t.Parallel()
	server, s := serveSSH(t, lab.SSHOptions{NoProtocol: true, HostKeys: []string{"rsa"}})
	story(t, s, false)
	if server.Conns() != 1 {
		t.Errorf("%d connections, want 1", server.Conns())
	}
}

// A connection that died is dialled again, with the credential of that moment.
func TestSSHAgain(t *testing.T) {
	t.Parallel()
	server, s := serveSSH(t, lab.SSHOptions{})
	var reads atomic.Int64
	remote := dial(t, wire.Options{URL: server.RepoURL(oddName), Auth: func() (*git.AuthOptions, error) {
		reads.Add(1)
		auth := sshAuth(server)
		return &auth, nil
	}})
	for range 3 {
		for range 2 {
			refs, err := remote.Refs(t.Context(), "refs/heads/main")
			if err != nil || refs["refs/heads/main"] != s.heads[7] {
				t.Fatalf("%v %v", refs, err)
			}
		}
		server.Disconnect()
	}
	if reads.Load() != 3 || server.Conns() != 3 {
		t.Errorf("the credential was read %d times for %d connections, want 3", reads.Load(), server.Conns())
	}
}

// More sessions at once than a connection allows, and more than sshd does.
func TestSSHMany(t *testing.T) {
	t.Parallel()
	server, s := serveSSH(t, lab.SSHOptions{Sshd: []string{"MaxSessions 2"}})
	var all sync.WaitGroup
	for range 12 {
		all.Go(func() {
			refs, err := s.remote.Refs(t.Context(), "refs/heads/main")
			if err != nil || refs["refs/heads/main"] != s.heads[7] {
				t.Errorf("%v %v", refs, err)
			}
		})
	}
	all.Wait()
	t.Logf("%d connections", server.Conns())
}

// A request that is given up does not disturb another one.
func TestSSHCancelled(t *testing.T) {
	t.Parallel()
	server, s := serveSSH(t, lab.SSHOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	want := wire.FetchRequest{Wants: []gitops.Hash{s.heads[7]}}
	given, err := s.remote.Fetch(ctx, want)
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.remote.Fetch(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = io.Copy(io.Discard, given)
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	given.Close()
	newBare(t).take(other)
	if _, err := s.remote.Refs(ctx, "refs/heads/main"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := s.remote.Refs(t.Context(), "refs/heads/main"); err != nil {
		t.Error(err)
	}
	t.Logf("%d connections", server.Conns())
}

// A server that takes the connection and keeps silent, at the start and later.
func TestSSHSilent(t *testing.T) {
	t.Parallel()
	server, s := serveSSH(t, lab.SSHOptions{})
	server.Hook(oddName, "pre-receive", "exec sleep 20")
	s.remote.Impatient(3 * time.Second)
	err := s.remote.Push(t.Context(), wire.PushRequest{Updates: []wire.Update{{Ref: "refs/heads/x", New: s.heads[0]}}})
	if err == nil || !strings.Contains(err.Error(), "sent nothing") {
		t.Error(err)
	}
	s.remote.Impatient(time.Minute)
	if _, err := s.remote.Refs(t.Context(), "refs/heads/main"); err != nil {
		t.Error(err)
	}

	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	known := knownhosts.Line([]string{deaf.Addr().String()}, parseKey(t, server.KnownHosts))
	remote := dial(t, wire.Options{URL: "ssh://" + deaf.Addr().String() + "/x", Auth: as(git.AuthOptions{Identity: server.Identity, KnownHosts: []byte(known)})})
	if _, err := remote.Refs(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestSSHRefusals(t *testing.T) {
	t.Parallel()
	server, s := serveSSH(t, lab.SSHOptions{HostKeys: []string{"ecdsa", "ed25519"}})
	url := server.RepoURL(oddName)
	with := func(change func(*git.AuthOptions)) *wire.Remote {
		auth := sshAuth(server)
		change(&auth)
		return dial(t, wire.Options{URL: url, Auth: as(auth)})
	}
	dir := t.TempDir()
	otherKey := lab.Keygen(t, filepath.Join(dir, "other"), "-t", "ed25519")
	lab.Keygen(t, filepath.Join(dir, "locked"), "-t", "ed25519", "-N", canary)
	other, err := os.ReadFile(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	locked, err := os.ReadFile(filepath.Join(dir, "locked"))
	if err != nil {
		t.Fatal(err)
	}
	at := knownhosts.Normalize(server.Addr)

	refusal(t, dial(t, wire.Options{URL: url}), wire.ErrAuth, "holds identity")
	refusal(t, with(func(a *git.AuthOptions) { a.Identity = other }), wire.ErrAuth, "deploy key")
	refusal(t, with(func(a *git.AuthOptions) { a.Identity = []byte(canary) }), nil, "ssh-keygen")
	refusal(t, with(func(a *git.AuthOptions) { a.Identity = locked }), nil, "as password")
	refusal(t, with(func(a *git.AuthOptions) { a.Identity, a.Password = locked, canary+"x" }), nil, "key password")
	refusal(t, with(func(a *git.AuthOptions) { a.Identity, a.Password = locked, canary }), wire.ErrAuth, "deploy key")
	refusal(t, with(func(a *git.AuthOptions) { a.KnownHosts = nil }), nil, "ssh-keyscan")
	e := refusal(t, with(func(a *git.AuthOptions) { a.KnownHosts = []byte("example.com " + otherKey) }), nil, "compare that fingerprint")
	if !strings.Contains(e.Error(), "not in known_hosts; it shows ") || !strings.Contains(e.Error(), "SHA256:") {
		t.Error(e)
	}
	e = refusal(t, with(func(a *git.AuthOptions) { a.KnownHosts = []byte(at + " " + otherKey) }), nil, "somebody may be in the middle")
	if !strings.Contains(e.Error(), "expected ssh-ed25519 SHA256:") || !strings.Contains(e.Error(), "found ssh-ed25519 SHA256:") {
		t.Error(e)
	}
	rsa := lab.Keygen(t, filepath.Join(dir, "rsa"), "-t", "rsa", "-b", "2048")
	e = refusal(t, with(func(a *git.AuthOptions) { a.KnownHosts = []byte(at + " " + rsa) }), nil, "somebody may be in the middle")
	if !strings.Contains(e.Error(), "no key of the types") {
		t.Error(e)
	}
	refusal(t, with(func(a *git.AuthOptions) {
		a.KnownHosts = append(a.KnownHosts, []byte("@revoked * "+hostKey(t, server, "ecdsa")+"\n@revoked * "+hostKey(t, server, "ed25519"))...)
	}), nil, "somebody may be in the middle")
	refusal(t, with(func(a *git.AuthOptions) { a.KnownHosts = []byte(at + " ssh-ed25519 " + "AAAA") }), nil, "")

	gone := dial(t, wire.Options{URL: server.RepoURL("gone.git"), Auth: as(sshAuth(server))})
	refusal(t, gone, wire.ErrNotFound, "check the URL")
	err = gone.Push(t.Context(), wire.PushRequest{Updates: []wire.Update{{Ref: "refs/heads/x", New: s.heads[0]}}})
	if !errors.Is(err, wire.ErrNotFound) || errors.Is(err, wire.ErrOutcomeUnknown) {
		t.Error(err)
	}
}

func hostKey(t testing.TB, server *lab.SSH, kind string) string {
	t.Helper()
	public, err := os.ReadFile(filepath.Join(server.Keys, "ssh_host_"+kind+"_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(public))
}

// What known_hosts may hold, by ssh-keygen's own hand.
func TestSSHKnownHosts(t *testing.T) {
	t.Parallel()
	server, s := serveSSH(t, lab.SSHOptions{HostKeys: []string{"ecdsa", "ed25519", "rsa"}})
	at := knownhosts.Normalize(server.Addr)
	dir := t.TempDir()

	hashed := filepath.Join(dir, "hashed")
	lab.WriteFile(t, hashed, server.KnownHosts)
	if out, err := exec.Command("ssh-keygen", "-H", "-f", hashed).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	hashedLines, err := os.ReadFile(hashed)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(server.Addr)
	files := map[string]string{
		"hashed":        string(hashedLines),
		"one ed25519":   at + " " + hostKey(t, server, "ed25519"),
		"one ecdsa":     "# comment\n\n" + at + " " + hostKey(t, server, "ecdsa") + " and a comment\n",
		"one rsa":       "other.example.com," + at + " " + hostKey(t, server, "rsa"),
		"wildcard":      "[127.0.0.*]:" + port + " " + hostKey(t, server, "ed25519"),
		"other revoked": at + " " + hostKey(t, server, "ed25519") + "\n@revoked * " + hostKey(t, server, "ecdsa"),
	}
	for name, content := range files {
		remote := dial(t, wire.Options{URL: server.RepoURL(oddName), Auth: as(git.AuthOptions{Identity: server.Identity, KnownHosts: []byte(content)})})
		if refs, err := remote.Refs(t.Context(), "refs/heads/main"); err != nil || refs["refs/heads/main"] != s.heads[7] {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A host that proves itself with a certificate of an authority.
func TestSSHHostCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	authority := lab.Keygen(t, filepath.Join(dir, "ca"), "-t", "ed25519")
	cert := filepath.Join(dir, "cert")
	server, s := serveSSH(t, lab.SSHOptions{HostKeys: []string{"ecdsa"}, Sshd: []string{"HostCertificate " + cert}})
	key := filepath.Join(server.Keys, "ssh_host_ecdsa_key")
	for principal, hint := range map[string]string{"127.0.0.1": "", "other.example.com": "certificate must be valid"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-s", filepath.Join(dir, "ca"), "-I", "lab", "-h", "-n", principal, key+".pub").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err := os.Rename(key+"-cert.pub", cert); err != nil {
			t.Fatal(err)
		}
		known := "@cert-authority " + knownhosts.Normalize(server.Addr) + " " + authority
		remote := dial(t, wire.Options{URL: server.RepoURL(oddName), Auth: as(git.AuthOptions{Identity: server.Identity, KnownHosts: []byte(known)})})
		if hint != "" {
			refusal(t, remote, nil, hint)
			continue
		}
		if refs, err := remote.Refs(t.Context(), "refs/heads/main"); err != nil || refs["refs/heads/main"] != s.heads[7] {
			t.Errorf("%v", err)
		}
	}
}

// SSH goes through ALL_PROXY. The environment is the process's, so this test
// runs alone.
func TestSSHProxy(t *testing.T) {
	server, s := serveSSH(t, lab.SSHOptions{})
	t.Setenv("NO_PROXY", "")
	t.Setenv("no_proxy", "")
	var used atomic.Int64
	web := startProxy(t, func(conn net.Conn, r *bufio.Reader) (string, bool) {
		req, err := http.ReadRequest(r)
		if err != nil || req.Method != http.MethodConnect {
			return "", false
		}
		used.Add(1)
		if _, password, _ := parseProxyAuth(req); password != canary {
			fmt.Fprint(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
			return "", false
		}
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
		return req.Host, true
	})
	socks := startProxy(t, func(conn net.Conn, r *bufio.Reader) (string, bool) {
		used.Add(1)
		return socksGreeting(conn, r)
	})
	// x/net's rules never send loopback through a proxy, so the host needs
	// another name: the proxies here lead to the server whatever is asked.
	toServer := strings.Replace(server.RepoURL(oddName), server.Addr, "git.example.invalid", 1)
	known := strings.Replace(string(server.KnownHosts), knownhosts.Normalize(server.Addr), "git.example.invalid", 1)
	web.to.Store(server.Addr)
	socks.to.Store(server.Addr)
	options := wire.Options{URL: toServer, Auth: as(git.AuthOptions{Identity: server.Identity, KnownHosts: []byte(known)})}

	for _, via := range []string{"http://ada:" + canary + "@" + web.addr, "socks5://" + socks.addr, "socks5h://ada:" + canary + "@" + socks.addr} {
		used.Store(0)
		t.Setenv("ALL_PROXY", via)
		refs, err := dial(t, options).Refs(t.Context(), "refs/heads/main")
		if err != nil || refs["refs/heads/main"] != s.heads[7] || used.Load() != 1 {
			t.Errorf("%s: %v, used %d times", via, err, used.Load())
		}
	}
	for via, hint := range map[string]string{
		"http://ada:wrong" + canary + "@" + web.addr: "",
		"https://ada:" + canary + "@" + web.addr:     "NO_PROXY",
		"http://ada:" + canary + "@[::1":             "",
		"socks5://ada:" + canary + "@127.0.0.1:1":    "",
	} {
		t.Setenv("ALL_PROXY", via)
		refusal(t, dial(t, options), nil, hint)
	}
}
