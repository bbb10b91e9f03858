package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/fluxcd/pkg/git"
	"github.com/spf13/cobra"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/gitops/wire"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/dockerfile"
	"towpath.dev/towpath/kaniko/publish"
	"towpath.dev/towpath/kaniko/registry"
)

// newFetch is the first step of a build: hidden, since builders start it.
func newFetch(g *globals) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "fetch", Hidden: true, Args: noArguments,
		Short: "Step 1 of a build: the exact commit, into a directory",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var step kaniko.Fetch
			order, err := readStep(file, &step)
			if err != nil {
				return err
			}
			return finish(step.Reporting, order, fetch(cmd.Context(), step, g.err))
		},
	}
	cmd.Flags().StringVar(&file, "order", "", "the step's order, a JSON file")
	return cmd
}

// newPublish is the last step of a build: hidden, since builders start it.
func newPublish() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "publish", Hidden: true, Args: noArguments,
		Short: "Step 3 of a build: what kaniko left, to the registry",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var step kaniko.Publish
			order, err := readStep(file, &step)
			if err != nil {
				return err
			}
			return finish(step.Reporting, order, publish.Run(cmd.Context(), step, publish.Options{Secret: readSecret}))
		},
	}
	cmd.Flags().StringVar(&file, "order", "", "the step's order, a JSON file")
	return cmd
}

