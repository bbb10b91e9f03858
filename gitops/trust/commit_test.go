package trust

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/gitops"
)

const (
	treeLine      = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n"
	parentLine    = "parent 1111111111111111111111111111111111111111\n"
	authorLine    = "author A U Thor <author@example.com> 1763750000 +0100\n"
	committerLine = "committer C O Mitter <c@example.com> 1763750001 -0330\n"
	people        = authorLine + committerLine
	armor1        = "gpgsig -----BEGIN SSH SIGNATURE-----\n AAAA\n -----END SSH SIGNATURE-----\n"
	armorPGP      = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n iHUE\n =AAAA\n -----END PGP SIGNATURE-----\n"
	mergetag      = "mergetag object 1111111111111111111111111111111111111111\n type commit\n tag v1\n tagger T <t@example.com> 1 +0000\n \n gpgsig inside, with a CR\r\n \n -----BEGIN PGP SIGNATURE-----\n \n iHUE\n -----END PGP SIGNATURE-----\n"
)

// sound are commits that git and forges make.
var sound = []string{
	treeLine + people + "\nsubject\n",
	treeLine + people + "\n",
	treeLine + parentLine + people + "\nno newline at the end",
	treeLine + parentLine + strings.ReplaceAll(parentLine, "1", "2") + people + "\nmerge\n\nbody\n",
	treeLine + people + armor1 + "\nsigned\n",
	treeLine + people + armorPGP + "\nsigned\n",
	treeLine + people + "gpgsig -----BEGIN PGP SIGNATURE-----\n \n iHUE\n =AAAA\n -----END PGP SIGNATURE-----\n \n\nby GitHub\n",
	treeLine + people + "encoding ISO-8859-1\n\ncaf\xe9\n",
	treeLine + people + armor1 + "encoding ISO-8859-1\n\nby JGit, caf\xe9\n",
	treeLine + parentLine + people + mergetag + mergetag + armor1 + "\nMerge tags\n",
	treeLine + people + "change-id kpqxywonksrl\n" + armor1 + "\nby Jujutsu\n",
	treeLine + "author  <> 0 +0000\ncommitter  <nobody> 0 -0000\n\nwithout names\n",
	treeLine + people + "\n\n\nblank lines first\n",
	treeLine + people + "\ngpgsig not a header\ntree neither\n",
}

