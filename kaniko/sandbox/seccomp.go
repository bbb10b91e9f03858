package sandbox

import (
	"runtime"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// allowed are the system calls that a build may make; every other one fails with
// EPERM. It is what compilers, package managers, test suites and kaniko use. Not
// in it, among others: everything that mounts or changes roots, new namespaces
// (unshare, setns), keyrings, bpf, perf events, io_uring, userfaultfd, ptrace and
// its kin, kernel modules, kexec, clocks, swap, quotas and file handles.
const allowed = `
	accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chown32
	clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
	close close_range connect copy_file_range creat dup dup2 dup3
	epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old
	eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
	fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock
	fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64
	futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
	get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32
	getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority
	getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt
	gettid gettimeofday getuid getuid32 getxattr getxattrat
	inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
	io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc
	kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat
	listen listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64
	madvise map_shadow_stack membarrier memfd_create mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap
	mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
	mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap
	nanosleep newfstatat _newselect open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2
	pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64
	process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
	recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat
	renameat2 restart_syscall riscv_flush_icache riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
	rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo
	sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
	sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr
	sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64
	send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid
	setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid
	setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid
	setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask
	sigreturn splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range
	sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
	timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
	timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat
	utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
	arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls`

// newNamespaces are the flags by which clone would make one.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP | unix.CLONE_NEWTIME

// architectures are the ones whose programs run. A 32-bit program's calls are
// filtered too.
var architectures = map[string][]specs.Arch{
	"amd64":   {specs.ArchX86_64, specs.ArchX86},
	"arm64":   {specs.ArchAARCH64, specs.ArchARM},
	"riscv64": {specs.ArchRISCV64},
	"ppc64le": {specs.ArchPPC64LE},
	"s390x":   {specs.ArchS390X},
}

// seccomp is the filter that every process of a build has.
func seccomp() *specs.LinuxSeccomp {
	eperm, enosys := uint(unix.EPERM), uint(unix.ENOSYS)
	allow := func(name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: args}
	}
	calls := []specs.LinuxSyscall{{Names: strings.Fields(allowed), Action: specs.ActAllow}}

	// CLONE_NEWTIME shares its bit with clone's exit signal, whose highest bit
	// no signal uses.
	flags := uint(0)
	if runtime.GOARCH == "s390x" {
		flags = 1
	}
	calls = append(calls, allow("clone", specs.LinuxSeccompArg{Index: flags, Value: newNamespaces, ValueTwo: 0, Op: specs.OpMaskedEqual}))
	// clone3 keeps its flags in memory, where no filter sees them. ENOSYS makes
	// the C library fall back to clone.
	calls = append(calls, specs.LinuxSyscall{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: &enosys})

	// No AF_PACKET, AF_VSOCK (the hypervisor), AF_ALG (the kernel's crypto), …
	for _, family := range []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6} {
		calls = append(calls, allow("socket", specs.LinuxSeccompArg{Index: 0, Value: family, Op: specs.OpEqualTo}))
	}
	// The machine tells of its devices in every network namespace that is its own.
	calls = append(calls, allow("socket",
		specs.LinuxSeccompArg{Index: 0, Value: unix.AF_NETLINK, Op: specs.OpEqualTo},
		specs.LinuxSeccompArg{Index: 2, Value: unix.NETLINK_KOBJECT_UEVENT, Op: specs.OpNotEqual}))
	// Any other family could load its module.
	calls = append(calls, allow("socketpair", specs.LinuxSeccompArg{Index: 0, Value: unix.AF_UNIX, Op: specs.OpEqualTo}))
	// The rules for socket allow this one too, as libseccomp reads them, and with
	// every family, since its arguments are in memory. C libraries use it
	// where the kernel has no socket call, if at all.
	calls = append(calls, specs.LinuxSyscall{Names: []string{"socketcall"}, Action: specs.ActErrno, ErrnoRet: &enosys})

	// Linux, 32-bit Linux, without address randomisation, and "what is it now?"
	for _, persona := range []uint64{0x0, 0x8, 0x20000, 0x20008, 0x40000, 0xffffffff} {
		calls = append(calls, allow("personality", specs.LinuxSeccompArg{Index: 0, Value: persona, Op: specs.OpEqualTo}))
	}

	return &specs.LinuxSeccomp{
		DefaultAction:   specs.ActErrno,
		DefaultErrnoRet: &eperm,
		Architectures:   architectures[runtime.GOARCH],
		Syscalls:        calls,
	}
}