// readStep reads a step's order, and returns the digest of its file: with it a
// report says what it is a report of.
func readStep(file string, into any) (digest string, err error) {
	const hint = "builders run this; people use towpath run"
	content, err := os.ReadFile(file)
	if err != nil {
		return "", usageError{fmt.Errorf("--order: %w", err), hint}
	}
	if err := json.Unmarshal(content, into); err != nil {
		return "", usageError{fmt.Errorf("--order %s: %w", file, err), hint}
	}
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// finish writes a step's report and turns a failed one into the exit code.
func finish(to kaniko.Reporting, order string, report kaniko.Report) error {
	report.Order = order
	content, err := report.Encode(to.ReportLimit)
	if err == nil {
		err = os.WriteFile(to.Report, content, 0o600)
	}
	switch {
	case err != nil:
		return fmt.Errorf("write the report: %w", err)
	case report.Error != "":
		return hinted{errors.New(report.Error), report.Hint}
	}
	return nil
}

// readSecret reads the secret in a directory.
func readSecret(dir string) (map[string][]byte, error) {
	return config.Secrets{Dir: filepath.Dir(dir)}.Read(filepath.Base(dir))
}

// fetch brings the commit's files, refuses a Dockerfile that kaniko would not
// carry out as written, and pulls the base images that need a credential.
func fetch(ctx context.Context, step kaniko.Fetch, progress io.Writer) kaniko.Report {
	warnings, err := fetchAll(ctx, step, progress)
	report := kaniko.Report{Warnings: warnings}
	if err != nil {
		report.Error, report.Hint = err.Error(), hintOf(err)
		if report.Hint == "" && errors.Is(err, syscall.ENOSPC) {
			report.Hint = "make room, or move the cache to a larger disk"
		}
		var refused *source.RefusedError
		var notAllowed *registry.NotAllowedError
		var dockerfileFault *dockerfileError
		report.Fault = errors.As(err, &refused) || errors.As(err, &notAllowed) || errors.As(err, &dockerfileFault)
	}
	return report
}

func fetchAll(ctx context.Context, step kaniko.Fetch, progress io.Writer) ([]string, error) {
	order := step.Order
	commit, err := gitops.ParseHash(order.Source.Commit)
	if err != nil {
		return nil, err
	}
	if err := copyNetworkFiles("/etc", step.Network); err != nil {
		return nil, err
	}
	// kaniko's are mounted from here, whether or not anything is pulled.
	if err := os.MkdirAll(step.Bases, 0o755); err != nil {
		return nil, err
	}
	remote, err := wire.New(wire.Options{URL: order.Source.URL, Auth: gitAuth(order.Source.URL, step.GitSecret)})
	if err != nil {
		return nil, err
	}
	defer remote.Close()
	exported, err := source.Export(ctx, remote, commit, source.ExportOptions{
		Dir: step.Context, Path: order.Path, Ref: order.Source.Ref,
		Scratch:  filepath.Dir(step.Context), // cleared with the build's directory, whatever becomes of this process
		Progress: func(line string) { fmt.Fprintln(progress, line) },
	})
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(progress, "fetched %s: %d files, %d bytes\n", gitops.Short(commit), exported.Files, exported.Bytes)
	warnings, bases, err := readDockerfile(step)
	if err != nil {
		return warnings, err
	}
	return warnings, pullBases(ctx, step, bases, progress)
}

// networkFiles say how names are looked up, and what this machine is called.
var networkFiles = []string{"resolv.conf", "hosts", "hostname"}

// copyNetworkFiles gives kaniko copies of the files that it must not share with
// the step after it, of which a file that is missing is empty.
func copyNetworkFiles(from, to string) error {
	if to == "" {
		return nil
	}
	for _, name := range networkFiles {
		content, err := os.ReadFile(filepath.Join(from, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("copy for kaniko: %w", err)
		}
		path := filepath.Join(to, name)
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return fmt.Errorf("copy for kaniko: %w", err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return fmt.Errorf("copy for kaniko: %w", err)
		}
	}
	return nil
}

// gitAuth reads a git credential anew at each use; nil without a secret.
func gitAuth(address, secretDir string) func() (*git.AuthOptions, error) {
	if secretDir == "" {
		return nil
	}
	return func() (*git.AuthOptions, error) {
		keys, err := readSecret(secretDir)
		if err != nil {
			return nil, err
		}
		parsed, err := gitURL(address)
		if err != nil {
			return nil, err
		}
		if parsed.Scheme == "ssh" && len(keys["identity"]) > 0 && len(keys["known_hosts"]) == 0 {
			return nil, hinted{fmt.Errorf("secret %s has no known_hosts", filepath.Base(secretDir)),
				"put the host's keys into it, as the forge publishes them; a host with a port is [host]:port there"}
		}
		auth, err := git.NewAuthOptions(*parsed, keys)
		if err != nil {
			return nil, hinted{fmt.Errorf("secret %s: %w", filepath.Base(secretDir), err),
				"a git secret holds identity and known_hosts for ssh, and username and password, or bearerToken, for https"}
		}
		return auth, nil
	}
}

// dockerfileError is a Dockerfile that cannot be built as it is written.
type dockerfileError struct {
	file string
	err  error
}

func (e *dockerfileError) Error() string { return e.file + ": " + e.err.Error() }
func (e *dockerfileError) Unwrap() error { return e.err }
func (e *dockerfileError) Hint() string {
	if errors.Is(e.err, fs.ErrNotExist) {
		return "name it in build.dockerfile, relative to source.path"
	}
	return "change the Dockerfile: the same commit is not built again"
}

// readDockerfile judges the Dockerfile and lists the bases it asks for.
func readDockerfile(step kaniko.Fetch) (warnings []string, bases []dockerfile.Base, err error) {
	order := step.Order
	context, err := os.OpenRoot(step.Context)
	if err != nil {
		return nil, nil, err
	}
	defer context.Close()
	content, err := readBeginning(context, filepath.FromSlash(order.Dockerfile), dockerfile.MaxSize+1)
	if err != nil {
		var place *os.PathError
		if errors.As(err, &place) {
			err = place.Err
		}
		return nil, nil, &dockerfileError{order.Dockerfile, err}
	}
	build := dockerfile.Build{Args: order.Args, Target: order.Target, Platform: order.Platform}
	findings, err := dockerfile.Lint(content, build)
	if err != nil {
		return nil, nil, &dockerfileError{order.Dockerfile, err}
	}
	var refusals []error
	for _, finding := range findings {
		if finding.Refuse {
			refusals = append(refusals, errors.New(finding.String()))
		} else {
			warnings = append(warnings, order.Dockerfile+": "+finding.String())
		}
	}
	if len(refusals) > 0 {
		return warnings, nil, &dockerfileError{order.Dockerfile, errors.Join(refusals...)}
	}
	if bases, err = dockerfile.Bases(content, build); err != nil {
		return warnings, nil, &dockerfileError{order.Dockerfile, err}
	}
	return warnings, bases, nil
}

// readBeginning reads a file of the context, which may be as large as the disk,
// up to a limit.
func readBeginning(from *os.Root, name string, limit int64) ([]byte, error) {
	file, err := from.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, limit))
}

// pullBases pulls the bases that the config allows to where kaniko looks
// first. The others are kaniko's to pull, without a credential.
func pullBases(ctx context.Context, step kaniko.Fetch, bases []dockerfile.Base, progress io.Writer) error {
	pull := step.Order.Pull
	if len(pull.Allow) == 0 {
		return nil
	}
	puller := registry.Bases{
		Options: registry.Options{SecretName: pull.Secret},
		Allow:   pull.Allow, Platform: step.Order.Platform, Directory: step.Bases,
	}
	if to := step.Order.Destination; to.Insecure {
		puller.Plain = to.Host()
	}
	if step.PullSecret != "" {
		puller.Secret = func() (map[string][]byte, error) { return readSecret(step.PullSecret) }
	}
	for _, base := range bases {
		if !puller.Allowed(base.Image) {
			continue
		}
		fmt.Fprintf(progress, "pulling %s\n", base.Image)
		if err := puller.Pull(ctx, base.Image); err != nil {
			return fmt.Errorf("base image, line %d of %s: %w", base.Line, step.Order.Dockerfile, err)
		}
	}
	return nil
}
