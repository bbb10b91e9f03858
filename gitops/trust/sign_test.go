package trust

import (
	"bytes"
	"crypto"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/git/signature"
	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/gitops"
)

var sshKinds = []struct {
	name, passphrase string
	args             []string
}{
	{"ed25519", "", []string{"-t", "ed25519"}},
	{"ed25519, encrypted", "a passphrase", []string{"-t", "ed25519"}},
	{"ecdsa 256", "", []string{"-t", "ecdsa", "-b", "256"}},
	{"ecdsa 384, PEM", "", []string{"-t", "ecdsa", "-b", "384", "-m", "PEM"}},
	{"ecdsa 521, encrypted", "a passphrase", []string{"-t", "ecdsa", "-b", "521"}},
	{"rsa 2048", "", []string{"-t", "rsa", "-b", "2048"}},
	{"rsa 2048, PEM, encrypted", "a passphrase", []string{"-t", "rsa", "-b", "2048", "-m", "PEM"}},
	{"ecdsa 256, PKCS 8", "", []string{"-t", "ecdsa", "-m", "PKCS8"}},
}

// What we sign with SSH keys, git, Flux and we ourselves accept; what git
// signs with them, we accept.
func TestSSH(t *testing.T) {
	for _, kind := range sshKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			r := newRepository(t)
			secret, public := r.sshKey(kind.passphrase, kind.args...)
			r.allow(public)
			fingerprint := strings.Fields(tool(t, r.dir, string(public), "ssh-keygen", "-l", "-f", "-"))[1]

			signed := sign(t, SSH, secret)
			r.git("verify-commit", "-v", r.write(signed))
			checkVerdict(t, keys(t, SSH, secret), signed, Identity{Kind: SSH, Fingerprint: fingerprint})
			commit, err := ParseCommit(signed)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := signature.VerifySSHSignature(commit.Signature, commit.Payload, string(public)); err != nil || got != fingerprint {
				t.Errorf("Flux says %q, %v", got, err)
			}
			r.checkStrangers(signed)

			// gpg.ssh.program would ask for the passphrase on a terminal.
			if kind.passphrase == "" {
				key := r.file("signing", secret["identity"])
				r.file("signing.pub", public) // PEM files hold no public key for ssh-keygen
				r.git("-c", "gpg.format=ssh", "-c", "user.signingKey="+key, "update-ref", "refs/heads/main",
					strings.TrimSpace(r.git("-c", "gpg.format=ssh", "-c", "user.signingKey="+key, "commit-tree", "-S", "-m", "git's", "-p", "main", "main^{tree}")))
				checkVerdict(t, keys(t, SSH, secret), r.raw("main"), Identity{Kind: SSH, Fingerprint: fingerprint})
			}

			signer, err := LoadSigner(SSH, secret)
			if err != nil {
				t.Fatal(err)
			}
			r.file("allowed_signers", []byte(signer.AllowedSigners(email)+"\n"))
			r.git("verify-commit", "-v", r.write(signed))
			if got, _ := signer.PublicKey(); !strings.HasPrefix(string(public), strings.TrimSpace(got)+" ") {
				t.Errorf("public key %q, want %q", got, public)
			}
			if when, ok := signer.Expires(); ok {
				t.Errorf("an SSH key expires on %s", when)
			}
		})
	}
}

