package seal

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
)

// The types of PEM block that hold a private key.
const (
	blockSigstore  = "ENCRYPTED SIGSTORE PRIVATE KEY" // cosign 2 and later
	blockCosign    = "ENCRYPTED COSIGN PRIVATE KEY"   // cosign 1
	blockPKCS8     = "PRIVATE KEY"
	blockEC        = "EC PRIVATE KEY"
	blockEncrypted = "ENCRYPTED PRIVATE KEY"
	blockPublic    = "PUBLIC KEY"
)

// Key signs provenance, and knows which keys signed ours before it. It is
// ECDSA on P-256: the one kind that every consumer of signatures reads.
type Key struct {
	private *ecdsa.PrivateKey
	trusted []*ecdsa.PublicKey // our own first, then the former ones
}

// KeyError is a provenance key that cannot be used, and which part of its
// secret is at fault. It never holds any of the secret.
type KeyError struct {
	Part string // the secret's key: cosign.key, key.pem, former.pub …
	Text string
	hint string
}

func (e *KeyError) Error() string { return "provenance key: " + e.Part + ": " + e.Text }

// Hint says what a person can do.
func (e *KeyError) Hint() string { return e.hint }

const kindHint = "make a key pair with `towpath keygen` or `cosign generate-key-pair`: ECDSA on P-256"

// LoadKey reads a secret: cosign.key, as cosign writes it, with cosign.password;
// or key.pem, a plain PKCS #8 or SEC 1 private key; and former.pub, public keys
// in PEM form, one after the other, that signed for us before. Where cosign.pub
// is there it must belong to the key. Decrypting cosign.key costs 64 MiB and a
// tenth of a second, on purpose.
func LoadKey(secret map[string][]byte) (*Key, error) {
	former, err := publicKeys("former.pub", secret["former.pub"])
	if err != nil {
		return nil, err
	}
	private, part, err := privateKey(secret)
	if err != nil {
		return nil, err
	}
	key := &Key{private: private, trusted: []*ecdsa.PublicKey{&private.PublicKey}}
	if given, ok := secret["cosign.pub"]; ok {
		public, err := publicKeys("cosign.pub", given)
		if err != nil {
			return nil, err
		}
		if len(public) != 1 || !public[0].Equal(&private.PublicKey) {
			return nil, &KeyError{"cosign.pub", "it is not the public key of " + part, "the secret mixes two key pairs: put in the pair that belongs together"}
		}
	}
	key.trusted = append(key.trusted, former...)
	return key, nil
}

func privateKey(secret map[string][]byte) (key *ecdsa.PrivateKey, part string, err error) {
	_, hasCosign := secret["cosign.key"]
	_, hasPlain := secret["key.pem"]
	part = "cosign.key"
	switch {
	case hasCosign && hasPlain:
		return nil, "", &KeyError{"cosign.key", "key.pem is there too", "one secret holds one key: remove the other, and keep its public key in former.pub"}
	case hasPlain:
		part = "key.pem"
	case !hasCosign:
		return nil, "", &KeyError{"cosign.key", "it is missing, and key.pem too", kindHint}
	}
	block, rest := pem.Decode(secret[part])
	if block == nil {
		return nil, "", &KeyError{part, "it is not in PEM form", kindHint}
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		return nil, "", &KeyError{part, "something follows the key", "one file holds one key"}
	}
	var parsed any
	switch block.Type {
	case blockSigstore, blockCosign:
		der, err := decrypt(block.Bytes, secret)
		if err != nil {
			return nil, "", err
		}
		parsed, err = x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return nil, "", &KeyError{part, "what was encrypted is no private key", kindHint}
		}
	case blockPKCS8:
		if parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
			return nil, "", &KeyError{part, "it is no PKCS #8 private key", kindHint}
		}
	case blockEC:
		if parsed, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
			return nil, "", &KeyError{part, "it is no private key on a curve we know", kindHint}
		}
	case blockEncrypted:
		return nil, "", &KeyError{part, "it is encrypted in OpenSSL's way", "decrypt it, or encrypt it with `cosign import-key-pair`"}
	default:
		return nil, "", &KeyError{part, fmt.Sprintf("it holds a %q", shorten(block.Type)), kindHint}
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return nil, "", &KeyError{part, "it is not an ECDSA key on P-256", kindHint}
	}
	return private, part, nil
}

