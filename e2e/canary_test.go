package e2e

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// thief is a Dockerfile that takes what a build can see, prints it and keeps
// it in the image.
const thief = `FROM %s
COPY . /src
RUN (env; cat /proc/*/environ /proc/*/cmdline /proc/keys /proc/*/mountinfo; cat /proc/net/unix; find / -xdev -type f ! -name loot -size -200k -exec cat {} +; ls -laR /) > /loot 2>&1; sleep 0.3; cat /loot
RUN %s
`

// canaryWorld is a world in which every secret is a canary.
type canaryWorld struct {
	*lab.World
	canaries *lab.Canaries
	witness  *lab.Witness
	registry *lab.Registry // where images go, its account in a .dockerconfigjson
	bases    *lab.Registry // where the base image is, with an account of its own
	pushed   *uploads
	echo     *parrot
}

// TestNoSecretComesOut takes towpath through success, failure, a build that
// steals what it sees and servers that repeat what they were sent, and looks
// for every secret in everything that came out: logs, results, errors, files,
// arguments, environments, git objects and the registry's content. No process
// ever listens.
func TestNoSecretComesOut(t *testing.T) {
	t.Parallel()
	c := newCanaryWorld(t)

	c.command(t, 0, "check")
	c.command(t, 0, "plan")
	daemon := c.daemon(t, "--log-format", "json", "--log-level", "debug")
	daemon.Wait("the first promotion", patience, c.promoted)

	c.commit("Steal, and fail", fmt.Sprintf(thief, c.base(), "cat /loot >&2; exit 7"))
	daemon.Wait("the build's failure", patience, func() bool { return strings.Contains(daemon.Logs(), `"state":"faulty"`) })
	c.end(t, daemon)
	c.command(t, 0, "status")
	c.command(t, 0, "why", "podinfo")
	c.command(t, 1, "run", "--once", "--output", "json")

	daemon = c.daemon(t, "--log-level", "debug")
	for _, part := range []string{"git", "registry"} {
		c.echo.repeat(part)
		c.commit("Steal while the "+part+" server tells all", fmt.Sprintf(thief, c.base(), "true"))
		before := c.echo.repeated()
		daemon.Wait("an error of the "+part+" server", patience, func() bool { return c.echo.repeated() > before })
		for _, command := range [][]string{{"check"}, {"plan"}, {"status"}, {"run", "--once"}} {
			c.command(t, -1, command...)
		}
		c.echo.repeat("")
		daemon.Wait("a promotion after it", patience, c.promoted)
	}
	c.end(t, daemon)

	c.brokenSecrets(t)
	c.search(t)
}