// What we sign with OpenPGP keys, git, Flux and we ourselves accept; what git
// signs with them, we accept.
func TestOpenPGP(t *testing.T) {
	for _, kind := range []struct {
		name, algorithm, usage, passphrase string
		subkey                             string // its algorithm
		subkeysOnly                        bool   // the primary's private part stays at home
	}{
		{name: "ed25519", algorithm: "ed25519", usage: "sign"},
		{name: "ed25519, encrypted", algorithm: "ed25519", usage: "sign", passphrase: "a passphrase"},
		{name: "rsa", algorithm: "rsa2048", usage: "sign,cert"},
		{name: "nistp256", algorithm: "nistp256", usage: "sign"},
		{name: "a signing subkey", algorithm: "ed25519", usage: "cert", subkey: "ed25519"},
		{name: "a signing subkey beside a primary that signs, encrypted", algorithm: "ed25519", usage: "sign", passphrase: "x", subkey: "ed25519"},
		{name: "a signing subkey without its primary's private part", algorithm: "ed25519", usage: "sign", subkey: "ed25519", subkeysOnly: true},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			r := newRepository(t)
			fingerprint := r.gpgKey(kind.passphrase, kind.algorithm, kind.usage, "1y")
			if kind.subkey != "" {
				r.gpg("--passphrase", kind.passphrase, "--quick-add-key", fingerprint, kind.subkey, "sign", "2y")
				// Another that does not sign, to be left alone.
				r.gpg("--passphrase", kind.passphrase, "--quick-add-key", fingerprint, "cv25519", "encr", "2y")
			}
			secret := r.gpgSecret(kind.passphrase, fingerprint)
			if kind.subkeysOnly {
				secret["git.asc"] = []byte(r.gpg("--passphrase", kind.passphrase, "--armor", "--export-secret-subkeys", fingerprint))
			}

			signed := sign(t, GPG, secret)
			r.git("verify-commit", "-v", r.write(signed))
			checkVerdict(t, keys(t, GPG, secret), signed, Identity{Kind: GPG, Fingerprint: fingerprint})
			commit, err := ParseCommit(signed)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := signature.VerifyPGPSignature(commit.Signature, commit.Payload, string(r.gpgPublic(fingerprint))); err != nil {
				t.Errorf("Flux says %v", err)
			}
			r.checkStrangers(signed)

			program := r.file("gpg", []byte("#!/bin/sh\nexec gpg --batch --pinentry-mode loopback --passphrase '"+kind.passphrase+"' \"$@\"\n"))
			tool(t, r.dir, "", "chmod", "+x", program)
			gits := strings.TrimSpace(r.git("-c", "gpg.program="+program, "-c", "user.signingKey="+fingerprint, "commit-tree", "-S", "-m", "git's", "-p", "main", "main^{tree}"))
			checkVerdict(t, keys(t, GPG, secret), r.raw(gits), Identity{Kind: GPG, Fingerprint: fingerprint})

			signer, err := LoadSigner("", secret) // Flux's default kind
			if err != nil {
				t.Fatal(err)
			}
			if when, ok := signer.Expires(); !ok || time.Until(when) < 364*24*time.Hour || time.Until(when) > 366*24*time.Hour {
				t.Errorf("expires %s, %t; want in a year", when, ok)
			}
			public, err := signer.PublicKey()
			if err != nil || strings.Contains(public, "PRIVATE") {
				t.Fatalf("public key: %v\n%s", err, public)
			}
			other := newRepository(t)
			other.gpg("--import", other.file("public.asc", []byte(public)))
			other.git("verify-commit", "-v", other.write(signed))
		})
	}
}

func checkVerdict(t *testing.T, ring *Keyring, raw []byte, want Identity) {
	t.Helper()
	got, err := ring.Verify(raw)
	if err != nil {
		t.Errorf("Verify: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Verify (-want +got):\n%s", diff)
	}
}

// checkStrangers: somebody else's keys do not make this commit theirs, and the
// error names the key that signed it.
func (r repository) checkStrangers(signed []byte) {
	r.t.Helper()
	secret, _ := r.sshKey("", "-t", "ed25519", "-O", "no-pty")
	_, err := keys(r.t, SSH, secret).Verify(signed)
	if !errors.Is(err, ErrUnknownKey) {
		r.t.Errorf("a stranger's keyring says %v", err)
	}
}

