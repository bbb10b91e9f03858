package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/validation"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/trust"
	"towpath.dev/towpath/kaniko/seal"
)

// keygen makes the two keys that a Towpath signs with. They differ so that a
// thief of one can forge a bump or an image, but not both.
type keygen struct {
	*globals
	secrets    string
	email      string
	signing    string
	provenance string
	only       string
}

// The values of --only.
const (
	onlySigning    = "signing"
	onlyProvenance = "provenance"
)

func newKeygen(g *globals) *cobra.Command {
	k := &keygen{globals: g}
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make the signing keys, and print what their users need",
		Long: `Makes two keys as directories below --secrets, one file per key, ready for
the config's "secrets:" or for a Kubernetes Secret each:

  towpath-signing      an SSH key that signs bump commits
  towpath-provenance   a cosign key (ECDSA P-256) that signs the provenance of images

It prints the public halves, and the line that belongs into git's allowed
signers file. Nothing that exists is overwritten.

With --only it makes one of them, as when a key is rotated: docs/runbook.md
says how, step by step.`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error { return k.run() },
	}
	flags := cmd.Flags()
	flags.StringVar(&k.secrets, "secrets", "secrets", "directory to make the secrets in")
	flags.StringVar(&k.email, "email", "", "address that bumps are committed as: git.commit.author.email (required for the signing key)")
	flags.StringVar(&k.signing, "signing", "towpath-signing", "name of the signing key's secret")
	flags.StringVar(&k.provenance, "provenance", "towpath-provenance", "name of the provenance key's secret")
	flags.StringVar(&k.only, "only", "", "make one key alone: signing or provenance")
	return cmd
}

func (k *keygen) run() error {
	keys, err := k.make()
	if err != nil {
		return err
	}
	result := map[string]string{}
	for name, value := range map[string]string{
		"signing": keys.signing, "provenance": keys.provenance,
		"publicKey": keys.public, "allowedSigners": keys.allowed, "cosignPublicKey": keys.cosign,
	} {
		if value != "" {
			result[name] = value
		}
	}
	return k.print(result, func(w io.Writer) {
		fmt.Fprintf(w, "Made %s.\n", oneLine(strings.Join(keys.directories(), " and ")))
		if keys.signing != "" {
			fmt.Fprintf(w, "\nThe key that signs bumps. Register it with your forge as a signing key of Towpath's user:\n\n  %s\n", keys.public)
			fmt.Fprintf(w, "\nIts line for git's allowed signers file (git config gpg.ssh.allowedSignersFile FILE):\n\n  %s\n", keys.allowed)
		}
		if keys.provenance != "" {
			fmt.Fprintf(w, "\nThe key that signs images (cosign verify-attestation --key cosign.pub --type slsaprovenance1 --insecure-ignore-tlog=true IMAGE):\n\n%s", keys.cosign)
		}
	})
}

// madeKeys says where the keys are, and shows their public halves; empty is
// what was not asked for.
type madeKeys struct {
	signing, provenance     string // directories
	public, allowed, cosign string
}

// directories are those of the keys that are asked for.
func (m madeKeys) directories() []string {
	return slices.DeleteFunc([]string{m.signing, m.provenance}, func(dir string) bool { return dir == "" })
}

// make makes the keys that are asked for, or none.
func (k *keygen) make() (madeKeys, error) {
	if !slices.Contains([]string{"", onlySigning, onlyProvenance}, k.only) {
		return madeKeys{}, usageError{fmt.Errorf("--only %q", k.only), "it is signing or provenance"}
	}
	var keys madeKeys
	if k.only != onlyProvenance {
		if k.email == "" {
			return madeKeys{}, usageError{errors.New("--email is missing"), "give the address that bumps are committed as: towpath keygen --email towpath@example.com"}
		}
		if !strings.Contains(k.email, "@") {
			return madeKeys{}, usageError{fmt.Errorf("--email %q is no e-mail address", k.email), "as in towpath@example.com"}
		}
		keys.signing = filepath.Join(k.secrets, k.signing)
	}
	if k.only != onlySigning {
		keys.provenance = filepath.Join(k.secrets, k.provenance)
	}
	if err := k.names(keys); err != nil {
		return madeKeys{}, err
	}
	for _, dir := range keys.directories() {
		switch _, err := os.Lstat(dir); {
		case err == nil:
			return madeKeys{}, hinted{fmt.Errorf("keygen: %s exists already", dir),
				"keys are never overwritten: make one of the two with --only, or name another secret by --signing and --provenance"}
		case !errors.Is(err, fs.ErrNotExist):
			return madeKeys{}, fmt.Errorf("keygen: %w", err)
		}
	}
	secrets := map[string]map[string][]byte{}
	if keys.signing != "" {
		commits, allowed, err := trust.NewSigningKey(k.email, nil)
		if err != nil {
			return madeKeys{}, fmt.Errorf("keygen: %w", err)
		}
		commits["allowed_signers"] = []byte(allowed + "\n")
		secrets[keys.signing], keys.allowed = commits, allowed
		keys.public = strings.TrimSpace(string(commits["identity.pub"]))
	}
	if keys.provenance != "" {
		images, err := seal.NewKeyPair([]byte(rand.Text()))
		if err != nil {
			return madeKeys{}, fmt.Errorf("keygen: %w", err)
		}
		secrets[keys.provenance], keys.cosign = images, string(images["cosign.pub"])
	}
	for i, dir := range keys.directories() {
		if err := writeSecret(dir, secrets[dir]); err != nil {
			for _, made := range keys.directories()[:i] {
				err = errors.Join(err, os.RemoveAll(made)) // nobody has seen that key yet
			}
			return madeKeys{}, fmt.Errorf("keygen: %w", err)
		}
	}
	return keys, nil
}

// names checks what the secrets are to be called: a config names a secret, and so
// does Kubernetes, and neither takes a path.
func (k *keygen) names(keys madeKeys) error {
	for _, flag := range []struct{ name, value, dir string }{
		{"--signing", k.signing, keys.signing}, {"--provenance", k.provenance, keys.provenance},
	} {
		if flag.dir != "" && len(validation.IsDNS1123Label(flag.value)) > 0 {
			return usageError{fmt.Errorf("%s %q is no name of a secret", flag.name, gitops.Line(flag.value, 80)),
				"up to 63 lower-case letters, digits and -, the first and last no -; --secrets is the directory that secrets are made in"}
		}
	}
	if keys.signing == keys.provenance {
		return usageError{fmt.Errorf("--signing and --provenance both name %q", k.signing), "two keys are two secrets, so that a thief of one has not the other"}
	}
	return nil
}

// writeSecret writes a secret as a directory that appears whole or not at all.
func writeSecret(dir string, keys map[string][]byte) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	unfinished, err := os.MkdirTemp(filepath.Dir(dir), ".keygen-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	for name, value := range keys {
		if err := os.WriteFile(filepath.Join(unfinished, name), value, 0o600); err != nil {
			return err
		}
	}
	return os.Rename(unfinished, dir)
}
