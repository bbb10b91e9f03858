package trust

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
)

func pgpFingerprint(key *packet.PublicKey) string { return fmt.Sprintf("%X", key.Fingerprint) }

// pgpPrivateKey reads git.asc: one armored private key with its subkeys,
// which may still be encrypted.
func pgpPrivateKey(secret map[string][]byte) (*openpgp.Entity, error) {
	const file = "git.asc"
	content := bytes.TrimSpace(secret[file])
	if len(content) == 0 {
		if len(secret["identity"]) > 0 {
			return nil, &KeyError{File: file, Reason: "missing: the secret holds an SSH key (identity), and an OpenPGP key is asked for",
				Advice: "set signingKey.type to ssh, or put the OpenPGP private key into the secret as git.asc"}
		}
		return nil, &KeyError{File: file, Reason: "missing from the secret",
			Advice: "export the key with `gpg --export-secret-keys --armor FINGERPRINT`"}
	}
	if bytes.Contains(content, []byte("OPENSSH PRIVATE KEY")) || publicSSHLine(string(content)) {
		return nil, &KeyError{File: file, Reason: "an SSH key where an OpenPGP key is asked for",
			Advice: "set signingKey.type to ssh and rename the secret's key to identity"}
	}
	entities, err := readPGPKeys(file, content)
	if err != nil {
		return nil, err
	}
	switch {
	case len(entities) == 0:
		return nil, &KeyError{File: file, Reason: "no armored OpenPGP key",
			Advice: "export it with `gpg --export-secret-keys --armor FINGERPRINT`"}
	case len(entities) > 1:
		return nil, &KeyError{File: file, Reason: fmt.Sprintf("%d keys, and one is asked for", len(entities)),
			Advice: "export the one that signs; former keys go into former.asc"}
	case entities[0].PrivateKey == nil:
		return nil, &KeyError{File: file, Reason: "a public key where the private one is asked for",
			Advice: "export it with `gpg --export-secret-keys --armor FINGERPRINT`"}
	}
	return entities[0], nil
}

// formerPGPKeys reads former.asc: any number of armored blocks with any number
// of keys each.
func formerPGPKeys(content []byte) ([]*openpgp.Entity, error) {
	const file = "former.asc"
	if len(bytes.TrimSpace(content)) == 0 {
		return nil, nil
	}
	entities, err := readPGPKeys(file, content)
	if err == nil && len(entities) == 0 {
		err = &KeyError{File: file, Reason: "no armored OpenPGP key", Advice: "export it with `gpg --export --armor FINGERPRINT`"}
	}
	return entities, err
}

