package source_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/gitops/wire"
)

// listing tells everything of a directory's content that a build could see.
func listing(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(b)
		case info.Mode()&fs.ModeSymlink != 0:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		stat := info.Sys().(*syscall.Stat_t)
		relative, err := filepath.Rel(dir, path)
		found[relative] = fmt.Sprintf("%s %d.%d %s", info.Mode(), stat.Mtim.Sec, stat.Mtim.Nsec, content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestExport(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.Commit(lab.Commit{Message: "before"})
	if err := os.Mkdir(filepath.Join(p.Work.Dir, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	for at, target := range map[string]string{"app/link": "src/main.go", "app/up": "./src/../src/main.go", "app/dangling": "later/made", "outside": "app/src"} {
		if err := os.Symlink(target, filepath.Join(p.Work.Dir, at)); err != nil {
			t.Fatal(err)
		}
	}
	when := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
	commit := hash(t, p.Commit(lab.Commit{Message: "this", When: when, Files: map[string]string{
		"app/src/main.go": "package main\n", "app/src/again.go": "package main\n", "app/run.sh!": "#!/bin/sh\n",
		"app/Größe.txt": "ü\n", "app/README": "", "app/readme": "lower\n", "other/x": "not exported",
	}}))
	p.Commit(lab.Commit{Message: "after", Files: map[string]string{"app/README": "later"}})
	p.Push()

	dir := filepath.Join(t.TempDir(), "context")
	scratch := t.TempDir()
	old := syscall.Umask(0o077) // what is written does not depend on it
	got, err := source.Export(context.Background(), p.remote(t), commit, source.ExportOptions{Dir: dir, Path: "app/", Scratch: scratch})
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	if got.Commit.Hash != commit || got.Commit.Subject != "this" || got.Files != 9 || got.Bytes != 45 {
		t.Errorf("exported %+v", got)
	}
	at := fmt.Sprintf("%d.0 ", when.Unix())
	want := map[string]string{
		".":            "drwxr-xr-x " + at,
		"src":          "drwxr-xr-x " + at,
		"src/main.go":  "-rw-r--r-- " + at + "package main\n",
		"src/again.go": "-rw-r--r-- " + at + "package main\n",
		"run.sh":       "-rwxr-xr-x " + at + "#!/bin/sh\n",
		"Größe.txt":    "-rw-r--r-- " + at + "ü\n",
		"README":       "-rw-r--r-- " + at,
		"readme":       "-rw-r--r-- " + at + "lower\n",
		"link":         "Lrwxrwxrwx " + at + "src/main.go",
		"up":           "Lrwxrwxrwx " + at + "./src/../src/main.go",
		"dangling":     "Lrwxrwxrwx " + at + "later/made",
	}
	if diff := cmp.Diff(want, listing(t, dir)); diff != "" {
		t.Error(diff)
	}
	if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	// All of it, as git itself would check it out.
	whole := t.TempDir()
	if _, err := source.Export(context.Background(), p.remote(t), commit, source.ExportOptions{Dir: whole}); err != nil {
		t.Fatal(err)
	}
	lab.RunGit(t, p.Work.Dir, "--work-tree", whole, "read-tree", commit.String())
	lab.RunGit(t, p.Work.Dir, "--work-tree", whole, "update-index", "--refresh") // fails where a file differs
	if other := lab.RunGit(t, p.Work.Dir, "--work-tree", whole, "ls-files", "--others"); other != "" {
		t.Errorf("written besides: %s", other)
	}

	// Never into a directory that holds something.
	if _, err := source.Export(context.Background(), p.remote(t), commit, source.ExportOptions{Dir: dir}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a directory that is not empty: %v", err)
	}
	for path, words := range map[string]string{
		"missing/x": "missing: not in this commit", "app/README": "app/README: not a directory", "outside": "a symlink", "app/link/x": "a symlink", "../x": "not a path", "a/../b": "not a path",
	} {
		_, err := source.Export(context.Background(), p.remote(t), commit, source.ExportOptions{Dir: t.TempDir(), Path: path})
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("path %s: %v", path, err)
		}
	}
	_, err = source.Export(context.Background(), p.remote(t), gitops.Hash{1}, source.ExportOptions{Dir: t.TempDir(), Ref: "refs/heads/main"})
	if !errors.Is(err, wire.ErrNotAdvertised) {
		t.Errorf("no such commit: %v", err)
	}
}

func TestExportOldServer(t *testing.T) {
	t.Parallel()
	p := newPlace(t, lab.GitOptions{V0: true})
	commit := hash(t, p.Commit(lab.Commit{Files: map[string]string{"a": "this"}}))
	for i := range 20 {
		p.Commit(lab.Commit{Files: map[string]string{"a": fmt.Sprint(i)}})
	}
	p.Push()
	dir := t.TempDir()
	if _, err := source.Export(context.Background(), p.remote(t), commit, source.ExportOptions{Dir: dir, Ref: "refs/heads/main"}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(got) != "this" {
		t.Errorf("%q, %v", got, err)
	}
}

// forge writes objects into a repository that git itself would not make.
type forge struct {
	t    testing.TB
	bare string
}

func (f forge) object(typ, content string) string {
	f.t.Helper()
	cmd := exec.Command("git", "hash-object", "-t", typ, "--literally", "-w", "--stdin")
	cmd.Dir, cmd.Stdin = f.bare, strings.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// tree makes a tree of "mode name hash" triples, in the order given.
func (f forge) tree(entries ...[3]string) string {
	f.t.Helper()
	var b strings.Builder
	for _, e := range entries {
		raw, err := hex.DecodeString(e[2])
		if err != nil {
			f.t.Fatal(err)
		}
		b.WriteString(e[0] + " " + e[1] + "\x00" + string(raw))
	}
	return f.object("tree", b.String())
}

func (f forge) commit(tree string) gitops.Hash {
	f.t.Helper()
	c := f.object("commit", "tree "+tree+"\nauthor A <a@b> 1700000000 +0000\ncommitter A <a@b> 1700000000 +0000\n\nm\n")
	lab.RunGit(f.t, f.bare, "update-ref", "refs/heads/h"+c[:12], c)
	return hash(f.t, c)
}

func TestExportRefuses(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.Commit(lab.Commit{})
	p.Push()
	f := forge{t, p.bare()}
	blob := f.object("blob", "content\n")
	file := func(name string) [3]string { return [3]string{"100644", name, blob} }
	link := func(name, target string) [3]string { return [3]string{"120000", name, f.object("blob", target)} }
	dir := func(name string, entries ...[3]string) [3]string { return [3]string{"40000", name, f.tree(entries...)} }
	other := lab.NewWork(t, "").Commit(lab.Commit{})
	deep := dir("d", file("f"))
	for range 130 {
		deep = dir("d", deep)
	}
	bomb := dir("d", file("f"), file("g"))
	for range 25 { // 2^25 files of a few objects
		bomb = [3]string{"40000", "d", f.tree([3]string{"40000", "a", bomb[2]}, [3]string{"40000", "b", bomb[2]})}
	}
	for name, test := range map[string]struct {
		entries []([3]string)
		path    string
		limits  source.Limits
	}{
		"submodule":                {entries: [][3]string{dir("lib", [3]string{"160000", "sub", other})}, path: "lib/sub: a submodule"},
		"lfs":                      {entries: [][3]string{{"100644", "big.bin", f.object("blob", "version https://git-lfs.github.com/spec/v1\noid sha256:x\nsize 1\n")}}, path: "big.bin: a Git LFS pointer"},
		"device":                   {entries: [][3]string{{"020666", "null", blob}}, path: "null: neither"},
		"fifo":                     {entries: [][3]string{{"010644", "pipe", blob}}, path: "pipe: neither"},
		"no mode":                  {entries: [][3]string{{"0", "x", blob}}, path: "x: neither"},
		"dot":                      {entries: [][3]string{file(".")}, path: `the name "."`},
		"dot dot":                  {entries: [][3]string{dir("..", file("x"))}, path: `the name ".."`},
		"slash":                    {entries: [][3]string{file("../../etc/cron.d/x")}, path: "a slash"},
		"absolute":                 {entries: [][3]string{file("/etc/passwd")}, path: "a slash"},
		"control":                  {entries: [][3]string{file("a\x1b[31m")}, path: "a control character"},
		"newline":                  {entries: [][3]string{file("a\nb")}, path: "a control character"},
		".git":                     {entries: [][3]string{dir(".git", file("config"))}, path: ".git"},
		".GIT":                     {entries: [][3]string{dir(".GiT", file("config"))}, path: ".git"},
		"git~1":                    {entries: [][3]string{dir("GIT~1", file("config"))}, path: ".git"},
		".git with dots":           {entries: [][3]string{dir(".git. .", file("config"))}, path: ".git"},
		".git stream":              {entries: [][3]string{file(".git::$INDEX_ALLOCATION")}, path: ".git"},
		".git behind backslash":    {entries: [][3]string{file(`a\.git\config`)}, path: ".git"},
		".git with joiner":         {entries: [][3]string{dir(".g\u200cit", file("config"))}, path: ".git"},
		"long name":                {entries: [][3]string{file(strings.Repeat("n", 256))}, path: "longer than 255"},
		"twice":                    {entries: [][3]string{file("a"), file("a")}, path: "a: twice"},
		"link and directory":       {entries: [][3]string{link("a", "b"), dir("a", file("x")), dir("b")}, path: "a: twice"},
		"link to parent":           {entries: [][3]string{link("l", "..")}, path: "l: a symlink that leads out"},
		"link deep to outside":     {entries: [][3]string{dir("a", dir("b", link("l", "../../../x")))}, path: "a/b/l: a symlink that leads out"},
		"link absolute":            {entries: [][3]string{link("l", "/etc/passwd")}, path: "l: a symlink to an absolute path"},
		"link through link":        {entries: [][3]string{dir("a", dir("b", link("s", "../.."))), link("t", "a/b/s/../x")}, path: "t: a symlink that leads out"},
		"link through later link":  {entries: [][3]string{link("a", "b/up/../../x"), dir("b", link("up", "../c")), dir("c", file("f"))}, path: "a: a symlink that leads out"},
		"link out and in again":    {entries: [][3]string{link("l", "../context/x"), file("x")}, path: "l: a symlink that leads out"},
		"link to nothing":          {entries: [][3]string{link("l", "")}, path: "l: a symlink to nothing"},
		"link with NUL":            {entries: [][3]string{link("l", "a\x00/etc")}, path: "l: a symlink with NUL"},
		"link too long":            {entries: [][3]string{link("l", strings.Repeat("a/", 3000))}, path: "l: a symlink to a path that is too long"},
		"deep":                     {entries: [][3]string{deep}, path: "more than 128 directories deep"},
		"bomb":                     {entries: [][3]string{bomb}, path: "more than 1000000 files"},
		"files":                    {entries: [][3]string{file("a"), file("b"), file("c")}, path: "c: more than 2 files", limits: source.Limits{Files: 2}},
		"bytes":                    {entries: [][3]string{file("a"), file("b")}, path: "b: more than 10 bytes", limits: source.Limits{Bytes: 10}},
		"one file's bytes":         {entries: [][3]string{file("a")}, path: "a: larger than 7 bytes", limits: source.Limits{FileBytes: 7}},
		"not deep as limits go":    {entries: [][3]string{dir("a", dir("b", file("c")))}, path: "more than 1 directories deep", limits: source.Limits{Depth: 1}},
		"a name with only a colon": {entries: [][3]string{file(".git:x")}, path: ".git"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sibling := t.TempDir()
			context_ := filepath.Join(sibling, "context")
			commit := f.commit(f.tree(test.entries...))
			_, err := source.Export(context.Background(), p.remote(t), commit, source.ExportOptions{Dir: context_, Limits: test.limits})
			if err == nil || !strings.Contains(err.Error(), test.path) {
				t.Errorf("got %v, want %q in it", err, test.path)
			}
			var refused *source.RefusedError
			if !errors.As(err, &refused) {
				t.Errorf("not a refusal: %v", err)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\x1b\n\x00") {
				t.Errorf("not harmless: %q", err)
			}
			entries, err := os.ReadDir(sibling)
			if err != nil || len(entries) > 1 {
				t.Errorf("written outside: %v, %v", entries, err)
			}
		})
	}
}

// TestExportOdd: what is odd and harmless is written.
func TestExportOdd(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.Commit(lab.Commit{})
	p.Push()
	f := forge{t, p.bare()}
	blob := f.object("blob", "content\n")
	commit := f.commit(f.tree(
		[3]string{"100664", "group-writable", blob},
		[3]string{"100777", "executable", blob},
		[3]string{"040000", "zero", f.tree([3]string{"100644", "in", blob})},
		[3]string{"120000", "loop", f.object("blob", "loop")},
		[3]string{"120000", "round", f.object("blob", "zero/../zero/./in")},
		[3]string{"100644", ".gitignore", blob},
		[3]string{"100644", "...", blob},
		[3]string{"100644", "back\\slash", blob},
		[3]string{"100644", "-rf", blob},
		[3]string{"40000", "empty", "4b825dc642cb6eb9a060e54bf8d69288fbee4904"},
	))
	dir := t.TempDir()
	if _, err := source.Export(context.Background(), p.remote(t), commit, source.ExportOptions{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	const at = " 1700000000.0 "
	want := map[string]string{
		".": "drwxr-xr-x" + at, "zero": "drwxr-xr-x" + at, "empty": "drwxr-xr-x" + at,
		"group-writable": "-rw-r--r--" + at + "content\n", "executable": "-rwxr-xr-x" + at + "content\n",
		"zero/in": "-rw-r--r--" + at + "content\n", "loop": "Lrwxrwxrwx" + at + "loop", "round": "Lrwxrwxrwx" + at + "zero/../zero/./in",
		".gitignore": "-rw-r--r--" + at + "content\n", "...": "-rw-r--r--" + at + "content\n",
		"back\\slash": "-rw-r--r--" + at + "content\n", "-rf": "-rw-r--r--" + at + "content\n",
	}
	if diff := cmp.Diff(want, listing(t, dir)); diff != "" {
		t.Error(diff)
	}
}
