package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/reconcile"
)

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
	// As JSON the result holds the errors; for a person each is a line.
	read := w.Run("run", "--once")
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
		if strings.Count(read.Err, "towpath: error: "+s.name+" → ") != 1 {
			t.Errorf("%s: its error is not printed once:\n%s", s.name, read.Err)
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
	for _, text := range []string{result.Out, result.Err, read.Out, read.Err, check.Out, check.Err} {
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
		{name: "git-password", source: app(locked), secret: wrong, says: []string{host(locked.URL), "401"}, hints: "refused the credential: it may be expired, revoked or meant for another host (secret git-password"},
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
		{name: "registry-password", destination: secure.Repository("apps/wrong"), push: map[string][]byte{"username": wrong["username"], "password": wrong["password"], "ca.crt": secure.CA}, says: []string{secure.Host, "401"}, hints: "renew its username"},
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
