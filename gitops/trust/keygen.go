package trust

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"regexp"

	"golang.org/x/crypto/ssh"
)

// NewSigningKey makes an ed25519 SSH key for signing commits as email. secret
// holds what belongs into the signing secret, in OpenSSH's formats: identity,
// identity.pub and, with a passphrase, password. allowedSigners is the line
// (without newline) that git's users need in gpg.ssh.allowedSignersFile.
func NewSigningKey(email string, passphrase []byte) (secret map[string][]byte, allowedSigners string, err error) {
	if !plainAddress.MatchString(email) {
		return nil, "", fmt.Errorf("new signing key: %q is no plain e-mail address, as allowed_signers needs it", email)
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, "", fmt.Errorf("new signing key: %w", err)
	}
	var block *pem.Block
	if len(passphrase) > 0 {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, email, passphrase)
	} else {
		block, err = ssh.MarshalPrivateKey(private, email)
	}
	if err != nil {
		return nil, "", fmt.Errorf("new signing key: %w", err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, "", fmt.Errorf("new signing key: %w", err)
	}
	line := ssh.MarshalAuthorizedKey(key)
	secret = map[string][]byte{
		"identity":     pem.EncodeToMemory(block),
		"identity.pub": fmt.Appendf(nil, "%s %s\n", line[:len(line)-1], email),
	}
	if len(passphrase) > 0 {
		secret["password"] = bytes.Clone(passphrase)
	}
	return secret, allowedSignersLine(email, key), nil
}

// plainAddress leaves out what allowed_signers reads as a pattern, a list, a
// comment or an option.
var plainAddress = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._%+-]*@[A-Za-z0-9.-]+$`)