// Not one byte of what was signed can be changed. Within the signature itself
// some can (base64 has spare bits), but then the payload is the same.
func TestMutations(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	ssh, _ := r.sshKey("", "-t", "ed25519")
	gpg := r.gpgSecret("", r.gpgKey("", "ed25519", "sign", "0"))
	for kind, secret := range map[string]map[string][]byte{SSH: ssh, GPG: gpg} {
		signed := sign(t, kind, secret)
		ring := keys(t, kind, secret)
		payload := unsigned()
		for i := range signed {
			for _, flip := range []byte{0x01, 0x20, 0x80} {
				changed := bytes.Clone(signed)
				changed[i] ^= flip
				if _, err := ring.Verify(changed); err == nil {
					commit, err := ParseCommit(changed)
					if err != nil || !bytes.Equal(commit.Payload, payload) {
						t.Errorf("%s: byte %d of\n%s\nmay be %q", kind, i, signed, changed[i])
					}
				}
			}
			if _, err := ring.Verify(signed[:i]); err == nil {
				t.Errorf("%s: may end at byte %d of %d", kind, i, len(signed))
			}
		}
		if _, err := ring.Verify(append(bytes.Clone(signed), 'x')); !errors.Is(err, ErrBadSignature) {
			t.Errorf("%s: with a byte more: %v", kind, err)
		}
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	secret, _ := r.sshKey("", "-t", "ed25519")
	ring := keys(t, SSH, secret)
	fingerprint := ring.Keys()[0].Fingerprint
	signed := sign(t, SSH, secret)

	// A signature by the right key, for something else than git.
	file := r.file("payload", unsigned())
	tool(t, r.dir, "", "ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", r.file("signing", secret["identity"]), file)
	forFile := Attach(unsigned(), string(r.read("payload.sig")))
	// ssh-keygen's other digest is as good as ours.
	tool(t, r.dir, "", "ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-O", "hashalg=sha256", "-f", r.file("signing", secret["identity"]), r.file("other", unsigned()))
	sha256 := Attach(unsigned(), string(r.read("other.sig")))
	checkVerdict(t, ring, sha256, Identity{Kind: SSH, Fingerprint: fingerprint})

	pgp := r.gpgSecret("", r.gpgKey("", "ed25519", "sign", "0"))
	pgpRing := keys(t, GPG, pgp)
	pgpSigned := sign(t, GPG, pgp)
	// Two signatures in one armor: verifiers choose differently.
	double := r.gpg("--armor", "--detach-sign", "--output", "-", file) // one
	twice := Attach(unsigned(), joinArmor(t, r, double, double))
	text := Attach(unsigned(), r.gpg("--armor", "--textmode", "--detach-sign", "--output", "-", file))
	weak := Attach(unsigned(), r.gpg("--armor", "--digest-algo", "SHA1", "--allow-weak-digest-algos", "--detach-sign", "--output", "-", file))

	for _, test := range []struct {
		name string
		ring *Keyring
		raw  []byte
		want error
		says string
	}{
		{"unsigned", ring, unsigned(), ErrUnsigned, "not signed"},
		{"no commit", ring, []byte("hello"), ErrMalformed, "tree"},
		{"an SSH key unknown to OpenPGP's ring", pgpRing, signed, ErrUnknownKey, fingerprint},
		{"an OpenPGP key unknown to SSH's ring", ring, pgpSigned, ErrUnknownKey, "gpg key " + pgpRing.Keys()[0].Fingerprint},
		{"another message", ring, bytes.Replace(signed, []byte("\nbody"), []byte("\nBody"), 1), ErrBadSignature, fingerprint},
		{"another message, OpenPGP", pgpRing, bytes.Replace(pgpSigned, []byte("\nbody"), []byte("\nBody"), 1), ErrBadSignature, pgpRing.Keys()[0].Fingerprint},
		{"signed as a file", ring, forFile, ErrBadSignature, "namespace"},
		{"two packets", pgpRing, twice, ErrBadSignature, "more than one packet"},
		{"a text signature", pgpRing, text, ErrBadSignature, "type 1"},
		{"SHA-1", pgpRing, weak, ErrBadSignature, crypto.SHA1.String()},
		{"damaged armor", ring, Attach(unsigned(), "-----BEGIN SSH SIGNATURE-----\nU1NI\n-----END SSH SIGNATURE-----\n"), ErrBadSignature, ""},
		{"no base64", ring, Attach(unsigned(), "-----BEGIN SSH SIGNATURE-----\n!\n-----END SSH SIGNATURE-----\n"), ErrBadSignature, "armor"},
		{"damaged armor, OpenPGP", pgpRing, Attach(unsigned(), "-----BEGIN PGP SIGNATURE-----\n\niHUE\n-----END PGP SIGNATURE-----\n"), ErrBadSignature, ""},
		{"a message for a signature", pgpRing, Attach(unsigned(), "-----BEGIN PGP MESSAGE-----\n\niHUE\n-----END PGP MESSAGE-----\n"), ErrBadSignature, "unknown kind"},
		{"X.509", ring, Attach(unsigned(), "-----BEGIN SIGNED MESSAGE-----\niHUE\n-----END SIGNED MESSAGE-----\n"), ErrUnknownKey, "X.509"},
	} {
		id, err := test.ring.Verify(test.raw)
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) || id != (Identity{}) {
			t.Errorf("%s: %v, %v; want %v with %q", test.name, id, err, test.want, test.says)
		}
		for _, other := range []error{ErrUnsigned, ErrUnknownKey, ErrBadSignature, ErrMalformed} {
			if is := errors.Is(err, other); is != errors.Is(test.want, other) {
				t.Errorf("%s: that %v is %v: %t", test.name, err, other, is)
			}
		}
	}
}

// joinArmor puts the packets of two armored signatures into one armor.
func joinArmor(t *testing.T, r repository, first, second string) string {
	t.Helper()
	packets := tool(t, r.dir, first, "gpg", "--batch", "--dearmor") + tool(t, r.dir, second, "gpg", "--batch", "--dearmor")
	armored := tool(t, r.dir, packets, "gpg", "--batch", "--enarmor")
	return strings.ReplaceAll(strings.ReplaceAll(armored, "ARMORED FILE", "SIGNATURE"), "Comment: Use \"gpg --dearmor\" for unpacking\n", "")
}

