package fleet

import (
	"errors"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

const reviewBranch = "towpath/production"

func forReview(o *Options) { o.PushBranch = reviewBranch }

// propose puts the first commit of podinfo on the branch and a second one up for
// review.
func proposeSecond(y *yard, f *Fleet) Promotion {
	y.t.Helper()
	y.promote(f, podinfo, 1)
	y.stands(f, podinfo, Proposed)
	y.works("main", []string{"merge", "-q", "--ff-only", "origin/" + reviewBranch})
	y.run("update-ref", "-d", "refs/heads/"+reviewBranch)
	y.stands(f, podinfo, Holds)
	p := y.promote(f, podinfo, 2)
	if p.Branch != reviewBranch || y.ref("refs/heads/"+reviewBranch) != p.Bump.String() || y.ledger("podinfo") != p.Bump.String() {
		y.t.Fatalf("promotion %+v", p)
	}
	return p
}

// However a review ends, the same source commit is not proposed again, and the
// next one is.
func TestReviewEnds(t *testing.T) {
	t.Parallel()
	remove := func(y *yard) { y.run("update-ref", "-d", "refs/heads/"+reviewBranch) }
	merge := func(y *yard) {
		y.works("main", []string{"merge", "-q", "--no-ff", "--no-edit", "origin/" + reviewBranch})
	}
	squash := func(y *yard) {
		y.works("main", []string{"merge", "-q", "--squash", "origin/" + reviewBranch}, []string{"commit", "-q", "-m", "Bump podinfo (!1)"})
	}
	rebase := func(y *yard) {
		y.person("main", lab.Commit{Message: "meanwhile", Files: map[string]string{"x": "y"}})
		y.works("main", []string{"cherry-pick", "origin/" + reviewBranch})
	}
	revertLast := func(y *yard) { y.works("main", []string{"revert", "--no-edit", "-m", "1", "HEAD"}) }
	revertPlain := func(y *yard) { y.works("main", []string{"revert", "--no-edit", "HEAD"}) }
	meanwhile := func(y *yard) {
		y.person("main", lab.Commit{Message: "meanwhile", Files: map[string]string{"meanwhile": "y"}})
	}
	for name, c := range map[string]struct {
		do   []func(*yard)
		want Standing
	}{
		"open":                              {nil, Proposed},
		"open, the branch moves on":         {steps(meanwhile, meanwhile), Proposed},
		"merged":                            {steps(merge), Holds},
		"merged, branch deleted":            {steps(merge, remove), Holds},
		"merged, moved on":                  {steps(merge, remove, meanwhile), Holds},
		"squashed":                          {steps(squash), Holds},
		"squashed, branch deleted":          {steps(meanwhile, squash, remove), Holds},
		"rebased":                           {steps(rebase), Holds},
		"rebased, branch deleted":           {steps(rebase, remove), Holds},
		"closed":                            {steps(remove), Undone},
		"closed, moved on":                  {steps(remove, meanwhile), Undone},
		"merged, then reverted":             {steps(merge, revertLast), Undone},
		"merged, deleted, reverted":         {steps(merge, remove, revertLast), Undone},
		"squashed, then reverted":           {steps(squash, revertPlain), Undone},
		"squashed, deleted, reverted":       {steps(squash, remove, revertPlain), Undone},
		"squashed, moved on, reverted":      {steps(squash, revertPlain, meanwhile), Undone},
		"rebased, deleted, reverted":        {steps(rebase, remove, revertPlain), Undone},
		"rebased, reverted, reverted again": {steps(rebase, revertPlain, revertPlain), Holds},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, plainFiles())
			f := y.fleet(forReview)
			proposeSecond(y, f)
			for _, do := range c.do {
				do(y)
			}
			s := y.stands(f, podinfo, c.want)
			if want := strings.HasPrefix(name, "closed"); s.Rejected != want {
				t.Errorf("rejected: %v, want %v", s.Rejected, want)
			}
			if _, err := f.Promote(t.Context(), bumpTo(podinfo, 2, s)); !errors.Is(err, ErrPromoted) {
				t.Fatalf("the same commit again: %v", err)
			}
			p := y.promote(f, podinfo, 3)
			if y.run("rev-parse", p.Bump.String()+"^") != y.ref("main") || y.ref("refs/heads/"+reviewBranch) != p.Bump.String() {
				t.Fatalf("the next one does not stand on main's head:\n%s", y.run("log", "--graph", "--oneline", "--all"))
			}
			y.stands(f, podinfo, Proposed)
			y.sound()
		})
	}
}

