// Package trust says who signed a commit, and signs ours.
//
// It reads commit objects as the bytes that git stores and hashes, never as
// something decoded and encoded again: git and go-git have disagreed about
// malformed commits (CVE-2026-45022), so that a signature over one reading
// vouched for another. ParseCommit therefore refuses every commit that two
// parsers could read differently, and a signature is checked over exactly
// those bytes without its header. What is only shown of a commit is read more
// leniently, by package store, which reads the same tree and parents of whatever
// ParseCommit takes.
//
// The package refuses to know repositories, branches and policies: raw bytes
// go in, a verdict comes out. It opens no file and no connection.
//
// What always holds: a verdict names the key that made the signature; an
// unsigned commit, an unknown key and a bad signature are three different
// errors; no error and no String holds any part of a private key or a
// passphrase.
//
// SSH signatures go through hiddeco/sshsig and OpenPGP through the v2 API of
// ProtonMail/go-crypto. github.com/fluxcd/pkg/git/signature, which Flux checks
// our commits with, serves to tell the kinds of signatures apart and judges
// our signatures in the tests. Its signers and verifiers do not serve: they
// hide the key's fingerprint and the cause of a failure, and their OpenPGP half
// is go-crypto's v1, which signs with expired keys and accepts SHA-1.
package trust

import (
	"errors"
	"fmt"

	"towpath.dev/towpath/gitops"
)

// The kinds of keys and signatures, in the words of Flux's
// ImageUpdateAutomation (spec.git.commit.signingKey.type).
const (
	SSH = "ssh"
	GPG = "gpg"
)

// Verdicts on a commit. They are wrapped; test with errors.Is.
var (
	// ErrMalformed: the object is no commit that every parser reads alike.
	ErrMalformed = errors.New("malformed commit")
	// ErrUnsigned: the commit carries no signature.
	ErrUnsigned = errors.New("not signed")
	// ErrUnknownKey: signed, but by none of the keys asked about. The
	// error says which key the signature names; since that key is not
	// known, nobody checked that it really made the signature.
	ErrUnknownKey = errors.New("signed by an unknown key")
	// ErrBadSignature: the signature names a key that is known, and does not
	// hold, or it cannot be read at all.
	ErrBadSignature = errors.New("bad signature")
)

// What may be wrong with a key. They are wrapped in a KeyError; test with
// errors.Is.
var (
	ErrExpired    = errors.New("expired")
	ErrRevoked    = errors.New("revoked")
	ErrPassphrase = errors.New("locked")
)

// Identity is the key that made a signature.
type Identity struct {
	// Kind is SSH or GPG.
	Kind string
	// Fingerprint is "SHA256:" and unpadded base64, as ssh-keygen -l prints
	// it, or the primary OpenPGP key's fingerprint in upper-case
	// hexadecimal, as gpg prints it.
	Fingerprint string
	// Former: the key is not the one that signs today.
	Former bool
}

func (i Identity) String() string { return i.Kind + " key " + i.Fingerprint }

// KeyError is a key that cannot be used. Its text names the file of the secret
// that holds the key; its hint says what a person can do about it.
type KeyError struct {
	File   string // the key within the secret, such as "identity" or "git.asc"
	Reason string
	Advice string
	Err    error // the cause: ErrExpired, ErrRevoked, ErrPassphrase, or a parser's error; may be nil
}

func (e *KeyError) Error() string {
	if e.Err == nil || errors.Is(e.Err, ErrExpired) || errors.Is(e.Err, ErrRevoked) || errors.Is(e.Err, ErrPassphrase) {
		return fmt.Sprintf("%s: %s", e.File, e.Reason) // the reason says it already, and says more
	}
	return fmt.Sprintf("%s: %s: %s", e.File, e.Reason, e.Err)
}

func (e *KeyError) Unwrap() error { return e.Err }

// Hint says what a person can do about it; empty when nothing useful is known.
func (e *KeyError) Hint() string { return e.Advice }

// quoted makes a library's error about bytes from outside safe to show: it may
// quote them.
func quoted(err error) error { return errors.New(gitops.Line(err.Error(), 200)) }
