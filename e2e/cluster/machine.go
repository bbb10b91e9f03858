package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/lab"
)

// machine is a machine within this one for a node to run on: namespaces, a link
// to the tests, a way out, a control group. Processes, mounts, packet filters
// and addresses are gone with its first process; a control group, which has no
// namespace that would remove it, with the next sweep.
type machine struct {
	dir    string // on this machine's disk: logs, data, sockets
	inside *lab.Namespaces
	tests  net.IP // the tests' end of the link
	node   net.IP // the node's end
	pods   net.IPNet
	cgroup string // the name of its control group in every hierarchy, with a slash
	device string // this machine's end of the link
}

// newMachine makes one with a number that no other on this machine has, for the
// addresses and names that machines share.
func newMachine(t testing.TB, dir string) *machine {
	t.Helper()
	number, lock := takeNumber(t)
	m := &machine{
		dir:   dir,
		tests: net.IPv4(10, 89, number, 1), node: net.IPv4(10, 89, number, 2),
		pods:   net.IPNet{IP: net.IPv4(10, 90, number, 0), Mask: net.CIDRMask(24, 32)},
		cgroup: "/towpath-node-" + strconv.Itoa(int(number)),
		device: "towpath" + strconv.Itoa(int(number)),
	}
	groups := makeControlGroups(t, m.cgroup)
	t.Cleanup(func() { sweepControlGroups(t, groups) })
	// Where the processes of the machine end a moment after us.
	err := lab.AtEnd(lock, `for try in $(seq 600); do
		find "$@" -depth -type d -exec rmdir {} + 2>/dev/null
		[ -n "$(find "$@" -maxdepth 0 2>/dev/null)" ] || exit 0
		sleep 0.1
	done`, append([]string{"sweep"}, groups...)...)
	if err != nil {
		t.Fatal(err)
	}
	if m.inside, err = lab.NewNamespaces(t.Context(), dir, nodeName); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.inside.Close)
	m.ownFiles(t)
	m.link(t)
	m.wayOut(t)
	return m
}

// takeNumber takes the first free number of this machine. It is free again when
// this process has ended, and everybody else who holds the lock.
func takeNumber(t testing.TB) (byte, *os.File) {
	t.Helper()
	for number := range byte(32) {
		lock, err := os.OpenFile(filepath.Join(os.TempDir(), fmt.Sprintf(".towpath-node-%d.lock", number)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			t.Cleanup(func() { lock.Close() })
			return number, lock
		}
		lock.Close()
	}
	t.Fatal("32 nodes run on this machine")
	return 0, nil
}

// ownFiles gives the machine directories of its own where programs insist on
// their places, and files in place of those settings of the kernel that a
// kubelet changes and that no namespace divides.
func (m *machine) ownFiles(t testing.TB) {
	t.Helper()
	_, err := m.run(t.Context(), "sh", "-ec", `
		mkdir -p "$0/kernel" "$0/varlog"
		mount -t tmpfs tmpfs /run
		mount -t tmpfs tmpfs /var/lib
		mount --bind "$0/varlog" /var/log
		for setting in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
			[ -e "/proc/sys/$setting" ] || continue
			shield=$0/kernel/$(basename "$setting")
			cat "/proc/sys/$setting" >"$shield"
			mount --bind "$shield" "/proc/sys/$setting"
		done`, m.dir)
	if err != nil {
		t.Fatal(err)
	}
}

// link joins the machine to this one by a pair of virtual devices.
func (m *machine) link(t testing.TB) {
	t.Helper()
	inside, err := netns.GetFromPid(m.inside.Pid())
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	if left, err := netlink.LinkByName(m.device); err == nil {
		_ = netlink.LinkDel(left) // a namespace that is being torn down
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: m.device}, PeerName: "eth0", PeerNamespace: netlink.NsFd(inside)}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatalf("add the device %s: %v", m.device, err)
	}
	here, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := netlink.NewHandleAt(inside)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	for _, end := range []struct {
		handle  *netlink.Handle
		device  string
		address net.IP
	}{{here, m.device, m.tests}, {there, "eth0", m.node}} {
		device, err := end.handle.LinkByName(end.device)
		if err == nil {
			err = end.handle.AddrAdd(device, &netlink.Addr{IPNet: &net.IPNet{IP: end.address, Mask: net.CIDRMask(24, 32)}})
		}
		if err == nil {
			err = end.handle.LinkSetUp(device)
		}
		if err != nil {
			t.Fatalf("set up the device %s: %v", end.device, err)
		}
	}
}

