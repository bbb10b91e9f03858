package fleet

import (
	"errors"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops/trust"
)

func TestRevertStays(t *testing.T) {
	t.Parallel()
	t.Run("newest protocol", func(t *testing.T) { t.Parallel(); revertStays(t, lab.GitOptions{}) })
	// Where only what refs name can be fetched, as over most SSH servers.
	t.Run("old protocol", func(t *testing.T) { t.Parallel(); revertStays(t, lab.GitOptions{V0: true}) })
}

func revertStays(t *testing.T, options lab.GitOptions) {
	y := newYard(t, plainFiles(), options)
	f := y.fleet()
	y.promote(f, podinfo, 1)
	p := y.promote(f, podinfo, 2)

	y.revert("main", p.Bump.String())
	s := y.stands(f, podinfo, Undone)
	if s.Entry.Source != source(2).Hash {
		t.Fatalf("entry %+v", s.Entry)
	}
	if _, err := f.Promote(t.Context(), bumpTo(podinfo, 2, s)); !errors.Is(err, ErrPromoted) {
		t.Fatalf("the same commit again: %v", err)
	}

	// Further back than the last one, to what people had written themselves.
	y.write(placeholder)
	y.stands(f, podinfo, Undone)
	// The bump comes back by a person's hand.
	y.write(value(podinfo, 2))
	y.stands(f, podinfo, Holds)
	y.write(value(podinfo, 1))
	y.stands(f, podinfo, Undone)

	y.promote(f, podinfo, 3)
	y.stands(f, podinfo, Holds)
	y.sound()
}

