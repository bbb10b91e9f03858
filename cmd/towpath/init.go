package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/deploy"
	"towpath.dev/towpath/gitops/automation"
)

// setup is what `towpath init` knows of the Towpath that it sets up.
type setup struct {
	*globals
	out      string // directory for what is committed
	secrets  string // directory for the private keys, which never are
	renew    bool   // write the manifests anew, and nothing else
	fromFlux string // clone of the GitOps repository to read Flux's automation from; empty: do not

	target     string   // its name
	url        string   // of the GitOps repository
	branch     string   // of it
	path       string   // in it, below which markers are edited; empty: everywhere
	git        string   // spec.git taken over from Flux's automation, as YAML, with our signing key; empty: it is written anew
	email      string   // that bumps are committed as
	fleet      string   // Secret of the GitOps repository
	gitSecret  string   // of the sources; empty: they are public
	registry   string   // Secret of the registry; empty: none
	towpath    string   // Towpath's own image, NAME@sha256:…
	kaniko     string   // kaniko's image, NAME@sha256:…
	flux       string   // namespace/name of the GitRepository; empty: none
	automation string   // name of the ImageUpdateAutomation to take over; empty: the one there is
	egress     []string // what builds may reach besides public addresses
	images     []proposal
	first      bool     // the one image is asked for on the terminal
	noFlux     bool     // the person answered that Flux is not to be asked to pull
	specs      []string // of --image
	advice     []string // what a person must do besides, told at the end

	objects *automation.Objects // what --from-flux found; nil: without the flag
	update  automation.Update   // the automation that is taken over
	left    []string            // images that are left to Flux because others make them, with their policies
}

// proposal is an image to promote. Where its source is not known yet, it is
// written as a comment.
type proposal struct {
	name, source, branch, repository, policy string

	unknown bool // nobody knows its source yet
}

func newInit(g *globals) *cobra.Command {
	s := &setup{globals: g}
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write config, manifests and keys for a Towpath beside Flux",
		Long: `Writes what a GitOps repository needs for a Towpath beside Flux: the config,
the manifests and the public keys, ready to be committed, in --out; and, apart
from them, the private keys in --secrets, which are never committed as they are.
What no flag says is asked for on a terminal.

With --from-flux it reads the image automation that a clone of the GitOps
repository has: target, images and markers come from there, and it names the
objects of Flux that have to go, so that two writers never meet.`,
		Example: `  towpath init --from-flux . --out ./infrastructure/towpath --secrets ../towpath-secrets \
      --email towpath@example.com --towpath-image registry.example.com/towpath@sha256:… \
      --kaniko-image registry.example.com/kaniko@sha256:…`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVar(&s.out, "out", "towpath", "directory to write, in the GitOps repository")
	flags.StringVar(&s.secrets, "secrets", "", "directory for the private keys, outside of every git work tree (default: beside that of --out)")
	flags.BoolVar(&s.renew, "renew", false, "write the manifests below --out anew, as this version has them, and nothing else")
	flags.StringVar(&s.fromFlux, "from-flux", "", "clone of the GitOps repository, to read Flux's image automation from")
	flags.StringVar(&s.automation, "automation", "", "with --from-flux: the ImageUpdateAutomation to take over, if there are several")
	flags.StringVar(&s.target, "target", "production", "name of the target: a DNS label, unique in the GitOps repository")
	flags.StringVar(&s.url, "url", "", "URL of the GitOps repository")
	flags.StringVar(&s.branch, "branch", "main", "its branch")
	flags.StringVar(&s.path, "path", "", "directory of it below which markers are edited (default: everywhere)")
	flags.StringVar(&s.email, "email", "", "address that bumps are committed as")
	flags.StringVar(&s.fleet, "fleet-secret", "fleet", "name of the Secret that may push to the GitOps repository")
	flags.StringVar(&s.gitSecret, "git-secret", "", "name of the Secret that reads the sources; none: they are public")
	flags.StringVar(&s.registry, "registry-secret", "registry", `name of the Secret that pushes images; "": none`)
	flags.StringVar(&s.towpath, "towpath-image", "", "Towpath's own image, NAME@sha256:…")
	flags.StringVar(&s.kaniko, "kaniko-image", "", "kaniko's image, NAME@sha256:…")
	flags.StringVar(&s.flux, "flux-source", "", "NAMESPACE/NAME of the GitRepository that is asked to pull after a bump")
	flags.StringArrayVar(&s.egress, "egress", nil, "host:port or network that builds may reach besides public addresses; may be repeated")
	flags.StringArrayVar(&s.specs, "image", nil, "name=…,source=URL,repository=…,policy=NAMESPACE:NAME[,branch=…]; may be repeated")
	return cmd
}

func (s *setup) run(cmd *cobra.Command) error {
	if s.renew {
		return s.renewBase()
	}
	if err := s.checkFlux(); err != nil {
		return err
	}
	for _, spec := range s.specs {
		image, err := parseProposal(spec)
		if err != nil {
			return err
		}
		s.images = append(s.images, image)
	}
	if s.fromFlux != "" {
		if err := s.readFlux(func(flag string) bool { return cmd.Flags().Changed(flag) }); err != nil {
			return err
		}
	}
	if err := s.ask(); err != nil {
		return err
	}
	s.farewell()
	if err := s.places(); err != nil {
		return err
	}
	return s.write(cmd)
}