func newCanaryWorld(t *testing.T) *canaryWorld {
	t.Helper()
	c := &canaryWorld{canaries: &lab.Canaries{}, pushed: &uploads{}, echo: &parrot{}}
	planted := 0
	secret := func(name string) []byte {
		planted++
		value := fmt.Appendf(nil, "c4n%02d/%s+%x", planted, strings.ReplaceAll(name, " ", "&"), os.Getpid()+planted)
		c.canaries.Plant(t, name, value)
		return value
	}
	account := func(o lab.RegistryOptions, name string) lab.RegistryOptions {
		o.Username, o.Password = "pusher", string(secret(name))
		return o
	}
	c.registry = lab.NewRegistry(t, account(lab.RegistryOptions{TLS: true, ClientCA: true}, "the registry's password"))
	c.bases = lab.NewRegistry(t, account(lab.RegistryOptions{Token: true}, "the password for bases"))
	c.registry.Hook(c.serveRegistry)
	base := c.bases.Push(t, "base/busybox", "1", lab.Busybox(t))

	c.World = lab.NewWorld(t, lab.WorldOptions{Binary: binary,
		Files: func(_ *lab.World, files map[string]string) {
			files["Dockerfile"] = fmt.Sprintf(thief, base, "true")
		},
		Config: func(w *lab.World, config string) string {
			c.World = w
			ssh := lab.NewSSH(t)
			fleet := ssh.Secret()
			fleet["password"] = secret("the passphrase of the SSH identity")
			fleet["identity"] = locked(t, fleet["identity"], string(fleet["password"]))
			c.canaries.PlantKey(t, "the SSH identity", fleet["identity"])
			c.canaries.PlantKey(t, "the SSH identity, unlocked", ssh.Identity)

			app := map[string][]byte{"username": []byte("towpath"), "password": secret("the git password")}
			door := w.Git.Door(t, lab.GitOptions{TLS: true, ClientCert: true, Username: "towpath", Password: string(app["password"]), Middleware: c.echo.git(c)})
			app["ca.crt"] = door.CA.PEM
			app["tls.crt"], app["tls.key"] = door.CA.Issue(t, "towpath")
			c.canaries.PlantKey(t, "the client's key for git", app["tls.key"])

			push := c.registry.Secret()
			delete(push, "username")
			delete(push, "password")
			push[".dockerconfigjson"] = c.registry.DockerConfig()
			c.canaries.PlantKey(t, "the client's key for the registry", push["tls.key"])

			for name, keys := range map[string]map[string][]byte{"app": app, "fleet": fleet, "push": push, "pull": c.bases.Secret()} {
				keys["former"] = secret("a former key in " + name)
				w.Mount(t, name, keys)
			}
			for _, name := range []string{"towpath-signing", "towpath-provenance"} {
				w.Secret(name, map[string][]byte{"former": secret("a former key in " + name)})
			}
			for path, name := range map[string]string{
				"towpath-signing/identity": "the signing key", "towpath-provenance/cosign.key": "the provenance key",
			} {
				c.canaries.PlantKey(t, name, c.read(t, path))
			}
			c.canaries.Plant(t, "the provenance key's password", bytes.TrimSpace(c.read(t, "towpath-provenance/cosign.password")))

			return strings.NewReplacer(
				"url: "+w.Git.RepoURL("fleet.git"), "url: "+ssh.Door(w.Git, "fleet.git")+"\n    secretRef: {name: fleet}",
				"url: "+w.Git.RepoURL("apps/podinfo.git"), "url: "+door.RepoURL("apps/podinfo.git")+"\n      secretRef: {name: app}",
				"{repository: "+w.Repository()+"}", "{repository: "+c.registry.Repository("apps/podinfo")+", secretRef: {name: push}}",
				"pull: {allow: ["+w.Registry.Repository("base/busybox")+"]}", "pull: {secretRef: {name: pull}, allow: ["+c.bases.Repository("base/busybox")+"]}",
			).Replace(config)
		},
	})
	temporary := filepath.Join(c.Dir, "tmp")
	if err := os.Mkdir(temporary, 0o700); err != nil {
		t.Fatal(err)
	}
	c.canaries.Plant(t, "a variable of the daemon's", []byte("c4n-environment"))
	c.witness = lab.NewWitness(t, c.canaries, func(path string) bool {
		return strings.Contains(path, "/executors/") // kaniko itself, 50 MB
	}, filepath.Join(c.Dir, "cache"), temporary)
	return c
}

// environment is what the daemon and the commands have beside their secrets.
func (c *canaryWorld) environment() []string {
	return []string{"TMPDIR=" + filepath.Join(c.Dir, "tmp"), "AWS_SECRET_ACCESS_KEY=c4n-environment"}
}

func (c *canaryWorld) read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.Dir, "secrets", path))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// base is the base image that is in the first Dockerfile.
func (c *canaryWorld) base() string {
	first, _, _ := strings.Cut(c.App.Git("show", "HEAD:Dockerfile"), "\n")
	return strings.TrimPrefix(first, "FROM ")
}

func (c *canaryWorld) commit(message, dockerfile string) {
	c.App.Commit(lab.Commit{Message: message, Files: map[string]string{"Dockerfile": dockerfile, "why": message}})
	c.App.Push("HEAD:master")
}

func (c *canaryWorld) promoted() bool {
	_, source := c.Ledger("podinfo")
	return source == c.App.Head()
}

func (c *canaryWorld) daemon(t *testing.T, args ...string) *lab.Daemon {
	t.Helper()
	daemon := c.Daemon(t, c.environment(), args...)
	c.witness.Follow(daemon.Pid())
	return daemon
}

func (c *canaryWorld) end(t *testing.T, daemon *lab.Daemon) {
	t.Helper()
	if code := daemon.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d\n%s", code, daemon.Logs())
	}
	c.witness.Text("the daemon's log", []byte(daemon.Logs()))
}

