package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/e2e/lab"
)

// TestRandomHistories lets people do what they like to both repositories, the
// config, the keys and the cache, one random step after the other. After each
// step a Towpath with a warm cache and one with none decide alike, and a run
// does what they said. What must always hold is checked on the repositories and
// the registry themselves.
//
// HISTORY_SEED runs that one history, HISTORY_STEPS makes them longer.
func TestRandomHistories(t *testing.T) {
	seeds := []uint64{1, 2}
	if word := os.Getenv("HISTORY_SEED"); word != "" {
		seed, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			t.Fatalf("HISTORY_SEED: %v", err)
		}
		seeds = []uint64{seed}
	}
	steps := 24
	if word := os.Getenv("HISTORY_STEPS"); word != "" {
		n, err := strconv.Atoi(word)
		if err != nil {
			t.Fatalf("HISTORY_STEPS: %v", err)
		}
		steps = n
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			c := newChronicle(t, seed)
			t.Cleanup(func() {
				t.Logf("HISTORY_SEED=%d: %d promotions in %d steps:\n%s", seed, c.promotions, len(c.told), strings.Join(c.told, "\n"))
			})
			c.round("the beginning")
			for range steps {
				c.round(c.people.act())
				if t.Failed() {
					return
				}
			}
			c.round(c.people.reconcile())
			c.settled()
		})
	}
}

// chronicle is one history and what is known of it.
type chronicle struct {
	t      *testing.T
	w      *lab.World
	people *people
	rng    *rand.Rand

	targets    []*target
	told       []string // what happened, a line for each step
	promotions int
	logs       map[string]bool // of builds, seen so far
}

// target is one target and its newest ledger entry.
type target struct {
	name   string
	dir    string // of its manifests
	review string // its review branch; empty: none
	entry  entry
	// undone is an image that a person has taken back; it must not return by
	// itself. Empty: none.
	undone string
}

// entry is a ledger entry as git shows it.
type entry struct{ bump, source, ref, provenance, accepted string }

// plan is what `towpath plan` says of one target.
type plan struct {
	Target, State, Commit, Base, Reason, Diff string
}

func newChronicle(t *testing.T, seed uint64) *chronicle {
	c := &chronicle{
		t: t, rng: rand.New(rand.NewPCG(seed, seed)), logs: map[string]bool{},
		targets: []*target{
			{name: "production", dir: "clusters/production"},
			{name: "staging", dir: "clusters/staging", review: "review/staging/podinfo"},
		},
	}
	form := ""
	c.w = lab.NewWorld(t, lab.WorldOptions{
		Binary: binary, Registry: memory,
		Files: func(w *lab.World, files map[string]string) {
			files["Dockerfile"] = "FROM " + w.Base + "\nARG N=0\nCOPY colour /site/index.html\nLABEL n=$N\n"
		},
		Fleet: func(_ *lab.World, manifests map[string]string) {
			manifests["clusters/staging/podinfo.yaml"] = "kind: Deployment\n" + markerLine("nobody/nothing:0")
		},
		Config: func(_ *lab.World, config string) string {
			form = config
			return config
		},
	})
	c.people = newPeople(c, form)
	c.people.configure()
	return c
}

// markerLine is a line of YAML with a marker of ours.
func markerLine(value string) string {
	return fmt.Sprintf("image: %q # {\"$imagepolicy\": \"flux-system:podinfo\"}\n", value)
}

// round compares what two Towpaths plan, has one of them run, and checks what
// it did.
func (c *chronicle) round(step string) {
	c.t.Helper()
	main := c.ref("refs/heads/main")
	warm, cold := filepath.Join(c.w.Dir, "cache"), c.t.TempDir()
	warmly, coldly := c.plan(warm), c.plan(cold)
	c.told = append(c.told, fmt.Sprintf("%-40s %s", step, summary(warmly)))
	if diff := cmp.Diff(coldly, warmly); diff != "" {
		c.t.Errorf("after %q a cold cache (-) and a warm one (+) decide differently:\n%s", step, diff)
		return
	}
	cache := warm
	if c.rng.IntN(4) == 0 {
		cache = cold
	}
	result := c.towpath(cache, "run", "--once")
	if result.Code > 1 || strings.Contains(result.Err, "panic") {
		c.t.Errorf("after %q run ended with %d\n%s", step, result.Code, result.Err)
	}
	for i, p := range warmly {
		c.check(step, c.targets[i], p, result)
	}
	c.checkBranch(step, main)
	c.checkBuilds(step, cache, warmly)
}

