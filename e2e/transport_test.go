package e2e

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/reconcile"
)

// way is how towpath reaches the repositories and the registry of a world, and
// as whom.
type way struct {
	name     string
	prefix   bool // the secrets are named below `credentials:`, by prefix, and not beside each URL
	git      func(*testing.T, *lab.World) entrance
	registry lab.RegistryOptions
	docker   bool                                                          // the registry's account is in a .dockerconfigjson
	signing  func(*testing.T, *lab.World) (config string, verify []string) // default: the SSH key that keygen made
}

// entrance is a way to both repositories.
type entrance struct {
	source, fleet string // their URLs
	secret        map[string][]byte
}

func overHTTP(o lab.GitOptions, secret map[string][]byte) func(*testing.T, *lab.World) entrance {
	return func(t *testing.T, w *lab.World) entrance {
		door := w.Git.Door(t, o)
		all := maps.Clone(secret)
		if door.CA != nil {
			all["ca.crt"] = door.CA.PEM
		}
		if o.ClientCert {
			all["tls.crt"], all["tls.key"] = door.CA.Issue(t, "towpath")
		}
		return entrance{door.RepoURL("apps/podinfo.git"), door.RepoURL("fleet.git"), all}
	}
}

func overSSH(o lab.SSHOptions, passphrase string) func(*testing.T, *lab.World) entrance {
	return func(t *testing.T, w *lab.World) entrance {
		server := lab.NewSSH(t, o)
		secret := server.Secret()
		if passphrase != "" {
			secret["identity"] = locked(t, secret["identity"], passphrase)
			secret["password"] = []byte(passphrase)
		}
		return entrance{server.Door(w.Git, "apps/podinfo.git"), server.Door(w.Git, "fleet.git"), secret}
	}
}

// locked is a private key under a passphrase.
func locked(t *testing.T, key []byte, passphrase string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "identity")
	lab.WriteFile(t, path, key)
	if out, err := exec.Command(lab.Tool(t, "ssh-keygen"), "-q", "-p", "-P", "", "-N", passphrase, "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	key, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// byGPG makes an OpenPGP key under a passphrase to sign bumps with.
func byGPG(t *testing.T, w *lab.World) (config string, verify []string) {
	t.Helper()
	home := t.TempDir()
	gpg := func(args ...string) []byte {
		cmd := exec.Command(lab.Tool(t, "gpg"), append([]string{"--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase", "correct horse"}, args...)...)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg %v: %v", args, err)
		}
		return out
	}
	t.Cleanup(func() {
		_ = exec.Command(lab.Tool(t, "gpgconf"), "--homedir", home, "--kill", "all").Run()
	})
	gpg("--quick-generate-key", "Towpath <towpath@example.com>", "ed25519", "sign", "1y")
	w.Mount(t, "gpg-signing", map[string][]byte{
		"git.asc":    gpg("--armor", "--export-secret-keys", "towpath@example.com"),
		"passphrase": []byte("correct horse"),
	})
	return "{type: gpg, secretRef: {name: gpg-signing}}", []string{"GNUPGHOME=" + home}
}

// TestPromotionOverEveryTransport delivers two commits of a world that is
// reached in each way: check finds nothing wrong, plan changes nothing, and run
// promotes what was asked for.
func TestPromotionOverEveryTransport(t *testing.T) {
	account := map[string][]byte{"username": []byte("towpath"), "password": []byte("open sesame")}
	ways := []way{{
		name:     "HTTPS with a private authority and basic authentication, registry with htpasswd",
		git:      overHTTP(lab.GitOptions{TLS: true, Username: "towpath", Password: "open sesame"}, account),
		registry: lab.RegistryOptions{TLS: true, Username: "pusher", Password: "push it"},
	}, {
		name: "HTTPS with a bearer token, registry by dockerconfigjson, all by prefix", prefix: true,
		git:      overHTTP(lab.GitOptions{TLS: true, Bearer: "t0ken"}, map[string][]byte{"bearerToken": []byte("t0ken\n")}),
		registry: lab.RegistryOptions{TLS: true, Username: "pusher", Password: "push it"}, docker: true,
	}, {
		name:     "HTTPS with a client certificate, registry with tokens",
		git:      overHTTP(lab.GitOptions{TLS: true, ClientCert: true}, map[string][]byte{}),
		registry: lab.RegistryOptions{TLS: true, Username: "pusher", Password: "push it", Token: true},
	}, {
		name: "SSH, registry with a client certificate", prefix: true,
		git:      overSSH(lab.SSHOptions{}, ""),
		registry: lab.RegistryOptions{TLS: true, ClientCA: true},
	}, {
		name:     "SSH of protocol version 0 and a key with a passphrase, registry with tokens by dockerconfigjson",
		git:      overSSH(lab.SSHOptions{NoProtocol: true}, "open sesame"),
		registry: lab.RegistryOptions{TLS: true, Username: "pusher", Password: "push it", Token: true}, docker: true,
	}, {
		name: "HTTP of protocol version 0, bumps signed by an OpenPGP key",
		git:  overHTTP(lab.GitOptions{V0: true, Username: "towpath", Password: "open sesame"}, account), signing: byGPG,
	}}
	for _, v := range ways {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			v.delivers(t)
		})
	}
}