// unsound are commits that two parsers read differently, or that nobody should
// have made, by what is wrong.
var unsound = map[string]string{
	"nothing":                          "",
	"a newline":                        "\n",
	"no tree":                          parentLine + people + "\nx\n",
	"tree late":                        people + treeLine + "\nx\n",
	"tree twice":                       treeLine + strings.ReplaceAll(treeLine, "4", "5") + people + "\nx\n",
	"tree again at the end":            treeLine + people + treeLine + "\nx\n",
	"tree in upper case":               strings.ToUpper(treeLine) + people + "\nx\n",
	"tree's hash in upper case":        "tree " + strings.ToUpper(treeLine[5:]) + people + "\nx\n",
	"tree's hash short":                "tree 4b825dc642cb6eb9a060e54bf8d69288fbee490\n" + people + "\nx\n",
	"tree's hash long":                 "tree 4b825dc642cb6eb9a060e54bf8d69288fbee49040\n" + people + "\nx\n",
	"tree's hash and more":             "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904 x\n" + people + "\nx\n",
	"tree's hash of SHA-256":           "tree " + strings.Repeat("4", 64) + "\n" + people + "\nx\n",
	"two spaces":                       "tree  4b825dc642cb6eb9a060e54bf8d69288fbee4904\n" + people + "\nx\n",
	"tree goes on":                     treeLine + " more\n" + people + "\nx\n",
	"parent late":                      treeLine + people + parentLine + "\nx\n",
	"parent after the author":          treeLine + authorLine + parentLine + committerLine + "\nx\n",
	"parent's hash odd":                treeLine + "parent g111111111111111111111111111111111111111\n" + people + "\nx\n",
	"parent goes on":                   treeLine + parentLine + " more\n" + people + "\nx\n",
	"no author":                        treeLine + committerLine + "\nx\n",
	"no committer":                     treeLine + authorLine + "\nx\n",
	"author twice":                     treeLine + authorLine + authorLine + committerLine + "\nx\n",
	"author after the committer":       treeLine + committerLine + authorLine + "\nx\n",
	"committer twice":                  treeLine + people + committerLine + "\nx\n",
	"author goes on":                   treeLine + authorLine + " more\n" + committerLine + "\nx\n",
	"no address":                       treeLine + "author A 1763750000 +0100\n" + committerLine + "\nx\n",
	"two addresses":                    treeLine + "author A <a> <b> 1763750000 +0100\n" + committerLine + "\nx\n",
	"an address in the name":           treeLine + "author A > <b> 1763750000 +0100\n" + committerLine + "\nx\n",
	"no space before the address":      treeLine + "author A<a> 1763750000 +0100\n" + committerLine + "\nx\n",
	"no name and no space":             treeLine + "author <a> 1763750000 +0100\n" + committerLine + "\nx\n",
	"no date":                          treeLine + "author A <a>\n" + committerLine + "\nx\n",
	"no zone":                          treeLine + "author A <a> 1763750000\n" + committerLine + "\nx\n",
	"a zone of three digits":           treeLine + "author A <a> 1763750000 +100\n" + committerLine + "\nx\n",
	"a negative date":                  treeLine + "author A <a> -1 +0100\n" + committerLine + "\nx\n",
	"a padded date":                    treeLine + "author A <a> 01763750000 +0100\n" + committerLine + "\nx\n",
	"a date beyond all":                treeLine + "author A <a> 99999999999999999999 +0100\n" + committerLine + "\nx\n",
	"a date and more":                  treeLine + "author A <a> 1763750000 +0100 \n" + committerLine + "\nx\n",
	"a NUL in a name":                  treeLine + "author A\x00B <a> 1763750000 +0100\n" + committerLine + "\nx\n",
	"a NUL in the message":             treeLine + people + "\nx\x00y\n",
	"carriage returns":                 strings.ReplaceAll(treeLine+people, "\n", "\r\n") + "\r\nx\r\n",
	"a carriage return in a name":      treeLine + "author A\rB <a> 1763750000 +0100\n" + committerLine + "\nx\n",
	"a carriage return in a signature": treeLine + people + strings.Replace(armor1, "AAAA", "AAAA\r", 1) + "\nx\n",
	"no end of the headers":            treeLine + people,
	"cut in a header":                  treeLine + authorLine + "committer C O",
	"an unknown header":                treeLine + people + "x-header y\n\nx\n",
	"an unknown header before":         "x-header y\n" + treeLine + people + "\nx\n",
	"a header without value":           treeLine + people + "encoding\n\nx\n",
	"a header with an empty value":     treeLine + people + "encoding \n\nx\n",
	"a line of spaces":                 treeLine + people + " \n\nx\n",
	"encoding twice":                   treeLine + people + "encoding a\nencoding b\n\nx\n",
	"encoding goes on":                 treeLine + people + "encoding a\n b\n\nx\n",
	"encoding that is none":            treeLine + people + "encoding \x1b[31m\n\nx\n",
	"change-id twice":                  treeLine + people + "change-id a\nchange-id b\n\nx\n",
	"gpgsig twice":                     treeLine + people + armor1 + armor1 + "\nx\n",
	"gpgsig twice, apart":              treeLine + people + armor1 + "encoding a\n" + armorPGP + "\nx\n",
	"gpgsig first":                     armor1 + treeLine + people + "\nx\n",
	"gpgsig before the author":         treeLine + armor1 + people + "\nx\n",
	"gpgsig and gpgsig-sha256":         treeLine + people + armor1 + "gpgsig-sha256" + armor1[6:] + "\nx\n",
	"gpgsig-sha256 alone":              treeLine + people + "gpgsig-sha256" + armor1[6:] + "\nx\n",
	"gpgsigx, which git drops":         treeLine + people + "gpgsigx y\n\nx\n",
	"gpgsig of two blocks":             treeLine + people + armor1 + " -----BEGIN SSH SIGNATURE-----\n AAAA\n -----END SSH SIGNATURE-----\n\nx\n",
	"gpgsig nested":                    treeLine + people + "gpgsig -----BEGIN SSH SIGNATURE-----\n -----BEGIN PGP SIGNATURE-----\n AAAA\n -----END SSH SIGNATURE-----\n\nx\n",
	"gpgsig with text after":           treeLine + people + armor1 + " text\n\nx\n",
	"gpgsig with text before":          treeLine + people + "gpgsig text\n " + armor1[7:] + "\nx\n",
	"gpgsig without an end":            treeLine + people + "gpgsig -----BEGIN SSH SIGNATURE-----\n AAAA\n\nx\n",
	"gpgsig that is none":              treeLine + people + "gpgsig x\n\nx\n",
	"gpgsig that is empty":             treeLine + people + "gpgsig \n\nx\n",
	"gpgsig by a tab":                  treeLine + people + strings.Replace(armor1, "gpgsig ", "gpgsig\t", 1) + "\nx\n",
	"GPGSIG":                           treeLine + people + strings.Replace(armor1, "gpgsig ", "GPGSIG ", 1) + "\nx\n",
}

