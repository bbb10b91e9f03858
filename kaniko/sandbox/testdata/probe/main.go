// Command probe is what a hostile RUN step would run. Each verb tries one kind
// of escape and prints a line for every attempt: "held" and why it failed, or
// "BREACH" and what it got. It ends with 1 after a breach.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var breached bool

// attempt says how one went.
func attempt(what string, err error) {
	if err != nil {
		fmt.Printf("held %s: %v\n", what, err)
		return
	}
	breached = true
	fmt.Printf("BREACH %s\n", what)
}

func main() {
	verbs := map[string]func(args []string){
		"search": search, "dial": dial, "bound": bound, "multicast": multicast, "names": names, "reach": reach, "abstract": abstract, "calls": calls, "write": write, "devices": devices,
		"descriptors": descriptors, "routes": routes, "identity": identity, "keys": keys, "namespaces": namespaces,
		"forks": forks, "memory": memory, "fill": fill, "files": files, "hidden": hidden, "flying": flying, "mapped": mapped, "sparse": sparse, "deep": deep, "spin": spin, "talk": talk, "daemon": daemon,
	}
	verb, ok := verbs[os.Args[1]]
	if !ok {
		fmt.Println("BREACH no such verb", os.Args[1])
		os.Exit(1)
	}
	verb(os.Args[2:])
	if breached {
		os.Exit(1)
	}
	fmt.Println("probed", strings.Join(os.Args[1:], " "))
}

// search looks for a secret, given in halves so that it does not find itself,
// in every file that it can read and in what /proc tells of every process.
func search(halves []string) {
	secret := []byte(strings.Join(halves, ""))
	searched := 0
	_ = filepath.WalkDir("/", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if bytes.Contains([]byte(path), secret) {
			attempt("found the secret in the name "+path, nil)
		}
		if entry.IsDir() || entry.Type()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket|fs.ModeSymlink) != 0 {
			return nil
		}
		if strings.HasSuffix(path, "/kaniko/executor") || strings.HasSuffix(path, "/pagemap") || strings.Contains(path, "/map_files/") {
			return nil
		}
		file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return nil
		}
		defer file.Close()
		content, _ := io.ReadAll(io.LimitReader(file, 4<<20))
		searched++
		if bytes.Contains(content, secret) {
			attempt("found the secret in "+path, nil)
		}
		return nil
	})
	attempt("search", fmt.Errorf("%d files do not hold it", searched))
}

// dial tries addresses that must be out of reach.
func dial(addresses []string) {
	for _, address := range addresses {
		conn, err := net.DialTimeout("tcp", address, 3*time.Second)
		if err == nil {
			conn.Close()
		}
		attempt("dial "+address, err)
	}
}

// bound tries addresses past the routing table: where a socket names its
// interface, the kernel takes what it has no route to for a neighbour.
func bound(addresses []string) {
	dialer := net.Dialer{Timeout: 3 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		var bound error
		err := c.Control(func(fd uintptr) {
			bound = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "tap0")
		})
		return errors.Join(err, bound)
	}}
	for _, address := range addresses {
		conn, err := dialer.Dial("tcp4", address)
		if err == nil {
			conn.Close()
		}
		attempt("dial "+address+" by interface", err)
	}
}

// multicast sends a word to a group, which needs no route either. Whether it
// got out is for the machine to say.
func multicast(groups []string) {
	link, err := net.InterfaceByName("tap0")
	if err != nil {
		panic(err)
	}
	for _, group := range groups {
		dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
			var set error
			err := c.Control(func(fd uintptr) {
				set = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(link.Index)})
				if set == nil { // beyond the first router, which slirp is
					set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 64)
				}
			})
			return errors.Join(err, set)
		}}
		conn, err := dialer.Dial("udp4", group)
		if err == nil {
			_, err = conn.Write([]byte("anybody there?"))
			conn.Close()
		}
		fmt.Println("sent to", group, err)
	}
}

