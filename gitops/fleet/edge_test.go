package fleet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/trust"
)

// A new cluster that was copied from an old commit carries an old value of ours:
// somebody's choice, and not a placeholder.
func TestNewMarkerWithAnOldValue(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	y.promote(f, podinfo, 1)
	y.promote(f, podinfo, 2)
	const copied = "clusters/production/copy.yaml"
	y.person("main", lab.Commit{Message: "copy", Files: map[string]string{copied: deployment("podinfo", value(podinfo, 1))}})
	y.stands(f, podinfo, Undone)

	// Without the entry's own signature on the old one, as after a squash, too.
	y.works("main", []string{"reset", "-q", "--hard", "HEAD~3"})
	y.person("main", lab.Commit{Message: strings.Replace(y.run("show", "-s", "--format=%B", y.ledger("podinfo")+"~1"), "podinfo:", "squashed:", 1),
		Files: map[string]string{podinfoFile: deployment("podinfo", value(podinfo, 1))}})
	y.person("main", lab.Commit{Message: "by hand", Files: map[string]string{podinfoFile: deployment("podinfo", value(podinfo, 2)), copied: deployment("podinfo", value(podinfo, 1))}})
	y.stands(f, podinfo, Undone)
}

func TestSigningKeyOfNoUse(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	head := y.ref("main")
	locked, _, err := trust.NewSigningKey("towpath@example.com", []byte("right"))
	if err != nil {
		t.Fatal(err)
	}
	locked["password"] = []byte("wrong")
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"wrong passphrase": {func(o *Options) {
			o.Signer = func() (*trust.Signer, error) { return trust.LoadSigner(trust.SSH, locked) }
		}, "signing key"},
		"not among our keys": {func(o *Options) {
			other, _, err := trust.NewSigningKey("towpath@example.com", nil)
			if err != nil {
				t.Fatal(err)
			}
			o.Signer = func() (*trust.Signer, error) { return trust.LoadSigner(trust.SSH, other) }
		}, "does not verify"},
		"no public keys": {func(o *Options) {
			o.Keys = func() (*trust.Keyring, error) { return nil, errors.New("the secret is gone") }
		}, "the secret is gone"},
	} {
		f := y.fleet(c.change)
		_, err := f.Promote(t.Context(), bumpTo(podinfo, 1, State{}))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if rights, err := f.Check(t.Context()); err == nil && rights.Signing == nil {
			t.Errorf("%s: check finds nothing", name)
		}
	}
	if y.ref("main") != head || y.ledger("podinfo") != "" {
		t.Fatal("something was pushed")
	}
}

// One bad bump in a batch is answered and leaves no trace in the others' push.
func TestBadBumpsInABatch(t *testing.T) {
	t.Parallel()
	files, images := many(4)
	y := newYard(t, files)
	f := y.fleet()
	bumps := make([]Bump, len(images))
	for i, image := range images {
		bumps[i] = bumpTo(image, 1, y.state(f, image))
	}
	bumps[1].Digest = "sha256:not one"
	bumps[2].BaseBump = gitops.Hash{1}
	bumps[3].SourceRef = "no ref at all"
	errs := make([]error, len(bumps))
	var all sync.WaitGroup
	for i := range bumps {
		all.Go(func() { _, errs[i] = f.Promote(t.Context(), bumps[i]) })
	}
	all.Wait()
	var problem *ProblemError
	if errs[0] != nil || !errors.As(errs[1], &problem) || !errors.Is(errs[2], ErrMoved) || errs[3] == nil {
		t.Fatalf("%v", errs)
	}
	if !strings.HasPrefix(problem.Error(), "clusters/production/0/all.yaml") {
		t.Errorf("the file is not named: %v", problem)
	}
	if n := y.run("rev-list", "--count", "main"); n != "2" {
		t.Errorf("%s commits", n)
	}
	if out := y.run("fsck", "--unreachable", "--no-reflogs"); out != "" {
		t.Errorf("more was pushed than needed:\n%s", out)
	}
	y.sound()
}

func TestTheSameImageTwiceInABatch(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	b := bumpTo(podinfo, 1, y.state(f, podinfo))
	errs := make([]error, 5)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { _, errs[i] = f.Promote(t.Context(), b) })
	}
	all.Wait()
	good := 0
	for _, err := range errs {
		if err == nil {
			good++
		} else if !errors.Is(err, ErrMoved) {
			t.Error(err)
		}
	}
	if good != 1 || y.run("rev-list", "--count", "main") != "2" {
		t.Errorf("%d promotions, %s commits", good, y.run("rev-list", "--count", "main"))
	}
}

func TestKnownPoliciesAreNotOthers(t *testing.T) {
	t.Parallel()
	files, images := many(3)
	y := newYard(t, files)
	f := y.fleet()
	if s := y.state(f, images[0]); s.Others != 2 {
		t.Errorf("%d others, want 2", s.Others)
	}
	f.Known([]marker.Policy{images[1].Policy})
	s := y.state(f, images[0])
	if s.Others != 1 || len(s.OthersAt) != 1 || s.OthersAt[0].Policy != images[2].Policy || s.OthersAt[0].Line == 0 {
		t.Errorf("%d others, want 1: %v", s.Others, s.OthersAt)
	}
}

