package fleet

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/e2e/lab"
)

func TestPromote(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet()

	s := y.stands(f, podinfo, Unpromoted)
	if len(s.Sites) != 1 || s.Sites[0].File != podinfoFile || s.Sites[0].Value != placeholder {
		t.Fatalf("sites: %+v", s.Sites)
	}
	p := y.promote(f, podinfo, 1)

	if got := y.ledger("podinfo"); got != p.Bump.String() || got != y.ref("main") || p.Head != p.Bump || p.Branch != "main" {
		t.Fatalf("ledger %s, main %s, promotion %+v", got, y.ref("main"), p)
	}
	want := deployment("podinfo", value(podinfo, 1))
	if diff := cmp.Diff(strings.TrimRight(want, "\n"), y.file("main", podinfoFile)); diff != "" {
		t.Fatalf("the manifest (-want +got):\n%s", diff)
	}
	if len(p.Changes) != 1 || p.Changes[0].Old != placeholder || p.Changes[0].New != value(podinfo, 1) {
		t.Fatalf("changes: %+v", p.Changes)
	}
	y.run("-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile="+y.allowed, "verify-commit", "main")
	if changed := y.run("diff-tree", "-r", "--name-only", "--no-commit-id", "main"); changed != podinfoFile {
		t.Fatalf("changed files: %s", changed)
	}

	s = y.stands(f, podinfo, Holds)
	e := s.Entry
	if e.Image != "podinfo" || e.Source != source(1).Hash || e.Ref != value(podinfo, 1) ||
		e.SourceURL != "https://git.example.com/apps/podinfo.git" || e.SourceRef != "refs/heads/master" || e.Observed {
		t.Fatalf("entry: %+v", e)
	}
	y.promote(f, podinfo, 2)
	y.stands(f, podinfo, Holds)
	y.sound()
}

// What is not marked stays byte for byte: odd modes, submodules and symbolic
// links in the trees on the way to the file.
func TestPromoteSplicesAndNothingElse(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())

	// A tree that no git of today would write: mode 100664, beside a submodule
	// and links.
	blob := y.run("rev-parse", "main:"+podinfoFile)
	tree := y.mktree(
		"120000 blob "+y.hashObject("podinfo.yaml")+"\tlink.yaml",
		"100664 blob "+blob+"\tpodinfo.yaml",
		"120000 blob "+y.hashObject("../../README.md")+"\treadme",
		"100755 blob "+blob+"\trun.sh",
		"160000 commit "+strings.Repeat("ab", 20)+"\tvendored",
	)
	tree = y.mktree("40000 tree "+tree+"\tproduction", "100664 blob "+blob+"\tzz.yaml")
	root := y.mktree("40000 tree "+tree+"\tclusters", "160000 commit "+strings.Repeat("cd", 20)+"\tsub")
	commit := y.run("commit-tree", "-m", "odd", "-p", "main", root)
	y.run("update-ref", "refs/heads/main", commit)

	f := y.fleet()
	s := y.state(f, podinfo)
	if len(s.Problems) != 1 || s.Problems[0].File != "clusters/production/link.yaml" {
		t.Fatalf("problems: %+v", s.Problems)
	}
	p := y.promote(f, podinfo, 1)

	diff := y.run("diff-tree", "-r", "--no-commit-id", "main")
	if lines := strings.Split(diff, "\n"); len(lines) != 1 || !strings.HasPrefix(lines[0], ":100664 100664 "+blob) {
		// git canonicalises modes when it shows them; the raw trees are compared below.
		if !strings.HasPrefix(diff, ":100644 100644 "+blob) || strings.Count(diff, "\n") != 0 {
			t.Fatalf("diff-tree:\n%s", diff)
		}
	}
	for _, path := range []string{"", "clusters", "clusters/production"} {
		before, after := y.rawTree(commit, path), y.rawTree(p.Bump.String(), path)
		if len(before) != len(after) {
			t.Fatalf("tree %q has another length", path)
		}
		changed := 0
		for i := range before {
			if before[i] != after[i] {
				changed++
			}
		}
		if changed == 0 || changed > 20 {
			t.Fatalf("tree %q: %d bytes changed", path, changed)
		}
	}
	if out, err := lab.TryGit(y.dir, "fsck", "--no-dangling"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func (y *yard) hashObject(content string) string {
	y.t.Helper()
	path := y.t.TempDir() + "/content"
	lab.WriteFile(y.t, path, []byte(content))
	return y.run("hash-object", "-w", path)
}

// mktree writes a tree exactly as given, which git mktree would not.
func (y *yard) mktree(lines ...string) string {
	y.t.Helper()
	var raw strings.Builder
	for _, line := range lines {
		head, name, _ := strings.Cut(line, "\t")
		fields := strings.Fields(head)
		h := mustHash(y.t, fields[2])
		raw.WriteString(fields[0] + " " + name + "\x00" + string(h[:]))
	}
	path := y.t.TempDir() + "/tree"
	lab.WriteFile(y.t, path, []byte(raw.String()))
	return y.run("hash-object", "-w", "-t", "tree", "--literally", path)
}

func (y *yard) rawTree(commit, path string) string {
	y.t.Helper()
	return lab.RunGit(y.t, y.dir, "cat-file", "tree", commit+":"+path)
}
