package trust

import (
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

// A rotation, from OpenPGP to SSH and on: what was signed before stays ours as
// long as the public key is there.
func TestRotation(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	firstKey, secondKey := r.gpgKey("", "ed25519", "sign", "0"), r.gpgKey("", "nistp256", "sign", "0")
	first, second := r.gpgSecret("", firstKey), r.gpgSecret("", secondKey)
	third, thirdPublic := r.sshKey("a passphrase", "-t", "ed25519")
	fourth, fourthPublic := r.sshKey("", "-t", "ecdsa")
	signed := [][]byte{sign(t, GPG, first), sign(t, GPG, second), sign(t, SSH, third), sign(t, SSH, fourth)}

	formerPub := []byte("# our former keys\n\n" + string(thirdPublic) + "\n")
	// Two blocks in one file, with words between, as cat and people leave it.
	formerAsc := []byte("The first:\n" + string(r.gpgPublic(firstKey)) + "\nThe second:\n" + string(r.gpgPublic(secondKey)))
	all := with(with(fourth, "former.pub", formerPub), "former.asc", formerAsc)

	ring := keys(t, SSH, all)
	want := ring.Keys()
	for i, commit := range [][]byte{signed[3], signed[2], signed[0], signed[1]} {
		checkVerdict(t, ring, commit, want[i])
		if former := i > 0; want[i].Former != former {
			t.Errorf("%s: former is %t", want[i], want[i].Former)
		}
	}

	for name, secret := range map[string]map[string][]byte{"former.pub": with(fourth, "former.asc", formerAsc), "former.asc": with(fourth, "former.pub", formerPub)} {
		missing := map[string][]byte{"former.pub": signed[2], "former.asc": signed[0]}[name]
		if _, err := keys(t, SSH, secret).Verify(missing); !errors.Is(err, ErrUnknownKey) {
			t.Errorf("without %s: %v", name, err)
		}
	}

	// Both keys in one export, and back to the first.
	both := []byte(r.gpg("--armor", "--export", firstKey, secondKey))
	ring = keys(t, GPG, with(with(first, "former.asc", both), "former.pub", append(formerPub, fourthPublic...)))
	for i, commit := range signed {
		id, err := ring.Verify(commit)
		if err != nil || id.Former != (i > 0) {
			t.Errorf("commit %d: %v, %v", i, id, err)
		}
	}
	if got := len(ring.Keys()); got != 4 {
		t.Errorf("%d keys: %v", got, ring.Keys())
	}
	// The ring is for many at once: the OpenPGP library writes into its keys.
	done := make(chan error)
	for range 8 {
		for _, commit := range signed {
			go func() { _, err := ring.Verify(commit); done <- err }()
		}
	}
	for range 8 * len(signed) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Time: a key that expired signs nothing more, and what it signed is ours.
func TestExpiry(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	past := []string{"--faked-system-time", "20200101T000000!"}
	for _, test := range []struct {
		name    string
		make    func() string
		expired string
	}{
		{"key", func() string {
			return r.gpgKey("", "ed25519", "sign", "1y", past...)
		}, "expired on 2020-12-31"},
		{"subkey", func() string {
			fingerprint := r.gpgKey("", "ed25519", "cert", "0", past...)
			r.gpg(append(slices.Clone(past), "--passphrase", "", "--quick-add-key", fingerprint, "ed25519", "sign", "1m")...)
			return fingerprint
		}, "signing subkey "},
	} {
		fingerprint := test.make()
		secret := r.gpgSecret("", fingerprint)

		_, err := LoadSigner(GPG, secret)
		var fault *KeyError
		if !errors.Is(err, ErrExpired) || !errors.As(err, &fault) || fault.Hint() == "" || !strings.Contains(err.Error(), test.expired) || !strings.Contains(err.Error(), fingerprint) {
			t.Errorf("%s: %v", test.name, err)
		}
		sig := r.gpg(append(slices.Clone(past), "--armor", "--detach-sign", "--local-user", fingerprint, "--output", "-", r.file("payload", unsigned()))...)
		signed := Attach(unsigned(), sig)
		checkVerdict(t, keys(t, GPG, secret), signed, Identity{Kind: GPG, Fingerprint: fingerprint})
		next, _ := r.sshKey("", "-t", "ed25519", "-C", test.name)
		checkVerdict(t, keys(t, SSH, with(next, "former.asc", r.gpgPublic(fingerprint))), signed, Identity{Kind: GPG, Fingerprint: fingerprint, Former: true})

		// Extended, gpg replaces the self-signature by a newer one: the key
		// signs again, and what it signed before stays ours.
		command, _, _ := strings.Cut(strings.SplitN(fault.Hint(), "`", 2)[1], "`")
		r.gpg(append([]string{"--passphrase", ""}, strings.Fields(command)[1:]...)...)
		extended := r.gpgSecret("", fingerprint)
		checkVerdict(t, keys(t, GPG, extended), signed, Identity{Kind: GPG, Fingerprint: fingerprint})
		again := sign(t, GPG, extended)
		r.git("verify-commit", r.write(again))
		checkVerdict(t, keys(t, GPG, extended), again, Identity{Kind: GPG, Fingerprint: fingerprint})
	}

	// A key that is loaded and expires before it signs.
	fingerprint := r.gpgKey("", "ed25519", "sign", "seconds=3")
	signer, err := LoadSigner(GPG, r.gpgSecret("", fingerprint))
	if err != nil {
		t.Fatal(err)
	}
	when, ok := signer.Expires()
	if !ok {
		t.Fatal("it does not expire")
	}
	if _, err := signer.pgp.sign(unsigned(), when.Add(2*time.Second)); !errors.Is(err, ErrExpired) {
		t.Errorf("after its end: %v", err)
	}
	if _, err := signer.pgp.sign(unsigned(), when.Add(-time.Hour)); err == nil || !strings.Contains(err.Error(), "not valid before") {
		t.Errorf("before its beginning: %v", err)
	}
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	// The certificate that gpg keeps from the beginning gives no reason.
	byGPG := func(fingerprint string, _ map[string][]byte) {
		certificate := strings.ReplaceAll(string(r.read("gnupg/openpgp-revocs.d/"+fingerprint+".rev")), "\n:-----BEGIN", "\n-----BEGIN")
		r.gpg("--import", r.file("revocation", []byte(certificate)))
	}
	for _, test := range []struct {
		name    string
		revoke  func(fingerprint string, secret map[string][]byte) *openpgp.Entity
		signed  bool // what was signed before the revocation counts
		subkeys bool
	}{
		{"without reason, by gpg", nil, false, false},
		{"superseded", revoke(t, packet.KeySuperseded, false), true, false},
		{"retired", revoke(t, packet.KeyRetired, false), true, false},
		{"compromised", revoke(t, packet.KeyCompromised, false), false, false},
		{"subkey superseded", revoke(t, packet.KeySuperseded, true), true, true},
		{"subkey compromised", revoke(t, packet.KeyCompromised, true), false, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			usage := "sign"
			if test.subkeys {
				usage = "cert"
			}
			// Made in the past, so that there is a before.
			past := []string{"--faked-system-time", "20200101T000000!"}
			fingerprint := r.gpgKey("", "ed25519", usage, "0", past...)
			if test.subkeys {
				r.gpg(append(slices.Clone(past), "--passphrase", "", "--quick-add-key", fingerprint, "ed25519", "sign", "0")...)
			}
			secret := r.gpgSecret("", fingerprint)
			payload := r.file("payload", unsigned())
			before := Attach(unsigned(), r.gpg("--faked-system-time", "20210101T000000!", "--armor", "--detach-sign", "--local-user", fingerprint, "--output", "-", payload))
			after := sign(t, GPG, secret)

			var revoked []byte
			if test.revoke == nil {
				byGPG(fingerprint, secret)
				secret, revoked = r.gpgSecret("", fingerprint), r.gpgPublic(fingerprint)
			} else {
				revoked = []byte(mustArmor(t, test.revoke(fingerprint, secret)))
				r.gpg("--import", r.file("revoked.asc", revoked))
				secret = r.gpgSecret("", fingerprint)
			}

			_, err := LoadSigner(GPG, secret)
			var fault *KeyError
			if !errors.Is(err, ErrRevoked) || !errors.As(err, &fault) || fault.Hint() == "" {
				t.Errorf("LoadSigner: %v", err)
			}
			next, _ := r.sshKey("", "-t", "ed25519", "-C", test.name)
			for _, ring := range []*Keyring{keys(t, GPG, secret), keys(t, SSH, with(next, "former.asc", revoked))} {
				if _, err := ring.Verify(before); test.signed && err != nil || !test.signed && !errors.Is(err, ErrRevoked) {
					t.Errorf("signed before: %v", err)
				}
				if _, err := ring.Verify(after); test.revoke != nil && !errors.Is(err, ErrRevoked) {
					t.Errorf("signed after: %v", err)
				}
			}
		})
	}
}

// revoke returns a function that revokes a key, or its signing subkey, in 2022.
func revoke(t *testing.T, reason packet.ReasonForRevocation, subkey bool) func(string, map[string][]byte) *openpgp.Entity {
	return func(_ string, secret map[string][]byte) *openpgp.Entity {
		t.Helper()
		entity, err := pgpPrivateKey(secret)
		if err != nil {
			t.Fatal(err)
		}
		config := &packet.Config{Time: func() time.Time { return time.Date(2022, 1, 1, 0, 0, 0, 0, time.UTC) }}
		if subkey {
			err = entity.Subkeys[0].Revoke(reason, "", config)
		} else {
			err = entity.Revoke(reason, "", config)
		}
		if err != nil {
			t.Fatal(err)
		}
		return entity
	}
}

func mustArmor(t *testing.T, entity *openpgp.Entity) string {
	t.Helper()
	text, err := armored(openpgp.PublicKeyType, entity.Serialize)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Somebody else's revocation, or a subkey that the primary never bound, does
// not count.
func TestForeignPackets(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	ours := r.gpgSecret("", r.gpgKey("", "ed25519", "sign", "0"))
	signed := sign(t, GPG, ours)
	theirs := r.gpgSecret("", r.gpgKey("", "ed25519", "cert", "0"))
	r.gpg("--passphrase", "", "--quick-add-key", keys(t, GPG, theirs).Keys()[0].Fingerprint, "ed25519", "sign", "0")
	theirs = r.gpgSecret("", keys(t, GPG, theirs).Keys()[0].Fingerprint)
	stranger := sign(t, GPG, theirs)

	entity, err := pgpPrivateKey(ours)
	if err != nil {
		t.Fatal(err)
	}
	other, err := pgpPrivateKey(theirs)
	if err != nil {
		t.Fatal(err)
	}
	want := Identity{Kind: GPG, Fingerprint: pgpFingerprint(entity.PrimaryKey)}
	if err := other.Revoke(packet.KeyCompromised, "", nil); err != nil {
		t.Fatal(err)
	}
	entity.Revocations = other.Revocations
	for _, subkey := range other.Subkeys {
		subkey.Primary = entity
		entity.Subkeys = append(entity.Subkeys, subkey)
	}

	ring := &Keyring{current: want, pgp: new(pgpKeyring)}
	ring.pgp.add(want, entity)
	checkVerdict(t, ring, signed, want)
	if id, err := ring.Verify(stranger); !errors.Is(err, ErrBadSignature) {
		t.Errorf("signed by a stranger's subkey: %v, %v", id, err)
	}
}

func TestKeysRefused(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	plain, sshPublic := r.sshKey("", "-t", "ed25519")
	locked, _ := r.sshKey("a passphrase", "-t", "ed25519", "-O", "no-pty")
	lockedPEM, _ := r.sshKey("a passphrase", "-t", "ecdsa", "-m", "PEM")
	pkcs8, _ := r.sshKey("a passphrase", "-t", "ecdsa", "-m", "PKCS8")
	small, _ := r.sshKey("", "-t", "rsa", "-b", "1024")
	fingerprint := r.gpgKey("", "ed25519", "sign", "0")
	gpg := r.gpgSecret("", fingerprint)
	certOnlyKey := r.gpgKey("", "ed25519", "cert", "0")
	certOnly := r.gpgSecret("", certOnlyKey)
	lockedGPG := r.gpgSecret("a passphrase", r.gpgKey("a passphrase", "ed25519", "sign", "0"))
	noPrivate := map[string][]byte{"git.asc": []byte(r.gpg("--passphrase", "", "--armor", "--export-secret-subkeys", fingerprint))}
	both := map[string][]byte{"git.asc": []byte(r.gpg("--armor", "--export-secret-keys", fingerprint, certOnlyKey))}
	token := map[string][]byte{"identity": skKey(t)}

	for _, test := range []struct {
		name, kind string
		secret     map[string][]byte
		says       string
		is         error
		signing    bool // it is only signing that fails; the public key is there
	}{
		{"nothing", SSH, nil, "identity: missing from the secret", nil, false},
		{"nothing, OpenPGP", GPG, nil, "git.asc: missing from the secret", nil, false},
		{"the other kind", SSH, gpg, "the secret holds an OpenPGP key", nil, false},
		{"the other kind, OpenPGP", GPG, plain, "the secret holds an SSH key", nil, false},
		{"the other kind under the right name", SSH, map[string][]byte{"identity": gpg["git.asc"]}, "an OpenPGP key where an SSH private key is asked for", nil, false},
		{"the other kind under the right name, OpenPGP", GPG, map[string][]byte{"git.asc": plain["identity"]}, "an SSH key where an OpenPGP key is asked for", nil, false},
		{"the other kind's public key, OpenPGP", GPG, map[string][]byte{"git.asc": sshPublic}, "an SSH key where an OpenPGP key is asked for", nil, false},
		{"a public key", SSH, map[string][]byte{"identity": sshPublic}, "a public key where the private one is asked for", nil, false},
		{"a public key, SSH2", SSH, map[string][]byte{"identity": []byte(tool(t, r.dir, string(sshPublic), "ssh-keygen", "-e", "-f", r.file("x.pub", sshPublic)))}, "a public key where the private one is asked for", nil, false},
		{"a public key, PKCS 8", SSH, map[string][]byte{"identity": []byte(tool(t, r.dir, "", "ssh-keygen", "-e", "-m", "PKCS8", "-f", r.dir+"/key-tecdsa-mPEM.pub"))}, "a public key where the private one is asked for", nil, false},
		{"a public key, OpenPGP", GPG, map[string][]byte{"git.asc": r.gpgPublic(fingerprint)}, "a public key where the private one is asked for", nil, false},
		{"rubbish", SSH, map[string][]byte{"identity": []byte("hello")}, "no SSH private key", nil, false},
		{"rubbish, OpenPGP", GPG, map[string][]byte{"git.asc": []byte("hello")}, "no armored OpenPGP key", nil, false},
		{"cut", SSH, map[string][]byte{"identity": plain["identity"][:200]}, "no SSH private key", nil, false},
		{"cut, OpenPGP", GPG, map[string][]byte{"git.asc": gpg["git.asc"][:200]}, "git.asc: ", nil, false},
		{"a signature, OpenPGP", GPG, map[string][]byte{"git.asc": []byte("-----BEGIN PGP SIGNATURE-----\n\niHUE\n-----END PGP SIGNATURE-----\n")}, "PGP SIGNATURE", nil, false},
		{"locked", SSH, map[string][]byte{"identity": locked["identity"]}, "encrypted and there is no passphrase", ErrPassphrase, true},
		{"locked, PEM", SSH, map[string][]byte{"identity": lockedPEM["identity"]}, "encrypted and there is no passphrase", ErrPassphrase, false},
		{"locked, OpenPGP", GPG, map[string][]byte{"git.asc": lockedGPG["git.asc"]}, "encrypted and there is no passphrase", ErrPassphrase, true},
		{"wrong passphrase", SSH, with(locked, "password", []byte("another")), "wrong passphrase", ErrPassphrase, true},
		{"wrong passphrase, PEM", SSH, with(lockedPEM, "password", []byte("another")), "wrong passphrase", ErrPassphrase, false},
		{"wrong passphrase, OpenPGP", GPG, with(lockedGPG, "passphrase", []byte("another")), "wrong passphrase", ErrPassphrase, true},
		{"encrypted PKCS 8", SSH, pkcs8, "encrypted PKCS #8", nil, false},
		{"RSA 1024", SSH, small, "below 2048 bits", nil, false},
		{"a token's key", SSH, token, "security token", nil, false},
		{"two keys, OpenPGP", GPG, both, "2 keys", nil, false},
		{"a key that does not sign, OpenPGP", GPG, certOnly, "no part that signs", nil, true},
		{"without the private part, OpenPGP", GPG, noPrivate, "no private part", nil, true},
		{"an unknown kind", "x509", plain, `kind "x509"`, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			signer, err := LoadSigner(test.kind, test.secret)
			if err == nil || signer != nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("LoadSigner: %v; want %q", err, test.says)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("LoadSigner: %v is not %v", err, test.is)
			}
			for _, secret := range []string{"a passphrase", "another", "BEGIN"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("LoadSigner: %v tells %q", err, secret)
				}
			}
			if _, err := OwnKeys(test.kind, test.secret); (err == nil) != test.signing {
				t.Errorf("OwnKeys: %v", err)
			}
		})
	}

	// A newline after the passphrase is an editor's.
	for kind, secret := range map[string]map[string][]byte{SSH: with(locked, "password", []byte("a passphrase\n")), GPG: with(lockedGPG, "passphrase", []byte("a passphrase\r\n"))} {
		if _, err := LoadSigner(kind, secret); err != nil {
			t.Errorf("%s: a passphrase with a newline: %v", kind, err)
		}
	}
}

