package trust

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/gitops"
)

// Commits that only a lenient reader shows.
func TestRead(t *testing.T) {
	t.Parallel()
	tree, _ := gitops.ParseHash("4b825dc642cb6eb9a060e54bf8d69288fbee4904")
	author := gitops.Person{Name: "A U Thor", Email: "author@example.com", When: time.Unix(1763750000, 0)}
	committer := gitops.Person{Name: "C O Mitter", Email: "c@example.com", When: time.Unix(1763750001, 0)}
	who := func(line string) string { return treeLine + line + committerLine + "\ns\n" }
	for _, test := range []struct {
		name, raw string
		want      gitops.Commit
	}{
		{"plain", treeLine + people + armor1 + "\n\n\nthe subject\x1b[31m\tis here\nbody\n", gitops.Commit{Author: author, Committer: committer, Subject: "the subject [31m is here"}},
		{"no message", treeLine + people, gitops.Commit{Author: author, Committer: committer}},
		{"an empty message", treeLine + people + "\n", gitops.Commit{Author: author, Committer: committer}},
		{"latin1", treeLine + strings.Replace(authorLine, "A U Thor", "J\xfcrgen", 1) + committerLine + "encoding ISO-8859-1\n\ncaf\xe9\n",
			gitops.Commit{Author: gitops.Person{Name: "Jürgen", Email: author.Email, When: author.When}, Committer: committer, Subject: "café"}},
		{"Shift JIS", treeLine + people + "encoding Shift_JIS\n\n\x93\xfa\x96{\n", gitops.Commit{Author: author, Committer: committer, Subject: "日本"}},
		{"an unknown character set", treeLine + people + "encoding klingon\n\ncaf\xe9\n", gitops.Commit{Author: author, Committer: committer, Subject: "caf\uFFFD"}},
		{"no name", who("author <a@b> 5 +0000\n"), gitops.Commit{Author: gitops.Person{Email: "a@b", When: time.Unix(5, 0)}, Committer: committer, Subject: "s"}},
		{"no address", who("author A B\n"), gitops.Commit{Author: gitops.Person{Name: "A B"}, Committer: committer, Subject: "s"}},
		{"no date", who("author A <a@b>\n"), gitops.Commit{Author: gitops.Person{Name: "A", Email: "a@b"}, Committer: committer, Subject: "s"}},
		{"an odd date", who("author A <a@b> 99999999999999999999 +0000\n"), gitops.Commit{Author: gitops.Person{Name: "A", Email: "a@b"}, Committer: committer, Subject: "s"}},
		{"a negative date", who("author A <a@b> -1 +0000\n"), gitops.Commit{Author: gitops.Person{Name: "A", Email: "a@b"}, Committer: committer, Subject: "s"}},
		{"no author", treeLine + committerLine + "\ns\n", gitops.Commit{Committer: committer, Subject: "s"}},
		{"headers of old tools", treeLine + people + "HG:extra branch:x\nsvn-id y\n\ns\n", gitops.Commit{Author: author, Committer: committer, Subject: "s"}},
		{"author twice", treeLine + authorLine + "author B <b> 1 +0000\n" + committerLine + "\ns\n", gitops.Commit{Author: author, Committer: committer, Subject: "s"}},
		{"tree twice", treeLine + "tree 1111111111111111111111111111111111111111\n" + people + "\ns\n", gitops.Commit{Author: author, Committer: committer, Subject: "s"}},
		{"a parent late", treeLine + people + parentLine + "\ns\n", gitops.Commit{Author: author, Committer: committer, Subject: "s"}},
		{"a long subject", treeLine + people + "\n" + strings.Repeat("x", 1<<20), gitops.Commit{Author: author, Committer: committer, Subject: strings.Repeat("x", maxSubject-1) + "…"}},
	} {
		got, err := Read([]byte(test.raw))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got.Hash.IsZero() {
			t.Errorf("%s: no hash", test.name)
		}
		got.Hash = gitops.Hash{}
		test.want.Tree = tree
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	for _, raw := range []string{"", "hello", people + "\ns\n", "tree x\n" + people + "\ns\n", treeLine + "parent x\n" + people + "\ns\n"} {
		if got, err := Read([]byte(raw)); err == nil {
			t.Errorf("Read(%q) = %+v", raw, got)
		}
	}
}

// git and Read agree on a commit's hash, parents and subject.
func TestReadAgreesWithGit(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	for _, raw := range sound {
		raw = strings.NewReplacer(strings.Repeat("1", 40), strings.TrimSpace(r.git("rev-parse", "main")), strings.Repeat("2", 40), strings.TrimSpace(r.git("rev-parse", "main"))).Replace(raw)
		hash := r.write([]byte(raw))
		got, err := Read([]byte(raw))
		if err != nil {
			t.Error(err)
			continue
		}
		var parents []string
		for _, parent := range got.Parents {
			parents = append(parents, parent.String())
		}
		ours := strings.Join([]string{got.Hash.String(), strings.Join(parents, " "), got.Author.Name, got.Subject}, "\n")
		message := strings.TrimLeft(r.git("log", "-1", "--encoding=UTF-8", "--format=%B", hash), "\n")
		first, _, _ := strings.Cut(message, "\n")
		gits := r.git("log", "-1", "--encoding=UTF-8", "--format=%H%n%P%n%an", hash) + first
		if diff := cmp.Diff(gits, ours); diff != "" {
			t.Errorf("%q (-git +ours):\n%s", raw, diff)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, raw := range sound {
		f.Add([]byte(raw))
	}
	f.Add([]byte(treeLine + "author \x1b <\x00> 5 +9999\nencoding utf-16\n\n\xff\xfe"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := Read(raw)
		if err != nil {
			return
		}
		for _, text := range []string{got.Subject, got.Author.Name, got.Author.Email, got.Committer.Name, got.Committer.Email} {
			if text != gitops.Line(text, 0) {
				t.Fatalf("%q has not passed Line", text)
			}
		}
	})
}