func TestAcceptedPromotesWhatWasReverted(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	p := y.promote(f, podinfo, 1)
	y.revert("main", p.Bump.String())

	b := bumpTo(podinfo, 1, y.stands(f, podinfo, Undone))
	b.Accepted = "the revert was a mistake\nTowpath-Image: other"
	if _, err := f.Promote(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	s := y.stands(f, podinfo, Holds)
	if s.Entry.Accepted != "the revert was a mistake Towpath-Image: other" {
		t.Fatalf("accepted: %q", s.Entry.Accepted)
	}
	// Once: the same word does not work again.
	y.revert("main", s.Entry.Bump.String())
	b = bumpTo(podinfo, 1, y.stands(f, podinfo, Undone))
	b.Accepted = "again"
	if _, err := f.Promote(t.Context(), b); !errors.Is(err, ErrPromoted) {
		t.Fatalf("accepted twice: %v", err)
	}
}

func TestTakenOver(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	y.promote(f, podinfo, 1)
	by := y.person("main", lab.Commit{Message: "pin", Author: "Bob Bot <bob@example.com>",
		Files: map[string]string{podinfoFile: deployment("podinfo", "registry.example.com/apps/podinfo:hotfix")}})
	y.person("main", lab.Commit{Message: "something else", Files: map[string]string{"README.md": "# more\n"}})

	s := y.stands(f, podinfo, TakenOver)
	if s.Foreign == nil || s.Foreign.Commit != by || s.Foreign.Author.Name != "Bob Bot" || s.Foreign.File != podinfoFile ||
		s.Foreign.Value != "registry.example.com/apps/podinfo:hotfix" {
		t.Fatalf("foreign: %+v", s.Foreign)
	}
	_, err := f.Promote(t.Context(), bumpTo(podinfo, 2, s))
	if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "Bob Bot") {
		t.Fatalf("over somebody's value: %v", err)
	}

	// It stays taken over when the file is moved away.
	y.works("main", []string{"mv", podinfoFile, "clusters/production/moved.yaml"}, []string{"commit", "-q", "-m", "move"})
	if s = y.stands(f, podinfo, TakenOver); s.Foreign.Commit != by {
		t.Fatalf("foreign after the move: %+v", s.Foreign)
	}

	b := bumpTo(podinfo, 2, s)
	b.Accepted = "the hotfix is in"
	if _, err := f.Promote(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	y.stands(f, podinfo, Holds)
	y.sound()
}

func TestMovedFile(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	y.promote(f, podinfo, 1)
	y.promote(f, podinfo, 2)
	y.works("main", []string{"mv", podinfoFile, "clusters/production/web.yaml"}, []string{"commit", "-q", "-m", "move"})
	y.stands(f, podinfo, Holds)

	for name, c := range map[string]struct {
		image string
		want  Standing
	}{
		"older of ours":          {value(podinfo, 1), Undone},
		"what people had before": {placeholder, Undone},
		"foreign":                {"registry.example.com/apps/podinfo:other", TakenOver},
	} {
		y.person("main", lab.Commit{Message: name, Files: map[string]string{"clusters/production/web.yaml": deployment("podinfo", c.image)}})
		s := y.stands(f, podinfo, c.want)
		if s.Standing != c.want {
			t.Errorf("%s: %s", name, s.Standing)
		}
	}

	// Moved and set back in one commit.
	y.person("main", lab.Commit{Message: "as it was", Files: map[string]string{"clusters/production/web.yaml": deployment("podinfo", value(podinfo, 2))}})
	y.stands(f, podinfo, Holds)
	y.person("main", lab.Commit{Message: "move and revert", Remove: []string{"clusters/production/web.yaml"},
		Files: map[string]string{podinfoFile: deployment("podinfo", placeholder)}})
	y.stands(f, podinfo, Undone)
}

func TestFill(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	first := y.promote(f, podinfo, 1)
	const staging = "clusters/production/staging/podinfo.yaml"
	y.person("main", lab.Commit{Message: "a new cluster", Files: map[string]string{staging: deployment("podinfo", placeholder)}})

	s := y.stands(f, podinfo, Unfilled)
	p, err := f.Promote(t.Context(), Bump{Image: podinfo, Base: s.Entry.Source, BaseBump: s.Entry.Bump, Fill: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Changes) != 1 || p.Changes[0].File != staging {
		t.Fatalf("changes: %+v", p.Changes)
	}
	s = y.stands(f, podinfo, Holds)
	if s.Entry.Bump == first.Bump || s.Entry.Source != source(1).Hash || s.Entry.Ref != value(podinfo, 1) {
		t.Fatalf("entry: %+v", s.Entry)
	}
	// Filling is a promotion that a person may undo.
	y.revert("main", p.Bump.String())
	y.stands(f, podinfo, Undone)
	// And so is what was there before, which the fill did not touch.
	y.revert("main", "HEAD")
	y.stands(f, podinfo, Holds)
	y.revert("main", first.Bump.String())
	y.stands(f, podinfo, Undone)
}

func TestNothingToChange(t *testing.T) {
	t.Parallel()
	y := newYard(t, map[string]string{podinfoFile: deployment("podinfo", value(podinfo, 1))})
	f := y.fleet()
	head := y.ref("main")
	p := y.promote(f, podinfo, 1)
	if y.ref("main") != head || y.ledger("podinfo") != p.Bump.String() || p.Branch != "" {
		t.Fatalf("main moved from %s to %s; %+v", head, y.ref("main"), p)
	}
	y.stands(f, podinfo, Holds)
	y.promote(f, podinfo, 2)
	y.stands(f, podinfo, Holds)
	y.sound()
}

func TestObserve(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	head := y.ref("main")
	b := bumpTo(podinfo, 1, y.state(f, podinfo))
	b.Observe = true
	if _, err := f.Promote(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	s := y.stands(f, podinfo, Observed)
	if y.ref("main") != head || !s.Entry.Observed || s.Entry.Source != source(1).Hash {
		t.Fatalf("main %s, entry %+v", y.ref("main"), s.Entry)
	}
	y.promote(f, podinfo, 2)
	y.stands(f, podinfo, Holds)
}

// An administrator resets the branch behind our bump: that is a rollback, too,
// and the ledger remembers it.
func TestBranchResetBehindTheBump(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	y.promote(f, podinfo, 1)
	y.promote(f, podinfo, 2)
	y.run("update-ref", "refs/heads/main", "main~1")
	s := y.stands(f, podinfo, Undone)
	if s.Rewritten == "" || s.Entry.Source != source(2).Hash {
		t.Fatalf("state: %+v", s)
	}
	y.run("update-ref", "refs/heads/main", "main~1")
	y.stands(f, podinfo, Undone)
	y.promote(f, podinfo, 3)
	y.stands(f, podinfo, Holds)
}

func TestLedgerByHistory(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	y.promote(f, podinfo, 1)
	p := y.promote(f, podinfo, 2)
	y.person("main", lab.Commit{Message: "more", Files: map[string]string{"a": "b"}})
	// A merge whose second parent holds the bump; and a forger's trailers on top.
	y.works("main", []string{"switch", "-q", "-c", "side", "HEAD~2"},
		[]string{"commit", "-q", "--allow-empty", "-m", "side"},
		[]string{"merge", "-q", "--no-edit", "main"},
		[]string{"branch", "-f", "main", "side"}, []string{"switch", "-q", "main"},
		[]string{"commit", "-q", "--allow-empty", "-m", "forged\n\n" + strings.Split(y.run("show", "-s", "--format=%B", p.Bump.String()), "\n\n")[3]})
	y.run("update-ref", "-d", "refs/towpath/production/podinfo")

	s := y.stands(f, podinfo, Holds)
	if s.Entry == nil || s.Entry.Bump != p.Bump {
		t.Fatalf("entry %+v, want bump %s", s.Entry, p.Bump)
	}
	y.revert("main", p.Bump.String())
	y.stands(f, podinfo, Undone)
	y.promote(f, podinfo, 3)
	y.stands(f, podinfo, Holds)
	if y.ledger("podinfo") != y.ref("main") {
		t.Fatal("the ledger was not written again")
	}
}

func TestKeyRotation(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	p := y.promote(f, podinfo, 1)
	y.revert("main", p.Bump.String())
	former := y.secret["identity.pub"]
	y.newKey()

	// The former key is not beside the new one: an error, and not a new start.
	_, err := y.fleet().Promoted(t.Context(), podinfo)
	var fault *LedgerError
	if !errors.As(err, &fault) || !errors.Is(err, trust.ErrUnknownKey) || !strings.Contains(fault.Hint(), "former.pub") {
		t.Fatalf("with the former key missing: %v", err)
	}
	if _, err := y.fleet().Promote(t.Context(), bumpTo(podinfo, 1, State{})); !errors.As(err, &fault) {
		t.Fatalf("promoted with the former key missing: %v", err)
	}

	y.secret["former.pub"] = former
	f = y.fleet()
	y.stands(f, podinfo, Undone)
	y.promote(f, podinfo, 2)
	y.stands(f, podinfo, Holds)
	y.run("-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile="+y.allowed, "verify-commit", "main")
}

func TestLedgerByAnotherTargetOrImage(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	other := y.fleet(func(o *Options) { o.Name = "staging" })
	y.promote(other, podinfo, 1)
	y.run("update-ref", "refs/towpath/production/podinfo", y.ref("refs/towpath/staging/podinfo"))
	var fault *LedgerError
	if _, err := y.fleet().Promoted(t.Context(), podinfo); !errors.As(err, &fault) || !strings.Contains(err.Error(), "target staging") {
		t.Fatalf("an entry of another target: %v", err)
	}
	y.run("update-ref", "-d", "refs/towpath/production/podinfo")
	y.run("update-ref", "refs/towpath/staging/web", y.ref("refs/towpath/staging/podinfo"))
	if _, err := other.Promoted(t.Context(), imageNamed("web")); !errors.As(err, &fault) || !strings.Contains(err.Error(), "image podinfo") {
		t.Fatalf("an entry of another image: %v", err)
	}
	y.run("update-ref", "refs/towpath/staging/web", y.run("rev-parse", "main~1"))
	if _, err := other.Promoted(t.Context(), imageNamed("web")); !errors.As(err, &fault) || !errors.Is(err, trust.ErrUnsigned) {
		t.Fatalf("an entry that nobody signed: %v", err)
	}
}

func TestNoMarkerAndBrokenFiles(t *testing.T) {
	t.Parallel()
	files := plainFiles()
	files["clusters/production/broken.yaml"] = "a: [\n  b: c # {\"$imagepolicy\": \"flux-system:podinfo\"}\n"
	files["clusters/production/other.yaml"] = "a: b:c # {\"$imagepolicy\": \"flux-system:else\"}\n"
	y := newYard(t, files)
	f := y.fleet()
	s := y.stands(f, podinfo, Unpromoted)
	if len(s.Problems) != 1 || s.Problems[0].File != "clusters/production/broken.yaml" || !s.Problems[0].Ours || s.Others != 1 {
		t.Fatalf("problems %+v, others %d", s.Problems, s.Others)
	}
	y.promote(f, podinfo, 1)
	y.stands(f, podinfo, Holds)

	web := imageNamed("web")
	s = y.stands(f, web, NoMarker)
	if len(s.Problems) != 0 {
		t.Fatalf("problems of another image: %+v", s.Problems)
	}
	_, err := f.Promote(t.Context(), bumpTo(web, 1, s))
	var hint interface{ Hint() string }
	if !errors.Is(err, ErrNoMarker) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), `{"$imagepolicy": "flux-system:web"}`) {
		t.Fatalf("no marker: %v", err)
	}
}

func TestPathsThatAreNotThere(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	y.works("main", []string{"commit", "-q", "--allow-empty", "-m", "x"})
	link := y.mktree("120000 blob " + y.hashObject("clusters") + "\tlink")
	y.run("update-ref", "refs/heads/linked", y.run("commit-tree", "-m", "x", link))
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"path":   {func(o *Options) { o.Path = "clusters/nowhere" }, "no clusters/nowhere on branch main"},
		"branch": {func(o *Options) { o.Branch = "gone" }, "no branch gone"},
		"link":   {func(o *Options) { o.Branch, o.Path = "linked", "link/x" }, "symbolic link"},
	} {
		_, err := y.fleet(c.change).Promoted(t.Context(), podinfo)
		var hint interface{ Hint() string }
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.As(err, &hint) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := y.fleet(func(o *Options) { o.Path = podinfoFile }).Promoted(t.Context(), podinfo); err != nil {
		t.Errorf("a single file: %v", err)
	}
	for _, bad := range []func(*Options){
		func(o *Options) { o.Path = "../x" }, func(o *Options) { o.Refspec = "+HEAD:refs/heads/x" },
		func(o *Options) { o.Refspec = ":refs/heads/x" }, func(o *Options) { o.PushBranch = "a{{" },
		func(o *Options) { o.PushBranch = "a b" }, func(o *Options) { o.PushBranch = "x/{{ .Nope }}" },
	} {
		o := y.options()
		bad(&o)
		if f, err := Open(o); err == nil {
			f.Close()
			t.Errorf("%+v was accepted", o)
		}
	}
}
