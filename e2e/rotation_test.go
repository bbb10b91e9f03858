package e2e

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// TestARotatedCredentialIsPickedUp changes every password on the servers while
// the daemon runs, sees it refused, and then swaps the mounted secrets: the
// next commit is promoted by the same process.
func TestARotatedCredentialIsPickedUp(t *testing.T) {
	t.Parallel()
	app, fleet := &lab.Gate{}, &lab.Gate{}
	registry := lab.NewMemoryRegistry(t, lab.RegistryOptions{TLS: true, Username: "pusher", Password: "first push", Token: true})
	rotate := func(w *lab.World, generation string) (servers, secrets func()) {
		account := func(name string) map[string][]byte {
			return map[string][]byte{"username": []byte("towpath"), "password": []byte(generation + " " + name)}
		}
		servers = func() {
			app.SetAccount("towpath", generation+" app")
			fleet.SetAccount("towpath", generation+" fleet")
			registry.SetAccount("pusher", generation+" push")
		}
		secrets = func() {
			w.Mount(t, "app", account("app"))
			w.Mount(t, "fleet", account("fleet"))
			w.Mount(t, "registry", registry.Secret())
		}
		return servers, secrets
	}
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Config: func(w *lab.World, config string) string {
		servers, secrets := rotate(w, "first")
		servers()
		secrets()
		appDoor, fleetDoor := w.Git.Door(t, lab.GitOptions{Middleware: app.Guard}), w.Git.Door(t, lab.GitOptions{Middleware: fleet.Guard})
		return strings.NewReplacer(
			"url: "+w.Git.RepoURL("fleet.git"), "url: "+fleetDoor.RepoURL("fleet.git")+"\n    secretRef: {name: fleet}",
			"url: "+w.Git.RepoURL("apps/podinfo.git"), "url: "+appDoor.RepoURL("apps/podinfo.git")+"\n      secretRef: {name: app}",
			"{repository: "+w.Repository()+"}", "{repository: "+registry.Repository("apps/podinfo")+", secretRef: {name: registry}}",
		).Replace(config)
	}})
	daemon := w.Daemon(t, nil)
	promoted := func() bool { _, source := w.Ledger("podinfo"); return source == w.App.Head() }
	daemon.Wait("the first promotion", patience, promoted)

	servers, secrets := rotate(w, "second")
	servers()
	daemon.Wait("the former credential to be refused", patience, func() bool { return fleet.Refused() > 0 })
	secrets()
	w.App.Commit(lab.Commit{Message: "After the rotation", Files: map[string]string{"colour": "violet\n"}})
	w.App.Push("HEAD:master")
	daemon.Wait("a promotion with the new credentials", patience, promoted)
	arrived(t, w, registry, "violet")
	if code := daemon.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d", code)
	}
	for _, word := range []string{"first", "second"} {
		for _, name := range []string{"app", "fleet", "push"} {
			if strings.Contains(daemon.Logs(), word+" "+name) {
				t.Errorf("the password %q is in the log", word+" "+name)
			}
		}
	}
}

// TestNoCredentialFollowsARedirect lets the registry send every read, and the
// git servers everything, to another host: it sees no credential, and the git
// repositories are not even followed there.
func TestNoCredentialFollowsARedirect(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var followed []string
	registry := lab.NewMemoryRegistry(t, lab.RegistryOptions{Username: "pusher", Password: "push it"})
	backend := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		followed = append(followed, r.Method+" "+r.URL.Path)
		for _, header := range []string{"Authorization", "Cookie"} {
			if r.Header.Get(header) != "" {
				t.Errorf("%s %s came with %s: %s", r.Method, r.URL, header, r.Header.Get(header))
			}
		}
		r.SetBasicAuth("pusher", "push it") // what the storage service needs not ask
		registry.ServeHTTP(rw, r)
	}))
	t.Cleanup(backend.Close)
	registry.Hook(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		user, _, _ := r.BasicAuth()
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") || user == "" || r.Host == strings.TrimPrefix(backend.URL, "http://") {
			next.ServeHTTP(rw, r)
			return
		}
		http.Redirect(rw, r, backend.URL+r.URL.String(), http.StatusTemporaryRedirect)
	})
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Config: func(w *lab.World, config string) string {
		w.Mount(t, "registry", registry.Secret())
		return strings.Replace(config, "{repository: "+w.Repository()+"}",
			"{repository: "+registry.Repository("apps/podinfo")+", secretRef: {name: registry}}", 1)
	}})
	w.MustRun("run", "--once")
	arrived(t, w, registry, "green")
	registry.Heal()
	mu.Lock()
	if len(followed) == 0 {
		t.Error("nothing was redirected: the test saw nothing")
	}
	followed = nil
	mu.Unlock()

	for repository, indent := range map[string]string{"apps/podinfo.git": "      ", "fleet.git": "    "} {
		moved := w.Git.Door(t, lab.GitOptions{Middleware: func(http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				http.Redirect(rw, r, backend.URL+r.URL.String(), http.StatusFound)
			})
		}})
		there := "url: " + moved.RepoURL(repository) + "\n" + indent + "secretRef: {name: registry}\n"
		replace(t, w.Config, "url: "+w.Git.RepoURL(repository)+"\n", there)
		result := w.Run("run", "--once")
		if result.Code != 1 || !strings.Contains(result.Err, "redirect") || !strings.Contains(result.Err, "towpath: hint: ") {
			t.Errorf("%s moved: exit code %d\n%s", repository, result.Code, result.Err)
		}
		replace(t, w.Config, there, "url: "+w.Git.RepoURL(repository)+"\n")
	}
	mu.Lock()
	defer mu.Unlock()
	if len(followed) > 0 {
		t.Errorf("requests followed a redirect of a git server: %v", followed)
	}
}