// names looks one up, over UDP and over TCP. Any answer will do.
func names([]string) {
	// A question for the root's name servers.
	question := []byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
	for _, network := range []string{"udp", "tcp"} {
		message := question
		if network == "tcp" {
			message = append([]byte{0, byte(len(question))}, question...)
		}
		conn, err := net.DialTimeout(network, "10.0.2.3:53", 3*time.Second)
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, err = conn.Write(message)
		}
		if err == nil {
			_, err = conn.Read(make([]byte, 12))
		}
		if err != nil {
			attempt("no name is looked up over "+network+": "+err.Error(), nil)
		}
	}
}

// reach tries an address that is allowed, and expects a word from it.
func reach(args []string) {
	conn, err := net.DialTimeout("tcp", args[0], 3*time.Second)
	if err != nil {
		attempt("cannot reach what is allowed: "+err.Error(), nil)
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
	word, err := io.ReadAll(conn)
	fmt.Printf("reached %s: %s %v\n", args[0], word, err)
}

func abstract(names []string) {
	for _, name := range names {
		conn, err := net.Dial("unix", "@"+name)
		if err == nil {
			conn.Close()
		}
		attempt("connect to abstract socket "+name, err)
	}
}

// calls tries system calls whose arguments are wrong on purpose: the kernel must
// not even look at them.
func calls([]string) {
	var zero [64]byte
	p := uintptr(unsafe.Pointer(&zero))
	for _, c := range []struct {
		name   string
		number uintptr
		args   [6]uintptr
		want   syscall.Errno
	}{
		{"unshare user", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWUSER}, unix.EPERM},
		{"unshare mount", unix.SYS_UNSHARE, [6]uintptr{unix.CLONE_NEWNS}, unix.EPERM},
		{"clone into a new user namespace", unix.SYS_CLONE, [6]uintptr{unix.CLONE_NEWUSER | unix.CLONE_NEWNS | uintptr(unix.SIGCHLD)}, unix.EPERM},
		{"clone3", unix.SYS_CLONE3, [6]uintptr{p, 64}, unix.ENOSYS},
		{"setns", unix.SYS_SETNS, [6]uintptr{0, 0}, unix.EPERM},
		{"mount", unix.SYS_MOUNT, [6]uintptr{p, p, p, 0, 0}, unix.EPERM},
		{"umount", unix.SYS_UMOUNT2, [6]uintptr{p, 0}, unix.EPERM},
		{"pivot_root", unix.SYS_PIVOT_ROOT, [6]uintptr{p, p}, unix.EPERM},
		{"chroot", unix.SYS_CHROOT, [6]uintptr{p}, unix.EPERM},
		{"fsopen", unix.SYS_FSOPEN, [6]uintptr{p, 0}, unix.EPERM},
		{"open_tree", unix.SYS_OPEN_TREE, [6]uintptr{0, p, 0}, unix.EPERM},
		{"move_mount", unix.SYS_MOVE_MOUNT, [6]uintptr{0, p, 0, p, 0}, unix.EPERM},
		{"ptrace", unix.SYS_PTRACE, [6]uintptr{unix.PTRACE_ATTACH, 1}, unix.EPERM},
		{"process_vm_readv", unix.SYS_PROCESS_VM_READV, [6]uintptr{1, p, 1, p, 1, 0}, unix.EPERM},
		{"pidfd_getfd", unix.SYS_PIDFD_GETFD, [6]uintptr{0, 0, 0}, unix.EPERM},
		{"bpf", unix.SYS_BPF, [6]uintptr{0, p, 64}, unix.EPERM},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{p, 0, ^uintptr(0), ^uintptr(0), 0}, unix.EPERM},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{1, p}, unix.EPERM},
		{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{0}, unix.EPERM},
		{"init_module", unix.SYS_INIT_MODULE, [6]uintptr{p, 0, p}, unix.EPERM},
		{"finit_module", unix.SYS_FINIT_MODULE, [6]uintptr{0, p, 0}, unix.EPERM},
		{"kexec_load", unix.SYS_KEXEC_LOAD, [6]uintptr{0, 0, p, ^uintptr(0)}, unix.EPERM},
		{"reboot", unix.SYS_REBOOT, [6]uintptr{0, 0, 0}, unix.EPERM},
		{"swapon", unix.SYS_SWAPON, [6]uintptr{p, 0}, unix.EPERM},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{0, p, 0}, unix.EPERM},
		{"fanotify_init", unix.SYS_FANOTIFY_INIT, [6]uintptr{0, 0}, unix.EPERM},
		{"settimeofday", unix.SYS_SETTIMEOFDAY, [6]uintptr{0, 0}, unix.EPERM},
		{"sethostname", unix.SYS_SETHOSTNAME, [6]uintptr{p, 1}, unix.EPERM},
		{"syslog", unix.SYS_SYSLOG, [6]uintptr{10, 0, 0}, unix.EPERM},
		{"acct", unix.SYS_ACCT, [6]uintptr{p}, unix.EPERM},
		{"quotactl", unix.SYS_QUOTACTL, [6]uintptr{0, p, 0, p}, unix.EPERM},
		{"iopl", unix.SYS_IOPL, [6]uintptr{3}, unix.EPERM},
		{"keyctl", unix.SYS_KEYCTL, [6]uintptr{0, 0}, unix.EPERM},
		{"add_key", unix.SYS_ADD_KEY, [6]uintptr{p, p, p, 1, 0}, unix.EPERM},
		{"request_key", unix.SYS_REQUEST_KEY, [6]uintptr{p, p, p, 0}, unix.EPERM},
		{"packet socket", unix.SYS_SOCKET, [6]uintptr{unix.AF_PACKET, unix.SOCK_RAW, 0}, unix.EPERM},
		{"vsock socket", unix.SYS_SOCKET, [6]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM, 0}, unix.EPERM},
		{"crypto socket", unix.SYS_SOCKET, [6]uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET, 0}, unix.EPERM},
		{"raw socket", unix.SYS_SOCKET, [6]uintptr{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, unix.EPERM},
		{"socket pair of a family that may be a module", unix.SYS_SOCKETPAIR, [6]uintptr{unix.AF_TIPC, unix.SOCK_STREAM, 0, p}, unix.EPERM},
		{"the machine's device events", unix.SYS_SOCKET, [6]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT}, unix.EPERM},
		{"personality", unix.SYS_PERSONALITY, [6]uintptr{0x0100000}, unix.EPERM},
	} {
		_, _, errno := syscall.Syscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if errno != c.want {
			attempt(fmt.Sprintf("%s: the kernel says %v, not %v", c.name, errno, c.want), nil)
			continue
		}
		attempt(c.name, errno)
	}
	otherABIs()
}

