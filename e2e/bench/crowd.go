package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
)

// The fleets of applications that are measured.
const (
	crowdSources, crowdImages = 20, 200 // that become due at once
	idleSources, idleImages   = 200, 1000

	mebibyte = 1 << 20
)

// crowd are images of several sources, all settled: their sources' heads are
// promoted.
type crowd struct {
	*estate
	sources int
	images  []string // the n-th is of source n modulo sources
}

// newCrowd makes the sources, and a GitOps repository that holds a digest of
// each image already.
func newCrowd(e *estate, sources, images int, digest string) *crowd {
	s := e.s
	s.say("making %d sources and promoting %d images", sources, images)
	c := &crowd{estate: e, sources: sources}
	heads, files := map[string]gitops.Hash{}, map[string]string{}
	for n := range images {
		image := appName(n)
		c.images = append(c.images, image)
		files["clusters/production/"+image+".yaml"] = c.manifest(image)
	}
	for n := range sources {
		e.git.Create(sourceOf(n))
		c.commit(n, 0)
		head, err := gitops.ParseHash(c.head(n))
		s.must(err)
		for i := n; i < images; i += sources {
			heads[c.images[i]] = head
		}
	}
	e.fleet.Commit(lab.Commit{Message: "Deploy everything", Files: files})
	e.fleet.Push("HEAD:main")
	c.settle(heads, func(image string) string { return e.git.RepoURL(c.sourceOf(image)) }, digest)
	return c
}

// manifest has an image's marker, in an object that nothing in the cluster acts
// on: what a thousand Deployments cost is none of Towpath's.
func (c *crowd) manifest(image string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata: {name: %[1]s, namespace: default, labels: {app.kubernetes.io/name: %[1]s}}
data:
  replicas: "2"
  image: %[2]s:none # {"$imagepolicy": "flux-system:%[1]s"}
`, image, c.registry.Repository("apps/"+image))
}

func sourceOf(n int) string { return fmt.Sprintf("apps/source-%d.git", n) }

func (c *crowd) sourceOf(image string) string {
	n, err := strconv.Atoi(strings.TrimPrefix(image, "app-"))
	c.s.must(err)
	return sourceOf(n % c.sources)
}

// config is the images' part of the config.
func (c *crowd) config() string {
	var text strings.Builder
	for _, image := range c.images {
		text.WriteString(c.image(image, c.sourceOf(image), image))
	}
	return text.String()
}

// commit puts a commit onto a source that touches every image of it.
func (c *crowd) commit(source, number int) {
	dir := c.git.Dir(sourceOf(source))
	stream(c.s, dir, func(in io.Writer) {
		fmt.Fprintf(in, "commit refs/heads/master\ncommitter Dana Developer <dana@example.com> %d +0000\ndata 6\nchange\n", lab.Epoch.Unix()+int64(number)*60)
		if number > 0 {
			fmt.Fprint(in, "from refs/heads/master^0\n")
		}
		for i := source; i < len(c.images); i += c.sources {
			image := c.images[i]
			writeFile(in, image+"/Dockerfile", fmt.Sprintf("FROM %s\nCOPY page.html /site/\nRUN chown -R 1000:1000 /site\nUSER 1000\n", c.base))
			writeFile(in, image+"/page.html", fmt.Sprintf("<h1>%s, number %d</h1>\n", image, number))
		}
	})
}

func (c *crowd) head(source int) string {
	return strings.TrimSpace(lab.RunGit(c.s, c.git.Dir(sourceOf(source)), "rev-parse", "master"))
}

// ledger is the source commit that the ledger has of each image.
func (c *crowd) ledger() map[string]string {
	promoted := map[string]string{}
	refs := lab.RunGit(c.s, c.git.Dir("fleet.git"), "for-each-ref", "--format=%(refname:lstrip=3) %(contents:trailers:key=Towpath-Commit,valueonly)", "refs/towpath/production/")
	for line := range strings.Lines(refs) {
		if image, commit, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			promoted[image] = commit
		}
	}
	return promoted
}

// measureCrowd has a change of every source arrive at the same moment, on which
// each of 200 images is built: real Jobs of kaniko's, as many at a time as the
// node takes.
func measureCrowd(s *stand) []row {
	here := theSite(s)
	e := here.newEstate(nil)
	_, digest, _ := strings.Cut(here.base, "@")
	c := newCrowd(e, crowdSources, crowdImages, digest)
	c.install(time.Second, fmt.Sprintf("  concurrency: %d # the cluster queues\n", crowdImages), c.config())
	// What Kubernetes' client library holds back it says at this level.
	here.Kubectl(s, "", "-n", towpathNamespace, "patch", "deployment", "towpath", "--type=json", "-p", `[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--log-level=debug"}]`)
	here.Kubectl(s, "", "-n", towpathNamespace, "rollout", "status", "--timeout=120s", "deployment/towpath")
	here.await("all is settled", time.Minute, func() error { return c.settled() })

	began := time.Now()
	for n := range c.sources {
		c.commit(n, 1)
	}
	due := time.Since(began)
	pid, want := here.daemon(), map[string]string{}
	for n := range c.sources {
		head := c.head(n)
		for i := n; i < len(c.images); i += c.sources {
			want[c.images[i]] = head
		}
	}
	right := func() (n int) {
		for image, commit := range c.ledger() {
			if want[image] == commit {
				n++
			}
		}
		return n
	}
	told := time.Now()
	limit := 15 * time.Minute
	here.await("every image is promoted", limit, func() error {
		n := right()
		if time.Since(told) > 20*time.Second {
			s.say("%d of %d promoted after %s", n, len(c.images), time.Since(began).Round(time.Second))
			told = time.Now()
		}
		if n < len(c.images) {
			return fmt.Errorf("%d of %d", n, len(c.images))
		}
		return nil
	})
	took := time.Since(began)
	if again := here.daemon(); again != pid {
		s.Fatalf("the daemon was started anew meanwhile\n%s", here.logs())
	}
	peak := memoryOf(s, pid, "VmHWM")
	refused, asked := 0, here.Node.Requests(s, towpathAccount, began)
	for _, request := range asked {
		if request.Code == http.StatusTooManyRequests {
			refused++
		}
	}
	held := strings.Count(here.logs(), "client-side throttling")
	once, extra := c.bumps(want)
	c.remove()
	what := fmt.Sprintf("%d images becoming due at once", crowdImages)
	return []row{
		{what: what + ": requests to the API server that were throttled", words: fmt.Sprintf("%d refused, %d held back, of %d", refused, held, len(asked)), goal: "none", reached: reached(refused+held == 0)},
		{what: "— resident memory at most", ours: samples{float64(peak)}, unit: byteSize, goal: "under 128 MiB", reached: reached(peak < 128*mebibyte)},
		{what: "— promoted", words: fmt.Sprintf("%d once, %d more often", once, extra), goal: "every one, once", reached: reached(once == crowdImages && extra == 0)},
		{what: "— from the first push to the last bump, the builds included", ours: samples{took.Seconds()}, unit: seconds},
		{what: "— the pushes themselves", ours: samples{due.Seconds()}, unit: seconds},
	}
}

// settled tells whether Towpath reports of every image that there is nothing to
// do: it has polled all of them.
func (c *crowd) settled() error {
	logs := c.logs()
	for _, image := range c.images {
		if !strings.Contains(logs, `"image":"`+image+`"`) {
			return fmt.Errorf("nothing is told of %s", image)
		}
	}
	return nil
}

// bumps counts the images that were promoted to a source commit once, with an
// image that is in the registry; and the bumps beyond.
func (c *crowd) bumps(want map[string]string) (once, extra int) {
	counts, refs := map[string]int{}, map[string]string{}
	log := lab.RunGit(c.s, c.git.Dir("fleet.git"), "log", "--format=%(trailers:key=Towpath-Image,valueonly,separator=%x20) %(trailers:key=Towpath-Commit,valueonly,separator=%x20) %(trailers:key=Towpath-Ref,valueonly,separator=%x20)", "main")
	for line := range strings.Lines(log) {
		fields := strings.Fields(line)
		if len(fields) == 3 && want[fields[0]] == fields[1] {
			counts[fields[0]]++
			refs[fields[0]] = fields[2]
		}
	}
	for image, n := range counts {
		extra += n - 1
		name, digest, _ := strings.Cut(refs[image], "@")
		tag := c.registry.Pull(c.s, name)
		got, err := tag.Digest()
		c.s.must(err)
		if got.String() == digest {
			once++
		}
	}
	return once, extra
}

// rounds counts polls by source. A poll that finds something new is followed by
// a fetch at once, which is none.
type rounds struct {
	mu    sync.Mutex
	polls map[string]int
	last  map[string]time.Time
}

func (r *rounds) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		next.ServeHTTP(w, request)
		if repository, ok := strings.CutSuffix(request.URL.Path, "/git-upload-pack"); ok {
			r.mu.Lock()
			if now := time.Now(); now.Sub(r.last[repository]) > 10*time.Second {
				r.polls[repository]++
				r.last[repository] = now
			}
			r.mu.Unlock()
		}
	})
}

