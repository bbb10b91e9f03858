package fleet

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

// Every way in which a push can fail, be applied and seem to fail, or seem to
// succeed: the promotion happens once.
func TestPushFaults(t *testing.T) {
	t.Parallel()
	for name, tricks := range map[string][]trick{
		"200 with nothing":          {emptyAnswer},
		"200 with nothing, applied": {appliedThenEmpty},
		"discarded":                 {discards},
		"cut":                       {cut},
		"applied, then cut":         {appliedThenCut},
		"500":                       {fails500},
		"500, applied":              {appliedThen500},
		"all of them":               {fails500, cut, emptyAnswer, cut, appliedThenCut},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, plainFiles())
			f := y.fleet()
			b := bumpTo(podinfo, 1, y.state(f, podinfo))
			y.faults.push(tricks...)
			p, err := f.Promote(t.Context(), b)
			if err != nil {
				// To be told to decide again is allowed; to promote twice is not.
				if s := y.state(f, podinfo); s.Standing != Holds {
					if p, err = f.Promote(t.Context(), bumpTo(podinfo, 1, s)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if y.ledger("podinfo") != y.ref("main") || p.Bump.String() != y.ref("main") {
				t.Fatalf("ledger %s, main %s, promotion %s", y.ledger("podinfo"), y.ref("main"), p.Bump)
			}
			if n := y.run("rev-list", "--count", "main"); n != "2" {
				t.Fatalf("%s commits on main", n)
			}
			y.stands(f, podinfo, Holds)
			y.sound()
		})
	}
}

func TestAServerThatLies(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	b := bumpTo(podinfo, 1, y.state(f, podinfo))
	for range 20 {
		y.faults.push(discards)
	}
	if _, err := f.Promote(t.Context(), b); !errors.Is(err, ErrBusy) || !errors.Is(err, errDiscarded) {
		t.Fatalf("nothing was applied: %v", err)
	}
}

func TestSomebodyElsePushesTwentyTimes(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	s := y.state(f, podinfo)
	pushes := 0
	for range 20 {
		y.faults.push(before(func() {
			pushes++
			tree := y.run("rev-parse", "main^{tree}")
			y.run("update-ref", "refs/heads/main", y.run("commit-tree", "-m", fmt.Sprint("other ", pushes), "-p", "main", tree))
		}))
	}
	var err error
	attempts := 0
	for ; attempts < 5; attempts++ {
		if _, err = f.Promote(t.Context(), bumpTo(podinfo, 1, s)); err == nil {
			break
		}
		if !errors.Is(err, ErrBusy) {
			t.Fatal(err)
		}
	}
	if err != nil || pushes != 20 {
		t.Fatalf("%d pushes by others, %d attempts: %v", pushes, attempts, err)
	}
	if n := y.run("rev-list", "--count", "main"); n != "22" {
		t.Fatalf("%s commits", n)
	}
	y.stands(f, podinfo, Holds)
	y.sound()
}

func TestRefusedByARule(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	y.git.Hook(repository, "pre-receive", `echo "protected branch" >&2; exit 1`)
	f := y.fleet()
	_, err := f.Promote(t.Context(), bumpTo(podinfo, 1, y.state(f, podinfo)))
	var rejected *wire.RejectedError
	if !errors.As(err, &rejected) || !strings.Contains(err.Error(), "protected branch") {
		t.Fatalf("refused by a hook: %v", err)
	}
	if y.ledger("podinfo") != "" {
		t.Fatal("the ledger was written")
	}
	if s := y.state(f, podinfo); s.LedgerRefused {
		t.Fatal("the ledger is said to be refused, and everything is")
	}
}

// One image that the server has a rule against does not keep the others from
// being promoted.
func TestOneBadImageInABatch(t *testing.T) {
	t.Parallel()
	files, images := many(6)
	y := newYard(t, files)
	y.git.Hook(repository, "update", `case "$1" in refs/towpath/*/app-3) echo "not this one" >&2; exit 1;; esac`)
	// The server keeps ledger refs: it has one already.
	f := y.fleet()
	y.promote(f, images[0], 1)
	y.faults.counts()
	errs := y.promoteAll(f, images[1:], 1)
	for i, err := range errs {
		bad := images[i+1].Name == "app-3"
		if bad != (err != nil) {
			t.Errorf("%s: %v", images[i+1].Name, err)
		}
	}
	if y.ledger("app-3") != "" {
		t.Error("app-3 has a ledger entry")
	}
	y.stands(f, images[3], Unpromoted)
	y.stands(f, images[5], Holds)
	y.sound()
}