// write tries to change files that are not the build's.
func write(paths []string) {
	for _, path := range paths {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
		}
		if err == nil {
			_, err = file.WriteString("|/tmp/owned\n")
			file.Close()
		}
		attempt("write "+path, err)
	}
}

// devices tries to make some, and to find any but the harmless.
func devices([]string) {
	for name, node := range map[string]struct {
		mode uint32
		dev  uint64
	}{"disk": {unix.S_IFBLK | 0o666, unix.Mkdev(254, 0)}, "memory": {unix.S_IFCHR | 0o666, unix.Mkdev(1, 1)}, "null": {unix.S_IFCHR | 0o666, unix.Mkdev(1, 3)}} {
		attempt("make device "+name, unix.Mknod("/tmp/"+name, node.mode, int(node.dev)))
	}
	harmless := []string{"/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero", "/dev/pts/ptmx"}
	_ = filepath.WalkDir("/", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == "/proc" {
			return fs.SkipDir
		}
		if entry.Type()&fs.ModeDevice != 0 && !slices.Contains(harmless, path) {
			attempt("found device "+path, nil)
		}
		return nil
	})
	if entries, err := os.ReadDir("/sys"); err == nil && len(entries) > 0 {
		attempt("/sys is there", nil)
	}
	attempt("devices", errors.New("nothing but harmless ones"))
}

