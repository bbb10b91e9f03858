package trust

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"towpath.dev/towpath/gitops"
)

// pgpKeyring verifies with OpenPGP keys of ours. It does not use the library's
// VerifyDetachedSignature, which asks for a self-signature older than what it
// verifies: gpg replaces a key's self-signature when its expiry is extended, so
// everything that the key signed before would no longer be ours.
type pgpKeyring struct {
	mu   sync.Mutex // the library notes in its packets what it verified
	keys []pgpKey
}

type pgpKey struct {
	id     Identity
	entity *openpgp.Entity
}

func (k *pgpKeyring) add(id Identity, entity *openpgp.Entity) {
	k.keys = append(k.keys, pgpKey{id, entity})
}

func (k *pgpKeyring) verify(armored string, payload []byte) (Identity, error) {
	sig, err := readPGPSignature(armored)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrBadSignature, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	verdict := fmt.Errorf("%w: %s", ErrUnknownKey, pgpIssuer(sig))
	for _, key := range k.keys {
		for _, part := range key.parts() {
			if !sig.CheckKeyIdOrFingerprint(part.public) {
				continue
			}
			// A key id of 64 bits can be forged, so one match says no more
			// than that the next may match too.
			err := part.verify(sig, payload)
			if err == nil {
				return key.id, nil
			}
			if errors.Is(err, ErrRevoked) {
				verdict = fmt.Errorf("signed by %s: %w", key.id, err)
			} else {
				verdict = fmt.Errorf("%w by %s: %w", ErrBadSignature, key.id, err)
			}
		}
	}
	return Identity{}, verdict
}

// readPGPSignature reads an armored signature that is one packet: with several,
// verifiers differ in which one they mean.
func readPGPSignature(armored string) (*packet.Signature, error) {
	block, err := armor.Decode(strings.NewReader(armored))
	if err != nil {
		return nil, fmt.Errorf("its armor is damaged: %w", quoted(err))
	}
	if block.Type != openpgp.SignatureType {
		return nil, fmt.Errorf("its armor says %q", gitops.Line(block.Type, 60))
	}
	packets := packet.NewReader(block.Body)
	first, err := packets.Next()
	if err != nil {
		return nil, quoted(err)
	}
	sig, ok := first.(*packet.Signature)
	if !ok {
		return nil, errors.New("its armor holds no signature")
	}
	if _, err := packets.Next(); !errors.Is(err, io.EOF) {
		return nil, errors.New("its armor holds more than one packet")
	}
	if sig.IssuerKeyId == nil && len(sig.IssuerFingerprint) == 0 {
		return nil, errors.New("it names no key")
	}
	return sig, nil
}

func pgpIssuer(sig *packet.Signature) string {
	if len(sig.IssuerFingerprint) > 0 {
		return Identity{Kind: GPG, Fingerprint: fmt.Sprintf("%X", sig.IssuerFingerprint)}.String()
	}
	return Identity{Kind: GPG, Fingerprint: fmt.Sprintf("%016X", *sig.IssuerKeyId)}.String()
}

// pgpPart is a key that may have signed: an entity's primary or one of its
// subkeys.
type pgpPart struct {
	entity *openpgp.Entity
	subkey *openpgp.Subkey // nil: the primary
	public *packet.PublicKey
}

func (k pgpKey) parts() []pgpPart {
	parts := []pgpPart{{k.entity, nil, k.entity.PrimaryKey}}
	for i := range k.entity.Subkeys {
		subkey := &k.entity.Subkeys[i]
		parts = append(parts, pgpPart{k.entity, subkey, subkey.PublicKey})
	}
	return parts
}

func (p pgpPart) verify(sig *packet.Signature, payload []byte) error {
	if sig.SigType != packet.SigTypeBinary {
		return fmt.Errorf("it is of type %d, and git makes binary ones", sig.SigType)
	}
	var policy *packet.Config // nil: the library's, which refuses SHA-1 and weaker
	if policy.RejectMessageHashAlgorithm(sig.Hash) {
		return fmt.Errorf("it uses %s", sig.Hash)
	}
	if err := p.strong(policy); err != nil {
		return err
	}
	hash, err := sig.PrepareVerify()
	if err != nil {
		return err
	}
	hash.Write(payload)
	if err := p.public.VerifySignature(hash, sig); err != nil {
		return err
	}
	if sig.CreationTime.Before(p.public.CreationTime) {
		return errors.New("it is older than the key")
	}
	for _, notation := range sig.Notations {
		if notation.IsCritical {
			return errors.New("it asks for something unknown (a critical notation)")
		}
	}
	return p.maySign(sig.CreationTime)
}

func (p pgpPart) strong(policy *packet.Config) error {
	if policy.RejectPublicKeyAlgorithm(p.public.PubKeyAlgo) {
		return fmt.Errorf("key algorithm %d is too weak", p.public.PubKeyAlgo)
	}
	if algo := p.public.PubKeyAlgo; algo == packet.PubKeyAlgoRSA || algo == packet.PubKeyAlgoRSASignOnly {
		if bits, err := p.public.BitLength(); err != nil || bits < policy.MinimumRSABits() {
			return fmt.Errorf("an RSA key of %d bits is too weak", bits)
		}
	}
	return nil
}

// maySign checks what the primary key says of this part, at no particular
// time (see OwnKeys).
func (p pgpPart) maySign(when time.Time) error {
	var never time.Time // the library's word for "whenever"
	self, err := p.entity.PrimarySelfSignature(never, nil)
	if err != nil {
		return errors.New("the key carries no valid self-signature")
	}
	primary := p.entity.PrimaryKey
	if reason, revoked := revokedFor(p.entity.Revocations, when, primary.VerifyRevocationSignature); revoked {
		return fmt.Errorf("key %s is %w%s", pgpFingerprint(primary), ErrRevoked, reason)
	}
	if p.subkey == nil {
		if self.FlagsValid && !self.FlagSign {
			return errors.New("the primary key may not sign")
		}
		return nil
	}
	// With it goes the check that the subkey has signed the primary in turn.
	binding, err := p.subkey.LatestValidBindingSignature(never, nil)
	if err != nil {
		return errors.New("the subkey is not bound to the key")
	}
	if !binding.FlagSign {
		return errors.New("the subkey may not sign")
	}
	check := func(revocation *packet.Signature) error {
		return primary.VerifySubkeyRevocationSignature(revocation, p.subkey.PublicKey)
	}
	if reason, revoked := revokedFor(p.subkey.Revocations, when, check); revoked {
		return fmt.Errorf("subkey %s is %w%s", pgpFingerprint(p.subkey.PublicKey), ErrRevoked, reason)
	}
	return nil
}

// revokedFor says whether a revocation counts for what was signed at when.
func revokedFor(revocations []*packet.VerifiableSignature, when time.Time, check func(*packet.Signature) error) (reason string, revoked bool) {
	for _, revocation := range revocations {
		if check(revocation.Packet) != nil {
			continue // not by this key: anybody may have added it
		}
		switch code := revocation.Packet.RevocationReason; {
		case code != nil && (*code == packet.KeySuperseded || *code == packet.KeyRetired):
			if !when.Before(revocation.Packet.CreationTime) {
				return " since before it signed this", true
			}
		case code != nil && *code == packet.KeyCompromised:
			return " as compromised", true
		default:
			return "", true
		}
	}
	return "", false
}