func summary(plans []plan) string {
	var words []string
	for _, p := range plans {
		words = append(words, fmt.Sprintf("%s %s (%s)", p.Target, p.State, p.Reason))
	}
	return strings.Join(words, "; ")
}

// towpath runs the binary with one of the caches.
func (c *chronicle) towpath(cache string, args ...string) lab.Result {
	c.t.Helper()
	cmd := c.w.Command(c.t.Context(), args...)
	cmd.Env = append(cmd.Env, "TOWPATH_CACHE="+cache)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return lab.Result{Out: out.String(), Err: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

func (c *chronicle) plan(cache string) []plan {
	c.t.Helper()
	result := c.towpath(cache, "plan", "--output", "json")
	var plans []plan
	if err := json.Unmarshal([]byte(result.Out), &plans); err != nil || len(plans) != len(c.targets) {
		c.t.Fatalf("plan ended with %d: %v\n%s%s", result.Code, err, result.Out, result.Err)
	}
	for _, p := range plans {
		if p.State == "failed" {
			c.t.Errorf("plan failed: %s", p.Reason)
		}
	}
	return plans
}

// check holds what a run did to one target against what was planned and
// against what must hold.
func (c *chronicle) check(step string, target *target, p plan, result lab.Result) {
	c.t.Helper()
	before, after := target.entry, c.read(target)
	target.entry = after
	fail := func(format string, args ...any) {
		c.t.Helper()
		c.t.Errorf("after %q, %s: %s\nplanned: %+v\nledger: %+v → %+v\n%s%s", step, target.name, fmt.Sprintf(format, args...), p, before, after, result.Out, result.Err)
	}
	moved := before.bump != after.bump
	if moved != (p.State == "planned") {
		fail("the run did not do what was planned")
	}
	if target.undone != "" && after.source == before.source && after.accepted == before.accepted && strings.Contains(c.manifests(target), target.undone) {
		fail("%s was taken back by a person, and it is there again", target.undone)
	}
	if !moved {
		if step == nothing && p.State == "planned" {
			fail("there was something to do twice")
		}
		return
	}
	target.undone = ""
	c.promotions++
	dir := c.w.Git.Dir("fleet.git")
	switch {
	case after.source == before.source:
		// One entry for each source commit, but for what a person asked for.
		if after.accepted == before.accepted && !strings.Contains(p.Reason, "never held") && !strings.Contains(p.Reason, "newest base") {
			fail("%s was promoted twice", after.source)
		}
		if after.ref != before.ref && after.accepted == "" {
			fail("the image changed and the commit did not")
		}
	case before.source != "" && after.accepted == "":
		if _, err := lab.TryGit(c.w.Git.Dir("apps/podinfo.git"), "merge-base", "--is-ancestor", before.source, after.source); err != nil {
			fail("it does not descend from what was promoted")
		}
	}
	if after.source != p.Commit && after.source != before.source {
		fail("another commit was promoted than planned")
	}
	if _, err := lab.TryGit(dir, "-c", "gpg.ssh.allowedSignersFile="+c.people.signers, "verify-commit", after.bump); err != nil {
		fail("%v", err)
	}
	for line := range strings.Lines(lab.RunGit(c.t, dir, "diff", "-U0", after.bump+"^", after.bump)) {
		edited := (line[0] == '+' || line[0] == '-') && !strings.HasPrefix(line, "+++") && !strings.HasPrefix(line, "---")
		if edited && !strings.Contains(line, `{"$imagepolicy": "flux-system:podinfo"}`) || strings.HasPrefix(line, "old mode") {
			fail("the bump changes %q", line)
		}
	}
	// The image is there, by its tag, with its provenance, and is of that commit.
	tagged, digest, _ := strings.Cut(after.ref, "@")
	if got := lab.ImageDigest(c.t, tagged); got != digest {
		fail("the tag %s names %s", tagged, got)
	}
	if got := lab.ImageDigest(c.t, c.w.Repository()+"@"+after.provenance); got != after.provenance {
		fail("the provenance is not there")
	}
	colour := lab.RunGit(c.t, c.w.Git.Dir("apps/podinfo.git"), "show", after.source+":colour")
	if page := lab.ReadImageFile(c.t, after.ref, "site/index.html"); page != colour {
		fail("the image holds %q and the commit %q", page, colour)
	}
}

// checkBranch: the branch was not forced, and what came is ours and of a ledger.
func (c *chronicle) checkBranch(step, before string) {
	c.t.Helper()
	dir := c.w.Git.Dir("fleet.git")
	if _, err := lab.TryGit(dir, "merge-base", "--is-ancestor", before, "refs/heads/main"); err != nil {
		c.t.Errorf("after %q main was forced from %s", step, before)
		return
	}
	for _, commit := range strings.Fields(lab.RunGit(c.t, dir, "rev-list", before+"..main")) {
		if !slices.ContainsFunc(c.targets, func(t *target) bool { return t.entry.bump == commit }) {
			c.t.Errorf("after %q there is %s on main, which no ledger names", step, commit)
		}
	}
}

// checkBuilds: nothing was built but what was planned.
func (c *chronicle) checkBuilds(step, cache string, plans []plan) {
	c.t.Helper()
	logs, err := filepath.Glob(filepath.Join(cache, "builds", "logs", "*"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, log := range logs {
		if c.logs[log] {
			continue
		}
		c.logs[log] = true
		if !slices.ContainsFunc(plans, func(p plan) bool {
			return p.State == "planned" && strings.Contains(p.Reason, "would be built") && strings.Contains(filepath.Base(log), p.Commit[:12])
		}) {
			c.t.Errorf("after %q %s was built, which nobody planned", step, log)
		}
	}
}

// settled checks the end: people have made peace, so the newest commit is
// promoted, or proposed where there is a review.
func (c *chronicle) settled() {
	c.t.Helper()
	head := c.w.App.Head()
	for _, target := range c.targets {
		if target.entry.source != head {
			c.t.Errorf("%s ends with %s, want the newest commit %s", target.name, target.entry.source, head)
		}
	}
	for _, repository := range []string{"fleet.git", "apps/podinfo.git"} {
		lab.RunGit(c.t, c.w.Git.Dir(repository), "fsck", "--strict")
	}
}

// read is a target's newest ledger entry.
func (c *chronicle) read(target *target) entry {
	c.t.Helper()
	bump := c.ref("refs/towpath/" + target.name + "/podinfo")
	if bump == "" {
		return entry{}
	}
	trailer := func(key string) string {
		return strings.TrimSpace(lab.RunGit(c.t, c.w.Git.Dir("fleet.git"), "show", "-s", "--format=%(trailers:key="+key+",valueonly)", bump))
	}
	return entry{bump, trailer("Towpath-Commit"), trailer("Towpath-Ref"), trailer("Towpath-Provenance"), trailer("Towpath-Accepted")}
}

// ref is what a ref of the GitOps repository names; empty: there is none.
func (c *chronicle) ref(name string) string {
	commit, err := lab.TryGit(c.w.Git.Dir("fleet.git"), "rev-parse", "--verify", "--quiet", name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(commit)
}

// manifests is the text of all manifests of a target on the branch.
func (c *chronicle) manifests(target *target) string {
	c.t.Helper()
	out, err := lab.TryGit(c.w.Git.Dir("fleet.git"), "grep", "-h", "imagepolicy", "main", "--", target.dir)
	if err != nil {
		return ""
	}
	return out
}
