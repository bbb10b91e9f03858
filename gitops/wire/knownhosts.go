package wire

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// hostKeys is what known_hosts says of one host.
type hostKeys struct {
	check      ssh.HostKeyCallback
	algorithms []string // that the server may prove itself with; nil: the host is unknown
}

// readKnownHosts reads known_hosts (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT) with
// its hashed names, ports, authorities and revoked keys, for a host and port.
func readKnownHosts(content []byte, hostport string) (*hostKeys, error) {
	if len(bytes.TrimSpace(content)) == 0 {
		return nil, hint(errors.New("the credential holds no known_hosts"), "put the server's host keys into known_hosts in the secret (ssh-keyscan, then compare the fingerprints)")
	}
	check, err := parseKnownHosts(content)
	if err != nil {
		return nil, err
	}
	k := &hostKeys{}
	// A key that nobody has makes the callback list the keys it would accept.
	probe, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil, err
	}
	var mismatch *knownhosts.KeyError
	if err := check(hostport, &net.TCPAddr{}, probe); errors.As(err, &mismatch) {
		k.algorithms = algorithmsOf(mismatch.Want, strings.Split(string(content), "\n"))
	}
	k.check = func(host string, remote net.Addr, key ssh.PublicKey) error {
		return explain(check(host, remote, key), key)
	}
	return k, nil
}

// parseKnownHosts hands the bytes to x/crypto's parser, which reads files only,
// through a pipe: a container's root may be read-only, so there may be no place
// for a temporary file.
func parseKnownHosts(content []byte) (ssh.HostKeyCallback, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	go func() {
		_, _ = w.Write(content) // fails only where the parser gave up before the end
		w.Close()
	}()
	name := fmt.Sprintf("/dev/fd/%d", r.Fd())
	check, err := knownhosts.New(name)
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), name, "known_hosts"))
	}
	return check, nil
}

// algorithmsOf orders the signature algorithms that prove the known keys:
// certificates of known authorities first. Asking for others would let the
// server choose a key that is not known although another one is.
func algorithmsOf(known []knownhosts.KnownKey, lines []string) []string {
	var certified, plain []string
	for _, k := range known {
		if k.Line >= 1 && k.Line <= len(lines) && strings.HasPrefix(strings.TrimLeft(lines[k.Line-1], " \t"), "@cert-authority") {
			// An authority's key says nothing about the key it certified.
			certified = []string{
				ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
				ssh.CertAlgoSKED25519v01, ssh.CertAlgoSKECDSA256v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
			}
			continue
		}
		algorithms := []string{k.Key.Type()}
		if k.Key.Type() == ssh.KeyAlgoRSA {
			algorithms = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256} // never with SHA-1
		}
		for _, a := range algorithms {
			if !slices.Contains(plain, a) {
				plain = append(plain, a)
			}
		}
	}
	return append(certified, plain...)
}

// hostKeyError says whom the server proved to be, against whom it should be.
type hostKeyError struct {
	text, hint string
	cause      error
}

func (e *hostKeyError) Error() string { return e.text }
func (e *hostKeyError) Hint() string  { return e.hint }
func (e *hostKeyError) Unwrap() error { return e.cause }

func explain(err error, key ssh.PublicKey) error {
	var mismatch *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	shown := key.Type() + " " + fingerprint(key)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &revoked):
		return &hostKeyError{"the server shows a host key that known_hosts revokes: " + shown, "somebody may be in the middle: ask the server's owner", err}
	case errors.As(err, &mismatch) && len(mismatch.Want) == 0:
		return &hostKeyError{
			"the host is not in known_hosts; it shows " + shown,
			"compare that fingerprint with what the server's owner publishes, then add the key to known_hosts in the secret", err,
		}
	case errors.As(err, &mismatch):
		var want []string
		for _, k := range mismatch.Want {
			want = append(want, k.Key.Type()+" "+fingerprint(k.Key))
		}
		return &hostKeyError{
			"the host shows another key than known_hosts says: expected " + strings.Join(want, " or ") + ", found " + shown,
			"somebody may be in the middle, or the server has a new key: ask its owner before you change known_hosts", err,
		}
	default:
		return &hostKeyError{"the server's host key is not accepted: " + oneLine(err.Error()), "a host certificate must be valid now, for this host name, and by an authority of known_hosts", err}
	}
}

func fingerprint(key ssh.PublicKey) string {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	return ssh.FingerprintSHA256(key)
}