func steps(all ...func(*yard)) []func(*yard) { return all }

// A target that had reviews and has none any more: what was not merged by then
// was not taken back by anybody, and is not promoted without a person's word.
func TestReviewsAreGivenUp(t *testing.T) {
	t.Parallel()
	remove := func(y *yard) { y.run("update-ref", "-d", "refs/heads/"+reviewBranch) }
	merge := func(y *yard) {
		y.works("main", []string{"merge", "-q", "--no-ff", "--no-edit", "origin/" + reviewBranch})
	}
	revert := func(y *yard) { y.works("main", []string{"revert", "--no-edit", "-m", "1", "HEAD"}) }
	for name, c := range map[string]struct {
		do       []func(*yard)
		want     Standing
		unmerged bool
	}{
		"open":                  {nil, Undone, true},
		"closed":                {steps(remove), Undone, true},
		"merged":                {steps(merge, remove), Holds, false},
		"merged, then reverted": {steps(merge, revert), Undone, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, plainFiles())
			proposeSecond(y, y.fleet(forReview))
			for _, do := range c.do {
				do(y)
			}
			f := y.fleet()
			s := y.stands(f, podinfo, c.want)
			if s.Unmerged != c.unmerged || s.Rejected {
				t.Errorf("unmerged: %v, want %v; rejected: %v, want false", s.Unmerged, c.unmerged, s.Rejected)
			}
			p := y.promote(f, podinfo, 3)
			if y.ref("main") != p.Bump.String() {
				t.Fatalf("the next one is not on main:\n%s", y.run("log", "--graph", "--oneline", "--all"))
			}
			if s := y.stands(f, podinfo, Holds); s.Unmerged {
				t.Error("what holds is unmerged")
			}
			y.sound()
		})
	}
}

func TestReviewBranchWithAStranger(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet(forReview)
	y.promote(f, podinfo, 1)
	theirs := y.person(reviewBranch, lab.Commit{Message: "tweak", Author: "Rita Reviewer <rita@example.com>", Files: map[string]string{"x": "y"}})

	s := y.stands(f, podinfo, Proposed)
	if s.Stranger == nil || s.Stranger.Commit.Hash != theirs {
		t.Fatalf("stranger: %+v", s.Stranger)
	}
	_, err := f.Promote(t.Context(), bumpTo(podinfo, 2, s))
	if !errors.Is(err, ErrStranger) || !strings.Contains(err.Error(), "Rita Reviewer") {
		t.Fatalf("over a stranger's commit: %v", err)
	}
	if y.ref("refs/heads/"+reviewBranch) != theirs.String() {
		t.Fatal("the stranger's commit is gone")
	}
	// Merged with their commit, all is well again.
	y.works("main", []string{"merge", "-q", "--no-ff", "--no-edit", "origin/" + reviewBranch})
	y.stands(f, podinfo, Holds)
	y.promote(f, podinfo, 2)
	y.stands(f, podinfo, Proposed)
}

