package wire

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/fluxcd/pkg/git"
	"golang.org/x/crypto/ssh"
	"golang.org/x/net/http/httpproxy"
	"golang.org/x/net/proxy"
)

const dialTimeout = 30 * time.Second

// dialSSH makes an authenticated connection with the credential of this moment.
func dialSSH(ctx context.Context, a address, auth authFunc) (*ssh.Client, error) {
	options, err := auth()
	if err != nil {
		return nil, fmt.Errorf("read the credential: %w", err)
	}
	if options == nil || len(options.Identity) == 0 {
		return nil, hint(fmt.Errorf("%w: SSH needs a key and there is none", ErrAuth), "name a secretRef that holds identity and known_hosts, beside the url or in credentials")
	}
	signer, err := parseIdentity(options)
	if err != nil {
		return nil, err
	}
	known, err := readKnownHosts(options.KnownHosts, a.dial())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no SSH connection within %s", dialTimeout))
	defer cancel()
	conn, err := dialThroughProxy(ctx, a.dial())
	if err != nil {
		return nil, err
	}
	// The handshake knows no context.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var hostKey error
	secure, channels, requests, err := ssh.NewClientConn(conn, a.dial(), &ssh.ClientConfig{
		User: userOf(a, options),
		Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
			hostKey = known.check(host, remote, key)
			return hostKey
		},
		HostKeyAlgorithms: known.algorithms,
		ClientVersion:     "SSH-2.0-towpath",
	})
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, sshFault(because(ctx, err), hostKey)
	}
	return ssh.NewClient(secure, channels, requests), nil
}

// sshFault sorts out why a handshake failed; x/crypto flattens the causes.
func sshFault(err, hostKey error) error {
	var wrongHost *ssh.AlgorithmNegotiationError
	switch {
	case hostKey != nil:
		return hostKey
	case errors.As(err, &wrongHost) && strings.Contains(err.Error(), "host key"):
		return hint(errors.New("the host has no key of the types that known_hosts holds for it"),
			"somebody may be in the middle, or the server has a new key: ask its owner before you change known_hosts")
	case strings.Contains(err.Error(), "unable to authenticate"):
		return hint(fmt.Errorf("%w: the server does not accept this key", ErrAuth),
			"register the public half of identity with the server, as a deploy key or with a machine user")
	}
	return err
}

func userOf(a address, auth *git.AuthOptions) string {
	switch {
	case a.user != nil && a.user.Username() != "":
		return a.user.Username()
	case auth.Username != "":
		return auth.Username
	}
	return git.DefaultPublicKeyAuthUser
}

// parseIdentity reads the private key; Flux calls its passphrase password. No
// error of the parsers repeats key material.
func parseIdentity(auth *git.AuthOptions) (ssh.Signer, error) {
	signer, err := ssh.ParsePrivateKey(auth.Identity)
	var locked *ssh.PassphraseMissingError
	if passphrase := trimmed(auth.Password); errors.As(err, &locked) && passphrase != "" {
		if signer, err = ssh.ParsePrivateKeyWithPassphrase(auth.Identity, []byte(passphrase)); err != nil {
			return nil, hint(errors.New("identity does not open with the passphrase given"), "the passphrase is the secret's key password")
		}
	}
	switch {
	case errors.As(err, &locked):
		return nil, hint(errors.New("identity is encrypted and there is no passphrase"), "put the passphrase into the secret as password")
	case err != nil:
		return nil, hint(errors.New("identity is no SSH private key that can be read"), "identity must hold a private key as ssh-keygen writes it")
	}
	return signer, nil
}

// dialThroughProxy connects as ALL_PROXY says, unless NO_PROXY excepts the
// host: socks5:// or socks5h://, or http:// with CONNECT.
func dialThroughProxy(ctx context.Context, hostport string) (net.Conn, error) {
	direct := &net.Dialer{Timeout: dialTimeout}
	all := os.Getenv("ALL_PROXY")
	if all == "" {
		all = os.Getenv("all_proxy")
	}
	if all == "" {
		return direct.DialContext(ctx, "tcp", hostport)
	}
	broken := errors.New("ALL_PROXY is no URL") // the parsers' errors repeat it with its password
	if _, err := url.Parse(all); err != nil && strings.Contains(all, "://") {
		return nil, broken
	}
	// httpproxy knows NO_PROXY's rules; it is asked as if for https.
	rules := httpproxy.FromEnvironment()
	rules.HTTPSProxy = all
	via, err := rules.ProxyFunc()(&url.URL{Scheme: "https", Host: hostport})
	if err != nil {
		return nil, broken
	}
	if via == nil {
		return direct.DialContext(ctx, "tcp", hostport)
	}
	switch via.Scheme {
	case "socks5", "socks5h":
		var login *proxy.Auth
		if via.User != nil {
			password, _ := via.User.Password()
			login = &proxy.Auth{User: via.User.Username(), Password: password}
		}
		socks, err := proxy.SOCKS5("tcp", via.Host, login, direct)
		if err != nil {
			return nil, fmt.Errorf("proxy %s: %w", oneLine(via.Host), err)
		}
		conn, err := socks.(proxy.ContextDialer).DialContext(ctx, "tcp", hostport)
		if err != nil {
			return nil, fmt.Errorf("proxy %s: %w", oneLine(via.Host), err)
		}
		return conn, nil
	case "http":
		conn, err := connectThrough(ctx, direct, via, hostport)
		if err != nil {
			return nil, fmt.Errorf("proxy %s: %w", oneLine(via.Host), err)
		}
		return conn, nil
	}
	return nil, hint(fmt.Errorf("SSH does not pass through a proxy of scheme %q", oneLine(via.Scheme)), "ALL_PROXY may be socks5:// or http://; NO_PROXY excepts hosts")
}

// connectThrough asks an HTTP proxy for a tunnel (RFC 9110, section 9.3.6).
func connectThrough(ctx context.Context, direct *net.Dialer, via *url.URL, hostport string) (net.Conn, error) {
	at := via.Host
	if via.Port() == "" {
		at = net.JoinHostPort(via.Hostname(), "80")
	}
	conn, err := direct.DialContext(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: hostport}, Host: hostport, Header: make(http.Header)}
	if via.User != nil {
		password, _ := via.User.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(via.User.Username()+":"+password)))
	}
	if err := req.Write(conn); err != nil {
		conn.Close()
		return nil, because(ctx, err)
	}
	buffered := bufio.NewReaderSize(conn, 4<<10)
	answer, err := http.ReadResponse(buffered, req) //nolint:bodyclose // its body is the tunnel
	if err != nil {
		conn.Close()
		return nil, because(ctx, errors.New("it does not answer CONNECT as a proxy does"))
	}
	if answer.StatusCode != http.StatusOK {
		conn.Close()
		return nil, fmt.Errorf("it refuses CONNECT: %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	}
	return &tunnel{conn, buffered}, nil
}

// tunnel is a connection whose first bytes came with the proxy's answer.
type tunnel struct {
	net.Conn
	buffered *bufio.Reader
}

func (t *tunnel) Read(p []byte) (int, error) { return t.buffered.Read(p) }
