package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/kaniko"
)

// passed are the variables of our own environment that a step may see: where
// programs, certificates and proxies are. Secrets travel as directories named
// in the order.
var passed = []string{
	"PATH", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
}

// stepEnvironment is what a step starts with. Docker's own configuration, which
// pushes where no secret is named, is for the step that pushes: base images
// are never pulled with it.
func stepEnvironment(step, tmp string) []string {
	env, names := []string{"TMPDIR=" + tmp}, passed
	if step == "publish" {
		names = append(slices.Clone(passed), "HOME", "DOCKER_CONFIG")
	} else {
		env = append(env, "HOME="+tmp, "DOCKER_CONFIG="+tmp)
	}
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// maxReport bounds the report of a step.
const maxReport = 1 << 20

// hinted is an error that a person can mend.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }

// Hint says what to do about it.
func (e hinted) Hint() string { return e.hint }

// step runs `Self NAME --order FILE` and returns what it reported. order is a
// kaniko.Fetch or kaniko.Publish whose Report is the path given.
func (b *Builder) step(ctx context.Context, p *place, name string, order any, report string, out *output) (kaniko.Report, error) {
	encoded, err := json.Marshal(order)
	if err != nil {
		return kaniko.Report{}, fmt.Errorf("%s: encode order: %w", name, err)
	}
	path := p.path("private", name+".json")
	if err := os.WriteFile(path, encoded, 0o600); err != nil {
		return kaniko.Report{}, fmt.Errorf("%s: write order: %w", name, err)
	}
	//nolint:noctx // supervise ends it, with its process group
	cmd := exec.Command(b.Self, name, "--order", path)
	cmd.Dir = p.path("private")
	cmd.Env = stepEnvironment(name, p.path("private", "tmp"))
	printed := out.stream(false)
	cmd.Stdout, cmd.Stderr = printed, printed
	runErr := supervise(ctx, cmd, nil, unix.SIGKILL, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	printed.flush()
	if ctx.Err() != nil {
		return kaniko.Report{}, fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	result, readErr := readReport(report)
	var exit *exec.ExitError
	switch {
	case runErr == nil && readErr != nil:
		return kaniko.Report{}, fmt.Errorf("%s: %w", name, readErr)
	case runErr == nil && result.Error == "":
		return result, nil
	case readErr == nil && result.Error != "":
		failure := errors.New(result.Error)
		if result.Hint != "" {
			failure = hinted{failure, result.Hint}
		}
		if result.Fault {
			return result, &kaniko.BuildError{Step: name, Log: out.path(), Err: failure}
		}
		return result, fmt.Errorf("%s: %w", name, failure)
	case errors.As(runErr, &exit):
		return kaniko.Report{}, fmt.Errorf("%s: ended with %s and no report: %s", name, exit.ProcessState, last(out.lines()))
	}
	return kaniko.Report{}, fmt.Errorf("%s: %w", name, runErr)
}

func readReport(path string) (kaniko.Report, error) {
	var report kaniko.Report
	info, err := os.Stat(path)
	if err != nil {
		return report, fmt.Errorf("read report: %w", err)
	}
	if info.Size() > maxReport {
		return report, fmt.Errorf("report of %d bytes is larger than %d", info.Size(), maxReport)
	}
	encoded, err := os.ReadFile(path)
	if err != nil {
		return report, fmt.Errorf("read report: %w", err)
	}
	if err := json.Unmarshal(encoded, &report); err != nil {
		return report, fmt.Errorf("read report: %w", err)
	}
	return report, nil
}

func last(lines []string) string {
	if len(lines) == 0 {
		return "it printed nothing"
	}
	return lines[len(lines)-1]
}

// supervise runs a program in a process group of its own until it ends. When the
// context is done it calls kill, again every second until the program has ended. If
// this process is killed, the kernel sends the program the signal orphaned. prepare may
// be nil; it runs first, on the thread from which the program inherits its namespaces.
func supervise(ctx context.Context, cmd *exec.Cmd, prepare func() error, orphaned unix.Signal, kill func()) error {
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: orphaned}
	// A grandchild that keeps the pipe open must not keep us waiting.
	cmd.WaitDelay = 5 * time.Second
	// The kernel takes the end of the thread that started a program for the end
	// of its parent, so the thread stays until the program has ended.
	return onThread(func() error {
		if prepare != nil {
			if err := prepare(); err != nil {
				return err
			}
		}
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start %s: %w", cmd.Path, err)
		}
		ended := make(chan struct{})
		watched := make(chan struct{})
		go func() {
			defer close(watched)
			select {
			case <-ended:
				return
			case <-ctx.Done():
			}
			for {
				kill()
				select {
				case <-ended:
					return
				case <-time.After(time.Second):
				}
			}
		}()
		err := cmd.Wait()
		close(ended)
		<-watched
		return err
	})
}