// decrypt opens what cosign encrypted. The 64 MiB that it takes are given back
// to the system at once: it is done once for each content of a secret, and a
// daemon would sit on them for minutes.
func decrypt(sealed []byte, secret map[string][]byte) ([]byte, error) {
	defer debug.FreeOSMemory()
	password, given := secret["cosign.password"]
	der, err := encrypted.Decrypt(sealed, password)
	if trimmed := bytes.TrimRight(password, "\r\n"); err != nil && len(trimmed) < len(password) {
		// The line end that an editor added is no part of the password.
		der, err = encrypted.Decrypt(sealed, trimmed)
	}
	switch {
	case err == nil:
		return der, nil
	case !given:
		return nil, &KeyError{"cosign.key", "it is encrypted and cosign.password is missing", "put the password into the secret as cosign.password"}
	default:
		return nil, &KeyError{"cosign.password", "it does not open cosign.key", "check the password that was given to `cosign generate-key-pair` or `towpath keygen`"}
	}
}

// publicKeys reads every public key of a file.
func publicKeys(part string, file []byte) ([]*ecdsa.PublicKey, error) {
	var keys []*ecdsa.PublicKey
	for rest := bytes.TrimSpace(file); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != blockPublic {
			return nil, &KeyError{part, fmt.Sprintf("after %d public keys comes something else", len(keys)), "it holds public keys in PEM form, one after the other"}
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		key, ok := parsed.(*ecdsa.PublicKey)
		if err != nil || !ok || key.Curve != elliptic.P256() {
			return nil, &KeyError{part, fmt.Sprintf("public key %d is not ECDSA on P-256", len(keys)+1), kindHint}
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Public is the key's public half in PEM form, as cosign.pub holds it.
func (k *Key) Public() []byte { return encodePublic(&k.private.PublicKey) }

// Fingerprint names the key: sha256:<hex> of its public half in DER form.
func (k *Key) Fingerprint() string { return fingerprint(&k.private.PublicKey) }

func fingerprint(key *ecdsa.PublicKey) string {
	sum := sha256.Sum256(encodeDER(key))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// hint is what cosign puts into a bundle to name a public key.
func hint(key *ecdsa.PublicKey) string {
	sum := sha256.Sum256(encodeDER(key))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// sign signs a message as cosign does: SHA-256, ASN.1.
func (k *Key) sign(message []byte) ([]byte, error) {
	sum := sha256.Sum256(message)
	return k.private.Sign(rand.Reader, sum[:], crypto.SHA256)
}

// signer is the trusted key that signed a message, nil if none did.
func (k *Key) signer(message, signature []byte) *ecdsa.PublicKey {
	sum := sha256.Sum256(message)
	at := slices.IndexFunc(k.trusted, func(key *ecdsa.PublicKey) bool { return ecdsa.VerifyASN1(key, sum[:], signature) })
	if at < 0 {
		return nil
	}
	return k.trusted[at]
}

// NewKeyPair makes what `cosign generate-key-pair` makes: cosign.key, encrypted
// with the password, cosign.pub and, for the secret to be usable at once,
// cosign.password.
func NewKeyPair(password []byte) (map[string][]byte, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a provenance key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("make a provenance key: %w", err)
	}
	sealed, err := encrypted.Encrypt(der, password)
	if err != nil {
		return nil, errors.New("make a provenance key: it cannot be encrypted")
	}
	return map[string][]byte{
		"cosign.key":      pem.EncodeToMemory(&pem.Block{Type: blockSigstore, Bytes: sealed}),
		"cosign.pub":      encodePublic(&private.PublicKey),
		"cosign.password": slices.Clone(password),
	}, nil
}

func encodePublic(key *ecdsa.PublicKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: blockPublic, Bytes: encodeDER(key)})
}

func encodeDER(key *ecdsa.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic(fmt.Sprintf("seal: a public key on P-256 always encodes: %v", err))
	}
	return der
}

func shorten(text string) string { return text[:min(len(text), 60)] }
