package store

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops/trust"
)

func FuzzReceive(f *testing.F) {
	var made Objects
	blob := made.Add(plumbing.BlobObject, []byte("content\n"))
	tree := made.Add(plumbing.TreeObject, append([]byte("100644 a\x00"), blob[:]...))
	made.Add(plumbing.CommitObject, []byte("tree "+tree.String()+"\nauthor A <a> 1 +0000\ncommitter A <a> 1 +0000\n\nm\n"))
	var packed bytes.Buffer
	if err := made.Pack(&packed); err != nil {
		f.Fatal(err)
	}
	f.Add(packed.Bytes())
	f.Add([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x00"))
	for _, pack := range deltas(f) {
		f.Add(pack)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte) {
		in, err := receive(context.Background(), bytes.NewReader(content), dir)
		// Where there is room for nothing, everything goes through files and is
		// made again, and comes out the same.
		for _, tight := range []room{{}, {large: 40, memory: 100, files: 200}} {
			same(t, in, err, content, dir, tight)
		}
		if err != nil {
			return
		}
		defer in.discard()
		if in.index() != nil {
			return
		}
		p := &pack{size: in.size, file: in.file, index: in.names}
		r := newReader(1 << 20)
		for _, e := range in.entries {
			if !in.has(e.hash) {
				t.Errorf("%s is not in the index", e.hash)
			}
			typ, got, err := r.object(p, e.offset, maxObject)
			if err != nil {
				t.Errorf("%s: %v", e.hash, err)
			}
			if h, err := hashObject(typ, got); err != nil || h != e.hash {
				t.Errorf("%s reads as %s, %v", e.hash, h, err)
			}
		}
	})
}

// deltas are packs of files that real git stores as deltas on each other, by
// distance and by name.
func deltas(t testing.TB) (packs [][]byte) {
	t.Helper()
	work := lab.NewWork(t, "")
	text := ""
	for n := range 12 {
		text += fmt.Sprintf("line %d of a file that changes little, at %d\n", n, n*n)
		files := map[string]string{"a": text, "b": text[len(text)/2:], "c": "begin\n" + text}
		work.Commit(lab.Commit{Files: files})
	}
	for _, kind := range [][]string{{"--delta-base-offset"}, nil} {
		cmd := exec.Command("git", append([]string{"pack-objects", "--stdout", "--quiet", "--all", "--depth=20", "--window=50", "--no-reuse-delta"}, kind...)...)
		cmd.Dir = work.Dir
		pack, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		packs = append(packs, pack)
	}
	return packs
}

// same receives a pack in other room than it was received in before.
func same(t *testing.T, before *received, beforeErr error, content []byte, dir string, tight room) {
	t.Helper()
	in, err := receiveWith(context.Background(), bytes.NewReader(content), dir, tight)
	if (err == nil) != (beforeErr == nil) {
		t.Fatalf("with room %+v: %v; without bounds: %v", tight, err, beforeErr)
	}
	if err != nil {
		return
	}
	defer in.discard()
	for i, e := range in.entries {
		if e.hash != before.entries[i].hash {
			t.Errorf("with room %+v entry %d is %s, else %s", tight, i, e.hash, before.entries[i].hash)
		}
	}
	if len(in.needs.objects) != len(before.needs.objects) || len(in.needs.commits) != len(before.needs.commits) {
		t.Errorf("with room %+v it needs %d and %d, else %d and %d", tight, len(in.needs.objects), len(in.needs.commits), len(before.needs.objects), len(before.needs.commits))
	}
}

// FuzzDelta compares with go-git's own, which takes some that end too early.
func FuzzDelta(f *testing.F) {
	f.Add([]byte("some base content"), []byte("\x11\x05\x91\x05\x05"))
	f.Add([]byte("some base content"), []byte("\x11\x07\x03abc\x90\x04"))
	f.Add([]byte("b"), []byte("\x01\x00"))
	f.Fuzz(func(t *testing.T, base, delta []byte) {
		const limit = 1 << 20
		got, err := applyDelta(base, delta, limit)
		if len(got) > limit {
			t.Fatalf("%d bytes", len(got))
		}
		want, wantErr := packfile.PatchDelta(base, delta)
		if err == nil && wantErr == nil && !bytes.Equal(got, want) {
			t.Errorf("got %q, go-git has %q", got, want)
		}
	})
}

func FuzzTree(f *testing.F) {
	f.Add([]byte("100644 a\x0001234567890123456789"))
	f.Add([]byte("40000 d\x000123456789012345678940755 ..\x0001234567890123456789"))
	f.Add([]byte("160000 \x0001234567890123456789"))
	f.Fuzz(func(t *testing.T, content []byte) {
		entries, err := ParseTree(content)
		if err != nil {
			return
		}
		var again []byte
		for _, e := range entries {
			again = append(append(again, e.Mode+" "+e.Name+"\x00"...), e.Hash[:]...)
			e.Kind()
		}
		if !bytes.Equal(again, content) {
			t.Errorf("%q became %q", content, again)
		}
	})
}

// What package trust verifies a signature of, this package reads alike. And what
// it shows of a commit is harmless, whoever made it.
func FuzzCommit(f *testing.F) {
	const people = "author A U Thor <author@example.com> 1763750000 +0100\ncommitter C O Mitter <c@example.com> 1763750001 -0330\n"
	const tree = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n"
	f.Add([]byte(tree + "parent 1111111111111111111111111111111111111111\nparent 2222222222222222222222222222222222222222\n" + people +
		"gpgsig -----BEGIN SSH SIGNATURE-----\n AAAA\n -----END SSH SIGNATURE-----\nencoding ISO-8859-1\n\nmerge\n"))
	f.Add([]byte(tree + people + "\nparent 1111111111111111111111111111111111111111\ntree neither\n"))
	f.Add([]byte("tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nparent 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor A <a@b> 1 +0100\ncommitter B <c@d> 99999999999999 -9999\nencoding x\n\nsubject\x1b[31m\nbody\n"))
	f.Add([]byte("tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\n\n\nm"))
	f.Fuzz(func(t *testing.T, content []byte) {
		c, err := parseCommit(plumbing.ZeroHash, content)
		if strict, refused := trust.ParseCommit(content); refused == nil {
			if err != nil {
				t.Fatalf("trust reads %q, and the store does not: %v", content, err)
			}
			if c.Tree != strict.Tree || !slices.Equal(c.Parents, strict.Parents) {
				t.Fatalf("of %q trust reads tree %s and parents %s, the store %s and %s", content, strict.Tree, strict.Parents, c.Tree, c.Parents)
			}
		}
		if err != nil {
			return
		}
		for _, text := range []string{c.Subject, c.Author.Name, c.Author.Email, c.Committer.Name, c.Committer.Email} {
			if bytes.ContainsAny([]byte(text), "\n\r\x00\x1b") {
				t.Errorf("%q is not harmless", text)
			}
		}
		if _, err := c.Committer.When.MarshalJSON(); err != nil {
			t.Error(err)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add(state{packs: []packState{{"pack-1", 30}}, shallow: map[plumbing.Hash]struct{}{{1}: {}}, tips: []plumbing.Hash{{2}, {3}}, born: 7}.format())
	f.Fuzz(func(t *testing.T, content []byte) {
		st, err := parseState(content)
		if err != nil {
			return
		}
		again, err := parseState(st.format())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(st, again, cmp.AllowUnexported(state{}, packState{})); diff != "" {
			t.Error(diff)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add(formatIndex([]indexed{{plumbing.Hash{1}, 12, 3}, {plumbing.Hash{1, 2}, 1 << 33, 4}, {plumbing.Hash{255}, 99, 5}}, make([]byte, 20)), []byte{1, 2})
	f.Fuzz(func(_ *testing.T, content, name []byte) {
		x, err := parseIndex(content)
		if err != nil {
			return
		}
		var h plumbing.Hash
		copy(h[:], name)
		x.find(h)
		for i := range x.count {
			x.find(x.name(i))
			x.offset(i)
			x.crc(i)
		}
	})
}
