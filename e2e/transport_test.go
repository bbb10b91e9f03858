package e2e

import (
	"archive/tar"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"towpath.dev/towpath/e2e/lab"
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

// TestTheStandardKeychainServes where no secret is named for a registry: in the
// daemon, which seals and tags, and in the step that publishes.
func TestTheStandardKeychainServes(t *testing.T) {
	registry := lab.NewRegistry(t, lab.RegistryOptions{Username: "pusher", Password: "push it"})
	dir := t.TempDir()
	lab.WriteFile(t, filepath.Join(dir, "config.json"), registry.DockerConfig())
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Config: func(w *lab.World, config string) string {
		return strings.Replace(config, "{repository: "+w.Repository()+"}", "{repository: "+registry.Repository("apps/podinfo")+"}", 1)
	}})
	if refused := w.Run("run", "--once"); refused.Code != 1 || !strings.Contains(refused.Err, "401") || !strings.Contains(refused.Err, "no secret is named") {
		t.Errorf("without an account run ended with %d\n%s", refused.Code, refused.Err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
	w.MustRun("check")
	w.MustRun("run", "--once")
	arrived(t, w, registry, "green")
}
