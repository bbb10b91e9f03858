package main

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/trust"
	"towpath.dev/towpath/gitops/wire"
)

// Towpath and Flux bump different applications: Towpath holds back where somebody
// else has written to its markers.
const (
	ourApp  = 7
	fluxApp = 150
	batchOf = 100

	warmBumps = 3 // in each run: one is over soon
	fluxRuns  = 3 // at most: one takes seconds
)

// measureBump is the bump of one image in a large GitOps repository, from the
// look at the repository to the push's acknowledgement. Before each, a colleague
// has moved the branch.
func measureBump(s *stand) []row {
	y := newYard(s)
	warm, cold, flux := hire(s, "bump-warm", y.url, y.key), hire(s, "bump-cold", y.url, y.key), hire(s, "bump-flux", y.url, y.key)
	y.bump(s, warm, appName(ourApp)) // what it finds it remembers
	var w, c, f bumps
	for n := range s.options.runs {
		for range warmBumps {
			w.add(y.bump(s, warm, appName(ourApp)))
		}
		c.add(y.bump(s, cold, appName(ourApp)))
		if n < fluxRuns {
			f.add(y.bump(s, flux, appName(fluxApp)))
		}
	}
	const against = "Flux's libraries"
	const scale = "bump in 10,000 files, 200 markers, 5,000 commits"
	return []row{
		{what: scale + ", warm: wall", ours: w.wall, theirs: f.wall, against: against, unit: seconds, goal: "under 100 ms", reached: reached(w.wall.median() < 0.1)},
		{what: "— of it the git server's", ours: w.server, theirs: f.server, against: against, unit: seconds},
		{what: "— CPU", ours: w.cpu, theirs: f.cpu, against: against, unit: seconds, goal: "at least 50× less", reached: reached(f.cpu.median() >= 50*w.cpu.median())},
		{what: "the same, cold: wall", ours: c.wall, theirs: f.wall, against: against, unit: seconds, goal: "not slower", reached: reached(c.wall.median() <= f.wall.median())},
		{what: "— of it the git server's", ours: c.server, theirs: f.server, against: against, unit: seconds},
		{what: "— CPU", ours: c.cpu, theirs: f.cpu, against: against, unit: seconds},
		{what: "— resident memory at most, warm", ours: w.peak, theirs: f.peak, against: against, unit: byteSize},
	}
}

// measureBatch is the bump of 100 images that are ready at once, and of one.
func measureBatch(s *stand) []row {
	y := newYard(s)
	w := hire(s, "bump-warm", y.url, y.key)
	var many []string
	for n := range batchOf {
		many = append(many, appName(n))
	}
	y.bump(s, w, many...)
	var hundred, one bumps
	for range s.options.runs {
		hundred.add(y.bump(s, w, many...))
		one.add(y.bump(s, w, appName(ourApp)))
	}
	requests := func(b bumps) string { return fmt.Sprintf("%d and %d", b.fetches, b.pushes) }
	return []row{
		{what: fmt.Sprintf("%d images ready at once: wall", batchOf), ours: hundred.wall, theirs: one.wall, against: "one image", unit: seconds, goal: "under 1 s", reached: reached(hundred.wall.median() < 1)},
		{what: "— fetches and pushes", words: requests(hundred), others: requests(one), against: "one image", goal: "one fetch, one push", reached: reached(hundred.fetches == 1 && hundred.pushes == 1)},
		{what: "— CPU", ours: hundred.cpu, theirs: one.cpu, against: "one image", unit: seconds},
	}
}

// bumps are the samples of several bumps.
type bumps struct {
	wall, server, cpu, peak samples
	fetches, pushes         int // in the run that needed most
}

func (b *bumps) add(o bumped) {
	b.wall = append(b.wall, o.wall.Seconds())
	b.server = append(b.server, o.server.Seconds())
	b.cpu = append(b.cpu, o.cpu.Seconds())
	b.peak = append(b.peak, float64(o.peak))
	b.fetches, b.pushes = max(b.fetches, o.fetches), max(b.pushes, o.pushes)
}

// bumped is what one bump took.
type bumped struct {
	wall            time.Duration // until the server had answered the push
	server          time.Duration // of it, at work on requests
	cpu             time.Duration // all of it, what follows the answer included
	peak            int64         // bytes
	fetches, pushes int
}

// yard is a GitOps repository on a server, and a signing key.
type yard struct {
	server *worker
	url    string
	key    string // directory of the signing key
	number int    // of the last source commit
}

func newYard(s *stand) *yard {
	y := &yard{server: hire(s, "server", fleetRepository(s)), key: s.TempDir()}
	y.url = ask[traffic](s, y.server, order{}).URL
	secret, _, err := trust.NewSigningKey("towpath@example.com", nil)
	s.must(err)
	for name, content := range secret {
		lab.WriteFile(s, filepath.Join(y.key, name), content)
	}
	return y
}

