package fleet

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/e2e/lab"
)

func TestPreview(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	head := y.ref("main")
	b := bumpTo(podinfo, 1, y.state(f, podinfo))
	diff, err := f.Preview(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	if y.ref("main") != head || y.ledger("podinfo") != "" {
		t.Fatal("a preview changed the repository")
	}
	y.promote(f, podinfo, 1)
	// git, with the same head, says the same.
	want := y.run("diff", "--no-ext-diff", "HEAD~1", "HEAD")
	_, want, _ = strings.Cut(want, "\n--- ")
	if diff := cmp.Diff(strings.TrimRight("--- "+want, "\n"), strings.TrimRight(functionless(diff), "\n"), cmp.Transformer("hunks", functionless)); diff != "" {
		t.Fatalf("diff (-git +ours):\n%s", diff)
	}

	b = bumpTo(podinfo, 2, y.state(f, podinfo))
	b.Digest = ""
	if diff, err = f.Preview(t.Context(), b); err != nil || !strings.Contains(diff, ":master-2@"+Unbuilt) {
		t.Fatalf("an unbuilt image: %v\n%s", err, diff)
	}
	if _, err = f.Preview(t.Context(), bumpTo(podinfo, 1, y.state(f, podinfo))); !errors.Is(err, ErrPromoted) {
		t.Fatalf("what Promote refuses: %v", err)
	}
}

// functionless drops what git says behind a hunk's line numbers.
func functionless(diff string) string {
	lines := strings.Split(diff, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "@@ ") {
			if end := strings.Index(line[3:], "@@"); end >= 0 {
				lines[i] = line[:end+5]
			}
		}
	}
	return strings.Join(lines, "\n")
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options lab.GitOptions
		prepare func(*yard)
		change  func(*Options)
		branch  string // in the error; empty: no error
		ledger  string
	}{
		"all well": {},
		"a longer history": {prepare: func(y *yard) {
			y.person("main", lab.Commit{Message: "second", Files: map[string]string{"x": "y"}})
		}},
		"a review branch":             {change: forReview},
		"a review branch that exists": {change: forReview, prepare: func(y *yard) { y.promote(y.fleet(forReview), podinfo, 1) }},
		"no atomic":                   {options: lab.GitOptions{Config: map[string]string{"receive.advertiseAtomic": "false"}}},
		"ledger refs refused":         {prepare: func(y *yard) { y.git.RefuseRefs(repository, "refs/towpath/") }, ledger: "hook declined"},
		"the branch protected":        {prepare: func(y *yard) { y.git.RefuseRefs(repository, "refs/heads/main") }, branch: "hook declined"},
		"all refused":                 {prepare: func(y *yard) { y.git.Hook(repository, "pre-receive", "exit 1") }, branch: "pre-receive", ledger: "pre-receive"},
		"hidden refs": {prepare: func(y *yard) { y.git.Configure(repository, "receive.hideRefs", "refs/towpath") },
			ledger: "hidden"},
		"read only": {prepare: func(y *yard) { y.git.Configure(repository, "http.receivepack", "false") }, branch: "403", ledger: "403"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, plainFiles(), c.options)
			change := func(*Options) {}
			if c.change != nil {
				change = c.change
			}
			if c.prepare != nil {
				c.prepare(y)
			}
			before := y.run("for-each-ref")
			rights, err := y.fleet(change).Check(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if after := y.run("for-each-ref"); after != before {
				t.Fatalf("check changed the refs:\n%s\n%s", before, after)
			}
			for what, got := range map[string]struct {
				err  error
				want string
			}{"branch": {rights.Branch, c.branch}, "ledger": {rights.Ledger, c.ledger}} {
				if (got.err == nil) != (got.want == "") || got.err != nil && !strings.Contains(got.err.Error(), got.want) {
					t.Errorf("%s: %v, want %q", what, got.err, got.want)
				}
			}
			if rights.Signing != nil || rights.Atomic == (name == "no atomic") && name != "read only" {
				t.Errorf("rights: %+v", rights)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	files, images := many(2)
	y := newYard(t, files)
	f := y.fleet()
	first := y.promote(f, images[0], 1)
	y.promote(f, images[0], 2)
	y.promote(f, images[1], 1)

	digest := bumpTo(images[0], 1, State{}).Digest
	for what, want := range map[string]int{
		first.Bump.String(): 1, first.Bump.String()[:8]: 1, source(1).Hash.String(): 2, source(2).Hash.String()[:12]: 1,
		digest: 1, strings.TrimPrefix(digest, "sha256:")[:12]: 1, "0123456789": 0, "short": 0,
	} {
		found, err := y.fleet().Lookup(t.Context(), what, 10)
		if err != nil || len(found) != want {
			t.Errorf("%s: %v, found %d, want %d", what, err, len(found), want)
		}
	}
}

// Concurrent callers share a reading, and none gets one that began before it
// asked.
func TestReadingsAreShared(t *testing.T) {
	t.Parallel()
	files, images := many(50)
	y := newYard(t, files)
	f := y.fleet()
	y.state(f, images[0])
	y.faults.counts()
	var all sync.WaitGroup
	for _, image := range images {
		all.Go(func() { y.state(f, image) })
	}
	all.Wait()
	if counts := y.faults.counts(); counts["refs"] > 10 || counts["fetch"] != 0 {
		t.Errorf("50 callers: %v", counts)
	}
	y.person("main", lab.Commit{Message: "move", Files: map[string]string{"x": "y"}})
	if s := y.state(f, images[0]); s.Head.String() != y.ref("main") {
		t.Error("an old reading was handed out")
	}

	lazy := y.fleet(func(o *Options) { o.MaxAge = time.Hour })
	y.state(lazy, images[0])
	y.faults.counts()
	y.state(lazy, images[1])
	if counts := y.faults.counts(); counts["refs"] != 0 {
		t.Errorf("a young reading was not used: %v", counts)
	}
	y.promote(lazy, images[0], 1)
	if s := y.state(lazy, images[0]); s.Standing != Holds {
		t.Errorf("after our own promotion: %s", s.Standing)
	}
}

// A daemon without a cache fetches branch and ledger together: apart, most of
// the tree would come twice.
func TestAColdStartFetchesOnce(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet(forReview)
	proposeSecond(y, f)
	y.person("main", lab.Commit{Message: "meanwhile", Files: map[string]string{"x": "y"}})
	cold := y.fleet(forReview)
	y.faults.counts()
	if w, err := cold.readings.get(t.Context(), cold); err != nil || w.head.String() != y.ref("main") {
		t.Fatal(err)
	}
	if counts := y.faults.counts(); counts["fetch"] != 1 {
		t.Errorf("a reading without an image: %v", counts)
	}
	cold = y.fleet(forReview)
	cold.known.add(podinfo)
	y.faults.counts()
	if w, err := cold.readings.get(t.Context(), cold); err != nil || !cold.store.Has(w.refs[cold.ledgerRef("podinfo")]) {
		t.Fatal(err)
	}
	if counts := y.faults.counts(); counts["fetch"] != 1 {
		t.Errorf("with one whose ledger is elsewhere: %v", counts)
	}
}