// fewest is how often the source was polled that was polled least.
func (r *rounds) fewest(sources int) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range sources {
		polls := r.polls["/"+sourceOf(i)]
		if i == 0 || polls < n {
			n = polls
		}
	}
	return n
}

// measureIdle has a Towpath with 1,000 images that are all settled do nothing
// but poll, at the usual interval.
func measureIdle(s *stand) []row {
	here := theSite(s)
	polled := &rounds{polls: map[string]int{}, last: map[string]time.Time{}}
	e := here.newEstate(polled.wrap)
	c := newCrowd(e, idleSources, idleImages, digestOf("an image of before", 0))
	c.install(time.Minute, "", c.config())
	here.await("every source was polled twice", 4*time.Minute, func() error {
		if n := polled.fewest(c.sources); n < 2 {
			return fmt.Errorf("the one that was polled least: %d times", n)
		}
		return nil
	})
	pid := here.daemon()
	time.Sleep(time.Minute)
	after := samples{float64(memoryOf(s, pid, "VmRSS"))}
	const watched = 3 * time.Minute
	s.say("idle for %s", watched)
	began := time.Now()
	for time.Since(began) < watched {
		time.Sleep(watched / 6)
		after = append(after, float64(memoryOf(s, pid, "VmRSS")))
	}
	asked := here.Node.Requests(s, towpathAccount, began)
	perMinute := float64(len(asked)) / time.Since(began).Minutes()
	peak := memoryOf(s, pid, "VmHWM")
	if again := here.daemon(); again != pid {
		s.Fatalf("the daemon was started anew meanwhile\n%s", here.logs())
	}
	c.remove()
	return []row{
		{what: fmt.Sprintf("resident memory of an idle daemon with %d images from %d sources", idleImages, idleSources), ours: after, unit: byteSize, goal: "under 64 MiB", reached: reached(most(after) < 64*mebibyte)},
		{what: "— at most, since its start", ours: samples{float64(peak)}, unit: byteSize},
		{what: "idle API requests per minute", ours: samples{perMinute}, unit: func(n float64) string { return fmt.Sprintf("%.1f", n) }, goal: "under 2", reached: reached(perMinute < 2)},
	}
}
