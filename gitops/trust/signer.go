package trust

import (
	"bytes"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// Signer signs commits with one private key. It is safe for concurrent use.
type Signer struct {
	id  Identity
	ssh ssh.Signer // or
	pgp *pgpSigner
}

// LoadSigner reads the signing key of a secret: for kind SSH identity (and
// password), for GPG, or "" as Flux defaults, git.asc (and passphrase). The
// secret's other keys are not looked at. A KeyError says what is wrong with
// the key; an expired or revoked one is refused here already, and again at
// each signature.
func LoadSigner(kind string, secret map[string][]byte) (*Signer, error) {
	switch kind {
	case SSH:
		key, err := sshPrivateKey(secret)
		if err != nil {
			return nil, fmt.Errorf("signing key: %w", err)
		}
		return &Signer{id: Identity{Kind: SSH, Fingerprint: ssh.FingerprintSHA256(key.PublicKey())}, ssh: key}, nil
	case GPG, "":
		key, err := newPGPSigner(secret, time.Now())
		if err != nil {
			return nil, fmt.Errorf("signing key: %w", err)
		}
		return &Signer{id: Identity{Kind: GPG, Fingerprint: pgpFingerprint(key.entity.PrimaryKey)}, pgp: key}, nil
	default:
		return nil, fmt.Errorf("signing key: kind %q is neither %s nor %s", kind, SSH, GPG)
	}
}

// Sign returns the armored signature of payload, which for a commit is what
// FormatCommit returned; Attach puts it in. An OpenPGP key is judged at this
// moment: a KeyError of ErrExpired or ErrRevoked, and nothing is signed.
func (s *Signer) Sign(payload []byte) (string, error) {
	if s.ssh != nil {
		armored, err := signSSH(s.ssh, payload)
		if err != nil {
			return "", fmt.Errorf("sign: %w", err)
		}
		return armored, nil
	}
	armored, err := s.pgp.sign(payload, time.Now())
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	return armored, nil
}

// Fingerprint is that of the key that signs, as Identity.Fingerprint has it.
func (s *Signer) Fingerprint() string { return s.id.Fingerprint }

// Expires is when the key stops signing. ok is false for a key without an end,
// as SSH keys are.
func (s *Signer) Expires() (when time.Time, ok bool) {
	if s.ssh != nil {
		return time.Time{}, false
	}
	return s.pgp.expires()
}

// PublicKey is what those who verify need: an authorized_keys line, or an
// armored OpenPGP key.
func (s *Signer) PublicKey() (string, error) {
	if s.ssh != nil {
		return string(ssh.MarshalAuthorizedKey(s.ssh.PublicKey())), nil
	}
	return s.pgp.publicKey()
}

// AllowedSigners is the line of git's gpg.ssh.allowedSignersFile that trusts
// this key for commits by email; empty for an OpenPGP key.
func (s *Signer) AllowedSigners(email string) string {
	if s.ssh == nil {
		return ""
	}
	return allowedSignersLine(email, s.ssh.PublicKey())
}

// allowedSignersLine is a line as in ssh-keygen(1), ALLOWED SIGNERS, good for
// git alone.
func allowedSignersLine(email string, key ssh.PublicKey) string {
	return fmt.Sprintf("%s namespaces=%q %s", email, namespace, bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
}