func TestBatchOfAHundred(t *testing.T) {
	t.Parallel()
	files, images := many(100)
	y := newYard(t, files)
	f := y.fleet(func(o *Options) { o.MaxAge = time.Hour })
	for _, image := range images {
		y.state(f, image)
	}
	y.promoteAll(f, images, 1)
	y.person("main", lab.Commit{Message: "between", Files: map[string]string{"x": "y"}})
	y.faults.counts()
	// A busy machine takes its time to begin with a hundred.
	f.batches.window = 3 * time.Second
	begun := time.Now()
	for i, err := range y.promoteAll(f, images, 2) {
		if err != nil {
			t.Fatalf("%s: %v", images[i].Name, err)
		}
	}
	took := time.Since(begun)
	counts := y.faults.counts()
	if counts["push"] != 1 || counts["fetch"] > 1 || counts["refs"] > 3 {
		t.Errorf("requests: %v", counts)
	}
	t.Logf("100 images in %v with %v", took, counts)
	for _, i := range []int{0, 50, 99} {
		y.stands(f, images[i], Holds)
	}
	if n := y.run("rev-list", "--count", "main"); n != "202" {
		t.Errorf("%s commits", n)
	}
	y.sound()
}

// many makes a repository of n images, some of them in one file.
func many(n int) (files map[string]string, images []Image) {
	files = map[string]string{}
	for i := range n {
		image := imageNamed(fmt.Sprintf("app-%d", i))
		path := fmt.Sprintf("clusters/production/%d/all.yaml", i/5)
		files[path] += deployment(image.Name, "registry.example.com/apps/"+image.Name+":none")
		images = append(images, image)
	}
	return files, images
}

// promoteAll promotes images at the same moment.
func (y *yard) promoteAll(f *Fleet, images []Image, n int) []error {
	y.t.Helper()
	bumps := make([]Bump, len(images))
	for i, image := range images {
		bumps[i] = bumpTo(image, n, y.state(f, image))
	}
	errs := make([]error, len(images))
	var all sync.WaitGroup
	for i := range bumps {
		all.Go(func() { _, errs[i] = f.Promote(y.t.Context(), bumps[i]) })
	}
	all.Wait()
	return errs
}

// A server may show the branch as after another copy's push, and the ledger as before
// it: that is no ledger that somebody has set back.
func TestBranchIsListedAfterAPushAndLedgerBefore(t *testing.T) {
	t.Parallel()
	files, images := many(1)
	y := newYard(t, files)
	a, b := y.fleet(), y.fleet()
	first := y.promote(a, images[0], 1)
	decided := bumpTo(images[0], 3, y.state(a, images[0]))
	y.promote(b, images[0], 2)

	a.mu.Lock()
	defer a.mu.Unlock()
	w, err := a.read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.refs[a.ledgerRef(images[0].Name)] = first.Bump
	if _, _, err := a.admit(t.Context(), w, decided); !errors.Is(err, ErrMoved) {
		t.Errorf("got %v, want to decide again", err)
	}
}

