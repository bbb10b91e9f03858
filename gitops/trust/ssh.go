package trust

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/fluxcd/pkg/git/signature"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// namespace is what git signs SSH signatures for; a signature made for
// anything else (a file, a login) is no signature of a commit.
const namespace = signature.SSHSignatureNamespace

// minRSABits is what Flux and ssh-keygen's defaults agree on.
const minRSABits = 2048

// signSSH returns the armored signature of payload. An RSA key signs with
// rsa-sha2-512; the message digest is SHA-512 for every key, as in ssh-keygen.
func signSSH(key ssh.Signer, payload []byte) (string, error) {
	sig, err := sshsig.Sign(bytes.NewReader(payload), key, sshsig.HashSHA512, namespace)
	if err != nil {
		return "", err
	}
	return string(sshsig.Armor(sig)), nil
}

// readSSHSignature reads an armored SSH signature and the key it names.
func readSSHSignature(armored string) (*sshsig.Signature, error) {
	// sshsig looks past whatever surrounds the block; git gives all of it to
	// ssh-keygen.
	block, rest := pem.Decode([]byte(armored))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 || len(block.Headers) > 0 {
		return nil, errors.New("its armor is damaged")
	}
	sig, err := sshsig.Unarmor([]byte(armored))
	if err != nil {
		return nil, quoted(err)
	}
	return sig, nil
}

func verifySSH(sig *sshsig.Signature, key ssh.PublicKey, payload []byte) error {
	return sshsig.Verify(bytes.NewReader(payload), sig, key, sig.HashAlgorithm, namespace)
}

// sshPrivateKey reads the private key of a secret: identity, and password
// where that is encrypted.
func sshPrivateKey(secret map[string][]byte) (ssh.Signer, error) {
	file, err := sshKeyFile(secret)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(file)
	if locked := (*ssh.PassphraseMissingError)(nil); errors.As(err, &locked) {
		// Before asking for a passphrase that would not help.
		if locked.PublicKey != nil {
			if err := checkSSHKey(locked.PublicKey); err != nil {
				return nil, err
			}
		}
		key, err = unlockSSH(file, secret["password"])
	}
	if keyErr := (*KeyError)(nil); errors.As(err, &keyErr) {
		return nil, err
	}
	if err != nil {
		return nil, unreadableSSH(file, err)
	}
	if err := checkSSHKey(key.PublicKey()); err != nil {
		return nil, err
	}
	return key, nil
}

func unlockSSH(file, password []byte) (ssh.Signer, error) {
	if len(password) == 0 {
		return nil, &KeyError{File: "identity", Reason: "the key is encrypted and there is no passphrase", Err: ErrPassphrase,
			Advice: "add the passphrase as key password of the secret, or decrypt the key with `ssh-keygen -p -N '' -f identity`"}
	}
	key, err := ssh.ParsePrivateKeyWithPassphrase(file, password)
	if trimmed := bytes.TrimRight(password, "\r\n"); errors.Is(err, x509.IncorrectPasswordError) && len(trimmed) < len(password) {
		// Editors and `kubectl create secret --from-file` leave a newline.
		key, err = ssh.ParsePrivateKeyWithPassphrase(file, trimmed)
	}
	if errors.Is(err, x509.IncorrectPasswordError) {
		return nil, &KeyError{File: "identity", Reason: "wrong passphrase in password", Err: ErrPassphrase,
			Advice: "try it with `ssh-keygen -y -f identity`"}
	}
	return key, err
}

// sshPublicKey derives the public key of a secret's private one, without
// decrypting where the format allows it: a passphrase costs a tenth of a second
// and more.
func sshPublicKey(secret map[string][]byte) (ssh.PublicKey, error) {
	file, err := sshKeyFile(secret)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(file)
	if locked := (*ssh.PassphraseMissingError)(nil); errors.As(err, &locked) && locked.PublicKey != nil {
		return locked.PublicKey, checkSSHKey(locked.PublicKey)
	}
	if err != nil {
		if key, err = sshPrivateKey(secret); err != nil {
			return nil, err
		}
	}
	return key.PublicKey(), checkSSHKey(key.PublicKey())
}