// An administrator resets the branch to before what the proposals stand on. The
// review branch then carries commits that are neither ours nor on the branch.
func TestReviewOfABranchThatIsReset(t *testing.T) {
	t.Parallel()
	scene := func(t *testing.T) (*yard, *Fleet, []Image) {
		files, images := many(2)
		y := newYard(t, files)
		f := y.fleet(forReview)
		y.person("main", lab.Commit{Message: "a mistake", Files: map[string]string{"mistake": "1"}})
		y.person("main", lab.Commit{Message: "another", Files: map[string]string{"mistake": "2"}})
		for _, err := range y.promoteAll(f, images, 1) {
			if err != nil {
				t.Fatal(err)
			}
		}
		y.stands(f, images[0], Proposed)
		y.works("main", []string{"reset", "-q", "--hard", "HEAD~2"})
		return y, f, images
	}
	onTheNewestBase := func(y *yard) {
		y.t.Helper()
		if got := y.run("log", "--format=%an", "main.."+reviewBranch); got != "Towpath\nTowpath" || y.run("merge-base", "main", reviewBranch) != y.ref("main") {
			y.t.Errorf("the review branch holds\n%s", y.run("log", "--graph", "--oneline", "main", reviewBranch))
		}
	}
	t.Run("proposed again", func(t *testing.T) {
		t.Parallel()
		y, f, images := scene(t)
		for _, image := range images {
			s := y.stands(f, image, Proposed)
			if s.Stranger != nil {
				t.Fatalf("stranger %+v", s.Stranger)
			}
			if !s.Stale {
				continue // it was kept when the other was proposed again
			}
			if _, err := f.Promote(t.Context(), Bump{Image: image, Base: s.Entry.Source, BaseBump: s.Entry.Bump, Fill: true}); err != nil {
				t.Fatal(err)
			}
		}
		onTheNewestBase(y)
		for _, image := range images {
			if s := y.stands(f, image, Proposed); s.Stale || s.Entry.Source != source(1).Hash {
				t.Errorf("%s: %+v", image.Name, s)
			}
		}
		y.sound()
	})
	t.Run("the next commit", func(t *testing.T) {
		t.Parallel()
		y, f, images := scene(t)
		y.promote(f, images[0], 2)
		onTheNewestBase(y)
		if s := y.stands(f, images[1], Proposed); s.Stale || s.Entry.Source != source(1).Hash {
			t.Errorf("the other: %+v", s)
		}
		y.sound()
	})
	t.Run("a stranger's commit on top", func(t *testing.T) {
		t.Parallel()
		y, f, images := scene(t)
		theirs := y.person(reviewBranch, lab.Commit{Message: "tweak", Files: map[string]string{"x": "y"}})
		s := y.stands(f, images[0], Proposed)
		if s.Stranger == nil || s.Stranger.Commit.Hash != theirs {
			t.Errorf("stranger: %+v", s.Stranger)
		}
		if _, err := f.Promote(t.Context(), bumpTo(images[0], 2, s)); !errors.Is(err, ErrStranger) {
			t.Errorf("over a stranger's commit: %v", err)
		}
		if y.ref("refs/heads/"+reviewBranch) != theirs.String() {
			t.Error("the stranger's commit is gone")
		}
	})
	t.Run("the branch itself on the review branch", func(t *testing.T) {
		t.Parallel()
		y, f, images := scene(t)
		former := y.run("rev-parse", reviewBranch+"~2")
		y.run("update-ref", "refs/heads/"+reviewBranch, former)
		if s := y.state(f, images[0]); s.Stranger == nil || s.Stranger.Commit.Hash.String() != former {
			t.Errorf("nothing of ours is on it, and the stranger is %+v", s.Stranger)
		}
	})
}