func (v way) delivers(t *testing.T) {
	registry := lab.NewRegistry(t, v.registry)
	var verify []string
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Config: func(w *lab.World, config string) string {
		config, verify = v.config(t, w, registry, config)
		return config
	}})

	before := state(t, w)
	w.MustRun("check")
	if plan := w.MustRun("plan"); !strings.Contains(plan, "+                    image: \""+registry.Repository("apps/podinfo")) {
		t.Errorf("the plan does not show the image:\n%s", plan)
	}
	if after := state(t, w); after != before {
		t.Errorf("check and plan changed refs:\n%s\nwere:\n%s", after, before)
	}
	if pushed := registry.Requests(lab.UploadCommit, lab.ManifestPut); len(pushed) > 0 {
		t.Errorf("check and plan pushed to the registry: %+v", pushed)
	}
	for _, colour := range []string{"green", "violet"} {
		if colour != "green" {
			w.App.Commit(lab.Commit{Message: "Say it in " + colour, Files: map[string]string{"colour": colour + "\n"}})
			w.App.Push("HEAD:master")
		}
		w.MustRun("run", "--once")
		arrived(t, w, registry, colour)
	}
	w.MustRun("run", "--once")
	if all := bumps(t, w); len(all) != 2 {
		t.Errorf("%d bumps, want 2", len(all))
	}
	for _, bump := range bumps(t, w) {
		args := []string{"-c", "gpg.ssh.allowedSignersFile=" + filepath.Join(w.Dir, "secrets", "towpath-signing", "allowed_signers"), "verify-commit", bump}
		if _, err := lab.TryGitEnv(w.Git.Dir("fleet.git"), verify, args...); err != nil {
			t.Error(err)
		}
	}
}

// config points the world's config to where this way leads.
func (v way) config(t *testing.T, w *lab.World, registry *lab.Registry, config string) (string, []string) {
	t.Helper()
	in := v.git(t, w)
	w.Mount(t, "git-both", in.secret)
	push := registry.Secret()
	if v.docker {
		delete(push, "username")
		delete(push, "password")
		push[".dockerconfigjson"] = registry.DockerConfig()
	}
	destination := "{repository: " + registry.Repository("apps/podinfo") + "}"
	source, fleet, credentials := in.source, in.fleet, ""
	if v.prefix {
		parsed, err := url.Parse(in.source)
		if err != nil {
			t.Fatal(err)
		}
		credentials = fmt.Sprintf("credentials:\n  - {match: \"%s://%s/\", secretRef: {name: git-both}}\n", parsed.Scheme, parsed.Host)
		credentials += fmt.Sprintf("  - {match: \"%s/\", secretRef: {name: nowhere}}\n", "registry.example.com")
	} else {
		source += "\n      secretRef: {name: git-both}"
		fleet += "\n    secretRef: {name: git-both}"
	}
	if len(push) > 0 {
		w.Mount(t, "registry", push)
		if v.prefix {
			credentials += fmt.Sprintf("  - {match: \"%s/apps\", secretRef: {name: registry}}\n", registry.Host)
		} else {
			destination = "{repository: " + registry.Repository("apps/podinfo") + ", secretRef: {name: registry}}"
		}
	}
	replacements := []string{
		"gitops:\n", credentials + "gitops:\n",
		"url: " + w.Git.RepoURL("fleet.git"), "url: " + fleet,
		"url: " + w.Git.RepoURL("apps/podinfo.git"), "url: " + source,
		"{repository: " + w.Repository() + "}", destination,
	}
	var verify []string
	if v.signing != nil {
		var key string
		key, verify = v.signing(t, w)
		replacements = append(replacements, "{type: ssh, secretRef: {name: towpath-signing}}", key)
	}
	return strings.NewReplacer(replacements...).Replace(config), verify
}

