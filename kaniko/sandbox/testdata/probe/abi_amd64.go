package main

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// call32 makes a system call as a 32-bit program does; it returns -errno.
func call32(number, a, b, c, d, e uint32) int32

// otherABIs tries system calls by the numbers that 32-bit programs use for them.
// The kernel must not look at them there either. (A thread that tries x32's is
// killed, which no Go program survives to tell.)
func otherABIs() {
	for _, c := range []struct {
		name   string
		number uint32
		args   [5]uint32
	}{
		{"unshare", 310, [5]uint32{unix.CLONE_NEWUSER}},
		{"clone into a new user namespace", 120, [5]uint32{unix.CLONE_NEWUSER | uint32(unix.SIGCHLD)}},
		{"setns", 346, [5]uint32{0, 0}},
		{"mount", 21, [5]uint32{0, 0, 0, 0, 0}},
		{"umount", 22, [5]uint32{}},
		{"umount2", 52, [5]uint32{}},
		{"ptrace", 26, [5]uint32{unix.PTRACE_ATTACH, 1}},
		{"chroot", 61, [5]uint32{}},
		{"packet socket", 359, [5]uint32{unix.AF_PACKET, unix.SOCK_RAW, 0}},
		{"vsock socket", 359, [5]uint32{unix.AF_VSOCK, unix.SOCK_STREAM, 0}},
		{"keyctl", 288, [5]uint32{0, 0}},
		{"add_key", 286, [5]uint32{}},
		{"bpf", 357, [5]uint32{0, 0, 64}},
		{"io_uring_setup", 425, [5]uint32{1, 0}},
		{"open_by_handle_at", 342, [5]uint32{}},
		{"process_vm_readv", 347, [5]uint32{1}},
		{"userfaultfd", 374, [5]uint32{0}},
		{"vm86", 166, [5]uint32{}},
		{"modify_ldt", 123, [5]uint32{0, 0, 0}},
		{"quotactl", 131, [5]uint32{}},
		{"create_module", 127, [5]uint32{}},
	} {
		errno := syscall.Errno(-call32(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4]))
		judgeABI(c.name+" (32-bit)", errno)
	}
	// Its arguments are in memory, where 32-bit programs can point to.
	memory, err := unix.MmapPtr(-1, 0, nil, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_32BIT)
	if err != nil {
		panic(err)
	}
	for name, family := range map[string]uint32{"packet": unix.AF_PACKET, "vsock": unix.AF_VSOCK, "crypto": unix.AF_ALG, "inet": unix.AF_INET} {
		*(*[3]uint32)(memory) = [3]uint32{family, unix.SOCK_DGRAM, 0}
		const socketcall, socket = 102, 1
		judgeABI(name+" socket by socketcall (32-bit)", syscall.Errno(-call32(socketcall, socket, uint32(uintptr(memory)), 0, 0, 0)))
	}
}

func judgeABI(name string, errno syscall.Errno) {
	if errors.Is(errno, unix.EPERM) || errors.Is(errno, unix.ENOSYS) {
		attempt(name, errno)
		return
	}
	attempt(fmt.Sprintf("%s: the kernel looked at it: %v", name, errno), nil)
}
