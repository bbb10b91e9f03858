package main

import (
	"net"
	"net/url"
	"path"
	"strings"
)

// gitURL reads a repository's URL, or git's short form of one for SSH:
// user@host:path, where the host may be an IPv6 address in brackets.
func gitURL(address string) (*url.URL, error) {
	if strings.Contains(address, "://") {
		return url.Parse(address)
	}
	colon := strings.Index(address, ":")
	if bracket := strings.Index(address, "]:"); bracket >= 0 {
		colon = bracket + 1
	}
	if colon < 0 {
		return url.Parse(address)
	}
	return url.Parse("ssh://" + address[:colon] + "/" + strings.TrimPrefix(address[colon+1:], "/"))
}

// gitHost is the host:port that a repository is reached at; empty: the address is
// no URL.
func gitHost(address string) string {
	parsed, err := gitURL(address)
	if err != nil {
		return ""
	}
	port := parsed.Port()
	if port == "" {
		port = map[string]string{"ssh": "22", "http": "80"}[parsed.Scheme]
	}
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(parsed.Hostname(), port)
}

// place is a repository's host and path, however its URL is written: one may be
// read over SSH and watched over HTTPS.
func place(address string) string {
	parsed, err := gitURL(address)
	if err != nil {
		return "(no URL)"
	}
	return strings.ToLower(parsed.Hostname()) + strings.TrimSuffix(path.Clean("/"+parsed.Path), ".git")
}
