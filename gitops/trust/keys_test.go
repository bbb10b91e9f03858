package trust

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
)

// The judges of these tests are git, ssh-keygen and gpg themselves.

const email = "towpath@example.com"

// tool runs a program that must succeed and returns its output.
func tool(t testing.TB, dir, stdin string, name string, args ...string) string {
	t.Helper()
	out, err := try(t, dir, stdin, name, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// try runs a program with nothing of the person's own configuration.
func try(t testing.TB, dir, stdin string, name string, args ...string) (string, error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command(lab.Tool(t, name), args...)
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C.UTF-8", "TZ=UTC",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GNUPGHOME=" + filepath.Join(dir, "gnupg"),
		"GIT_AUTHOR_NAME=A U Thor", "GIT_AUTHOR_EMAIL=author@example.com", "GIT_AUTHOR_DATE=1763750000 +0100",
		"GIT_COMMITTER_NAME=Towpath", "GIT_COMMITTER_EMAIL=" + email, "GIT_COMMITTER_DATE=1763750001 -0330",
	}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return stdout.String(), nil
}

// repository is a bare one with a root commit, whose directory is a home for
// git, ssh-keygen and gpg.
type repository struct {
	t   testing.TB
	dir string
}

func newRepository(t testing.TB) repository {
	t.Helper()
	// gpg-agent's socket has to fit into a hundred bytes, which t.TempDir
	// does not promise.
	dir, err := os.MkdirTemp("", "trust")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(dir, "gnupg")); err == nil {
			if out, err := try(t, dir, "", "gpgconf", "--kill", "all"); err != nil {
				t.Errorf("gpgconf --kill all: %v\n%s", err, out)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	r := repository{t, dir}
	r.git("init", "-q", "--bare", "-b", "main", ".")
	r.git("config", "gpg.ssh.allowedSignersFile", filepath.Join(dir, "allowed_signers"))
	tree := strings.TrimSpace(r.git("mktree"))
	r.git("update-ref", "refs/heads/main", strings.TrimSpace(r.git("commit-tree", "-m", "root", tree)))
	return r
}

func (r repository) git(args ...string) string {
	r.t.Helper()
	return tool(r.t, r.dir, "", "git", args...)
}

// raw returns a commit's bytes.
func (r repository) raw(revision string) []byte {
	r.t.Helper()
	return []byte(r.git("cat-file", "commit", revision))
}

// write stores a commit and returns its hash. git's own checks of objects
// apply.
func (r repository) write(raw []byte) string {
	r.t.Helper()
	return strings.TrimSpace(tool(r.t, r.dir, string(raw), "git", "hash-object", "-t", "commit", "-w", "--stdin"))
}

// allow makes git trust SSH keys for the committer.
func (r repository) allow(publicKeys ...[]byte) {
	r.t.Helper()
	var lines bytes.Buffer
	for _, key := range publicKeys {
		lines.WriteString(email + ` namespaces="git" ` + string(key) + "\n")
	}
	r.file("allowed_signers", lines.Bytes())
}

func (r repository) file(name string, content []byte) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r repository) read(name string) []byte {
	r.t.Helper()
	content, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		r.t.Fatal(err)
	}
	return content
}

// sshKey has ssh-keygen make a key and returns the secret with it, and its
// public key's line.
func (r repository) sshKey(passphrase string, args ...string) (secret map[string][]byte, public []byte) {
	r.t.Helper()
	name := "key" + strings.ReplaceAll(strings.Join(args, ""), "/", "")
	tool(r.t, r.dir, "", "ssh-keygen", append([]string{"-q", "-a", "1", "-N", passphrase, "-C", "a comment", "-f", filepath.Join(r.dir, name)}, args...)...)
	secret = map[string][]byte{"identity": r.read(name)}
	if passphrase != "" {
		secret["password"] = []byte(passphrase)
	}
	return secret, bytes.TrimSpace(r.read(name + ".pub"))
}

// gpg runs gpg without questions.
func (r repository) gpg(args ...string) string {
	r.t.Helper()
	if _, err := os.Stat(filepath.Join(r.dir, "gnupg")); err != nil {
		if err := os.Mkdir(filepath.Join(r.dir, "gnupg"), 0o700); err != nil {
			r.t.Fatal(err)
		}
		// Else the agent spends seconds on measuring how many rounds are
		// slow enough for a passphrase.
		r.file("gnupg/gpg-agent.conf", []byte("s2k-count 65536\n"))
	}
	return tool(r.t, r.dir, "", "gpg", append([]string{"--batch", "--yes", "--quiet", "--no-tty", "--pinentry-mode", "loopback", "--trust-model", "always"}, args...)...)
}

// gpgKey has gpg make a key and returns its fingerprint. Further arguments go
// before the command.
func (r repository) gpgKey(passphrase, algorithm, usage, expires string, args ...string) string {
	r.t.Helper()
	r.gpg(append(args, "--passphrase", passphrase, "--quick-gen-key", "Towpath <"+email+">", algorithm, usage, expires)...)
	var fingerprint string
	for line := range strings.Lines(r.gpg("--list-keys", "--with-colons")) {
		// The newest key is listed last, its primary's fingerprint first.
		fields := strings.Split(line, ":")
		switch fields[0] {
		case "pub":
			fingerprint = ""
		case "fpr":
			if fingerprint == "" {
				fingerprint = fields[9]
			}
		}
	}
	return fingerprint
}

func (r repository) gpgSecret(passphrase, fingerprint string) map[string][]byte {
	r.t.Helper()
	secret := map[string][]byte{"git.asc": []byte(r.gpg("--passphrase", passphrase, "--armor", "--export-secret-keys", fingerprint))}
	if passphrase != "" {
		secret["passphrase"] = []byte(passphrase)
	}
	return secret
}

func (r repository) gpgPublic(fingerprint string) []byte {
	r.t.Helper()
	return []byte(r.gpg("--armor", "--export", fingerprint))
}

// unsigned is a commit such as the fleet makes.
func unsigned() []byte {
	who := gitops.Person{Name: "Towpath", Email: email, When: time.Unix(1763750000, 0).In(time.FixedZone("", -12600))}
	emptyTree, _ := gitops.ParseHash("4b825dc642cb6eb9a060e54bf8d69288fbee4904")
	return FormatCommit(Unsigned{Tree: emptyTree, Author: who, Committer: who, Message: "podinfo: 3f2a9c1e → 8b07d4aa\n\nbody\n"})
}

func sign(t testing.TB, kind string, secret map[string][]byte) []byte {
	t.Helper()
	signer, err := LoadSigner(kind, secret)
	if err != nil {
		t.Fatal(err)
	}
	armored, err := signer.Sign(unsigned())
	if err != nil {
		t.Fatal(err)
	}
	return Attach(unsigned(), armored)
}

func keys(t testing.TB, kind string, secret map[string][]byte) *Keyring {
	t.Helper()
	ring, err := OwnKeys(kind, secret)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// with returns a secret with one key more.
func with(secret map[string][]byte, name string, content []byte) map[string][]byte {
	more := map[string][]byte{name: content}
	for name, content := range secret {
		if _, replaced := more[name]; !replaced {
			more[name] = content
		}
	}
	return more
}