// descriptors looks for open files that lead out of the root directory.
func descriptors([]string) {
	paths, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, path := range paths {
		target, err := os.Readlink(path)
		if err != nil {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() && !strings.HasPrefix(target, "/proc") {
			attempt("open directory "+path+" is "+target, nil)
			continue
		}
		known := false
		for _, prefix := range []string{"pipe:", "anon_inode:", "socket:", "/dev/", "/kaniko/", "/proc", "/kaniko/.context/"} {
			known = known || strings.HasPrefix(target, prefix)
		}
		if !known {
			attempt("open file "+path+" is "+target, nil)
		}
	}
	attempt("descriptors", fmt.Errorf("%d, none leads out", len(paths)))
}

// routes tries to open the network.
func routes([]string) {
	link, err := netlink.LinkByName("tap0")
	if err != nil {
		attempt("find tap0", err)
		return
	}
	all := &net.IPNet{IP: net.IPv4(169, 254, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}
	attempt("replace a route", netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Gw: net.IPv4(10, 0, 2, 2)}))
	attempt("delete a route", netlink.RouteDel(&netlink.Route{Dst: all, Type: unix.RTN_UNREACHABLE}))
	rule := netlink.NewRule()
	rule.Table, rule.Priority, rule.Family = 253, 1, unix.AF_INET
	attempt("add a rule", netlink.RuleAdd(rule))
	attempt("take the link down", netlink.LinkSetDown(link))
	attempt("add a link", netlink.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "mine"}}))
}

// identity checks who we are, outside too.
func identity([]string) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		attempt("read status", nil)
		return
	}
	// CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7, SETFCAP 31
	const want = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<31
	for _, line := range strings.Split(string(status), "\n") {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb":
			have, err := strconv.ParseUint(value, 16, 64)
			if err != nil || have&^want != 0 {
				attempt(name+" is "+value, nil)
			}
		case "NoNewPrivs":
			if value != "1" {
				attempt("may gain privileges", nil)
			}
		case "Seccomp":
			if value != "2" {
				attempt("no filter", nil)
			}
		}
	}
	for _, file := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		content, _ := os.ReadFile(file)
		words := strings.Fields(string(content))
		if len(words) != 3 || words[0] != "0" || len(words[1]) < 6 || words[2] != "65536" {
			attempt(file+" is "+string(content), nil)
		}
		attempt("write "+file, os.WriteFile(file, []byte("0 0 1"), 0o644))
	}
	attempt("become nobody's user", os.Chown("/tmp", 70000, 70000))
	// Where machines are started over the network it may hold a token.
	if line, _ := os.ReadFile("/proc/cmdline"); len(line) > 0 {
		attempt("read how the machine was started: "+string(line), nil)
	}
	cgroup, _ := os.ReadFile("/proc/self/cgroup")
	if strings.Contains(string(cgroup), "towpath") {
		attempt("the cgroup shows its place: "+string(cgroup), nil)
	}
	if pids, _ := filepath.Glob("/proc/[0-9]*"); len(pids) > 20 {
		attempt(fmt.Sprintf("%d processes in sight", len(pids)), nil)
	}
	attempt("see other processes", errors.New("none in sight"))
}

// keys looks for keyrings.
func keys(args []string) {
	_, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", args[0], 0)
	attempt("search the session keyring", err)
	_, err = unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", args[0], 0)
	attempt("search the user keyring", err)
	if content, err := os.ReadFile("/proc/keys"); err == nil && len(content) > 0 {
		attempt("read /proc/keys: "+string(content), nil)
	}
}

// namespaces tries by other programs' means.
func namespaces([]string) {
	for _, command := range [][]string{{"unshare", "-U", "true"}, {"unshare", "-Ur", "true"}, {"unshare", "-m", "true"}, {"nsenter", "-t", "1", "-m", "true"}, {"mount", "-t", "tmpfs", "none", "/tmp"}, {"chroot", "/", "true"}} {
		attempt(strings.Join(command, " "), exec.Command(command[0], command[1:]...).Run())
	}
	child := exec.Command("/bin/true")
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{{HostID: 0, Size: 1}}}
	attempt("start a child in a new user namespace", child.Run())
}

// forks starts processes until it is refused, each of which waits.
func forks([]string) {
	for {
		child := exec.Command("/bin/sleep", "1000")
		if err := child.Start(); err != nil {
			fmt.Println("fork:", err)
			os.Exit(1)
		}
	}
}

