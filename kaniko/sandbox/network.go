package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"towpath.dev/towpath/kaniko/console"
)

// The build's end of slirp4netns: its addresses are slirp's defaults.
const (
	tap        = "tap0"
	gateway    = "10.0.2.2"
	nameserver = "10.0.2.3"
)

// allowTable is the routing table for what Allow opens by port.
const allowTable = 100

// namespace is a build's network: a network namespace of this machine's own
// user namespace, so that not even a build with every capability could change
// it, and a slirp4netns that joins it to the outside.
//
// Both are gone when this process is: the namespace is held by a file
// descriptor, and slirp ends when its pipe from here is closed.
type namespace struct {
	ns   *os.File
	exit *os.File // slirp ends when this is closed
	done chan error
}

// openNetwork makes a network that reaches public addresses and what is
// allowed, and nothing else.
func (b *Builder) openNetwork(ctx context.Context, allow reach) (*namespace, error) {
	own, err := ownNetworks()
	if err != nil {
		return nil, err
	}
	n := &namespace{}
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		n.ns, err = os.OpenFile("/proc/thread-self/ns/net", os.O_RDONLY, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	if err := n.connect(ctx, b.slirp()); err != nil {
		return nil, errors.Join(err, n.close())
	}
	if err := n.do(func() error { return confine(allow, own) }); err != nil {
		return nil, errors.Join(fmt.Errorf("confine the build's network: %w", err), n.close())
	}
	return n, nil
}

// path names the namespace for as long as it is open.
func (n *namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.ns.Fd()) }

// connect starts slirp4netns and waits until the namespace has an address.
func (n *namespace) connect(ctx context.Context, slirp string) error {
	readyRead, readyWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	defer readyRead.Close()
	exitRead, exitWrite, err := os.Pipe()
	if err != nil {
		readyWrite.Close()
		return err
	}
	program, err := slirpPath(slirp)
	if err != nil {
		return errors.Join(err, readyWrite.Close(), exitRead.Close(), exitWrite.Close())
	}
	said := &bounded{max: 4096}
	//nolint:noctx // it lives until close
	cmd := exec.Command(program,
		"--configure", "--mtu=65520", "--disable-host-loopback", "--enable-sandbox", "--enable-seccomp",
		"--ready-fd=3", "--exit-fd=4", "--netns-type=path", n.path(), tap)
	cmd.ExtraFiles = []*os.File{readyWrite, exitRead}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	err = onThread(func() error {
		if err := hideFiles(); err != nil {
			return err
		}
		return cmd.Start()
	})
	readyWrite.Close()
	exitRead.Close()
	if err != nil {
		exitWrite.Close()
		return fmt.Errorf("start slirp4netns: %w", err)
	}
	n.exit, n.done = exitWrite, make(chan error, 1)
	go func() { n.done <- cmd.Wait() }()

	// One byte when it is ready; the end of the pipe when it has died.
	if err := readyRead.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = readyRead.SetReadDeadline(time.Now()) })
	defer stop()
	if _, err := io.ReadFull(readyRead, make([]byte, 1)); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("slirp4netns did not connect the build's network: %w%s", err, said.quoted())
	}
	return nil
}

// slirpPath is where the program is without any link on the way, which may not
// be there any more after hideFiles.
func slirpPath(slirp string) (string, error) {
	path, err := exec.LookPath(slirp)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", hinted{fmt.Errorf("find slirp4netns: %w", err), slirpHint}
	}
	return path, nil
}

