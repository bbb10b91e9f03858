package main

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"towpath.dev/towpath/e2e/lab"
)

// measureChain follows commits through the cluster: the Deployment of deploy/,
// build Jobs on the node, Flux's own controllers.
func measureChain(s *stand) []row {
	here := theSite(s)
	seen := newWitness()
	e := here.newEstate(seen.wrap)
	e.git.Create("apps/podinfo.git")
	app := lab.NewWork(s, e.git.Dir("apps/podinfo.git"))
	app.Git("switch", "--quiet", "--orphan", "master")
	change := func(n int) string {
		return app.Commit(lab.Commit{
			Message: fmt.Sprintf("Paint it %d", n), Author: "Dana Developer <dana@example.com>",
			Files: map[string]string{
				"Dockerfile": "FROM " + e.base + "\nCOPY colour page.html /site/\nRUN sed -i \"s/@COLOUR@/$(cat /site/colour)/\" /site/page.html && chown -R 1000:1000 /site\nUSER 1000\n",
				"page.html":  "<h1 style=\"color: @COLOUR@\">hello</h1>\n", "colour": fmt.Sprintf("#%06x\n", n),
			},
		})
	}
	change(0)
	path, content := e.manifest("podinfo")
	e.fleet.Commit(lab.Commit{Message: "Deploy podinfo", Files: map[string]string{path: content}})
	e.fleet.Push("HEAD:main")
	when := here.watchCluster()
	e.install(time.Second, "", e.image("podinfo", "apps/podinfo.git", "."))

	// The first build is another: the node has to pull two images.
	var made, finished, last, live, requests samples
	var told []string
	for n := range 1 + s.options.runs {
		if n > 0 {
			change(n)
		}
		commit := app.Head()
		seen.await(commit)
		app.Push("HEAD:master")
		polled := here.within("the poll that sees the commit", seen.polled)
		pushed := here.within("the push of its bump", seen.pushed)
		bump := strings.TrimSpace(lab.RunGit(s, e.git.Dir("fleet.git"), "rev-parse", "main"))
		reached := when.of(here, applied(bump))
		if n == 0 {
			continue
		}
		made = append(made, when.of(here, jobMade(commit)).Sub(polled).Seconds())
		finished = append(finished, pushed.Sub(when.of(here, publishEnded(commit))).Seconds())
		last = append(last, pushed.Sub(published(s, here.pushes.of("apps/podinfo", polled))).Seconds())
		live = append(live, reached.Sub(pushed).Seconds())
		asked := here.Node.Requests(s, towpathAccount, polled)
		requests = append(requests, float64(len(asked)))
		told = nil
		for _, request := range asked {
			told = append(told, request.What)
		}
	}
	s.say("the last build's requests to the API server: %s", strings.Join(told, ", "))
	e.remove()
	return []row{
		{what: "commit seen to Job created", ours: made, unit: seconds, goal: "under 1 s", reached: reached(made.median() < 1)},
		{what: "Job's publish finished to GitOps push acknowledged", ours: finished, unit: seconds, goal: "under 1 s", reached: reached(finished.median() < 1)},
		{what: "— from the last that the registry gets of publish, the kubelet's notice included", ours: last, unit: seconds},
		{what: "GitOps push to applied by Flux, with the nudge", ours: live, unit: seconds, goal: "under 2 s", reached: reached(live.median() < 2)},
		{what: "API requests for a build", ours: requests, unit: number, goal: "under 20", reached: reached(most(requests) < 20)},
	}
}

// published is when the registry had the image's manifest of publish: the first
// manifest that is put there.
func published(s *stand, arrivals []arrival) time.Time {
	for _, it := range arrivals {
		if it.method == http.MethodPut && strings.Contains(it.path, "/manifests/") {
			return it.ended
		}
	}
	s.Fatal("the registry saw no manifest of publish")
	return time.Time{}
}

// within waits for something the daemon is to bring about.
func (here *site) within(what string, c chan time.Time) time.Time {
	select {
	case at := <-c:
		return at
	case <-time.After(patience):
		here.s.Fatalf("%s did not come within %s\n%s", what, patience, here.logs())
	}
	panic("unreachable")
}