// bump has a colleague commit, and then a worker bump images to a source commit
// that is new to all.
func (y *yard) bump(s *stand, w *worker, images ...string) bumped {
	y.number++
	ask[traffic](s, y.server, order{Commit: y.number})
	c := ask[cost](s, w, order{Images: images, Number: y.number})
	t := ask[traffic](s, y.server, order{})
	pushed := t.acknowledged(s)
	return bumped{wall: pushed.Sub(c.Began), server: t.answering(pushed), cpu: c.CPU, peak: c.Peak, fetches: t.count(fetch), pushes: t.count(push)}
}

// bumpWarm is a daemon that goes on: its copy and its connection stay.
func bumpWarm(s *stand, args []string) func(order) any {
	f := openFleet(s, args[0], args[1], s.TempDir())
	return func(o order) any {
		return measure(s, unix.RUSAGE_SELF, func() { promote(s, f, o) })
	}
}

// bumpCold is a daemon that starts with an empty cache each time.
func bumpCold(s *stand, args []string) func(order) any {
	return func(o order) any {
		dir := s.TempDir()
		defer os.RemoveAll(dir)
		return measure(s, unix.RUSAGE_SELF, func() {
			f := openFleet(s, args[0], args[1], dir)
			promote(s, f, o)
			s.must(f.Close())
		})
	}
}

func openFleet(s *stand, url, keyDir, dir string) *fleet.Fleet {
	remote, err := wire.New(wire.Options{URL: url})
	s.must(err)
	secret := func() map[string][]byte { return readSecret(s, keyDir) }
	f, err := fleet.Open(fleet.Options{
		Name: "production", URL: url, Branch: "main", Path: "./clusters",
		Author: gitops.Person{Name: "Towpath", Email: "towpath@example.com"},
		Remote: remote, Dir: dir,
		Signer: func() (*trust.Signer, error) { return trust.LoadSigner(trust.SSH, secret()) },
		Keys:   func() (*trust.Keyring, error) { return trust.OwnKeys(trust.SSH, secret()) },
	})
	s.must(err)
	return f
}

func readSecret(s *stand, dir string) map[string][]byte {
	entries, err := os.ReadDir(dir)
	s.must(err)
	secret := map[string][]byte{}
	for _, e := range entries {
		if secret[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			s.Fatal(err)
		}
	}
	return secret
}

// promote bumps images to their source commits of a number.
func promote(s *stand, f *fleet.Fleet, o order) {
	var bumps []fleet.Bump
	for _, image := range o.Images {
		bumps = append(bumps, bumpOf(image, o.Number))
	}
	promoteAll(s, f, bumps)
}

// promoteAll observes all images and then promotes them all at once, as
// deliveries do whose builds end together.
func promoteAll(s *stand, f *fleet.Fleet, bumps []fleet.Bump) {
	ctx := context.Background()
	errs := make([]error, len(bumps))
	each := func(do func(i int) error) {
		var all sync.WaitGroup
		for i := range bumps {
			all.Go(func() { errs[i] = do(i) })
		}
		all.Wait()
		for _, err := range errs {
			s.must(err)
		}
	}
	each(func(i int) error {
		on, err := f.Promoted(ctx, bumps[i].Image)
		if err == nil && on.Entry != nil {
			bumps[i].Base, bumps[i].BaseBump = on.Entry.Source, on.Entry.Bump
		}
		return err
	})
	each(func(i int) error {
		done, err := f.Promote(ctx, bumps[i])
		if err == nil && len(done.Changes) != 1 {
			err = fmt.Errorf("the bump of %s changed %d values", bumps[i].Image.Name, len(done.Changes))
		}
		return err
	})
}

func imageOf(app string) fleet.Image {
	return fleet.Image{Name: app, Policy: marker.Policy{Namespace: policyNamespace, Name: app}, Pin: true}
}

// bumpOf is the bump of an application to its source commit of a number.
func bumpOf(app string, number int) fleet.Bump {
	commit := gitops.Commit{
		Hash: gitops.Hash(sha1.Sum(fmt.Append(nil, app, " ", number))), Subject: fmt.Sprintf("Change number %d", number),
		Author: gitops.Person{Name: "Dana Developer", Email: "dana@example.com", When: lab.Epoch},
	}
	return fleet.Bump{
		Image: imageOf(app), SourceURL: "https://git.example.com/apps/" + app + ".git", SourceRef: "refs/heads/master",
		Commit: commit, Commits: []gitops.Commit{commit},
		Name: repositoryOf(app), Tag: tagOf(number), Digest: digestOf(app, number), Provenance: digestOf("provenance of "+app, number),
	}
}

func tagOf(number int) string { return fmt.Sprintf("master-%d", number) }

func digestOf(what string, number int) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Append(nil, what, " ", number)))
}