func memory([]string) {
	var all [][]byte
	for {
		block := make([]byte, 16<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		all = append(all, block)
		_ = all
	}
}

// fill writes one file until it is stopped.
func fill(args []string) {
	file, err := os.Create(args[0])
	if err != nil {
		panic(err)
	}
	write1(file)
}

func write1(file *os.File) {
	block := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for n := 0; ; n++ {
		if _, err := file.Write(block); err != nil {
			fmt.Println("write:", err)
			os.Exit(1)
		}
	}
}

// files makes small ones until it is stopped.
func files(args []string) {
	for n := 0; ; n++ {
		dir := fmt.Sprintf("%s/%d", args[0], n/1000)
		if err := os.MkdirAll(dir, 0); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, n), nil, 0); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// hidden writes into files that have no name any more.
func hidden(args []string) {
	var open []*os.File
	for n := 0; ; n++ {
		path := fmt.Sprintf("%s/%d", args[0], n)
		file, err := os.Create(path)
		if err != nil {
			panic(err)
		}
		if err := os.Remove(path); err != nil {
			panic(err)
		}
		if _, err := file.Write(make([]byte, 8<<20)); err != nil {
			fmt.Println("write:", err)
			os.Exit(1)
		}
		open = append(open, file)
	}
}

// flying writes into files that have no name and whose descriptors are in no
// process, but under way to one.
func flying(args []string) {
	var pairs [][2]int
	for n := 0; ; n++ {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			panic(err)
		}
		pairs = append(pairs, pair)
		path := fmt.Sprintf("%s/%d", args[0], n)
		file, err := os.Create(path)
		if err != nil {
			panic(err)
		}
		if err := os.Remove(path); err != nil {
			panic(err)
		}
		if _, err := file.Write(make([]byte, 8<<20)); err != nil {
			fmt.Println("write:", err)
			os.Exit(1)
		}
		if err := unix.Sendmsg(pairs[n][0], []byte("x"), unix.UnixRights(int(file.Fd())), nil, 0); err != nil {
			panic(err)
		}
		file.Close()
		if n > 100 {
			time.Sleep(50 * time.Millisecond) // not to fill the disk of who tests
		}
	}
}

// mapped writes into files that have no name and are not open any more, but
// mapped into memory.
func mapped(args []string) {
	for n := 0; ; n++ {
		path := fmt.Sprintf("%s/%d", args[0], n)
		file, err := os.Create(path)
		if err != nil {
			panic(err)
		}
		if err := os.Remove(path); err != nil {
			panic(err)
		}
		if _, err := file.Write(make([]byte, 8<<20)); err != nil {
			fmt.Println("write:", err)
			os.Exit(1)
		}
		if _, err := unix.Mmap(int(file.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE); err != nil {
			panic(err)
		}
		file.Close()
	}
}

// sparse makes a file that is larger than any disk.
func sparse(args []string) {
	signal.Ignore(unix.SIGXFSZ)
	file, err := os.Create(args[0])
	if err != nil {
		panic(err)
	}
	attempt("make a sparse file of a tebibyte", file.Truncate(1<<40))
}

// deep nests directories that nobody may read.
func deep([]string) {
	if err := os.Chdir("/var"); err != nil {
		panic(err)
	}
	for n := 0; n < 5000; n++ {
		if err := os.Mkdir("d", 0o700); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		if err := os.Chdir("d"); err != nil {
			panic(err)
		}
	}
	fmt.Println("nested")
	spin(nil)
}

func spin([]string) {
	signal.Ignore(unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	for {
		time.Sleep(time.Hour)
	}
}

func talk([]string) {
	line := []byte(strings.Repeat("\x1b[31mtalk\x00\x07 ", 300) + "\n")
	for {
		if _, err := os.Stdout.Write(line); err != nil {
			os.Exit(1)
		}
	}
}

// daemon leaves a process behind that wants to outlive the step, the build and
// the sandbox.
func daemon(args []string) {
	child := exec.Command("/bin/sh", "-c", "trap '' TERM HUP INT; while true; do echo mine > /kaniko/.out/late 2>/dev/null; sleep 0.1; done")
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		panic(err)
	}
	fmt.Println("daemon started")
}