func TestParseCommit(t *testing.T) {
	t.Parallel()
	commit, err := ParseCommit([]byte(sound[9]))
	if err != nil {
		t.Fatal(err)
	}
	parent, _ := gitops.ParseHash(strings.Repeat("1", 40))
	tree, _ := gitops.ParseHash("4b825dc642cb6eb9a060e54bf8d69288fbee4904")
	want := &Raw{
		Tree: tree, Parents: []gitops.Hash{parent},
		Author:    gitops.Person{Name: "A U Thor", Email: "author@example.com", When: time.Unix(1763750000, 0)},
		Committer: gitops.Person{Name: "C O Mitter", Email: "c@example.com", When: time.Unix(1763750001, 0)},
		Message:   "Merge tags\n", Signature: "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n",
		Payload: []byte(treeLine + parentLine + people + mergetag + mergetag + "\nMerge tags\n"),
	}
	if diff := cmp.Diff(want, commit, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".signedAt" }, cmp.Ignore())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if zone := commit.Committer.When.Format("-0700"); zone != "-0330" {
		t.Errorf("zone %s", zone)
	}
}

func TestParseCommitRefuses(t *testing.T) {
	t.Parallel()
	for what, raw := range unsound {
		commit, err := ParseCommit([]byte(raw))
		if !errors.Is(err, ErrMalformed) || commit != nil {
			t.Errorf("%s: %+v, %v", what, commit, err)
		} else if strings.ContainsAny(err.Error(), "\x00\x1b\r\n") {
			t.Errorf("%s: error with control characters: %q", what, err)
		}
	}
}

// git reads the sound commits as we do, and its fsck has nothing against them
// (but for dates and names that it finds odd and we do not mind).
func TestParseCommitAgreesWithGit(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	parent := strings.TrimSpace(r.git("rev-parse", "main"))
	const format = "%T%n%P%n%an%n%ae%n%at%n%cn%n%ce%n%ct%n%e%n%B"
	for _, text := range sound {
		raw := []byte(strings.NewReplacer(strings.Repeat("1", 40), parent, strings.Repeat("2", 40), parent).Replace(text))
		commit, err := ParseCommit(raw)
		if err != nil {
			t.Errorf("%v in %q", err, raw)
			continue
		}
		var parents []string
		for _, p := range commit.Parents {
			parents = append(parents, p.String())
		}
		ours := fmt.Sprintf("%s\n%s\n%s\n%s\n%d\n%s\n%s\n%d\n%s\n%s", commit.Tree, strings.Join(parents, " "),
			commit.Author.Name, commit.Author.Email, commit.Author.When.Unix(),
			commit.Committer.Name, commit.Committer.Email, commit.Committer.When.Unix(), commit.Encoding, commit.Message)
		gits := r.git("-c", "i18n.logOutputEncoding="+commit.Encoding, "log", "-1", "--no-show-signature", "--format="+format, r.write(raw))
		if diff := cmp.Diff(strings.TrimRight(gits, "\n"), strings.TrimRight(ours, "\n")); diff != "" {
			t.Errorf("%q (-git +ours):\n%s", raw, diff)
		}
	}
}

