package config

import (
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// remote is the address of a git repository, or the prefix of some.
type remote struct {
	scheme   string // http, https or ssh
	user     string // of ssh alone
	name     string // of the host: lower case, without a port
	host     string // the same, with the port where it is not the scheme's own
	segments []string
}

// parseRemote reads http, https, ssh and git@host:path. Its errors are for
// people and repeat nothing of the URL: it may hold a credential.
func parseRemote(raw string) (remote, error) {
	if strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return remote{}, errors.New("holds a space, a backslash or a control character")
	}
	if !strings.Contains(raw, "://") {
		user, rest, ok := strings.Cut(raw, "@")
		if !ok {
			user, rest = "", raw
		}
		host, path, ok := scp(rest)
		if !ok || strings.Contains(user, "/") {
			return remote{}, errors.New("is no URL of a git repository: https, ssh or git@host:path")
		}
		raw = "ssh://" + host + "/" + strings.TrimPrefix(path, "/")
		if user != "" {
			raw = "ssh://" + url.User(user).String() + "@" + host + "/" + strings.TrimPrefix(path, "/")
		}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return remote{}, errors.New("is no valid URL")
	}
	parsed := remote{scheme: strings.ToLower(u.Scheme), host: strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")}
	_, password := u.User.Password()
	switch {
	case !slices.Contains([]string{"http", "https", "ssh"}, parsed.scheme):
		return remote{}, errors.New("is neither https, ssh nor git@host:path")
	case password, u.User != nil && parsed.scheme != "ssh":
		return remote{}, errors.New("holds a credential")
	case parsed.host == "", strings.HasPrefix(parsed.host, "-"):
		return remote{}, errors.New("names no host")
	case u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return remote{}, errors.New("has a query or a fragment")
	}
	parsed.user = u.User.Username()
	if strings.HasPrefix(parsed.user, "-") {
		return remote{}, errors.New("names no user that ssh can use")
	}
	if strings.Contains(parsed.host, ":") {
		parsed.host = "[" + parsed.host + "]"
	}
	parsed.name = parsed.host
	if port := u.Port(); port != "" && port != map[string]string{"http": "80", "https": "443", "ssh": "22"}[parsed.scheme] {
		parsed.host += ":" + port
	}
	for segment := range strings.SplitSeq(u.EscapedPath(), "/") {
		if segment == "" {
			continue
		}
		plain, err := url.PathUnescape(segment)
		if err != nil || plain == "." || plain == ".." || strings.ContainsFunc(plain, func(r rune) bool { return r < ' ' }) {
			return remote{}, errors.New("has a path with . or .. in it")
		}
		parsed.segments = append(parsed.segments, plain)
	}
	return parsed, nil
}

// scp splits host:path, the way of writing that git took from scp.
func scp(s string) (host, path string, ok bool) {
	if strings.HasPrefix(s, "[") {
		if end := strings.Index(s, "]:"); end > 0 {
			return s[:end+1], s[end+2:], true
		}
		return "", "", false
	}
	host, path, ok = strings.Cut(s, ":")
	return host, path, ok && host != "" && !strings.Contains(host, "/")
}

// loopback tells whether a host, with or without a port, is this machine.
func loopback(host string) bool {
	if u, err := url.Parse("//" + host); err == nil {
		host = u.Hostname()
	}
	if address, err := netip.ParseAddr(host); err == nil {
		return address.Unmap().IsLoopback()
	}
	return strings.EqualFold(host, "localhost")
}
