package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"towpath.dev/towpath/kaniko/executor"
)

// capabilities are what unpacking an image and a package manager need as root.
// None of them reaches beyond the build's own files and processes.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETUID", "CAP_SETGID", "CAP_SETFCAP", "CAP_KILL",
}

// maskedPaths hold what tells of the machine, or of its keys.
var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/cmdline", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/key-users", "/proc/keys",
	"/proc/kmsg", "/proc/latency_stats", "/proc/modules", "/proc/sched_debug", "/proc/scsi", "/proc/slabinfo",
	"/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
}

var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// bundle is one run of a program in the sandbox.
type bundle struct {
	args     []string
	place    *place
	executor string // as the runtime sees it
	netns    string // path of the network namespace
	memory   int64
	pids     int64
	disk     int64
}

// spec is the sandbox, as the OCI runtime specification words it.
func (b bundle) spec() *specs.Spec {
	readonly := func(source, destination string) specs.Mount {
		return specs.Mount{Source: source, Destination: destination, Type: "bind", Options: []string{"bind", "ro", "nosuid", "nodev"}}
	}
	mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: b.place.firstID, Size: ids}}
	files := uint64(65536)
	var ours unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &ours); err == nil {
		files = min(files, ours.Max) // nobody in a user namespace may raise it
	}
	shares := uint64(512) // half of what anything else on the machine gets
	return &specs.Spec{
		// The oldest version that has all we use: runtimes refuse newer ones.
		Version:  "1.0.2",
		Hostname: "build",
		Root:     &specs.Root{Path: b.place.inBox("root")},
		Process: &specs.Process{
			Args:            b.args,
			Env:             executor.Environment(),
			Cwd:             "/",
			NoNewPrivileges: true,
			Capabilities:    &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_CORE"},
				{Type: "RLIMIT_FSIZE", Soft: uint64(b.disk), Hard: uint64(b.disk)},
				{Type: "RLIMIT_NOFILE", Soft: files, Hard: files},
			},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
			{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			readonly(b.executor, executor.Program),
			readonly(b.place.inBox("certs"), "/kaniko/ssl/certs"),
			readonly(b.place.inBox("bases"), executor.Bases),
			readonly(b.place.inBox("context"), executor.Context),
			readonly(b.place.inBox("resolv.conf"), "/etc/resolv.conf"),
			readonly(b.place.inBox("hosts"), "/etc/hosts"),
			{Source: b.place.inBox("out"), Destination: executor.Out, Type: "bind", Options: []string{"bind", "rw", "nosuid", "nodev", "noexec"}},
		},
		Linux: &specs.Linux{
			UIDMappings: mapping,
			GIDMappings: mapping,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
				{Type: specs.UserNamespace}, {Type: specs.CgroupNamespace},
				{Type: specs.NetworkNamespace, Path: b.netns},
			},
			CgroupsPath: "/" + cgroup{b.place.id}.name(),
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, // the runtime adds null, zero, full, random, urandom, tty and ptmx
				Memory:  &specs.LinuxMemory{Limit: &b.memory, Swap: swapLimit(b.memory)},
				Pids:    &specs.LinuxPids{Limit: &b.pids},
				CPU:     &specs.LinuxCPU{Shares: &shares},
			},
			Seccomp:           seccomp(),
			MaskedPaths:       maskedPaths,
			ReadonlyPaths:     readonlyPaths,
			RootfsPropagation: "private",
		},
	}
}

// write puts the bundle where the runtime looks for it.
func (b bundle) write() error {
	encoded, err := json.MarshalIndent(b.spec(), "", " ")
	if err != nil {
		return fmt.Errorf("encode bundle: %w", err)
	}
	dir := b.place.path("private", "bundle")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), encoded, 0o600)
}
