package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"towpath.dev/towpath/e2e/lab"
)

// storms are what a server may do to its clients for a while.
var storms = []lab.Storm{
	{Status: http.StatusUnauthorized}, {Status: http.StatusForbidden}, {Status: http.StatusNotFound},
	{Status: http.StatusConflict}, {Status: http.StatusRequestEntityTooLarge},
	{Status: http.StatusTooManyRequests, RetryAfter: 2}, {Status: http.StatusInternalServerError},
	{Status: http.StatusServiceUnavailable}, {Cut: true},
}

// stormy is a world whose source, target and registry each have weather of
// their own.
func stormy(t *testing.T) (w *lab.World, weather map[string]*lab.Weather) {
	t.Helper()
	weather = map[string]*lab.Weather{"source": {}, "target": {}, "registry": {}}
	w = lab.NewWorld(t, lab.WorldOptions{Binary: binary,
		Registry: func(t testing.TB) *lab.Registry { return lab.NewMemoryRegistry(t, lab.RegistryOptions{}) },
		Config: func(w *lab.World, config string) string {
			source := w.Git.Door(t, lab.GitOptions{Middleware: weather["source"].Before})
			target := w.Git.Door(t, lab.GitOptions{Middleware: weather["target"].Before})
			return strings.NewReplacer(
				"url: "+w.Git.RepoURL("fleet.git"), "url: "+target.RepoURL("fleet.git"),
				"url: "+w.Git.RepoURL("apps/podinfo.git"), "url: "+source.RepoURL("apps/podinfo.git"),
			).Replace(config)
		},
	})
	w.Registry.Hook(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		weather["registry"].Before(next).ServeHTTP(rw, r)
	})
	return w, weather
}

// TestADaemonOutlivesOutages lets each server fail in each way while a commit
// waits. When it has failed often enough to be noticed and answers again, the
// commit is promoted within three rounds, once.
func TestADaemonOutlivesOutages(t *testing.T) {
	for _, part := range []string{"source", "target", "registry"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			w, weather := stormy(t)
			daemon := w.Daemon(t, nil, "--log-level", "debug")
			promoted := func() bool { _, source := w.Ledger("podinfo"); return source == w.App.Head() }
			rounds := func() (lines []string) {
				for line := range strings.Lines(daemon.Logs()) {
					if strings.Contains(line, "msg=round") {
						lines = append(lines, line)
					}
				}
				return lines
			}
			daemon.Wait("the first promotion", patience, promoted)
			for i, storm := range storms {
				before, roundsBefore := bumps(t, w), len(rounds())
				weather[part].Begin(storm)
				w.App.Commit(lab.Commit{Message: "In " + storm.String(), Files: map[string]string{"colour": fmt.Sprintf("shade-%d\n", i)}})
				w.App.Push("HEAD:master")
				daemon.Wait(fmt.Sprintf("%s (%s) to be noticed", storm, part), patience, func() bool {
					return weather[part].Struck() > 0 && (part == "registry" || len(rounds()) > roundsBefore)
				})
				weather[part].End()
				healed, roundsBefore := time.Now(), len(rounds())
				// As the daemon tells it: rounds go on while a busy machine looks.
				n := 0
				daemon.Wait(fmt.Sprintf("a promotion after %s (%s)", storm, part), patience, func() bool {
					n = 1 + slices.IndexFunc(rounds()[roundsBefore:], func(line string) bool { return strings.Contains(line, "state=promoted") })
					return n > 0 && promoted()
				})
				t.Logf("%s: promoted %s and %d rounds after the end", storm, time.Since(healed).Round(time.Millisecond), n)
				if n > 3 {
					t.Errorf("%s: promoted %d rounds after the end, want 3 at most", storm, n)
				}
				promotedOnce(t, w, before, w.App.Head())
			}
			if code := daemon.Stop(); code != 0 {
				t.Errorf("the daemon ended with %d", code)
			}
			intact(t, w)
		})
	}
}

// TestADeadServerDelaysNobodyElse has a source, a target and a registry that
// accept requests and never answer: an image that needs none of them is
// promoted as ever, and the daemon still ends within its time.
func TestADeadServerDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	weather := &lab.Weather{}
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary,
		Fleet: func(_ *lab.World, manifests map[string]string) {
			for _, name := range []string{"dead-source", "dead-registry"} {
				manifests["clusters/production/"+name+".yaml"] = "image: none # {\"$imagepolicy\": \"flux-system:" + name + "\"}\n"
			}
		},
		Config: func(w *lab.World, config string) string {
			dead := w.Git.Door(t, lab.GitOptions{Middleware: weather.Before})
			registry := lab.NewMemoryRegistry(t, lab.RegistryOptions{})
			registry.Hook(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
				weather.Before(next).ServeHTTP(rw, r)
			})
			strangers := []stranger{
				{name: "dead-source", source: dead.RepoURL("apps/podinfo.git")},
				{name: "dead-registry", destination: registry.Repository("apps/dead")},
				{name: "dead-target", target: dead.RepoURL("fleet.git"), secret: map[string][]byte{"username": []byte("a"), "password": []byte("b")}},
			}
			config = strings.Replace(config, "gitops:\n", "gitops:\n"+targetsOf(t, w, config, strangers), 1) + imagesOf(t, w, strangers)
			config = strings.Replace(config, "    policy: flux-system:podinfo\n", "    policy: flux-system:podinfo\n    gitops: [production]\n", 1)
			return config
		},
	})
	weather.Begin(lab.Storm{Hang: true})
	daemon := w.Daemon(t, nil)
	for i := range 3 {
		began := time.Now()
		// Less than the minute after which a server that is silent is given up.
		daemon.Wait("a promotion beside dead servers", 50*time.Second, func() bool { _, source := w.Ledger("podinfo"); return source == w.App.Head() })
		t.Logf("promoted after %s", time.Since(began).Round(time.Millisecond))
		w.App.Commit(lab.Commit{Files: map[string]string{"colour": fmt.Sprintf("shade-%d\n", i)}})
		w.App.Push("HEAD:master")
	}
	if weather.Struck() < 3 {
		t.Errorf("the dead servers were asked %d times, want each", weather.Struck())
	}
	began := time.Now()
	if code := daemon.Stop(); code != 0 {
		t.Errorf("the daemon ended with %d\n%s", code, daemon.Logs())
	}
	t.Logf("it ended after %s", time.Since(began).Round(time.Millisecond))
	weather.End()
}

// TestDatesDecideNothing: commits that claim to be a day early or late, each
// older than its parent, and a GitOps branch from tomorrow.
func TestDatesDecideNothing(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary})
	w.MustRun("run", "--once")
	day := 24 * time.Hour
	for i, off := range []time.Duration{day, -day, 2 * day, 0, -365 * day} {
		before := bumps(t, w)
		w.App.Commit(lab.Commit{Message: "A strange hour", When: time.Now().Add(off), Files: map[string]string{"colour": fmt.Sprintf("shade-%d\n", i)}})
		w.App.Push("HEAD:master")
		w.Fleet.Git("pull", "--quiet", "--rebase", "origin", "main")
		w.Fleet.Commit(lab.Commit{Message: "Another strange hour", When: time.Now().Add(-off), Files: map[string]string{"README.md": off.String()}})
		w.Fleet.Push("HEAD:main")
		w.MustRun("run", "--once")
		promotedOnce(t, w, before, w.App.Head())
	}
	intact(t, w)
}