func TestTwoCopies(t *testing.T) {
	t.Parallel()
	files, images := many(4)
	y := newYard(t, files)
	a, b := y.fleet(), y.fleet()
	commits := []gitops.Commit{source(1), source(2), source(3)}
	var all sync.WaitGroup
	for _, f := range []*Fleet{a, b} {
		for _, image := range images {
			all.Go(func() {
				for n := 1; n <= len(commits); {
					s, err := f.Promoted(t.Context(), image)
					if err != nil {
						t.Error(err)
						return
					}
					// Both have built every commit, in order; the other may be any number ahead.
					if at := 1 + slices.IndexFunc(commits, func(c gitops.Commit) bool { return s.Entry != nil && s.Entry.Source == c.Hash }); at >= n {
						n = at + 1
						continue
					}
					_, err = f.Promote(t.Context(), bumpTo(image, n, s))
					if err != nil && !errors.Is(err, ErrMoved) && !errors.Is(err, ErrBusy) && !errors.Is(err, ErrPromoted) {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	all.Wait()
	if n := y.run("rev-list", "--count", "main"); n != "13" {
		t.Errorf("%s commits, want 13", n)
	}
	for _, image := range images {
		y.stands(a, image, Holds)
	}
	y.sound()
}

// Two targets whose paths overlap: each has its own ledger, and each sees the
// other's value as somebody else's.
func TestTwoTargetsOnOverlappingPaths(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	a := y.fleet()
	b := y.fleet(func(o *Options) { o.Name, o.Path = "all", "." })
	y.promote(a, podinfo, 1)
	// The other one starts when the marker holds what it would write.
	p := y.promote(b, podinfo, 1)
	if p.Branch != "" {
		t.Fatalf("%+v", p)
	}
	y.promote(b, podinfo, 2)
	y.stands(b, podinfo, Holds)
	s := y.stands(a, podinfo, TakenOver)
	if s.Foreign.Author.Name != "Towpath" {
		t.Fatalf("foreign: %+v", s.Foreign)
	}
	if _, err := a.Promote(t.Context(), bumpTo(podinfo, 3, s)); !errors.Is(err, ErrForeign) {
		t.Fatalf("%v", err)
	}
	y.sound()
}

func TestLedgerRefused(t *testing.T) {
	t.Parallel()
	for _, hook := range []string{"update", "pre-receive"} {
		t.Run(hook, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, plainFiles())
			if hook == "update" {
				y.git.RefuseRefs(repository, "refs/towpath/")
			} else {
				y.git.Hook(repository, hook, `while read old new ref; do case "$ref" in refs/towpath/*) exit 1;; esac; done`)
			}
			f := y.fleet()
			b := bumpTo(podinfo, 1, y.state(f, podinfo))
			if _, err := f.Promote(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			s := y.stands(f, podinfo, Holds)
			if !s.LedgerRefused || y.ledger("podinfo") != "" {
				t.Fatalf("state %+v", s)
			}
			p := y.promote(f, podinfo, 2)
			y.stands(f, podinfo, Holds)
			// A new start reads the history.
			f = y.fleet()
			if s = y.stands(f, podinfo, Holds); !s.LedgerRefused || s.Entry.Bump != p.Bump {
				t.Fatalf("state %+v", s)
			}
			y.revert("main", p.Bump.String())
			y.stands(f, podinfo, Undone)
			y.promote(f, podinfo, 3)
			y.stands(f, podinfo, Holds)
			y.sound()
		})
	}
}

// A ledger that exists and is refused later must not stay behind the branch.
func TestLedgerRefusedLater(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	y.promote(f, podinfo, 1)
	head := y.ref("main")
	y.git.RefuseRefs(repository, "refs/towpath/")
	if _, err := f.Promote(t.Context(), bumpTo(podinfo, 2, y.state(f, podinfo))); err == nil || !strings.Contains(err.Error(), "refs/towpath/") {
		t.Fatalf("refused later: %v", err)
	}
	if y.ref("main") != head {
		t.Fatal("the branch moved without its ledger")
	}
}

func TestWithoutAtomic(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles(), lab.GitOptions{Config: map[string]string{"receive.advertiseAtomic": "false"}})
	f := y.fleet()
	y.promote(f, podinfo, 1)
	if y.ledger("podinfo") != y.ref("main") {
		t.Fatal("the ledger did not follow")
	}
	b := bumpTo(podinfo, 2, y.stands(f, podinfo, Holds))

	// We die between the two pushes.
	y.faults.push(honest, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		f.end()
		cut(w, r, next)
	})
	if _, err := f.Promote(t.Context(), b); err == nil {
		t.Fatal("a dead Towpath promoted")
	}
	if y.ledger("podinfo") == y.ref("main") {
		t.Fatal("the test did not stop between branch and ledger")
	}

	// The next start knows, and somebody may have reverted it meanwhile.
	f = y.fleet()
	s := y.stands(f, podinfo, Holds)
	if !s.LedgerBehind || s.Entry.Source != source(2).Hash {
		t.Fatalf("state %+v", s)
	}
	y.revert("main", y.ref("main"))
	y.stands(y.fleet(), podinfo, Undone)
	if err := f.Mend(t.Context(), podinfo); err != nil {
		t.Fatal(err)
	}
	if s = y.stands(f, podinfo, Undone); s.LedgerBehind {
		t.Fatalf("not mended: %+v", s)
	}
	// Reset behind the bump: the ledger is ahead of the branch and stays so.
	y.run("update-ref", "refs/heads/main", "main~2")
	y.stands(f, podinfo, Undone)
	y.promote(f, podinfo, 3)
	if y.ledger("podinfo") != y.ref("main") {
		t.Fatal("the ledger did not follow")
	}
	y.stands(f, podinfo, Holds)
}

func TestWithoutAtomicTheLedgerPushIsLost(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles(), lab.GitOptions{Config: map[string]string{"receive.advertiseAtomic": "false"}})
	f := y.fleet()
	b := bumpTo(podinfo, 1, y.state(f, podinfo))
	y.faults.push(honest, cut)
	if _, err := f.Promote(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if y.ledger("podinfo") != y.ref("main") || y.run("rev-list", "--count", "main") != "2" {
		t.Fatal("not promoted exactly once")
	}
}

func TestDecidedOnAnOldLedger(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	a, b := y.fleet(), y.fleet()
	old := y.state(a, podinfo)
	y.promote(b, podinfo, 1)
	if _, err := a.Promote(t.Context(), bumpTo(podinfo, 2, old)); !errors.Is(err, ErrMoved) {
		t.Fatalf("%v", err)
	}
	if y.run("rev-list", "--count", "main") != "2" {
		t.Fatal("promoted on an old decision")
	}
}

func TestCallerGoesAway(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	b := bumpTo(podinfo, 1, y.state(f, podinfo))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Promote(ctx, b); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if y.ledger("podinfo") != "" {
		t.Fatal("promoted for nobody")
	}
}

func TestRefspecAndPushOptions(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	y.git.Hook(repository, "pre-receive", `echo "$GIT_PUSH_OPTION_COUNT $GIT_PUSH_OPTION_0 $GIT_PUSH_OPTION_1" >> options`)
	f := y.fleet(func(o *Options) {
		o.Refspec = "HEAD:refs/heads/deployed"
		o.PushOptions = map[string]string{"ci.skip": "", "topic": "bump"}
	})
	p := y.promote(f, podinfo, 1)
	if p.Mirror != nil || y.ref("refs/heads/deployed") != p.Bump.String() {
		t.Fatalf("mirror: %v", p.Mirror)
	}
	if p = y.promote(f, podinfo, 2); p.Mirror != nil || y.ref("refs/heads/deployed") != p.Bump.String() {
		t.Fatalf("mirror: %v", p.Mirror)
	}
	// What is not behind us is not overwritten, and the promotion stands.
	y.run("update-ref", "refs/heads/deployed", y.run("commit-tree", "-m", "other", "main^{tree}"))
	if p = y.promote(f, podinfo, 3); p.Mirror == nil || y.ledger("podinfo") != p.Bump.String() {
		t.Fatalf("mirror: %v", p.Mirror)
	}
	y.git.Configure(repository, "receive.advertisePushOptions", "false")
	f = y.fleet(func(o *Options) { o.PushOptions = map[string]string{"ci.skip": ""} })
	if _, err := f.Promote(t.Context(), bumpTo(podinfo, 4, y.state(f, podinfo))); !errors.Is(err, wire.ErrPushOptionsUnsupported) {
		t.Fatalf("a server that takes no push options: %v", err)
	}
	if got := y.read("options"); !strings.HasPrefix(got, "2 ci.skip topic=bump\n") {
		t.Fatalf("options: %q", got)
	}
}

func TestDamagedCache(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	p := y.promote(f, podinfo, 1)
	if err := f.store.Reset(); err != nil {
		t.Fatal(err)
	}
	y.stands(f, podinfo, Holds)
	y.revert("main", p.Bump.String())
	if err := f.store.Reset(); err != nil {
		t.Fatal(err)
	}
	y.stands(f, podinfo, Undone)
	if err := f.store.Reset(); err != nil {
		t.Fatal(err)
	}
	y.promote(f, podinfo, 2)
	y.sound()
}
