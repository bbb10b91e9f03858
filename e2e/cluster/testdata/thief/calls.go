package main

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// calls tries what only the owner of a machine may. Where the arguments are wrong
// on purpose, the kernel must not even look at them.
func calls([]string) {
	var zero [64]byte
	p := uintptr(unsafe.Pointer(&zero))
	for _, c := range []struct {
		name   string
		number uintptr
		args   [6]uintptr
	}{
		{"unshare user", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}},
		{"unshare mount", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWNS}},
		{"clone into a new user namespace", unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_NEWNS | uintptr(unix.SIGCHLD)}},
		{"clone3", unix.SYS_CLONE3, [6]uintptr{p, 64}},
		{"setns", unix.SYS_SETNS, [6]uintptr{0, 0}},
		{"mount", unix.SYS_MOUNT, [6]uintptr{p, p, p, 0, 0}},
		{"umount", unix.SYS_UMOUNT2, [6]uintptr{p, 0}},
		{"pivot_root", unix.SYS_PIVOT_ROOT, [6]uintptr{p, p}},
		{"chroot", unix.SYS_CHROOT, [6]uintptr{p}},
		{"fsopen", unix.SYS_FSOPEN, [6]uintptr{p, 0}},
		{"move_mount", unix.SYS_MOVE_MOUNT, [6]uintptr{0, p, 0, p, 0}},
		{"bpf", unix.SYS_BPF, [6]uintptr{0, p, 64}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{p, 0, ^uintptr(0), ^uintptr(0), 0}},
		{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{0}},
		{"init_module", unix.SYS_INIT_MODULE, [6]uintptr{p, 0, p}},
		{"finit_module", unix.SYS_FINIT_MODULE, [6]uintptr{0, p, 0}},
		{"kexec_load", unix.SYS_KEXEC_LOAD, [6]uintptr{0, 0, p, ^uintptr(0)}},
		{"reboot", unix.SYS_REBOOT, [6]uintptr{0, 0, 0}},
		{"swapon", unix.SYS_SWAPON, [6]uintptr{p, 0}},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{0, p, 0}},
		{"fanotify_init", unix.SYS_FANOTIFY_INIT, [6]uintptr{0, 0}},
		{"settimeofday", unix.SYS_SETTIMEOFDAY, [6]uintptr{0, 0}},
		{"sethostname", unix.SYS_SETHOSTNAME, [6]uintptr{p, 1}},
		{"syslog", unix.SYS_SYSLOG, [6]uintptr{10, 0, 0}},
		{"acct", unix.SYS_ACCT, [6]uintptr{p}},
		{"quotactl", unix.SYS_QUOTACTL, [6]uintptr{0, p, 0, p}},
		{"iopl", unix.SYS_IOPL, [6]uintptr{3}},
		{"keyctl", unix.SYS_KEYCTL, [6]uintptr{0, 0}},
		{"add_key", unix.SYS_ADD_KEY, [6]uintptr{p, p, p, 1, 0}},
		{"request_key", unix.SYS_REQUEST_KEY, [6]uintptr{p, p, p, 0}},
		{"packet socket", unix.SYS_SOCKET, [6]uintptr{unix.AF_PACKET, unix.SOCK_RAW, 0}},
		{"raw socket", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}},
	} {
		_, _, errno := syscall.Syscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if errors.Is(errno, unix.EPERM) || errors.Is(errno, unix.ENOSYS) || errors.Is(errno, unix.EACCES) {
			attempt(c.name, errno)
			continue
		}
		breach("%s: the kernel looked at it: %v", c.name, errno)
	}
	content, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", "towpath-canary", 0)
	attempt(fmt.Sprint("find a key of the machine's: ", content), err)
}