func TestReviewStaysUntilItConflicts(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles(), lab.GitOptions{V0: true})
	f := y.fleet(forReview)
	p := y.promote(f, podinfo, 1)

	// Changes elsewhere, in the same file, too, leave the proposal as it is.
	content := deployment("podinfo", placeholder)
	y.person("main", lab.Commit{Message: "far away", Files: map[string]string{podinfoFile: content + "# the end\n", "x": "y"}})
	s := y.stands(f, podinfo, Proposed)
	if s.Stale {
		t.Fatal("stale without a conflict")
	}
	if _, err := f.Promote(t.Context(), Bump{Image: podinfo, Base: s.Entry.Source, BaseBump: s.Entry.Bump, Fill: true}); !errors.Is(err, ErrMoved) {
		t.Fatalf("rebuilt without need: %v", err)
	}

	// A change beside the image conflicts.
	content = strings.Replace(content, "args: [ 'a',   \"b\" ]", "args: [ 'c' ]", 1)
	y.person("main", lab.Commit{Message: "beside", Files: map[string]string{podinfoFile: content}})
	if s = y.stands(f, podinfo, Proposed); !s.Stale {
		t.Fatal("a conflict is not seen")
	}
	y.pat.Git("fetch", "-q", "origin", "+refs/heads/*:refs/remotes/origin/*")
	if _, err := lab.TryGit(y.pat.Dir, "merge-tree", "--write-tree", "origin/main", "origin/"+reviewBranch); err == nil {
		t.Fatal("git sees no conflict")
	}
	again, err := f.Promote(t.Context(), Bump{Image: podinfo, Base: s.Entry.Source, BaseBump: s.Entry.Bump, Fill: true})
	if err != nil {
		t.Fatal(err)
	}
	if y.run("rev-parse", again.Bump.String()+"^") != y.ref("main") {
		t.Fatal("not on the newest head")
	}
	if y.run("show", "-s", "--format=%B", again.Bump.String()) != y.run("show", "-s", "--format=%B", p.Bump.String()) {
		t.Fatal("the message changed")
	}
	if s = y.stands(f, podinfo, Proposed); s.Stale || s.Entry.Source != source(1).Hash {
		t.Fatalf("state %+v", s)
	}
	y.sound()
}

func TestOneReviewBranchForSeveralImages(t *testing.T) {
	t.Parallel()
	files, images := many(3)
	y := newYard(t, files)
	f := y.fleet(forReview)
	for _, err := range y.promoteAll(f, images[:2], 1) {
		if err != nil {
			t.Fatal(err)
		}
	}
	first := y.ref("refs/heads/" + reviewBranch)
	// A third one is added on top: a fast-forward.
	y.promote(f, images[2], 1)
	if y.run("rev-list", "--count", "main.."+reviewBranch) != "3" || y.run("rev-parse", reviewBranch+"^") != first {
		t.Fatalf("\n%s", y.run("log", "--graph", "--oneline", "--all"))
	}
	// A newer commit of one replaces its own and keeps the others'.
	y.person("main", lab.Commit{Message: "meanwhile", Files: map[string]string{"x": "y"}})
	y.promote(f, images[0], 2)
	if y.run("rev-list", "--count", "main.."+reviewBranch) != "3" || y.run("merge-base", "main", reviewBranch) != y.ref("main") {
		t.Fatalf("\n%s", y.run("log", "--graph", "--oneline", "--all"))
	}
	for i, image := range images {
		s := y.stands(f, image, Proposed)
		n := 1
		if i == 0 {
			n = 2
		}
		if s.Entry.Source != source(n).Hash {
			t.Errorf("%s is proposed with %s", image.Name, s.Entry.Source)
		}
	}
	y.works("main", []string{"merge", "-q", "--no-ff", "--no-edit", "origin/" + reviewBranch})
	for _, image := range images {
		y.stands(f, image, Holds)
	}
	// The merged branch is still there; what it held is not proposed again.
	y.promote(f, images[1], 2)
	if y.run("rev-list", "--count", "main.."+reviewBranch) != "1" {
		t.Fatalf("\n%s", y.run("log", "--graph", "--oneline", "--all"))
	}
	y.stands(f, images[0], Holds)
	y.stands(f, images[2], Holds)
	y.sound()
}

func TestAReviewBranchForEachImage(t *testing.T) {
	t.Parallel()
	files, images := many(2)
	y := newYard(t, files)
	f := y.fleet(func(o *Options) { o.PushBranch = "bump/{{ .Image }}" })
	for _, err := range y.promoteAll(f, images, 1) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if s := y.stands(f, images[0], Proposed); s.Branch != "bump/app-0" {
		t.Fatalf("branch %q", s.Branch)
	}
	y.run("update-ref", "-d", "refs/heads/bump/app-0")
	y.stands(f, images[0], Undone)
	y.stands(f, images[1], Proposed)
	for _, err := range y.promoteAll(f, images, 2) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if y.run("rev-list", "--count", "main..bump/app-0") != "1" || y.run("rev-list", "--count", "main..bump/app-1") != "1" {
		t.Fatalf("\n%s", y.run("log", "--graph", "--oneline", "--all"))
	}
	y.sound()
}

