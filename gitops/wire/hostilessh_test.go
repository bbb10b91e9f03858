package wire_test

import (
	"crypto/ed25519"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/fluxcd/pkg/git"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

// session plays a server's side of one session after its command was asked for.
type session func(channel ssh.Channel, exec *ssh.Request)

// hostileSSH is a server whose host key is known, and that does what it likes.
type hostileSSH struct {
	accept  func(net.Conn) bool       // instead of a handshake; nil: an honest one
	config  func(*ssh.ServerConfig)   // of the handshake
	conn    func(*ssh.ServerConn)     // beside the sessions; nil: nothing
	open    func(ssh.NewChannel) bool // true: it dealt with it
	session session
}

func (h hostileSSH) remote(t *testing.T) *wire.Remote {
	t.Helper()
	_, hostKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(hostKey)
	if err != nil {
		t.Fatal(err)
	}
	_, own, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	identity, err := ssh.MarshalPrivateKey(own, "")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		listener.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	all.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			all.Go(func() {
				defer c.Close()
				if h.accept != nil && h.accept(c) {
					return
				}
				config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
				config.AddHostKey(signer)
				if h.config != nil {
					h.config(config)
				}
				conn, channels, requests, err := ssh.NewServerConn(c, config)
				if err != nil {
					return
				}
				go ssh.DiscardRequests(requests)
				if h.conn != nil {
					go h.conn(conn)
				}
				for offered := range channels {
					if h.open != nil && h.open(offered) {
						continue
					}
					channel, asked, err := offered.Accept()
					if err != nil {
						return
					}
					go func() {
						for r := range asked {
							if r.Type == "exec" {
								go h.session(channel, r)
							}
						}
					}()
				}
			})
		}
	})
	address := listener.Addr().String()
	known := knownhosts.Line([]string{address}, signer.PublicKey())
	return dial(t, wire.Options{
		URL:     "ssh://git@" + address + "/x.git",
		Auth:    as(git.AuthOptions{Identity: pem.EncodeToMemory(identity), KnownHosts: []byte(known)}),
		MaxPack: 1 << 20,
	})
}

// TestHostileSSH: whatever a server does that proved to be the known host, a
// request of ours ends, with one clean line, and it gets no password, no answer
// and no channel of ours.
func TestHostileSSH(t *testing.T) {
	t.Parallel()
	flood := func(to io.Writer, text string) {
		for {
			if _, err := io.WriteString(to, text); err != nil {
				return
			}
		}
	}
	big := strings.Repeat("x", 30000)
	tests := map[string]hostileSSH{
		"endless lines before the version": {accept: func(c net.Conn) bool { flood(c, "hello\r\n"); return true }},
		"an endless line":                  {accept: func(c net.Conn) bool { flood(c, "SSH-2.0-"+big); return true }},
		"garbage after the version": {accept: func(c net.Conn) bool {
			io.WriteString(c, "SSH-2.0-x\r\n")
			flood(c, big)
			return true
		}},
		"a huge packet": {accept: func(c net.Conn) bool {
			io.WriteString(c, "SSH-2.0-x\r\n")
			binary.Write(c, binary.BigEndian, uint32(0xfffffff0))
			flood(c, big)
			return true
		}},
		"banners": {config: func(s *ssh.ServerConfig) {
			s.BannerCallback = func(ssh.ConnMetadata) string { return strings.Repeat("\x1b[2Jhello\n", 20000) }
			s.PublicKeyCallback = func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, io.EOF }
		}},
		"wants a password": {config: func(s *ssh.ServerConfig) {
			s.PublicKeyCallback = nil
			s.PasswordCallback = func(_ ssh.ConnMetadata, p []byte) (*ssh.Permissions, error) {
				t.Errorf("it got password %q", p)
				return nil, nil
			}
			s.KeyboardInteractiveCallback = func(_ ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
				a, err := ask("x", "y", []string{"Passphrase?"}, []bool{false})
				t.Errorf("it got answers %q %v", a, err)
				return nil, nil
			}
		}},
		"opens channels": {conn: func(c *ssh.ServerConn) {
			for {
				for _, kind := range []string{"auth-agent@openssh.com", "forwarded-tcpip", "x11", "session", "direct-tcpip"} {
					if ch, _, err := c.OpenChannel(kind, nil); err == nil {
						t.Errorf("a channel of type %s was opened", kind)
						ch.Close()
					} else if refused := new(ssh.OpenChannelError); !errors.As(err, &refused) {
						return
					}
				}
			}
		}, session: func(_ ssh.Channel, r *ssh.Request) { r.Reply(true, nil) }},
		"asks without end": {conn: func(c *ssh.ServerConn) {
			for {
				if _, _, err := c.SendRequest("hostkeys-00@openssh.com", true, []byte(big)); err != nil {
					return
				}
			}
		}, session: func(_ ssh.Channel, r *ssh.Request) { r.Reply(true, nil) }},
		"no sessions":       {open: func(n ssh.NewChannel) bool { n.Reject(ssh.ResourceShortage, "\x1b[2Jgo\naway"); return true }},
		"session kept open": {open: func(ssh.NewChannel) bool { return true }},
		"no answer to exec": {session: func(ssh.Channel, *ssh.Request) {}},
		"refuses exec":      {session: func(_ ssh.Channel, r *ssh.Request) { r.Reply(false, nil) }},
		"ends at once": {session: func(c ssh.Channel, r *ssh.Request) {
			r.Reply(true, nil)
			c.Close()
		}},
		"silent": {session: func(_ ssh.Channel, r *ssh.Request) { r.Reply(true, nil) }},
		"status before anything": {session: func(c ssh.Channel, r *ssh.Request) {
			r.Reply(true, nil)
			c.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
			c.SendRequest("exit-signal", false, []byte("x"))
		}},
		"endless errors": {session: func(c ssh.Channel, r *ssh.Request) {
			r.Reply(true, nil)
			flood(c.Stderr(), "\x1b[31mERROR: "+big+"\r\n")
		}},
		"endless output": {session: func(c ssh.Channel, r *ssh.Request) {
			r.Reply(true, nil)
			flood(c, pkt(h1+" refs/heads/"+big+"\x00 agent=x\n"))
		}},
		"endless requests": {session: func(c ssh.Channel, r *ssh.Request) {
			r.Reply(true, nil)
			for {
				if _, err := c.SendRequest("x@y", true, []byte(big)); err != nil {
					return
				}
			}
		}},
		"terminal escapes": {session: func(c ssh.Channel, r *ssh.Request) {
			r.Reply(true, nil)
			io.WriteString(c.Stderr(), "\x1b]0;owned\x07 repository not found\n\x1b[2J")
			c.Close()
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			remote := test.remote(t)
			remote.Impatient(300 * time.Millisecond)
			told := func(did string, err error) {
				t.Helper()
				if err == nil || strings.ContainsFunc(err.Error(), unicode.IsControl) || len(err.Error()) > 1500 {
					t.Errorf("%s: %q", did, err)
				}
			}
			_, err := remote.Refs(t.Context(), "refs/heads/main")
			told("listed", err)
			told("pushed", remote.Push(t.Context(), wire.PushRequest{Updates: []wire.Update{{Ref: "refs/heads/main", Old: hash(t, h1), New: hash(t, h2)}}}))
			_, err = remote.Fetch(t.Context(), wire.FetchRequest{Wants: []gitops.Hash{hash(t, h1)}})
			told("fetched", err)
		})
	}
}
