package wire_test

import (
	"bufio"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
)

// tunnelProxy leads every connection to one place, after a greeting.
type tunnelProxy struct {
	addr string
	to   atomic.Value
}

func startProxy(t *testing.T, greet func(net.Conn, *bufio.Reader) (string, bool)) *tunnelProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tunnelProxy{addr: listener.Addr().String()}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	track := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
	}
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
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			track(conn)
			all.Go(func() {
				defer conn.Close()
				r := bufio.NewReader(conn)
				asked, ok := greet(conn, r)
				if !ok {
					return
				}
				if asked != "git.example.invalid:22" {
					t.Errorf("the proxy was asked for %q", asked)
				}
				out, err := net.Dial("tcp", p.to.Load().(string))
				if err != nil {
					return
				}
				track(out)
				defer out.Close()
				go func() { _, _ = io.Copy(out, r); out.Close() }()
				_, _ = io.Copy(conn, out)
			})
		}
	})
	return p
}

// socksGreeting is the server's part of SOCKS 5 (RFC 1928, RFC 1929).
func socksGreeting(conn net.Conn, r *bufio.Reader) (string, bool) {
	two := make([]byte, 2)
	read := func(n int) []byte {
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil
		}
		return b
	}
	if _, err := io.ReadFull(r, two); err != nil {
		return "", false
	}
	methods := read(int(two[1]))
	if strings.ContainsRune(string(methods), 2) {
		_, _ = conn.Write([]byte{5, 2})
		head := read(2)
		user := read(int(head[1]))
		password := read(int(read(1)[0]))
		if string(user) != "ada" || string(password) != canary {
			_, _ = conn.Write([]byte{1, 1})
			return "", false
		}
		_, _ = conn.Write([]byte{1, 0})
	} else {
		_, _ = conn.Write([]byte{5, 0})
	}
	head := read(5)
	if head == nil || head[3] != 3 {
		return "", false
	}
	name := read(int(head[4]))
	port := read(2)
	_, _ = conn.Write([]byte{5, 0, 0, 1, 127, 0, 0, 1, 0, 22})
	if port[0] != 0 || port[1] != 22 {
		return "", false
	}
	return string(name) + ":22", true
}

func parseProxyAuth(req *http.Request) (user, password string, ok bool) {
	encoded, ok := strings.CutPrefix(req.Header.Get("Proxy-Authorization"), "Basic ")
	if !ok {
		return "", "", false
	}
	text, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(text), ":")
}

func parseKey(t testing.TB, knownHosts []byte) ssh.PublicKey {
	t.Helper()
	_, _, key, _, _, err := ssh.ParseKnownHosts(knownHosts)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