// wayOut lets the machine reach what this one reaches, without a packet filter
// or a route of this machine's being touched.
func (m *machine) wayOut(t testing.TB) {
	t.Helper()
	ready, signal, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	cmd := exec.Command(lab.Tool(t, "slirp4netns"), "--configure", "--mtu=65520", "--disable-host-loopback", "--ready-fd=3", strconv.Itoa(m.inside.Pid()), "tap0")
	cmd.ExtraFiles = []*os.File{signal}
	slirp, err := lab.StartProcess(cmd, m.log("slirp4netns"))
	signal.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slirp.Stop(0) })
	if n, err := ready.Read(make([]byte, 1)); n != 1 {
		t.Fatalf("slirp4netns: %v\n%s", err, slirp.Tail())
	}
	lab.WriteFile(t, m.path("resolv.conf"), []byte("nameserver 10.0.2.3\n"))
}

// path is a file of the machine's.
func (m *machine) path(elements ...string) string {
	return filepath.Join(append([]string{m.dir}, elements...)...)
}

// log is the file that takes what a program prints.
func (m *machine) log(name string) string { return m.path("logs", name+".log") }

// run runs a command on the machine.
func (m *machine) run(ctx context.Context, name string, args ...string) (string, error) {
	return m.inside.Run(exec.CommandContext(ctx, name, args...))
}

// Processes are those of the machine whose command line begins with words, in
// this machine's numbers.
func (m *machine) Processes(t testing.TB, words ...string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Error(err)
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		group, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cgroup"))
		if bytes.HasPrefix(line, []byte(strings.Join(words, "\x00")+"\x00")) && bytes.Contains(group, []byte(m.cgroup+"/")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// hierarchies are the directories that control groups are mounted on: one each
// for cgroup v1's controllers, or the one of cgroup v2.
func hierarchies(t testing.TB) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for line := range strings.Lines(string(mounts)) {
		// proc_pid_mounts(5): device, directory, type.
		if fields := strings.Fields(line); len(fields) > 2 && (fields[2] == "cgroup" || fields[2] == "cgroup2") {
			dirs = append(dirs, fields[1])
		}
	}
	return dirs
}

// groupsOf are the directories of a group.
func groupsOf(t testing.TB, group string) (dirs []string) {
	t.Helper()
	for _, hierarchy := range hierarchies(t) {
		dirs = append(dirs, filepath.Join(hierarchy, group))
	}
	return dirs
}

// makeControlGroups makes a group in every hierarchy, anew, and returns their
// directories.
func makeControlGroups(t testing.TB, group string) (dirs []string) {
	t.Helper()
	dirs = groupsOf(t, group)
	sweepControlGroups(t, dirs)
	for _, dir := range dirs {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		// In v1, a group without processors takes no process.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			all, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), all, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return dirs
}

// sweepControlGroups removes groups with all below them, once nothing runs in
// them.
func sweepControlGroups(t testing.TB, groups []string) {
	t.Helper()
	for limit := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var left error
		for _, group := range groups {
			var dirs []string
			_ = filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					dirs = append(dirs, path)
				}
				return nil // one that is not there needs no removal
			})
			for _, dir := range slices.Backward(dirs) {
				if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
					left = fmt.Errorf("remove the control group %s: %w", dir, err)
				}
			}
		}
		if left == nil {
			return
		}
		if time.Now().After(limit) {
			t.Fatal(left)
		}
	}
}