// Commits made by real git, with all that git puts into one.
func TestParseCommitOfGit(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	secret, public := r.sshKey("", "-t", "ed25519")
	r.allow(public)
	key := r.file("signing", secret["identity"])
	r.git("config", "gpg.format", "ssh")
	r.git("config", "user.signingKey", key)
	commit := func(args ...string) string {
		return strings.TrimSpace(r.git(append(append([]string{"-c", "i18n.commitEncoding=ISO-8859-1", "commit-tree", "-S"}, args...), "main^{tree}")...))
	}
	ring := keys(t, SSH, secret)

	latin := commit("-m", "caf\xe9", "-p", "main")
	r.git("tag", "-s", "-m", "a tag", "v1", latin)
	// git merge wants a work tree.
	work := newRepository(t)
	tool(t, work.dir, "", "git", "clone", "-q", r.dir, "work")
	work.dir += "/work"
	for _, option := range [][]string{{"gpg.format", "ssh"}, {"user.signingKey", key}, {"gpg.ssh.allowedSignersFile", r.dir + "/allowed_signers"}} {
		work.git("config", option[0], option[1])
	}
	work.git("merge", "-q", "-S", "--no-ff", "-m", "Merge v1", "v1")

	for name, raw := range map[string][]byte{"latin1": r.raw(latin), "a merged tag": work.raw("HEAD")} {
		checkVerdict(t, ring, raw, ring.Keys()[0])
		if want := map[string]string{"latin1": "\nencoding ISO-8859-1\n", "a merged tag": "\nmergetag object "}[name]; !bytes.Contains(raw, []byte(want)) {
			t.Errorf("%s: git wrote no %q:\n%s", name, want, raw)
		}
	}
}

func FuzzParseCommit(f *testing.F) {
	for _, raw := range sound {
		f.Add([]byte(raw))
	}
	for _, raw := range unsound {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		commit, err := ParseCommit(raw)
		if !bytes.Equal(raw, before) {
			t.Fatal("it changed what it read")
		}
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v is not ErrMalformed", err)
			}
			return
		}
		// The payload and the signature are the whole commit.
		whole := commit.Payload
		if commit.Signature != "" {
			whole = attachAt(commit.Payload, commit.Signature, commit.signedAt)
		}
		if !bytes.Equal(whole, raw) {
			t.Fatalf("%q\nis put together again as\n%q", raw, whole)
		}
		if commit.Tree.IsZero() {
			return // go-git refuses it
		}
		compareGoGit(t, raw, commit)
	})
}

// compareGoGit checks that go-git reads the same where it reads at all.
func compareGoGit(t *testing.T, raw []byte, commit *Raw) {
	encoded := &plumbing.MemoryObject{}
	encoded.SetType(plumbing.CommitObject)
	if _, err := encoded.Write(raw); err != nil {
		t.Fatal(err)
	}
	other := new(object.Commit)
	if err := other.Decode(encoded); err != nil {
		t.Fatalf("go-git: %v in %q", err, raw)
	}
	payload := &plumbing.MemoryObject{}
	if err := other.EncodeWithoutSignature(payload); err != nil {
		t.Fatal(err)
	}
	reader, err := payload.Reader()
	if err != nil {
		t.Fatal(err)
	}
	var theirs bytes.Buffer
	if _, err := theirs.ReadFrom(reader); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(theirs.Bytes(), commit.Payload) {
		t.Fatalf("payloads differ: go-git's\n%q\nours\n%q", theirs.Bytes(), commit.Payload)
	}
	if other.TreeHash != commit.Tree || !cmp.Equal(other.ParentHashes, commit.Parents) || other.Message != commit.Message || other.PGPSignature != commit.Signature {
		t.Fatalf("go-git reads %+v of %q, we read %+v", other, raw, commit)
	}
}