func TestFormerKeysRefused(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	secret, public := r.sshKey("", "-t", "ed25519")
	for _, test := range []struct{ name, file, content, says string }{
		{"rubbish", "former.pub", "hello", "line 1"},
		{"a bad line after a good one", "former.pub", string(public) + "\nssh-ed25519 AAAA", "line 2"},
		{"options", "former.pub", "cert-authority " + string(public), "options"},
		{"a private key", "former.pub", string(secret["identity"]), "private key"},
		{"rubbish", "former.asc", "hello", "no armored OpenPGP key"},
		{"an SSH key", "former.asc", string(public), "no armored OpenPGP key"},
		{"a cut block", "former.asc", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEZ", "former.asc: "},
	} {
		_, err := OwnKeys(SSH, with(secret, test.file, []byte(test.content)))
		if err == nil || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), test.file) {
			t.Errorf("%s in %s: %v", test.name, test.file, err)
		}
	}
	if diff := cmp.Diff(1, len(keys(t, SSH, with(secret, "former.pub", []byte("\n# nothing\n"))).Keys())); diff != "" {
		t.Error(diff)
	}
}

// skKey is what ssh-keygen -t ed25519-sk writes (PROTOCOL.key, PROTOCOL.u2f),
// for a token that never was.
func skKey(t *testing.T) []byte {
	t.Helper()
	const kind, application = "sk-ssh-ed25519@openssh.com", "ssh:"
	point := strings.Repeat("p", 32)
	public := ssh.Marshal(struct{ Kind, Point, Application string }{kind, point, application})
	private := ssh.Marshal(struct {
		Check1, Check2           uint32
		Kind, Point, Application string
		Flags                    byte
		Handle, Reserved         string
		Comment                  string
	}{7, 7, kind, point, application, 1, "handle", "", "a comment"})
	for i := byte(1); len(private)%8 != 0; i++ {
		private = append(private, i)
	}
	file := append([]byte("openssh-key-v1\x00"), ssh.Marshal(struct {
		Cipher, KDF, Options string
		Keys                 uint32
		Public, Private      []byte
	}{"none", "none", "", 1, public, private})...)
	block := pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: file})

	// ssh-keygen takes it for one.
	r := newRepository(t)
	if out := tool(t, r.dir, "", "ssh-keygen", "-y", "-P", "", "-f", r.file("sk", block)); !strings.HasPrefix(out, kind+" ") {
		t.Fatalf("ssh-keygen reads %s", out)
	}
	return block
}
