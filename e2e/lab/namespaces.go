package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Namespaces are a machine within this one: processes, network, mounts and host
// name of its own, on the same files. When its first process ends, everything
// in it has ended, whatever it was. It needs root.
type Namespaces struct {
	init *Process
}

// Pid is its first process, in this machine's numbers.
func (n *Namespaces) Pid() int { return n.init.Pid() }

// NewNamespaces makes them, with a loopback device and no other. They end with
// Close, and with this process at the latest. Files go to a directory.
func NewNamespaces(ctx context.Context, dir, hostname string) (*Namespaces, error) {
	ready := filepath.Join(dir, "init.ready")
	// With SIGCHLD ignored, the kernel itself buries the orphans that come to
	// a first process.
	cmd := exec.Command("sh", "-ec", `
		mount --make-rprivate /
		mount -t proc proc /proc
		hostname "$1"
		ip link set lo up
		trap '' CHLD
		: > "$0"
		exec sleep infinity`, ready, hostname)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	init, err := StartProcess(cmd, filepath.Join(dir, "init.log"))
	if err != nil {
		return nil, err
	}
	n := &Namespaces{init}
	if err := init.Ready(ctx, func(context.Context) error { _, err := os.Stat(ready); return err }); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Close ends everything in them.
func (n *Namespaces) Close() { n.init.Stop(0) }

// Start starts a server in them.
func (n *Namespaces) Start(cmd *exec.Cmd, log string) (*Process, error) {
	return startProcess(cmd, log, n.enter)
}

// Run runs a command in them to its end, and returns what it printed. The error
// has that too.
func (n *Namespaces) Run(cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ended := make(chan error)
	go onThread(func() {
		err := n.enter()
		if err == nil {
			err = cmd.Run()
		}
		ended <- err
	})
	if err := <-ended; err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, tail(out.Bytes()))
	}
	return out.String(), nil
}

// enter moves the thread into them, and what it starts.
func (n *Namespaces) enter() error {
	// Threads share root and working directory; one with its own mounts cannot.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	pid, err := unix.PidfdOpen(n.Pid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(pid)
	if err := unix.Setns(pid, unix.CLONE_NEWPID|unix.CLONE_NEWNET|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC|unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the namespaces of process %d: %w", n.Pid(), err)
	}
	return nil
}