// state is where every ref of both repositories points.
func state(t *testing.T, w *lab.World) string {
	t.Helper()
	return lab.RunGit(t, w.Git.Dir("apps/podinfo.git"), "for-each-ref") + lab.RunGit(t, w.Git.Dir("fleet.git"), "for-each-ref")
}

// arrived checks that the newest commit is what was promoted, and that the
// image which the manifest names was built of it.
func arrived(t *testing.T, w *lab.World, registry *lab.Registry, colour string) {
	t.Helper()
	bump, source := w.Ledger("podinfo")
	if source != w.App.Head() {
		t.Fatalf("the ledger names %s, want %s", source, w.App.Head())
	}
	ref := strings.TrimSpace(lab.RunGit(t, w.Git.Dir("fleet.git"), "show", "-s", "--format=%(trailers:key=Towpath-Ref,valueonly)", bump))
	if !strings.Contains(w.Manifest("clusters/production/podinfo.yaml"), `"`+ref+`"`) {
		t.Errorf("the manifest does not hold %s", ref)
	}
	flat := mutate.Extract(registry.Pull(t, ref))
	defer flat.Close()
	for archive := tar.NewReader(flat); ; {
		header, err := archive.Next()
		if err != nil {
			t.Fatalf("%s has no page: %v", ref, err)
		}
		if header.Name == "site/index.html" {
			page, err := io.ReadAll(archive)
			if err != nil || !strings.Contains(string(page), colour) {
				t.Errorf("the page is %q, want it in %s (%v)", page, colour, err)
			}
			return
		}
	}
}

// stranger is an image that cannot be delivered, beside one that can.
type stranger struct {
	name        string
	source      string            // URL; empty: the world's
	secret      map[string][]byte // for the source; nil: none
	destination string            // repository; empty: beside the world's
	push        map[string][]byte // for the destination
	target      string            // URL of a GitOps repository of its own; empty: the world's
	says        []string          // of which the reason holds each
	hints       string            // which the hint holds
}

// TestAnImageOutOfReachLeavesTheOthersAlone puts every reason why a repository
// or registry cannot be used into one config: each such image fails with the
// host, the reason and a hint, no credential is shown, and the one image that
// can be delivered is.
func TestAnImageOutOfReachLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	const canary = "c4nary-password"
	wrong := map[string][]byte{"username": []byte("towpath"), "password": []byte(canary)}
	var strangers []stranger
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary,
		Fleet: func(_ *lab.World, manifests map[string]string) {
			for _, name := range []string{"registry-password", "registry-authority", "registry-gone"} {
				manifests["clusters/production/"+name+".yaml"] = "image: none # {\"$imagepolicy\": \"flux-system:" + name + "\"}\n"
			}
		},
		Config: func(w *lab.World, config string) string {
			strangers = unreachable(t, w, wrong)
			return strings.Replace(config, "gitops:\n", "gitops:\n"+targetsOf(t, w, config, strangers), 1) + imagesOf(t, w, strangers)
		},
	})

	// The one good image goes to the one good target alone.
	replace(t, w.Config, "    policy: flux-system:podinfo\n", "    policy: flux-system:podinfo\n    gitops: [production]\n")
	result := w.Run("run", "--once", "--output", "json", "--log-level", "debug")
	if result.Code != 1 {
		t.Errorf("exit code %d, want 1", result.Code)
	}
	var outcomes []reconcile.Outcome
	if err := json.Unmarshal([]byte(result.Out), &outcomes); err != nil {
		t.Fatalf("%v\n%s%s", err, result.Out, result.Err)
	}
	found := map[string]reconcile.Outcome{}
	for _, o := range outcomes {
		found[o.Image] = o
	}
	if o := found["podinfo"]; o.State != reconcile.Promoted {
		t.Errorf("podinfo is %s: %s", o.State, o.Reason)
	}
	arrived(t, w, w.Registry, "green")
	for _, s := range strangers {
		o := found[s.name]
		t.Logf("%s: %s\n\thint: %s", s.name, o.Reason, o.Hint)
		if o.State != reconcile.Failed {
			t.Errorf("%s is %q, want failed", s.name, o.State)
		}
		for _, text := range s.says {
			if !strings.Contains(o.Reason, text) {
				t.Errorf("%s: the reason does not say %q: %s", s.name, text, o.Reason)
			}
		}
		if !strings.Contains(o.Hint, s.hints) || s.hints == "" {
			t.Errorf("%s: the hint does not say %q: %s", s.name, s.hints, o.Hint)
		}
		if !strings.Contains(result.Err, "towpath: error: "+s.name+" → ") {
			t.Errorf("%s: no error is printed", s.name)
		}
	}
	check := w.Run("check", "--output", "json")
	if check.Code != 1 {
		t.Errorf("check: exit code %d, want 1", check.Code)
	}
	var findings []struct{ Subject, Verdict, Text, Hint string }
	if err := json.Unmarshal([]byte(check.Out), &findings); err != nil {
		t.Fatalf("%v\n%s%s", err, check.Out, check.Err)
	}
	for _, s := range strangers {
		subjects := []string{"source of " + s.name, "destination of " + s.name, "target " + s.name}
		if !slices.ContainsFunc(findings, func(f struct{ Subject, Verdict, Text, Hint string }) bool {
			return f.Verdict == "problem" && slices.Contains(subjects, f.Subject) && strings.Contains(f.Hint, s.hints) && strings.Contains(f.Text, s.says[0])
		}) {
			t.Errorf("check does not find %s:\n%s", s.name, check.Out)
		}
	}
	for _, text := range []string{result.Out, result.Err, check.Out, check.Err} {
		if strings.Contains(text, canary) {
			t.Errorf("a credential is shown:\n%s", text)
		}
	}
}