func sshKeyFile(secret map[string][]byte) ([]byte, error) {
	file := bytes.TrimSpace(secret["identity"])
	switch {
	case len(file) > 0:
		return append(file[:len(file):len(file)], '\n'), nil
	case len(secret["git.asc"]) > 0:
		return nil, &KeyError{File: "identity", Reason: "missing: the secret holds an OpenPGP key (git.asc), and an SSH key is asked for",
			Advice: "set signingKey.type to gpg, or put the SSH private key into the secret as identity"}
	default:
		return nil, &KeyError{File: "identity", Reason: "missing from the secret",
			Advice: "make a key with `towpath keygen`, or `ssh-keygen -t ed25519 -f identity`"}
	}
}

// checkSSHKey refuses keys whose signatures OpenSSH or Flux would not accept
// or that nobody is there to touch.
func checkSSHKey(key ssh.PublicKey) error {
	const advice = "use an ed25519 key: `towpath keygen`"
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return nil
	case ssh.KeyAlgoRSA:
		crypt, ok := key.(ssh.CryptoPublicKey)
		if !ok {
			return &KeyError{File: "identity", Reason: "unreadable RSA key", Advice: advice}
		}
		public, ok := crypt.CryptoPublicKey().(*rsa.PublicKey)
		if !ok || public.N.BitLen() < minRSABits {
			return &KeyError{File: "identity", Reason: fmt.Sprintf("RSA key below %d bits", minRSABits), Advice: advice}
		}
		return nil
	case ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return &KeyError{File: "identity", Reason: "the key lives on a security token, which only a person can touch (" + key.Type() + ")", Advice: advice}
	default:
		return &KeyError{File: "identity", Reason: fmt.Sprintf("keys of type %s do not sign commits", key.Type()), Advice: advice}
	}
}

// unreadableSSH says what a file that is no SSH private key seems to be.
func unreadableSSH(file []byte, cause error) error {
	err := &KeyError{File: "identity", Reason: "no SSH private key", Err: cause,
		Advice: "it begins with -----BEGIN OPENSSH PRIVATE KEY-----; `towpath keygen` makes one"}
	text := string(file)
	block, _ := pem.Decode(file)
	switch {
	case strings.HasPrefix(text, "-----BEGIN PGP "):
		err.Reason, err.Err = "an OpenPGP key where an SSH private key is asked for", nil
		err.Advice = "set signingKey.type to gpg and rename the secret's key to git.asc"
	case strings.HasPrefix(text, "---- BEGIN SSH2 PUBLIC KEY"), publicSSHLine(text), block != nil && strings.HasSuffix(block.Type, "PUBLIC KEY"):
		err.Reason, err.Err = "a public key where the private one is asked for", nil
		err.Advice = "put the file without .pub into the secret as identity"
	case block != nil && block.Type == "OPENSSH PRIVATE KEY" && bytes.Contains(block.Bytes, []byte("sk-ssh-ed25519@openssh.com")),
		block != nil && block.Type == "OPENSSH PRIVATE KEY" && bytes.Contains(block.Bytes, []byte("sk-ecdsa-sha2-nistp256@openssh.com")):
		err.Reason, err.Err = "the key lives on a security token, which only a person can touch", nil
		err.Advice = "use an ed25519 key: `towpath keygen`"
	case block != nil && block.Type == "ENCRYPTED PRIVATE KEY":
		err.Reason, err.Err = "an encrypted PKCS #8 key, which is not supported", nil
		err.Advice = "convert it to OpenSSH's format with `ssh-keygen -p -f identity`"
	}
	return err
}

func publicSSHLine(text string) bool {
	_, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	return err == nil
}

// formerSSHKeys reads former.pub: one public key per line, as in
// authorized_keys but without options; empty lines and comments with #.
func formerSSHKeys(file []byte) ([]ssh.PublicKey, error) {
	var keys []ssh.PublicKey
	number := 0
	for line := range bytes.Lines(file) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, _, options, _, err := ssh.ParseAuthorizedKey(line)
		_, certificate := key.(*ssh.Certificate)
		switch {
		case bytes.Contains(line, []byte("PRIVATE KEY")):
			return nil, &KeyError{File: "former.pub", Reason: "a private key where public ones are asked for",
				Advice: "derive the public key with `ssh-keygen -y`, and destroy the private one: a former key must not sign any more"}
		case err != nil:
			return nil, &KeyError{File: "former.pub", Reason: fmt.Sprintf("line %d is no public key", number), Err: err,
				Advice: "one key per line, as in an .pub file"}
		case len(options) > 0 || certificate:
			return nil, &KeyError{File: "former.pub", Reason: fmt.Sprintf("line %d has options or is a certificate; only plain public keys count", number),
				Advice: "one key per line, as in an .pub file"}
		}
		keys = append(keys, key)
	}
	return keys, nil
}