// git reads an unsigned commit of ours as it was meant.
func TestFormatCommit(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	parent, err := gitops.ParseHash(strings.TrimSpace(r.git("rev-parse", "main")))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := gitops.ParseHash(strings.TrimSpace(r.git("rev-parse", "main^{tree}")))
	if err != nil {
		t.Fatal(err)
	}
	raw := FormatCommit(Unsigned{
		Tree: tree, Parents: []gitops.Hash{parent},
		Author:    gitops.Person{Name: "A U Thor", Email: "author@example.com", When: time.Unix(1763750000, 0).In(time.FixedZone("", 3600))},
		Committer: gitops.Person{Name: "Towpath", Email: email, When: time.Unix(1763750001, 0).In(time.FixedZone("", -12600))},
		Message:   "subject\n\nbody",
	})
	want := r.raw(strings.TrimSpace(r.git("commit-tree", "-m", "subject", "-m", "body", "-p", "main", "main^{tree}")))
	if diff := cmp.Diff(string(want), string(raw)); diff != "" {
		t.Errorf("git writes it differently (-git +ours):\n%s", diff)
	}
}

func TestFormatCommitOddities(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	for _, who := range []gitops.Person{
		{},
		{Name: "a\nb <c> \x00d", Email: "<e@f>\n"},
		{Name: " .,;\"'", Email: "x@example.com"},
		{Name: "\xff\xfe", Email: "ö@example.com", When: time.Unix(-5, 0)},
		{Name: "x", Email: "x", When: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)},
		{Name: "x", Email: "x", When: time.Unix(1, 0).In(time.FixedZone("odd", 3599))},
	} {
		for _, message := range []string{"", "\n", "\n\n\n", "x\x00y", "\xff", "gpgsig x\n\ntree y\n"} {
			raw := FormatCommit(Unsigned{Author: who, Committer: who, Message: message})
			commit, err := ParseCommit(raw)
			if err != nil {
				t.Errorf("%v in %q", err, raw)
				continue
			}
			if !strings.HasSuffix(commit.Message, "\n") || commit.Signature != "" || !bytes.Equal(commit.Payload, raw) {
				t.Errorf("%q is read as %+v", raw, commit)
			}
			raw = bytes.Replace(raw, []byte(strings.Repeat("0", 40)), []byte("4b825dc642cb6eb9a060e54bf8d69288fbee4904"), 1)
			tool(t, r.dir, string(raw), "git", "hash-object", "-t", "commit", "--stdin") // fsck's checks
		}
	}
}

// Whatever stands in a signature, the verdict is one of those promised and can
// be shown.
func FuzzVerify(f *testing.F) {
	r := newRepository(f)
	secret, _ := r.sshKey("", "-t", "ed25519")
	pgp := r.gpgSecret("", r.gpgKey("", "ed25519", "sign", "0"))
	r.gpg("--armor", "--export", "--output", r.dir+"/former.asc", email)
	rings := []*Keyring{keys(f, GPG, pgp), keys(f, SSH, with(secret, "former.asc", r.read("former.asc")))}
	for kind, secret := range map[string]map[string][]byte{SSH: secret, GPG: pgp} {
		commit, err := ParseCommit(sign(f, kind, secret))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(commit.Signature)
	}
	f.Add("-----BEGIN PGP SIGNATURE-----\nComment: x\n\niHUE\n=AAAA\n-----END PGP SIGNATURE-----")
	f.Add("-----BEGIN SSH SIGNATURE-----\nU1NIU0lHAAAAAQAAAAE=\n-----END SSH SIGNATURE-----")
	f.Add("-----BEGIN SIGNED MESSAGE-----\x1b\n-----END SIGNED MESSAGE-----")
	f.Fuzz(func(t *testing.T, signature string) {
		raw := Attach(unsigned(), signature)
		for _, ring := range rings {
			_, err := ring.Verify(raw)
			if err == nil {
				commit, err := ParseCommit(raw)
				if err != nil || !bytes.Equal(commit.Payload, unsigned()) {
					t.Fatalf("%q vouches for %q, %v", signature, raw, err)
				}
				continue
			}
			known := false
			for _, verdict := range []error{ErrMalformed, ErrUnsigned, ErrUnknownKey, ErrBadSignature} {
				known = known || errors.Is(err, verdict)
			}
			if !known || err.Error() != gitops.Line(err.Error(), 0) {
				t.Fatalf("verdict %q", err)
			}
		}
	})
}