// hideFiles leaves the calling thread, and what it starts, nothing of /etc and
// /run but what slirp reads. Its own sandbox has these two directories and takes
// its capabilities, but it stays root: every packet of a build is parsed there,
// and the secrets of many machines, Towpath's own among them, are in /etc and
// /run for root to read.
func hideFiles() error {
	keep := map[string][]byte{}
	for _, path := range []string{"/etc/resolv.conf", "/etc/ld.so.cache"} {
		content, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil {
			keep[path] = content
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, dir := range []string{"/etc", "/run"} {
		err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=16m")
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("hide %s: %w", dir, err)
		}
	}
	for path, content := range keep {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// close ends slirp and gives the namespace up; it goes with its last process.
func (n *namespace) close() error {
	var problem error
	if n.exit != nil {
		n.exit.Close()
		select {
		case <-n.done:
		case <-time.After(5 * time.Second):
			problem = errors.New("slirp4netns does not end")
		}
	}
	return errors.Join(problem, n.ns.Close())
}

// do runs f on a thread inside the namespace.
func (n *namespace) do(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// onThread runs f on a thread of its own, which ends with it: whatever f did to
// the thread's namespaces happens to nobody else.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread
		done <- f()
	}()
	return <-done
}

// confine closes what is not open, in two ways: by routes, so that a program which
// tries gets its error at once; and by a filter on what leaves, which also stops
// programs that go around the routes. It runs inside the namespace, where slirp has set
// a default route.
func confine(allow reach, own []netip.Prefix) error {
	link, err := netlink.LinkByName(tap)
	if err != nil {
		return fmt.Errorf("%s: %w", tap, err)
	}
	open := opened(allow, own)
	if err := attach(link, filter(open, allow.ports)); err != nil {
		return hinted{fmt.Errorf("filter what leaves: %w", err), "the kernel needs CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF: modprobe sch_ingress cls_bpf"}
	}
	return routes(link, open, allow.ports)
}

// opened tells what is open and what is closed. The narrowest network that holds
// an address decides: an allowed network opens a blocked range, and this
// machine's own addresses and networks stay closed within it unless they are
// allowed themselves. What none holds is open.
func opened(allow reach, own []netip.Prefix) map[netip.Prefix]bool {
	open := map[netip.Prefix]bool{}
	for _, prefix := range slices.Concat(blocked, own) {
		open[prefix] = false
	}
	// slirp's own network holds a gateway and a name server and nobody else.
	open[netip.MustParsePrefix("10.0.2.0/25")] = false
	open[netip.MustParsePrefix("10.0.2.128/25")] = false
	for _, prefix := range allow.networks {
		open[prefix] = true
	}
	return open
}

func routes(link netlink.Link, open map[netip.Prefix]bool, ports []netip.AddrPort) error {
	via := netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(gateway)}
	set := map[netip.Prefix]netlink.Route{}
	for prefix, is := range open {
		set[prefix] = netlink.Route{Type: unix.RTN_UNREACHABLE}
		if is {
			set[prefix] = via
		}
	}
	for _, address := range []string{gateway, nameserver} {
		set[netip.PrefixFrom(netip.MustParseAddr(address), 32)] = netlink.Route{LinkIndex: via.LinkIndex, Scope: netlink.SCOPE_LINK}
	}
	for prefix, route := range set {
		route.Dst = ipNet(prefix)
		if err := netlink.RouteReplace(&route); err != nil {
			return fmt.Errorf("route to %s: %w", prefix, err)
		}
	}

	// A table apart for single ports, asked before the others.
	if len(ports) > 0 {
		route := via
		route.Table, route.Dst = allowTable, ipNet(netip.MustParsePrefix("0.0.0.0/0"))
		if err := netlink.RouteReplace(&route); err != nil {
			return fmt.Errorf("route to allowed ports: %w", err)
		}
	}
	for _, port := range ports {
		rule := netlink.NewRule()
		rule.Priority, rule.Table, rule.Family = allowTable, allowTable, unix.AF_INET
		rule.Dst = ipNet(netip.PrefixFrom(port.Addr(), 32))
		rule.IPProto, rule.Dport = unix.IPPROTO_TCP, netlink.NewRulePortRange(port.Port(), port.Port())
		if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("rule for %s (needs a kernel with policy routing): %w", port, err)
		}
	}

	// slirp runs without IPv6. Should a link-local neighbour ever appear: no.
	six := netlink.Route{Type: unix.RTN_UNREACHABLE, Priority: 1, Family: netlink.FAMILY_V6, Dst: &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}}
	if err := netlink.RouteReplace(&six); err != nil && !noIPv6(err) {
		return fmt.Errorf("close IPv6: %w", err)
	}
	return nil
}

func noIPv6(err error) bool {
	for _, without := range []error{unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.ENODEV, unix.EACCES} {
		if errors.Is(err, without) {
			return true
		}
	}
	return false
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

// ownNetworks are this machine's IPv4 addresses but for loopback, and the
// networks that it is a neighbour in, whatever their range: slirp runs on this
// machine and would reach whatever listens there.
func ownNetworks() ([]netip.Prefix, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list own addresses: %w", err)
	}
	var own []netip.Prefix
	for _, address := range addresses {
		prefix, err := netip.ParsePrefix(address.String())
		if err == nil && prefix.Addr().Is4() && !prefix.Addr().IsLoopback() {
			own = append(own, prefix.Masked(), netip.PrefixFrom(prefix.Addr(), 32))
		}
	}
	return own, nil
}

// bounded keeps the beginning of what a program prints.
type bounded struct {
	max int

	mu   sync.Mutex
	text []byte
}

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := b.max - len(b.text); room > 0 {
		b.text = append(b.text, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// quoted is what was printed as part of an error: one harmless line.
func (b *bounded) quoted() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if text := console.Clean(b.text); text != "" {
		return ": " + text
	}
	return ""
}
