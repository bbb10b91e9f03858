package wire

import (
	"errors"
	"net"
	"net/url"
	"strings"

	"towpath.dev/towpath/gitops"
)

// address is where a repository is found.
type address struct {
	scheme string // http, https, ssh
	user   *url.Userinfo
	host   string // as in a URL: with its port where one is given
	path   string // http: escaped, no final slash; ssh: as the server gets it
}

// parseAddress reads a URL of http, https or ssh, or ssh's short form
// user@host:path (git-clone(1), GIT URLS). Its errors quote nothing of the
// input: it may hold a password.
func parseAddress(raw string) (address, error) {
	if strings.ContainsFunc(raw, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
		return address{}, errors.New("git URL: it holds control characters")
	}
	if !strings.Contains(raw, "://") {
		return parseShort(raw)
	}
	u, err := url.Parse(raw)
	if err != nil {
		// url.Error repeats the URL with its password.
		return address{}, errors.New("git URL: it does not parse")
	}
	a := address{scheme: strings.ToLower(u.Scheme), user: u.User, host: strings.ToLower(u.Host)}
	switch {
	case u.Hostname() == "":
		return address{}, errors.New("git URL: it names no host")
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return address{}, errors.New("git URL: it has a query or a fragment")
	}
	switch a.scheme {
	case "http", "https":
		a.path = strings.TrimRight(u.EscapedPath(), "/")
	case "ssh", "git+ssh", "ssh+git":
		a.scheme = "ssh"
		a.path = u.Path
		if strings.HasPrefix(a.path, "/~") {
			a.path = a.path[1:] // a home directory: git hands it over without the slash
		}
		return a, a.checkSSH()
	default:
		return address{}, hint(errors.New("git URL: unknown scheme "+gitops.Line(a.scheme, 20)), "use https:// or ssh://")
	}
	return a, nil
}

// parseShort reads user@host:path.
func parseShort(raw string) (address, error) {
	unknown := hint(errors.New("git URL: it is neither http(s)://, ssh:// nor user@host:path"), "use https:// or ssh://")
	host, path, ok := strings.Cut(raw, ":")
	if at := strings.LastIndex(raw, "@["); strings.HasPrefix(raw, "[") || at >= 0 {
		end := strings.Index(raw, "]:") // an IPv6 address
		if end < 0 {
			return address{}, unknown
		}
		host, path, ok = raw[:end+1], raw[end+2:], true
	}
	if !ok || strings.Contains(host, "/") {
		return address{}, unknown
	}
	a := address{scheme: "ssh", path: path}
	if user, rest, found := strings.Cut(host, "@"); found {
		a.user, host = url.User(user), rest
	}
	a.host = strings.ToLower(host)
	return a, a.checkSSH()
}

func (a address) checkSSH() error {
	switch {
	case a.hostname() == "" || strings.HasPrefix(a.host, "-") || strings.ContainsAny(a.host, "@ /"):
		return errors.New("git URL: the host is not one")
	case a.path == "" || a.path == "/":
		return errors.New("git URL: it names no repository")
	case strings.HasPrefix(a.path, ":"): // a::b is git's way to name a program to run
		return hint(errors.New("git URL: unknown scheme "+gitops.Line(a.host, 20)), "use https:// or ssh://")
	case strings.HasPrefix(a.path, "-"):
		return errors.New("git URL: the path begins with a dash, which the server would read as an option")
	}
	return nil
}

// hostname is the host without port and brackets.
func (a address) hostname() string { return (&url.URL{Host: a.host}).Hostname() }

// dial is the host and port to connect to; for SSH only.
func (a address) dial() string {
	port := (&url.URL{Host: a.host}).Port()
	if port == "" {
		port = "22"
	}
	return net.JoinHostPort(a.hostname(), port)
}

// String is the address without credentials.
func (a address) String() string {
	path := a.path
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return gitops.Line(a.scheme+"://"+a.host+path, 300)
}

// loopback tells whether the host is this machine, so that nothing leaves it.
func (a address) loopback() bool {
	name := a.hostname()
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}
