package trust

import (
	"bytes"
	"strings"
	"testing"
)

func TestNewSigningKey(t *testing.T) {
	t.Parallel()
	for _, passphrase := range []string{"", "a passphrase"} {
		r := newRepository(t)
		secret, allowed, err := NewSigningKey(email, []byte(passphrase))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(secret["password"]); got != passphrase {
			t.Errorf("password %q", got)
		}
		// ssh-keygen reads the key and derives the same public one.
		path := r.file("identity", secret["identity"])
		public := tool(t, r.dir, "", "ssh-keygen", "-y", "-P", passphrase, "-f", path)
		if public != string(secret["identity.pub"]) {
			t.Errorf("ssh-keygen derives %q, identity.pub is %q", public, secret["identity.pub"])
		}
		if passphrase != "" {
			if out, err := try(t, r.dir, "", "ssh-keygen", "-y", "-P", "another", "-f", path); err == nil {
				t.Errorf("any passphrase does: %s", out)
			}
		}
		// What is signed with it, git verifies by the line given out.
		r.file("allowed_signers", []byte(allowed+"\n"))
		signed := sign(t, SSH, secret)
		r.git("verify-commit", "-v", r.write(signed))
		checkVerdict(t, keys(t, SSH, secret), signed, keys(t, SSH, secret).Keys()[0])
		if strings.Count(allowed, "\n") != 0 || !strings.HasPrefix(allowed, email+` namespaces="git" ssh-ed25519 `) {
			t.Errorf("allowed signers %q", allowed)
		}

		again, _, err := NewSigningKey(email, []byte(passphrase))
		if err != nil || bytes.Equal(again["identity"], secret["identity"]) {
			t.Errorf("the same key again, or %v", err)
		}
	}
	for _, address := range []string{"", "x", "*@example.com", "a@b,c@d", "a b@c", "a@b\nc@d", `"a"@b`, "!a@b", "#a@b"} {
		if _, _, err := NewSigningKey(address, nil); err == nil {
			t.Errorf("a key for %q", address)
		}
	}
}
