package lab

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// SSHOptions say how an SSH server behaves. The zero value: git's protocol
// variable is accepted, one Ed25519 host key.
type SSHOptions struct {
	Bind       string            // address to listen on; default 127.0.0.1. Set it where a pod must reach the server
	NoProtocol bool              // sshd drops GIT_PROTOCOL, as stock sshd does
	HostKeys   []string          // types, as ssh-keygen -t names them
	Config     map[string]string // set in every repository
	Sshd       []string          // more lines for sshd_config
}

// SSH is Debian's openssh-server, which serves git repositories to one key.
type SSH struct {
	Addr       string // host:port
	User       string
	Identity   []byte // the client's private key
	KnownHosts []byte // the server's host keys, as known_hosts holds them
	Root       string // the directory that holds the bare repositories
	Keys       string // the directory of the host keys: ssh_host_TYPE_key(.pub)

	t        testing.TB
	config   map[string]string
	accepted atomic.Int64
	mu       sync.Mutex
	open     map[net.Conn]bool
	ended    bool
}

// NewSSH starts an SSH server on the loopback address, which ends with the
// test. Every connection gets an sshd of its own (sshd -i), so there is no port
// to race for and none to wait for. At most one SSHOptions may be given.
func NewSSH(t testing.TB, options ...SSHOptions) *SSH {
	t.Helper()
	var o SSHOptions
	if len(options) > 0 {
		o = options[0]
	}
	sshd := Tool(t, "sshd")
	if os.Geteuid() == 0 {
		// Where sshd drops its privileges; Debian's service makes it.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(cmp.Or(o.Bind, "127.0.0.1"), "0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &SSH{
		Addr: listener.Addr().String(), User: me.Username, Root: t.TempDir(), Keys: t.TempDir(),
		t: t, config: o.Config, open: make(map[net.Conn]bool),
	}
	config := s.configure(o)

	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.accepted.Add(1)
			s.mu.Lock()
			s.open[conn] = true
			ended := s.ended
			s.mu.Unlock()
			if ended { // nobody would cut it
				conn.Close()
				return
			}
			serving.Go(func() { s.serve(sshd, config, conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		s.Disconnect()
		serving.Wait()
	})
	return s
}

// configure makes keys and sshd_config and returns the latter's path.
func (s *SSH) configure(o SSHOptions) string {
	s.t.Helper()
	types := o.HostKeys
	if len(types) == 0 {
		types = []string{"ed25519"}
	}
	var config, known bytes.Buffer
	host, port, _ := net.SplitHostPort(s.Addr)
	for _, kind := range types {
		key := filepath.Join(s.Keys, "ssh_host_"+kind+"_key")
		public := Keygen(s.t, key, "-t", kind)
		fmt.Fprintf(&known, "[%s]:%s %s\n", host, port, public)
		fmt.Fprintf(&config, "HostKey %s\n", key)
	}
	s.KnownHosts = known.Bytes()

	dir := s.t.TempDir()
	identity := filepath.Join(dir, "identity")
	authorized := filepath.Join(dir, "authorized_keys")
	WriteFile(s.t, authorized, []byte(Keygen(s.t, identity, "-t", "ed25519")+"\n"))
	var err error
	if s.Identity, err = os.ReadFile(identity); err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintf(&config, "AuthorizedKeysFile %s\n", authorized)
	fmt.Fprintln(&config, strings.Join([]string{
		"StrictModes no", "UsePAM no", "UseDNS no", "PermitRootLogin prohibit-password", "PrintMotd no",
		"PasswordAuthentication no", "KbdInteractiveAuthentication no", "PidFile none", "LogLevel ERROR",
		// With SHLVL, bash spares itself the .bashrc of whoever runs the test.
		"SetEnv SHLVL=1 GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=" + os.DevNull,
	}, "\n"))
	if !o.NoProtocol {
		fmt.Fprintln(&config, "AcceptEnv GIT_PROTOCOL")
	}
	for _, line := range o.Sshd {
		fmt.Fprintln(&config, line)
	}
	path := filepath.Join(dir, "sshd_config")
	WriteFile(s.t, path, config.Bytes())
	return path
}

func (s *SSH) serve(sshd, config string, conn net.Conn) {
	defer func() {
		conn.Close()
		s.mu.Lock()
		delete(s.open, conn)
		s.mu.Unlock()
	}()
	socket, err := conn.(*net.TCPConn).File()
	if err != nil {
		return
	}
	defer socket.Close()
	cmd := exec.Command(sshd, "-i", "-e", "-f", config)
	cmd.Stdin, cmd.Stdout = socket, socket
	_ = cmd.Run() // fails whenever a client hangs up
}

// Create makes an empty bare repository, its HEAD on main, and returns its URL.
func (s *SSH) Create(name string) string {
	s.t.Helper()
	createBare(s.t, s.Dir(name), s.config)
	return s.RepoURL(name)
}

// RepoURL is where a client finds a repository.
func (s *SSH) RepoURL(name string) string {
	return "ssh://" + s.User + "@" + s.Addr + s.Dir(name)
}

// Dir is where a repository lies on disk, for real git to look at.
func (s *SSH) Dir(name string) string { return filepath.Join(s.Root, filepath.FromSlash(name)) }

// Hook installs a shell script as a repository's hook (update, pre-receive, …).
func (s *SSH) Hook(name, hook, script string) {
	s.t.Helper()
	writeHook(s.t, s.Dir(name), hook, script)
}

// Secret is the credential as a Kubernetes Secret for Flux holds it.
func (s *SSH) Secret() map[string][]byte {
	return map[string][]byte{"identity": s.Identity, "known_hosts": s.KnownHosts}
}

// Conns counts the connections accepted so far.
func (s *SSH) Conns() int64 { return s.accepted.Load() }

// Disconnect cuts every open connection.
func (s *SSH) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.open {
		// Shut the socket down, not only this process's handle to it: sshd
		// has the same one.
		tcp := conn.(*net.TCPConn)
		tcp.CloseRead()
		tcp.CloseWrite()
	}
}

// Keygen makes a key pair with the real ssh-keygen, without a passphrase unless
// the arguments give one (-N), and returns the public key: type and base64.
func Keygen(t testing.TB, path string, args ...string) string {
	t.Helper()
	args = append([]string{"-q", "-N", "", "-C", "", "-f", path}, args...)
	if out, err := exec.Command(Tool(t, "ssh-keygen"), args...).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	public, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(public))
}