// TestOthersAreNamedInOrder: however many there are, and however they lie in
// memory, the same first few are named.
func TestOthersAreNamedInOrder(t *testing.T) {
	t.Parallel()
	files := map[string]string{}
	for i := range 40 {
		files[fmt.Sprintf("clusters/production/%02d.yaml", i)] = fmt.Sprintf("a: 1 # {\"$imagepolicy\": \"flux-system:p%d\"}\nb: 1 # {\"$imagepolicy\": \"flux-system:q%d\"}\n", 40-i, i%3)
	}
	y := newYard(t, files)
	for range 20 {
		s := y.state(y.fleet(), Image{Name: "podinfo", Policy: marker.Policy{Namespace: "flux-system", Name: "podinfo"}})
		var got []string
		for _, o := range s.OthersAt {
			got = append(got, fmt.Sprintf("%s:%d %s", o.File, o.Line, o.Policy))
		}
		want := []string{
			"clusters/production/00.yaml:1 flux-system:p40", "clusters/production/00.yaml:2 flux-system:q0", "clusters/production/01.yaml:1 flux-system:p39",
		}
		if diff := cmp.Diff(want, got); diff != "" || s.Others != 80 {
			t.Fatalf("%d others (-want +got):\n%s", s.Others, diff)
		}
	}
}

func TestLedgerRefusedWhereItIsNeeded(t *testing.T) {
	t.Parallel()
	y := newYard(t, map[string]string{podinfoFile: deployment("podinfo", value(podinfo, 1))})
	y.git.RefuseRefs(repository, "refs/towpath/")
	f := y.fleet()
	b := bumpTo(podinfo, 1, y.state(f, podinfo))
	b.Observe = true
	// The branch is all there is to record it in.
	if _, err := f.Promote(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	y.stands(f, podinfo, Observed)
	y.promote(f, podinfo, 2)
	y.stands(f, podinfo, Holds)

	reviewed := y.fleet(forReview, func(o *Options) { o.Name = "other" })
	b = bumpTo(podinfo, 1, y.state(reviewed, podinfo))
	b.Observe = true
	if _, err := reviewed.Promote(t.Context(), b); !errors.Is(err, ErrLedgerNeeded) {
		t.Fatalf("%v", err)
	}
}

// Every byte of the copy on disk is flipped somewhere: the answer is the same.
func TestFlippedBytesInTheCache(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	y.promote(f, podinfo, 1)
	y.revert("main", y.ref("main"))
	y.stands(f, podinfo, Undone)
	dir := f.Dir
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".pack") {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for i := 20; i < len(content)-20; i += 97 {
			content[i] ^= 0x55
		}
		return os.WriteFile(path, content, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	f = y.fleet(func(o *Options) { o.Dir = dir })
	y.stands(f, podinfo, Undone)
	y.promote(f, podinfo, 2)
	y.stands(f, podinfo, Holds)
	y.sound()
}

// A marker of a field, and a file of several.
func TestFieldsOfAnImage(t *testing.T) {
	t.Parallel()
	const path = "clusters/production/values.yml"
	y := newYard(t, map[string]string{path: `image:
  repository: none # {"$imagepolicy": "flux-system:podinfo:name"}
  tag: none # {"$imagepolicy": "flux-system:podinfo:tag"}
  digest: none # {"$imagepolicy": "flux-system:podinfo:digest"}
`})
	f := y.fleet()
	p := y.promote(f, podinfo, 1)
	if len(p.Changes) != 3 {
		t.Fatalf("changes: %+v", p.Changes)
	}
	y.stands(f, podinfo, Holds)
	y.promote(f, podinfo, 2)
	y.stands(f, podinfo, Holds)
	y.person("main", lab.Commit{Message: "one field back", Files: map[string]string{path: strings.Replace(y.file("main", path), "tag: master-2", "tag: master-1", 1) + "\n"}})
	y.stands(f, podinfo, Undone)
	y.person("main", lab.Commit{Message: "another", Files: map[string]string{path: strings.Replace(y.file("main", path), "tag: master-1", "tag: 1.2.3", 1) + "\n"}})
	if s := y.stands(f, podinfo, TakenOver); s.Foreign.Value != "1.2.3" {
		t.Fatalf("foreign: %+v", s.Foreign)
	}
}

// Pinning by digest is switched off and on: that alone changes nothing.
func TestPinIsChanged(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()
	y.promote(f, podinfo, 1)
	unpinned := podinfo
	unpinned.Pin = false
	y.stands(f, unpinned, Holds)
	y.promote(f, unpinned, 2)
	if got := y.file("main", podinfoFile); !strings.Contains(got, `podinfo:master-2"`) {
		t.Fatalf("not without its digest:\n%s", got)
	}
	y.stands(f, podinfo, Holds)
}
