package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/console"
	"towpath.dev/towpath/kaniko/executor"
)

// build runs kaniko over the context that fetch filled. When it returns, no
// process of the build is alive.
func (b *Builder) build(ctx context.Context, p *place, job Job, out *output) error {
	bases, err := os.ReadDir(p.path("box", "bases"))
	if err != nil {
		return fmt.Errorf("build: %w", err)
	}
	// What fetch wrote as root belongs to root inside from here on.
	for _, dir := range []string{"context", "bases"} {
		if err := giveTree(p.path("box", dir), int(p.firstID)); err != nil {
			return fmt.Errorf("build: hand over the %s: %w", dir, err)
		}
	}
	args := append([]string{executor.Program}, executor.Arguments(job.Order, len(bases) > 0)...)
	end, err := b.contain(ctx, p, args, out)
	if err != nil {
		return fmt.Errorf("build: %w", err)
	}
	return judge(end, b, out)
}

// ending is how a contained program ended.
type ending struct {
	status   int      // its exit status; 128+n for signal n
	cause    error    // why it was ended, a *bound or a *fullDisk; nil: it ended by itself
	pressure pressure // what it ran into
}

// contain runs a program in the sandbox until it and all it started have ended.
// The error is of the machinery, or the context's.
func (b *Builder) contain(ctx context.Context, p *place, args []string, out *output) (ending, error) {
	digest, err := b.ExecutorDigest()
	if err != nil {
		return ending{}, err
	}
	program, err := b.installExecutor(digest)
	if err != nil {
		return ending{}, err
	}
	allow, err := lookUp(ctx, b.Allow)
	if err != nil {
		return ending{}, err
	}
	if err := furnish(p, allow); err != nil {
		return ending{}, err
	}
	network, err := b.openNetwork(ctx, allow)
	if err != nil {
		return ending{}, err
	}
	defer func() {
		if err := network.close(); err != nil {
			b.log().Warn("close the build's network", "error", err)
		}
	}()
	what := bundle{args: args, place: p, executor: filepath.Join(p.doorstep, "executors", filepath.Base(program)), netns: network.path(), memory: b.memory(), pids: b.pids(), disk: b.disk()}
	if err := what.write(); err != nil {
		return ending{}, err
	}

	limited, cancel := context.WithTimeoutCause(ctx, b.timeout(), &bound{fmt.Sprintf("it was not done within the %s a build may take", b.timeout())})
	defer cancel()
	limited, stop := context.WithCancelCause(limited)
	defer stop(nil)
	watching, unwatch := context.WithCancel(limited)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		p.watchDisk(watching, b.disk(), stop)
	}()
	status, runErr := p.runContainer(limited, out)
	unwatch()
	<-watched

	end := ending{status: status, pressure: cgroup{p.id}.pressure()}
	if err := p.kill(); err != nil {
		return ending{}, err
	}
	if ctx.Err() != nil {
		return ending{}, context.Cause(ctx)
	}
	if limited.Err() != nil {
		end.cause = context.Cause(limited)
		return end, nil
	}
	if runErr != nil {
		return ending{}, runErr
	}
	return end, nil
}

// runContainer has the runtime create and run the bundle, and returns the exit
// status of its first process. Its last process is dead by then: the first was
// the init of its process namespace.
func (p *place) runContainer(ctx context.Context, out *output) (int, error) {
	log := p.path("private", "runtime.log")
	//nolint:noctx // supervise ends it, by the runtime's own means
	cmd := exec.Command(p.runtime, "--root", p.path("private", "state"), "--log", log, "--log-format", "json",
		// It stays for its counters to be read.
		"run", "--keep", "--bundle", p.path("private", "bundle"), p.id)
	cmd.Dir = p.path("private")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	stdout, stderr := out.stream(false), out.stream(true)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	// Should we be killed, the runtime passes SIGTERM on to kaniko, which ends on
	// it, and every process with it.
	err := supervise(ctx, cmd, p.mountBox, unix.SIGTERM, func() {
		_ = p.kill() // tried again until the runtime has ended
		_ = unix.Kill(-cmd.Process.Pid, unix.SIGTERM)
	})
	stdout.flush()
	stderr.flush()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		failure := fmt.Errorf("run the container runtime: %w", err)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			failure = hinted{failure, runtimeHint}
		}
		return 0, failure
	}
	if said := runtimeError(log); said != "" {
		return 0, fmt.Errorf("%s: %s", p.runtime, said)
	}
	if status, ok := exit.Sys().(interface{ Signaled() bool }); ok && status.Signaled() {
		return 0, fmt.Errorf("%s: ended with %s", p.runtime, exit.ProcessState)
	}
	return exit.ExitCode(), nil
}

// runtimeError is the last error in the runtime's own log. A container that
// merely failed leaves none there.
func runtimeError(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	said := ""
	for _, line := range bytes.Split(content, []byte("\n")) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			said = console.Clean([]byte(entry.Msg))
		}
	}
	return said
}

// opening is how a private address is opened to a build.
func opening(address string) string {
	return fmt.Sprintf("builder.sandbox.allow: [%q] opens this one", address)
}

// judge tells whose fault an ending is.
func judge(end ending, b *Builder, out *output) error {
	lines := out.lines()
	fault := func(err error) error {
		return &kaniko.BuildError{Step: "build", Log: out.path(), Tail: strings.Join(lines, "\n"), Err: err}
	}
	var limit *bound
	switch {
	case errors.As(end.cause, &limit):
		return fault(limit)
	case end.cause != nil:
		return fmt.Errorf("build: %w", end.cause)
	case end.status == 0:
		return nil
	case end.pressure.OOMKills > 0:
		return fault(fmt.Errorf("it needed more memory than the %s a build may", size(b.memory())))
	case end.pressure.PidsMax > 0:
		return fault(fmt.Errorf("it started more processes than the %d a build may", b.pids()))
	}
	isFault, err := out.judge(end.status)
	advice := console.Advice(err.Error(), lines, opening)
	if advice == "" && !isFault {
		advice = "it is tried again, later each time; the whole output is in " + out.path()
	}
	err = hinted{err, advice}
	if isFault {
		return fault(err)
	}
	return fmt.Errorf("build: %w", err)
}

// furnish puts into the box what a build may know of this machine.
func furnish(p *place, allow reach) error {
	hosts := "127.0.0.1 localhost\n127.0.0.1 build\n"
	for name, addresses := range allow.hosts {
		for _, address := range addresses {
			hosts += address.String() + " " + name + "\n"
		}
	}
	authorities, err := authorities()
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		"hosts":                     []byte(hosts),
		"resolv.conf":               []byte("nameserver " + netip.MustParseAddr(nameserver).String() + "\n"),
		"certs/ca-certificates.crt": authorities,
	} {
		if err := os.WriteFile(p.path("box", name), content, 0o644); err != nil {
			return err
		}
		if err := os.Chmod(p.path("box", name), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// bundles are where systems keep the certificates of the authorities they trust.
var bundles = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}

// authorities are the certificates that kaniko trusts when it pulls base images:
// this machine's. A machine without any builds from what needs none.
func authorities() ([]byte, error) {
	if path := os.Getenv("SSL_CERT_FILE"); path != "" {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("SSL_CERT_FILE: %w", err)
		}
		return content, nil
	}
	for _, path := range bundles {
		if content, err := os.ReadFile(path); err == nil {
			return content, nil
		}
	}
	return nil, nil
}