// command runs a command that must end with a code; -1: any.
func (c *canaryWorld) command(t *testing.T, code int, args ...string) {
	t.Helper()
	cmd := c.Command(t.Context(), append(args, "--log-level", "debug")...)
	cmd.Env = append(cmd.Env, c.environment()...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.witness.Follow(cmd.Process.Pid)
	_ = cmd.Wait() // the code is looked at
	if got := cmd.ProcessState.ExitCode(); code >= 0 && got != code {
		t.Errorf("towpath %v ended with %d, want %d\n%s", args, got, code, out.String())
	}
	c.witness.Text(fmt.Sprintf("what towpath %v printed", args), out.Bytes())
}

// brokenSecrets spoils one secret after the other: what is wrong is said, and
// what it holds is not.
func (c *canaryWorld) brokenSecrets(t *testing.T) {
	t.Helper()
	for path, broken := range map[string]string{
		"app/password":                       "c4n-wrong-password\n",
		"app/tls.key":                        "-----BEGIN PRIVATE KEY-----\nc4n-wrong-password\n-----END PRIVATE KEY-----\n",
		"fleet/identity":                     "-----BEGIN OPENSSH PRIVATE KEY-----\nc4n-wrong-password\n-----END OPENSSH PRIVATE KEY-----\n",
		"fleet/password":                     "c4n-wrong-password",
		"fleet/known_hosts":                  "c4n-wrong-password",
		"push/.dockerconfigjson":             `{"auths":{"` + c.registry.Host + `":{"auth":"c4n-wrong-password"}}}`,
		"pull/password":                      "c4n-wrong-password",
		"towpath-signing/identity":           "c4n-wrong-password",
		"towpath-provenance/cosign.password": "c4n-wrong-password",
		"towpath-provenance/cosign.key":      "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nc4n-wrong-password\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n",
	} {
		c.canaries.Plant(t, "a wrong secret", []byte("c4n-wrong-password"))
		right := c.read(t, path)
		lab.WriteFile(t, filepath.Join(c.Dir, "secrets", path), []byte(broken))
		if path != "pull/password" {
			c.command(t, 1, "check")
		}
		if !strings.HasPrefix(path, "app/") && !strings.HasPrefix(path, "fleet/") {
			// The others are also read while an image is made.
			c.commit("With a broken "+path, fmt.Sprintf(thief, c.base(), "true"))
			c.command(t, -1, "run", "--once")
		}
		lab.WriteFile(t, filepath.Join(c.Dir, "secrets", path), right)
	}
	config, err := os.ReadFile(c.Config)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, c.Config, "      url: https://", "      url: https://towpath:c4n-wrong-password@")
	c.command(t, 2, "check")
	lab.WriteFile(t, c.Config, config)
}

// search looks through what is left when everything has ended.
func (c *canaryWorld) search(t *testing.T) {
	t.Helper()
	c.witness.Look()
	for _, name := range []string{"apps/podinfo.git", "fleet.git"} {
		dir := c.Git.Dir(name)
		c.witness.Text("the refs of "+name, []byte(lab.RunGit(t, dir, "for-each-ref")))
		c.witness.Text("the objects of "+name, []byte(lab.RunGit(t, dir, "cat-file", "--batch-all-objects", "--batch")))
	}
	for path, content := range c.pushed.all() {
		c.witness.Text("the registry's "+path, content)
	}
	programs, files := c.witness.Seen()
	t.Logf("seen: %v, %d files, %d uploads", programs, files, len(c.pushed.all()))
	for _, program := range []string{"towpath run", "towpath fetch", "towpath publish", "runc", "slirp4netns", "executor"} {
		if !slices.ContainsFunc(programs, func(seen string) bool { return strings.HasPrefix(seen, program) }) {
			t.Errorf("the witness never saw %s: it proves less than it should", program)
		}
	}
	if files < 50 || len(c.pushed.all()) < 10 {
		t.Errorf("the witness saw %d files and %d uploads: it proves less than it should", files, len(c.pushed.all()))
	}
	for _, found := range c.witness.Found() {
		t.Error(found)
	}
}

// serveRegistry keeps what is pushed and looks around at each request.
func (c *canaryWorld) serveRegistry(rw http.ResponseWriter, r *http.Request, next http.Handler) {
	if c.witness != nil {
		c.witness.Look()
	}
	if c.echo.strikes("registry", r) {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(rw, `{"errors":[{"code":"DENIED","message":%q}]}`, "you sent "+r.Header.Get("Authorization"))
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		content, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client gave up
		}
		c.pushed.add(r.URL.Path, content)
		r.Body = io.NopCloser(bytes.NewReader(content))
	}
	next.ServeHTTP(rw, r)
}

// uploads are the bodies that a registry was sent, by path.
type uploads struct {
	mu     sync.Mutex
	bodies map[string][]byte
}

func (u *uploads) add(path string, content []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.bodies == nil {
		u.bodies = map[string][]byte{}
	}
	if len(content) > 0 {
		u.bodies[path] = append(u.bodies[path], content...)
	}
}

func (u *uploads) all() map[string][]byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.bodies)
}

// parrot makes servers refuse, and repeat the credential that they were sent.
type parrot struct {
	mu   sync.Mutex
	part string
	n    int
}

func (p *parrot) repeat(part string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.part = part
}

func (p *parrot) repeated() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

func (p *parrot) strikes(part string, r *http.Request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.part != part || r.Header.Get("Authorization") == "" {
		return false
	}
	p.n++
	return true
}

func (p *parrot) git(c *canaryWorld) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if c.witness != nil {
				c.witness.Look()
			}
			if p.strikes("git", r) {
				user, password, _ := r.BasicAuth()
				http.Error(rw, fmt.Sprintf("%s of %s with %s is not welcome (%s)", password, user, r.Header.Get("Authorization"), r.URL), http.StatusForbidden)
				return
			}
			next.ServeHTTP(rw, r)
		})
	}
}
