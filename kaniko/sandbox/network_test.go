package sandbox_test

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/lab"
)

// slirpWith is a slirp4netns on a machine with another resolv.conf. The file
// seen then holds the paths in /etc and /run that it could see before that.
func slirpWith(t *testing.T, resolver string) (slirp, seen string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	slirp = filepath.Join(dir, "slirp")
	lab.WriteFile(t, filepath.Join(dir, "etc", "resolv.conf"), []byte("nameserver "+resolver+"\n"))
	lab.WriteProgram(t, slirp, fmt.Appendf(nil, "#!/bin/sh\nexec %s slirp-with %s %s \"$@\"\n", self, dir, lab.Tool(t, "slirp4netns")))
	return slirp, filepath.Join(dir, "seen")
}

// slirpMain is that program. It becomes the real slirp4netns.
func slirpMain(dir string, slirp []string) error {
	var seen []string
	for _, top := range []string{"/etc", "/run"} {
		err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
			seen = append(seen, path)
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "seen"), []byte(strings.Join(seen, " ")), 0o644); err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return err
	}
	// The whole directory: slirp takes /etc into its own sandbox, and no mounts below.
	if err := unix.Mount(filepath.Join(dir, "etc"), "/etc", "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.Exec(slirp[0], slirp, os.Environ())
}

// TestNameServerIsNoWayOut: what slirp forwards to the machine's name server is
// names and nothing else. On many machines that server is on the loopback,
// together with much else.
func TestNameServerIsNoWayOut(t *testing.T) {
	t.Parallel()
	// An address of our own among the loopback's, so that tests side by side
	// can each have the one port that names are asked at.
	resolver := fmt.Sprintf("127.53.%d.%d", os.Getpid()>>8&0xff, os.Getpid()&0xff)
	udp, err := net.ListenPacket("udp4", resolver+":53")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	go func() {
		question := make([]byte, 1500)
		for {
			n, from, err := udp.ReadFrom(question)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(question[:n], from)
		}
	}()
	tcp, err := net.Listen("tcp4", resolver+":53")
	if err != nil {
		t.Fatal(err)
	}
	speak(t, tcp)
	other, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	speak(t, other)
	_, port, _ := net.SplitHostPort(other.Addr().String())

	w := newWorld(t, nil)
	slirp, seen := slirpWith(t, resolver)
	w.builder.Slirp = slirp
	w.dockerfile(t, strings.NewReplacer("PORT", port, "OWN", lab.OuterAddress(t)).Replace(
		"FROM BASE\nRUN probe names\nRUN probe dial 10.0.2.3:PORT\nRUN probe bound 10.0.2.3:PORT OWN:PORT\n"))
	if _, err := w.builder.Run(t.Context(), w.job()); err != nil {
		t.Errorf("the sandbox did not hold: %v\n%s", err, end(w.log(t)))
	}
	w.nothingLeft(t)

	// slirp parses what the build sends, so it sees no more than it needs.
	content, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(content)) {
		if !slices.Contains([]string{"/etc", "/run", "/etc/resolv.conf", "/etc/ld.so.cache"}, path) {
			t.Errorf("slirp sees %s", path)
		}
	}
}

// TestMulticast: no neighbour of this machine hears a build.
func TestMulticast(t *testing.T) {
	t.Parallel()
	own := lab.OuterAddress(t)
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var ours *net.Interface
	for _, i := range interfaces {
		addresses, _ := i.Addrs()
		for _, address := range addresses {
			if strings.HasPrefix(address.String(), own+"/") {
				ours = &i
			}
		}
	}
	group := &net.UDPAddr{IP: net.IPv4(239, 255, 83, 17)}
	listener, err := net.ListenMulticastUDP("udp4", ours, group)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	group.Port = listener.LocalAddr().(*net.UDPAddr).Port

	w := newWorld(t, nil)
	w.dockerfile(t, fmt.Sprintf("FROM BASE\nRUN probe multicast %s\n", group))
	if _, err := w.builder.Run(t.Context(), w.job()); err != nil {
		t.Errorf("%v\n%s", err, end(w.log(t)))
	}
	if err := listener.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	word := make([]byte, 100)
	if n, from, err := listener.ReadFrom(word); err == nil {
		t.Errorf("the build was heard from %s: %q", from, word[:n])
	}
	w.nothingLeft(t)
}
