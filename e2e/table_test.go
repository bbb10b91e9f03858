package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// TestEveryStepEveryFault is the heart: a promotion is recorded request by
// request; then each request of it, to the source, the GitOps repository or
// the registry, is struck by each fault in a promotion of its own. Whatever
// happened, the next run ends with exactly one right promotion, warm or cold.
func TestEveryStepEveryFault(t *testing.T) {
	t.Parallel()
	const parts = 2 // at once: much of the time is waiting for processes
	for part := range parts {
		t.Run(fmt.Sprintf("%d of %d", part+1, parts), func(t *testing.T) {
			t.Parallel()
			newTable(t).strike(part, parts)
		})
	}
}

// table is a world whose promotions are struck, one after the other.
type table struct {
	t        *testing.T
	world    *lab.World
	saboteur *saboteur
	steps    []string // the requests of a promotion
	changes  int
}

// newTable records a promotion that nothing strikes.
func newTable(t *testing.T) *table {
	t.Helper()
	s := &saboteur{}
	w := lab.NewWorld(t, lab.WorldOptions{
		Binary: binary,
		Git:    lab.GitOptions{Middleware: func(next http.Handler) http.Handler { return s.around("git", next) }},
		Registry: func(t testing.TB) *lab.Registry {
			return lab.NewMemoryRegistry(t, lab.RegistryOptions{})
		},
	})
	w.Registry.Hook(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		s.around("registry", next).ServeHTTP(rw, r)
	})
	w.MustRun("run", "--once")

	b := &table{t: t, world: w, saboteur: s}
	b.change()
	s.plan("", "", nil)
	w.MustRun("run", "--once")
	b.steps, _ = s.record()
	t.Logf("a promotion takes %d requests:\n%s", len(b.steps), strings.Join(b.steps, "\n"))
	if len(b.steps) < 10 {
		t.Fatalf("only %d requests were seen: the table would be empty", len(b.steps))
	}
	if testing.Short() {
		b.steps = b.steps[len(b.steps)-4:]
	}
	return b
}

// change pushes a commit to the application and returns it.
func (b *table) change() string {
	b.changes++
	b.world.App.Commit(lab.Commit{Message: fmt.Sprintf("Change %d", b.changes), Files: map[string]string{"colour": fmt.Sprintf("shade-%d\n", b.changes)}})
	b.world.App.Push("HEAD:master")
	return b.world.App.Head()
}

// strike fills every so many cells of the table.
func (b *table) strike(part, parts int) {
	cell := 0
	for _, step := range b.steps {
		for _, f := range faultsOf(step) {
			if cell++; cell%parts != part {
				continue
			}
			cold := cell/parts%2 == 0 // half of the second runs are by a daemon that knows nothing
			b.t.Run(fmt.Sprintf("%s %s", step, f), func(t *testing.T) { b.cell(t, step, f, cold) })
		}
	}
	intact(b.t, b.world)
}

// cell strikes one request of a promotion, and runs again.
func (b *table) cell(t *testing.T, step string, f fault, cold bool) {
	before := bumps(t, b.world)
	commit := b.change()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	cmd := b.world.Command(ctx, "run", "--once")
	var logs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &logs, &logs
	b.saboteur.plan(step, f, func() { _ = cmd.Process.Kill() })
	_ = cmd.Run() // it may fail, and where it was killed it must
	if _, struck := b.saboteur.record(); !struck {
		t.Errorf("the step did not come: the recording no longer fits\n%s", logs.String())
	}

	b.saboteur.plan("", "", nil)
	if cold {
		if err := os.RemoveAll(filepath.Join(b.world.Dir, "cache")); err != nil {
			t.Fatal(err)
		}
	}
	again := b.world.Run("run", "--once")
	if again.Code != 0 {
		t.Fatalf("the run after the fault ended with %d\nfirst:\n%s\nsecond:\n%s%s", again.Code, logs.String(), again.Out, again.Err)
	}
	promotedOnce(t, b.world, before, commit)
}

// bumps lists the bump commits on the GitOps branch, newest first.
func bumps(t *testing.T, w *lab.World) []string {
	t.Helper()
	return strings.Fields(lab.RunGit(t, w.Git.Dir("fleet.git"), "log", "--format=%H", "--grep=^Towpath-Image: podinfo$", "main"))
}

// promotedOnce checks that exactly one bump came, that it is the right one, and
// that its image is there, tagged, with the provenance it names.
func promotedOnce(t *testing.T, w *lab.World, before []string, commit string) {
	t.Helper()
	dir := w.Git.Dir("fleet.git")
	after := bumps(t, w)
	if len(after) != len(before)+1 {
		t.Fatalf("%d bumps came, want one:\n%s", len(after)-len(before), lab.RunGit(t, dir, "log", "--oneline", "main"))
	}
	bump, source := w.Ledger("podinfo")
	if bump != after[0] || source != commit {
		t.Fatalf("the ledger names bump %s of %s, want %s of %s", bump, source, after[0], commit)
	}
	trailer := func(key string) string {
		return strings.TrimSpace(lab.RunGit(t, dir, "show", "-s", "--format=%(trailers:key="+key+",valueonly)", bump))
	}
	ref := trailer("Towpath-Ref")
	if page := lab.ReadImageFile(t, ref, "site/index.html"); !strings.Contains(page, "shade-") {
		t.Errorf("%s holds %q", ref, page)
	}
	if !strings.Contains(w.Manifest("clusters/production/podinfo.yaml"), `"`+ref+`"`) {
		t.Errorf("the manifest does not hold %s", ref)
	}
	tagged, digest, _ := strings.Cut(ref, "@")
	if got := lab.ImageDigest(t, tagged); got != digest {
		t.Errorf("the tag %s names %s, want %s", tagged, got, digest)
	}
	if got := lab.ImageDigest(t, w.Repository()+"@"+trailer("Towpath-Provenance")); got != trailer("Towpath-Provenance") {
		t.Errorf("the provenance %s is not in the registry", trailer("Towpath-Provenance"))
	}
}

// intact checks the whole history afterwards: every commit is sound, signed
// where it is ours, and changes the marker's line alone; bumps ascend.
func intact(t *testing.T, w *lab.World) {
	t.Helper()
	dir := w.Git.Dir("fleet.git")
	lab.RunGit(t, dir, "fsck", "--strict")
	signers := filepath.Join(w.Dir, "secrets", "towpath-signing", "allowed_signers")
	var older string
	all := bumps(t, w)
	for i := len(all) - 1; i >= 0; i-- {
		bump := all[i]
		lab.RunGit(t, dir, "-c", "gpg.ssh.allowedSignersFile="+signers, "verify-commit", bump)
		if stat := strings.Fields(lab.RunGit(t, dir, "diff", "--numstat", bump+"^", bump)); len(stat) != 3 || stat[0] != "1" || stat[1] != "1" {
			t.Errorf("bump %s changes %v, want one line", bump, stat)
		}
		source := strings.TrimSpace(lab.RunGit(t, dir, "show", "-s", "--format=%(trailers:key=Towpath-Commit,valueonly)", bump))
		if older != "" {
			if _, err := lab.TryGit(w.Git.Dir("apps/podinfo.git"), "merge-base", "--is-ancestor", older, source); err != nil || older == source {
				t.Errorf("bump %s promotes %s after %s", bump, source, older)
			}
		}
		older = source
	}
}