// parseProposal reads an --image.
func parseProposal(spec string) (proposal, error) {
	image := proposal{branch: "master"}
	into := map[string]*string{"name": &image.name, "source": &image.source, "branch": &image.branch, "repository": &image.repository, "policy": &image.policy}
	for part := range strings.SplitSeq(spec, ",") {
		key, value, _ := strings.Cut(part, "=")
		if into[key] == nil || value == "" {
			return proposal{}, usageError{fmt.Errorf("--image %q: %q", spec, part), "name=…,source=URL,repository=…,policy=NAMESPACE:NAME[,branch=…]"}
		}
		*into[key] = value
	}
	if image.name == "" {
		return proposal{}, usageError{fmt.Errorf("--image %q has no name", spec), "name=…,source=URL,repository=…,policy=NAMESPACE:NAME[,branch=…]"}
	}
	return image, nil
}

// places settles where things go. Private keys do not lie where they could be
// committed, not even for a moment.
func (s *setup) places() error {
	out, err := filepath.Abs(s.out)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if entries, err := os.ReadDir(out); err == nil && len(entries) > 0 {
		return hinted{fmt.Errorf("init: %s is not empty", s.out), "nothing is overwritten: name another directory by --out, or remove this one and that of the secrets if nothing of them is in use; --renew writes the manifests anew"}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("init: %w", err)
	}
	if s.secrets == "" {
		beside := out
		if tree := workTree(out); tree != "" {
			beside = tree
		}
		s.secrets = filepath.Join(filepath.Dir(beside), "towpath-secrets")
	}
	secrets, err := filepath.Abs(s.secrets)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if tree := workTree(secrets); tree != "" || inside(resolved(secrets), resolved(out)) {
		return hinted{fmt.Errorf("init: %s is among what is committed", s.secrets), "private keys do not belong into a git work tree: name a directory elsewhere by --secrets"}
	}
	for _, key := range []string{"towpath-signing", "towpath-provenance"} {
		if _, err := os.Lstat(filepath.Join(secrets, key)); !errors.Is(err, fs.ErrNotExist) {
			return hinted{fmt.Errorf("init: there are keys in %s already", s.secrets),
				"keys are never overwritten: name another directory by --secrets, or remove this one if nothing of it is in use"}
		}
	}
	s.out, s.secrets = out, secrets
	return nil
}

// resolved is a path without the symlinks on its way. The path, or the end of it, need
// not exist.
func resolved(path string) string {
	rest := ""
	for dir := path; ; dir = filepath.Dir(dir) {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return filepath.Join(real, rest)
		}
		if dir == filepath.Dir(dir) {
			return path
		}
		rest = filepath.Join(filepath.Base(dir), rest)
	}
}

// workTree is the git work tree that a path, which need not exist, is in; empty:
// none.
func workTree(path string) string {
	for dir := resolved(path); ; dir = filepath.Dir(dir) {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			return ""
		}
	}
}

func inside(path, dir string) bool {
	relative, err := filepath.Rel(dir, path)
	return err == nil && relative != ".." && !strings.HasPrefix(relative, "../")
}

// write makes everything: in a directory of its own first, so that a mistake
// leaves nothing behind, and the config is one that loads.
func (s *setup) write(cmd *cobra.Command) error {
	if err := os.MkdirAll(filepath.Dir(s.out), 0o755); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	unfinished, err := os.MkdirTemp(filepath.Dir(s.out), ".towpath-init-")
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	defer os.RemoveAll(unfinished)
	file := filepath.Join(unfinished, "towpath.yaml")
	if err := writeFile(file, s.configText()); err != nil {
		return err
	}
	cfg, err := config.Load(config.Options{File: file})
	if err != nil {
		return s.wrongAnswers(err)
	}
	if err := s.writeManifests(cmd.Context(), unfinished, cfg); err != nil {
		return err
	}
	keys, err := (&keygen{globals: s.globals, secrets: s.secrets, email: s.email, signing: "towpath-signing", provenance: "towpath-provenance"}).make()
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	for name, content := range map[string]string{
		"keys/towpath-signing.pub": keys.public + "\n", "keys/allowed_signers": keys.allowed + "\n", "keys/cosign.pub": keys.cosign,
	} {
		if err := writeFile(filepath.Join(unfinished, name), content); err != nil {
			return err
		}
	}
	_ = os.Remove(s.out) // an empty one
	if err := os.Rename(unfinished, s.out); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := os.Chmod(s.out, 0o755); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return s.tell(cfg, keys)
}

// renewBase writes the manifests of this version over those of another.
func (s *setup) renewBase() error {
	base := filepath.Join(s.out, "base")
	// What may be overwritten is known by the binding of Towpath's own admission policy:
	// every version of the manifests has it, and nobody else's.
	admission, err := os.ReadFile(filepath.Join(base, "admission.yaml"))
	if err != nil || !strings.Contains(string(admission), "policyName: towpath-builds\n") {
		return hinted{fmt.Errorf("init: %s holds no manifests of Towpath", base), "towpath init without --renew writes them"}
	}
	// All of them are written before the others go.
	unfinished, err := os.MkdirTemp(s.out, ".towpath-init-")
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	defer os.RemoveAll(unfinished)
	renewed := filepath.Join(unfinished, "base")
	if err := os.CopyFS(renewed, deploy.Files); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := os.RemoveAll(base); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := os.Rename(renewed, base); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return s.print(map[string]string{"base": base}, func(w io.Writer) {
		fmt.Fprintf(w, "Wrote %s. Look at what changed, with git diff, before you commit it.\n", base)
	})
}

func writeFile(path, content string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return nil
}
