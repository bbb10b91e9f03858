package trust

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/fluxcd/pkg/git/signature"
	"golang.org/x/crypto/ssh"

	"towpath.dev/towpath/gitops"
)

// Keyring is the keys that are ours: the one that signs today, and those that
// did before. It is safe for concurrent use.
type Keyring struct {
	current Identity
	ssh     []sshKey
	pgp     *pgpKeyring
}

type sshKey struct {
	id  Identity
	key ssh.PublicKey
}

// OwnKeys reads our keys from the signing secret: the public part of the
// private key (kind as in LoadSigner), and former public keys, former.pub (a
// public SSH key per line) and former.asc (armored OpenPGP keys, any number of
// blocks). Both files are read whatever the kind, so that a rotation may lead
// from OpenPGP to SSH. A key that cannot be read is an error: a keyring that
// lacks a former key would take our own ledger for a stranger's.
//
// Our keys do not expire here: what was signed while a key was valid stays
// ours, and only the private key's holder could have signed later. Revocation
// counts as RFC 9580 (5.2.3.31) has it: a key that is revoked without a reason
// or as compromised vouches for nothing, not even for the past, since a thief
// may choose the date; one that was superseded or retired vouches for what it
// signed before.
func OwnKeys(kind string, secret map[string][]byte) (*Keyring, error) {
	k := &Keyring{pgp: new(pgpKeyring)}
	switch kind {
	case SSH:
		key, err := sshPublicKey(secret)
		if err != nil {
			return nil, fmt.Errorf("signing key: %w", err)
		}
		k.current = Identity{Kind: SSH, Fingerprint: ssh.FingerprintSHA256(key)}
		k.ssh = append(k.ssh, sshKey{k.current, key})
	case GPG, "":
		entity, err := pgpPrivateKey(secret)
		if err != nil {
			return nil, fmt.Errorf("signing key: %w", err)
		}
		k.current = Identity{Kind: GPG, Fingerprint: pgpFingerprint(entity.PrimaryKey)}
		k.pgp.add(k.current, entity)
	default:
		return nil, fmt.Errorf("signing key: kind %q is neither %s nor %s", kind, SSH, GPG)
	}

	former, err := formerSSHKeys(secret["former.pub"])
	if err != nil {
		return nil, fmt.Errorf("former keys: %w", err)
	}
	for _, key := range former {
		id := Identity{Kind: SSH, Fingerprint: ssh.FingerprintSHA256(key), Former: true}
		if id.Fingerprint != k.current.Fingerprint {
			k.ssh = append(k.ssh, sshKey{id, key})
		}
	}
	entities, err := formerPGPKeys(secret["former.asc"])
	if err != nil {
		return nil, fmt.Errorf("former keys: %w", err)
	}
	for _, entity := range entities {
		id := Identity{Kind: GPG, Fingerprint: pgpFingerprint(entity.PrimaryKey), Former: true}
		// The current key may stand here too, with subkeys that its private
		// file lost since.
		id.Former = id.Fingerprint != k.current.Fingerprint
		k.pgp.add(id, entity)
	}
	return k, nil
}

// Keys lists our keys, the current one first.
func (k *Keyring) Keys() []Identity {
	keys := []Identity{k.current}
	for _, key := range k.ssh {
		if key.id.Former {
			keys = append(keys, key.id)
		}
	}
	for _, key := range k.pgp.keys {
		if key.id.Former {
			keys = append(keys, key.id)
		}
	}
	return keys
}

// Verify says which of our keys signed a commit, given as the bytes of its
// object. The error is, by errors.Is, one of ErrMalformed, ErrUnsigned,
// ErrUnknownKey, ErrBadSignature and ErrRevoked.
func (k *Keyring) Verify(raw []byte) (Identity, error) {
	commit, err := ParseCommit(raw)
	if err != nil {
		return Identity{}, err
	}
	return k.VerifyCommit(commit)
}

// VerifyCommit is Verify for a commit that is parsed already.
func (k *Keyring) VerifyCommit(commit *Raw) (Identity, error) {
	switch kind := signature.GetSignatureType(commit.Signature); kind {
	case "empty":
		return Identity{}, ErrUnsigned
	case "ssh":
		return k.verifySSH(commit)
	case "openpgp":
		return k.pgp.verify(commit.Signature, commit.Payload)
	case "x509":
		return Identity{}, fmt.Errorf("%w: an X.509 certificate, which is not supported", ErrUnknownKey)
	default:
		first, _, _ := strings.Cut(commit.Signature, "\n")
		return Identity{}, fmt.Errorf("%w: of an unknown kind, %q", ErrBadSignature, gitops.Line(first, 60))
	}
}

func (k *Keyring) verifySSH(commit *Raw) (Identity, error) {
	sig, err := readSSHSignature(commit.Signature)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrBadSignature, err)
	}
	for _, ours := range k.ssh {
		if !bytes.Equal(ours.key.Marshal(), sig.PublicKey.Marshal()) {
			continue
		}
		if err := verifySSH(sig, ours.key, commit.Payload); err != nil {
			return Identity{}, fmt.Errorf("%w by %s: %w", ErrBadSignature, ours.id, err)
		}
		return ours.id, nil
	}
	return Identity{}, fmt.Errorf("%w: %s", ErrUnknownKey, Identity{Kind: SSH, Fingerprint: ssh.FingerprintSHA256(sig.PublicKey)})
}
