package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"towpath.dev/towpath/kaniko/executor"
)

// What to do about programs that are missing.
const (
	runtimeHint = "install runc (on Debian: apt-get install runc), or name another OCI runtime in builder.sandbox.runtime"
	slirpHint   = "install slirp4netns (on Debian: apt-get install slirp4netns)"
)

var errNotRoot = hinted{
	errors.New("the sandbox needs root: it maps a range of user ids, makes a network namespace and sets limits"),
	"run towpath as root or with sudo",
}

// Check returns what is missing for builds on this machine, each with a hint
// where a person can mend it. When nothing is, it has run the executor in the
// sandbox once.
func (b *Builder) Check(ctx context.Context) []error {
	var problems []error
	found := func(err error, hint string) {
		if err == nil {
			return
		}
		if hint != "" {
			err = hinted{err, hint}
		}
		problems = append(problems, err)
	}
	for _, tool := range []struct{ path, hint string }{
		{b.runtime(), runtimeHint},
		{b.slirp(), slirpHint},
	} {
		if _, err := exec.LookPath(tool.path); err != nil {
			found(fmt.Errorf("%s is missing", tool.path), tool.hint)
		}
	}
	if _, err := b.ExecutorDigest(); err != nil {
		found(err, "")
	} else {
		found(checkExecutor(b.Executor), "build it with CGO_ENABLED=0")
	}
	if info, err := os.Stat(b.Self); err != nil || !info.Mode().IsRegular() {
		found(fmt.Errorf("%s, which runs the steps, is not there", b.Self), "")
	}
	if os.Geteuid() != 0 {
		problems = append(problems, errNotRoot)
	}
	found(checkNamespaces(), "sysctl user.max_user_namespaces=10000")
	for _, controller := range missingControllers() {
		found(fmt.Errorf("the cgroup controller %q is not available", controller), "boot with cgroup_enable="+controller+", or mount it below "+cgroupRoot)
	}
	found(b.checkIDs(), "")
	for _, entry := range b.Allow {
		_, err := parseAllow(entry)
		found(err, "")
	}
	if os.Geteuid() == 0 {
		if err := b.makeDirs(); err != nil {
			found(err, "")
		} else if _, err := b.findDoorstep(); err != nil {
			found(err, "")
		}
	}
	if len(problems) == 0 {
		found(b.try(ctx), "")
	}
	return problems
}

// try runs the executor in the sandbox, as a build would be.
func (b *Builder) try(ctx context.Context) error {
	p, err := b.claim()
	if err != nil {
		return err
	}
	out := &output{}
	end, err := b.contain(ctx, p, []string{executor.Program, "version"}, out)
	err = errors.Join(err, p.release())
	if err != nil {
		return fmt.Errorf("try the sandbox: %w", err)
	}
	if end.status != 0 || end.cause != nil {
		return fmt.Errorf("try the sandbox: the executor ended with status %d: %s", end.status, last(out.lines()))
	}
	return nil
}

func checkNamespaces() error {
	content, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	if err != nil {
		return errors.New("the kernel has no user namespaces")
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(content))); err != nil || n == 0 {
		return errors.New("user namespaces are switched off")
	}
	return nil
}

func missingControllers() []string {
	var missing []string
	available, _ := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
	for _, controller := range []string{"memory", "pids", "cpu"} {
		if unified() {
			if !strings.Contains(" "+strings.TrimSpace(string(available))+" ", " "+controller+" ") {
				missing = append(missing, controller)
			}
		} else if _, err := os.Stat(filepath.Join(cgroupRoot, controller, "cgroup.procs")); err != nil {
			missing = append(missing, controller)
		}
	}
	return missing
}