// unreachable sets up what towpath cannot use.
func unreachable(t *testing.T, w *lab.World, wrong map[string][]byte) []stranger {
	t.Helper()
	locked := w.Git.Door(t, lab.GitOptions{Username: "towpath", Password: "open sesame"})
	private := w.Git.Door(t, lab.GitOptions{TLS: true})
	certified := w.Git.Door(t, lab.GitOptions{TLS: true, ClientCert: true})
	ssh, other := lab.NewSSH(t), lab.NewSSH(t)
	expired, expiredCA := lab.Expired(t)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirect was followed: %s %s, Authorization %q", r.Method, r.URL, r.Header.Get("Authorization"))
	}))
	t.Cleanup(elsewhere.Close)
	moved := w.Git.Door(t, lab.GitOptions{Middleware: func(http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, elsewhere.URL+r.URL.String(), http.StatusMovedPermanently)
		})
	}})
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	secure := lab.NewMemoryRegistry(t, lab.RegistryOptions{TLS: true, Username: "pusher", Password: "push it"})

	app := func(server *lab.Git) string { return server.RepoURL("apps/podinfo.git") }
	host := func(address string) string { return strings.SplitN(address, "/", 4)[2] }
	unknown := ssh.Secret()
	_, port, _ := strings.Cut(other.Addr, ":")
	unknown["known_hosts"] = []byte(strings.ReplaceAll(string(other.KnownHosts), ":"+port, ":1"))
	mixedUp := ssh.Secret()
	mixedUp["known_hosts"] = []byte(strings.ReplaceAll(string(other.KnownHosts), other.Addr[strings.Index(other.Addr, ":")+1:], ssh.Addr[strings.Index(ssh.Addr, ":")+1:]))
	stolen := ssh.Secret()
	stolen["identity"] = other.Identity
	return []stranger{
		{name: "git-password", source: app(locked), secret: wrong, says: []string{host(locked.URL), "401"}, hints: "refused the credential"},
		{name: "git-no-password", source: app(locked), says: []string{host(locked.URL), "401"}, hints: "secretRef"},
		{name: "git-authority", source: app(private), secret: wrong, says: []string{host(private.URL), "unknown authority"}, hints: "ca.crt"},
		{name: "git-certificate", source: app(certified), secret: map[string][]byte{"ca.crt": certified.CA.PEM}, says: []string{host(certified.URL), "client certificate"}, hints: "tls.crt"},
		{name: "git-expired", source: expired + "/apps/podinfo.git", secret: map[string][]byte{"ca.crt": expiredCA.PEM}, says: []string{host(expired), "expired"}, hints: "renew"},
		{name: "git-gone", source: gone.URL + "/apps/podinfo.git", secret: wrong, says: []string{host(gone.URL), "connection refused"}, hints: "is the server up"},
		{name: "git-nowhere", source: "https://git.invalid/apps/podinfo.git", secret: wrong, says: []string{"git.invalid"}, hints: "host"},
		{name: "git-unknown", source: w.Git.RepoURL("apps/nothing.git"), secret: wrong, says: []string{host(w.Git.URL), "404"}, hints: "URL"},
		{name: "git-moved", source: app(moved), secret: wrong, says: []string{host(moved.URL), "redirect"}, hints: "URL"},
		{name: "ssh-unknown-host", source: ssh.Door(w.Git, "apps/podinfo.git"), secret: unknown, says: []string{ssh.Addr, "not in known_hosts", "SHA256:"}, hints: "known_hosts"},
		{name: "ssh-other-host", source: ssh.Door(w.Git, "apps/podinfo.git"), secret: mixedUp, says: []string{ssh.Addr, "another key", "SHA256:"}, hints: "in the middle"},
		{name: "ssh-other-key", source: ssh.Door(w.Git, "apps/podinfo.git"), secret: stolen, says: []string{ssh.Addr, "does not accept"}, hints: "deploy key"},
		{name: "registry-password", destination: secure.Repository("apps/wrong"), push: map[string][]byte{"username": wrong["username"], "password": wrong["password"], "ca.crt": secure.CA}, says: []string{secure.Host, "401"}, hints: "does not accept"},
		{name: "registry-authority", destination: secure.Repository("apps/unknown"), push: wrong, says: []string{secure.Host, "unknown authority"}, hints: "ca.crt"},
		{name: "registry-gone", destination: host(gone.URL) + "/apps/gone", push: wrong, says: []string{host(gone.URL), "connection refused"}, hints: "is the registry up"},
		{name: "target-password", target: locked.RepoURL("fleet.git"), push: nil, secret: wrong, says: []string{host(locked.URL), "401"}, hints: "refused the credential"},
		{name: "target-gone", target: gone.URL + "/fleet.git", secret: wrong, says: []string{host(gone.URL), "connection refused"}, hints: "is the server up"},
	}
}