func TestReviewAndForeignValue(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet(forReview)
	y.promote(f, podinfo, 1)
	y.write("registry.example.com/apps/podinfo:hotfix")
	s := y.stands(f, podinfo, TakenOver)
	if _, err := f.Promote(t.Context(), bumpTo(podinfo, 2, s)); !errors.Is(err, ErrForeign) {
		t.Fatalf("%v", err)
	}
}

func TestReviewOfAFill(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet(forReview)
	y.promote(f, podinfo, 1)
	y.works("main", []string{"merge", "-q", "--ff-only", "origin/" + reviewBranch})
	y.person("main", lab.Commit{Message: "a new cluster", Files: map[string]string{"clusters/production/b/podinfo.yaml": deployment("podinfo", placeholder)}})
	s := y.stands(f, podinfo, Unfilled)
	if _, err := f.Promote(t.Context(), Bump{Image: podinfo, Base: s.Entry.Source, BaseBump: s.Entry.Bump, Fill: true}); err != nil {
		t.Fatal(err)
	}
	y.stands(f, podinfo, Proposed)
	y.run("update-ref", "-d", "refs/heads/"+reviewBranch)
	y.stands(f, podinfo, Undone)
}

// A change is compared line by line only as far as that takes no time to speak
// of, whoever made it.
func TestTouches(t *testing.T) {
	t.Parallel()
	much := strings.Repeat("a\n", 200_000)
	other := strings.Repeat("b\na\n", 100_000)
	for name, c := range map[string]struct {
		before, after string
		line          int
		want          bool
	}{
		"the same":                     {"a\nb\nc\n", "a\nb\nc\n", 2, false},
		"the line":                     {"a\nb\nc\n", "a\nx\nc\n", 2, true},
		"the one above":                {"a\nb\nc\nd\n", "x\nb\nc\nd\n", 2, true},
		"the one below":                {"a\nb\nc\nd\n", "a\nb\nx\nd\n", 2, true},
		"one further":                  {"a\nb\nc\nd\n", "a\nb\nc\nx\n", 2, false},
		"between two changes":          {"a\nb\nc\nd\ne\nf\ng\n", "x\nb\nc\nd\ne\nf\ny\n", 4, false},
		"far above a large change":     {"1\n2\n3\n" + much, "1\n2\n3\n" + other, 1, false},
		"inside of a large change":     {"1\n2\n3\n" + much, "1\n2\n3\n" + other, 1000, true},
		"far below a large change":     {much + "1\n2\n3\n", other + "1\n2\n3\n", 200_003, false},
		"far below what was taken out": {much + "1\n2\n3\n", "1\n2\n3\n", 200_003, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := touches(c.before, c.after, []int{c.line}); got != c.want {
				t.Errorf("touches: %v", got)
			}
		})
	}
}

// A template may name the branch itself for an image of that name. That would be
// no review.
func TestReviewBranchThatIsTheBranch(t *testing.T) {
	t.Parallel()
	files := map[string]string{"clusters/production/main.yaml": deployment("main", placeholder)}
	y := newYard(t, files)
	f := y.fleet(func(o *Options) { o.PushBranch = "{{ .Image }}" })
	image := imageNamed("main")
	head := y.ref("main")
	if _, err := f.Promote(t.Context(), bumpTo(image, 1, y.state(f, image))); err == nil || !strings.Contains(err.Error(), "nothing would be reviewed") {
		t.Errorf("promoted: %v", err)
	}
	if y.ref("main") != head {
		t.Error("the branch has moved without a review")
	}
}