// readPGPKeys reads every key of every armored block. Unlike the library's
// reader it knows more than the first block, and takes a key that it cannot
// read for an error instead of passing it by.
func readPGPKeys(file string, content []byte) ([]*openpgp.Entity, error) {
	var keys []*openpgp.Entity
	for _, text := range armoredBlocks(content) {
		block, err := armor.Decode(bytes.NewReader(text))
		if err != nil {
			return nil, &KeyError{File: file, Reason: "damaged armor", Err: err, Advice: "export the key anew with `gpg --armor`"}
		}
		if block.Type != openpgp.PublicKeyType && block.Type != openpgp.PrivateKeyType {
			return nil, &KeyError{File: file, Reason: fmt.Sprintf("a %q where an OpenPGP key is asked for", block.Type)}
		}
		packets := packet.NewReader(block.Body)
		for {
			key, err := openpgp.ReadEntity(packets)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, &KeyError{File: file, Reason: "unreadable OpenPGP key", Err: err, Advice: "`gpg --show-keys` shows what it holds"}
			}
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// armoredBlocks cuts a file into its armored blocks. What stands between them
// is commentary.
func armoredBlocks(content []byte) [][]byte {
	var blocks [][]byte
	var block []byte
	for line := range bytes.Lines(content) {
		if bytes.HasPrefix(line, []byte("-----BEGIN PGP ")) {
			block = []byte{}
		}
		if block == nil {
			continue
		}
		block = append(block, line...)
		if bytes.HasPrefix(line, []byte("-----END PGP ")) {
			blocks, block = append(blocks, append(block, '\n')), nil
		}
	}
	if block != nil {
		blocks = append(blocks, block) // without its end: the decoder says so
	}
	return blocks
}

// pgpSigner signs with one key of an entity: a signing subkey, or the primary.
type pgpSigner struct {
	mu     sync.Mutex // the library notes in its packets what it verified
	entity *openpgp.Entity
	id     uint64
}

func newPGPSigner(secret map[string][]byte, now time.Time) (*pgpSigner, error) {
	entity, err := pgpPrivateKey(secret)
	if err != nil {
		return nil, err
	}
	s := &pgpSigner{entity: entity}
	key, err := signingKey(entity, now)
	if err != nil {
		return nil, err
	}
	s.id = key.PublicKey.KeyId
	if key.PrivateKey.Encrypted {
		if err := unlockPGP(key.PrivateKey, secret["passphrase"]); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func unlockPGP(key *packet.PrivateKey, passphrase []byte) error {
	if len(passphrase) == 0 {
		return &KeyError{File: "git.asc", Reason: "the key is encrypted and there is no passphrase", Err: ErrPassphrase,
			Advice: "add the passphrase as key passphrase of the secret"}
	}
	err := key.Decrypt(passphrase)
	if trimmed := bytes.TrimRight(passphrase, "\r\n"); err != nil && len(trimmed) < len(passphrase) {
		err = key.Decrypt(trimmed) // editors leave a newline
	}
	if unsupported := pgperrors.UnsupportedError(""); errors.As(err, &unsupported) {
		return &KeyError{File: "git.asc", Reason: "the key's encryption is not supported", Err: err}
	}
	if err != nil {
		return &KeyError{File: "git.asc", Reason: "wrong passphrase in passphrase", Err: ErrPassphrase}
	}
	return nil
}

// signingKey is the key of the entity that signs now: the newest signing
// subkey that is valid and whose private part is here, else the primary. The
// library's own choice may be a subkey that stays on a token.
func signingKey(entity *openpgp.Entity, now time.Time) (openpgp.Key, error) {
	var best openpgp.Key
	for _, candidate := range privateKeys(entity) {
		key, ok := entity.SigningKeyById(now, candidate.KeyId, nil)
		if !ok || key.PublicKey.KeyId != candidate.KeyId {
			continue
		}
		if best.PublicKey == nil || best.IsPrimary() || !key.IsPrimary() && key.PublicKey.CreationTime.After(best.PublicKey.CreationTime) {
			best = key
		}
	}
	if best.PublicKey == nil {
		return best, whyNoSigningKey(entity, now)
	}
	return best, nil
}

// privateKeys are the entity's keys whose private part is in the file.
func privateKeys(entity *openpgp.Entity) []*packet.PrivateKey {
	var keys []*packet.PrivateKey
	if key := entity.PrivateKey; key != nil && !key.Dummy() {
		keys = append(keys, key)
	}
	for _, subkey := range entity.Subkeys {
		if key := subkey.PrivateKey; key != nil && !key.Dummy() {
			keys = append(keys, key)
		}
	}
	return keys
}

// whyNoSigningKey finds the reason that helps most.
func whyNoSigningKey(entity *openpgp.Entity, now time.Time) error {
	fingerprint := pgpFingerprint(entity.PrimaryKey)
	renew := func(command string) string {
		return fmt.Sprintf("extend it with `gpg --quick-set-expire %s` and export it anew, or make a new key and keep this one's public part in former.asc", command)
	}
	if entity.PrimaryKey.CreationTime.After(now) {
		return &KeyError{File: "git.asc", Reason: fmt.Sprintf("key %s is not valid before %s", fingerprint, entity.PrimaryKey.CreationTime.UTC().Format(time.RFC3339)), Advice: "is the clock right?"}
	}
	if entity.Revoked(now) {
		return &KeyError{File: "git.asc", Reason: fmt.Sprintf("key %s is revoked", fingerprint), Err: ErrRevoked, Advice: "make a new key"}
	}
	if _, err := entity.VerifyPrimaryKey(now, nil); errors.Is(err, pgperrors.ErrKeyExpired) {
		return &KeyError{File: "git.asc", Reason: fmt.Sprintf("key %s expired%s", fingerprint, expiredOn(entity, nil)), Err: ErrExpired, Advice: renew(fingerprint + " 1y")}
	} else if err != nil {
		return &KeyError{File: "git.asc", Reason: fmt.Sprintf("key %s is not usable", fingerprint), Err: err}
	}
	for i := range entity.Subkeys {
		subkey := &entity.Subkeys[i]
		binding, err := subkey.LatestValidBindingSignature(time.Time{}, nil)
		if err != nil || !binding.FlagSign || subkey.PrivateKey == nil || subkey.PrivateKey.Dummy() {
			continue
		}
		switch name := pgpFingerprint(subkey.PublicKey); {
		case subkey.Revoked(binding, now):
			return &KeyError{File: "git.asc", Reason: fmt.Sprintf("signing subkey %s of key %s is revoked", name, fingerprint), Err: ErrRevoked, Advice: "add a new signing subkey, or make a new key"}
		case subkey.Expired(binding, now):
			return &KeyError{File: "git.asc", Reason: fmt.Sprintf("signing subkey %s of key %s expired%s", name, fingerprint, expiredOn(entity, subkey)), Err: ErrExpired, Advice: renew(fingerprint + " 1y " + name)}
		}
	}
	if len(privateKeys(entity)) == 0 {
		return &KeyError{File: "git.asc", Reason: fmt.Sprintf("key %s has no private part here", fingerprint),
			Advice: "a key on a token cannot be exported; make one for towpath"}
	}
	return &KeyError{File: "git.asc", Reason: fmt.Sprintf("key %s has no part that signs", fingerprint),
		Advice: "it needs a private key with the sign capability, at least as strong as RSA 2048"}
}

// expiredOn is " on DATE", where the date is known.
func expiredOn(entity *openpgp.Entity, subkey *openpgp.Subkey) string {
	if when, ok := pgpExpiry(entity, subkey); ok {
		return " on " + when.UTC().Format(time.DateOnly)
	}
	return ""
}

// pgpExpiry is when a key ends by its newest self-signature; subkey may be nil
// and then means the primary. A subkey ends with its primary.
func pgpExpiry(entity *openpgp.Entity, subkey *openpgp.Subkey) (end time.Time, ok bool) {
	sooner := func(key *packet.PublicKey, self *packet.Signature) {
		if self == nil || self.KeyLifetimeSecs == nil || *self.KeyLifetimeSecs == 0 {
			return
		}
		when := key.CreationTime.Add(time.Duration(*self.KeyLifetimeSecs) * time.Second)
		if !ok || when.Before(end) {
			end, ok = when, true
		}
	}
	if self, err := entity.PrimarySelfSignature(time.Time{}, nil); err == nil {
		sooner(entity.PrimaryKey, self)
	}
	if self, err := entity.LatestValidDirectSignature(time.Time{}, nil); err == nil {
		sooner(entity.PrimaryKey, self)
	}
	if subkey != nil {
		if binding, err := subkey.LatestValidBindingSignature(time.Time{}, nil); err == nil {
			sooner(subkey.PublicKey, binding)
		}
	}
	return end, ok
}

func (s *pgpSigner) expires() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.entity.Subkeys {
		if s.entity.Subkeys[i].PublicKey.KeyId == s.id {
			return pgpExpiry(s.entity, &s.entity.Subkeys[i])
		}
	}
	return pgpExpiry(s.entity, nil)
}

func (s *pgpSigner) sign(payload []byte, now time.Time) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key, ok := s.entity.SigningKeyById(now, s.id, nil); !ok || key.PublicKey.KeyId != s.id {
		return "", whyNoSigningKey(s.entity, now)
	}
	var sig bytes.Buffer
	config := &packet.Config{DefaultHash: crypto.SHA512, SigningKeyId: s.id, Time: func() time.Time { return now }}
	if err := openpgp.DetachSign(&sig, []*openpgp.Entity{s.entity}, bytes.NewReader(payload), config); err != nil {
		return "", err
	}
	return armored(openpgp.SignatureType, func(w io.Writer) error {
		_, err := w.Write(sig.Bytes())
		return err
	})
}

func (s *pgpSigner) publicKey() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return armored(openpgp.PublicKeyType, s.entity.Serialize)
}

// armored writes an armored block with its checksum. RFC 9580 calls that
// optional, and the library's own signing leaves it out; gpg 2.2 then reads the
// armor's last line as data and refuses the signature.
func armored(kind string, write func(io.Writer) error) (string, error) {
	var text bytes.Buffer
	out, err := armor.EncodeWithChecksumOption(&text, kind, nil, true)
	if err != nil {
		return "", err
	}
	if err := write(out); err != nil {
		return "", err
	}
	if err := out.Close(); err != nil {
		return "", err
	}
	return strings.TrimRight(text.String(), "\n") + "\n", nil
}