// imagesOf is the config's text about them.
func imagesOf(t *testing.T, w *lab.World, strangers []stranger) string {
	t.Helper()
	var text strings.Builder
	for _, s := range strangers {
		source, target := s.source, "production"
		if source == "" {
			source = w.Git.RepoURL("apps/podinfo.git")
		}
		if s.secret != nil {
			w.Mount(t, s.name, s.secret)
			if s.target == "" {
				source += "\n      secretRef: {name: " + s.name + "}"
			}
		}
		if s.target != "" {
			target = s.name
		}
		destination := s.destination
		if destination == "" {
			destination = w.Registry.Repository("apps/" + s.name)
		}
		if s.push != nil {
			w.Mount(t, s.name+"-push", s.push)
			destination += ", secretRef: {name: " + s.name + "-push}"
		}
		fmt.Fprintf(&text, `  - name: %[1]s
    source:
      url: %[2]s
    build:
      pull: {allow: [%[3]s]}
    destination: {repository: %[4]s}
    policy: flux-system:%[1]s
    gitops: [%[5]s]
`, s.name, source, w.Registry.Repository("base/busybox"), destination, target)
	}
	return text.String()
}

// targetsOf is the config's text about targets of their own: the world's, with
// another name, URL and credential.
func targetsOf(t *testing.T, w *lab.World, config string, strangers []stranger) string {
	t.Helper()
	_, rest, _ := strings.Cut(config, "gitops:\n")
	target, _, ok := strings.Cut(rest, "builder:\n")
	if !ok {
		t.Fatalf("the config has no target:\n%s", config)
	}
	text := ""
	for _, s := range strangers {
		if s.target != "" {
			text += strings.NewReplacer(
				"name: production", "name: "+s.name,
				"url: "+w.Git.RepoURL("fleet.git"), "url: "+s.target+"\n    secretRef: {name: "+s.name+"}",
			).Replace(target)
		}
	}
	return text
}

// replace replaces a text in a file, which must hold it.
func replace(t *testing.T, path, before, after string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(content), before) {
		t.Fatalf("%s does not hold %q", path, before)
	}
	lab.WriteFile(t, path, []byte(strings.ReplaceAll(string(content), before, after)))
}
