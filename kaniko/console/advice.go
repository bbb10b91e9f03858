package console

import (
	"net/netip"
	"regexp"
)

// What kaniko says in its last line where it could not have an image that the
// Dockerfile starts from or copies out of.
var (
	onLoopback = regexp.MustCompile(`\bdial tcp (127\.[0-9.]+|\[::1\]):`)
	plainHTTP  = regexp.MustCompile(`server gave HTTP response to HTTPS client`)
	// Its own codes, or what a registry gives without any.
	unauthorised = regexp.MustCompile(`\b(UNAUTHORIZED|DENIED): |unexpected status code 40[13]\b`)
)

// What Go's programs and curl say of an address that cannot be reached: at once
// where there is no route, late where what is sent is dropped.
var (
	unreachable = regexp.MustCompile(`(?i)no route to host|host is unreachable|network is unreachable|i/o timeout|connection timed out`)
	dialled     = regexp.MustCompile(`\bdial tcp ([0-9.]+:[0-9]+|\[[0-9a-f:]+\]:[0-9]+): `)
	connected   = regexp.MustCompile(`\bconnect to ([0-9.]+) port ([0-9]+)\b`)
)

// Opening says how a person opens a private address, host:port, to builds.
type Opening func(address string) string

// Advice is what a person can do about kaniko's last line, or about what a RUN
// step printed before it failed; empty: unknown.
func Advice(verdict string, output []string, open Opening) string {
	const beforehand = "an image that build.pull.allow lists, pinned by digest in the Dockerfile, is fetched before the build"
	reached := Unreached(verdict, open)
	switch {
	case onLoopback.MatchString(verdict):
		return "a build has a loopback of its own and does not reach this machine's: " + beforehand
	case reached != "":
		return reached + "; or " + beforehand
	case unauthorised.MatchString(verdict):
		return "a build holds no credential: " + beforehand + ", with the credential of build.pull.secretRef"
	case plainHTTP.MatchString(verdict):
		return "base images come over HTTPS: plain HTTP is for the destination's own registry, with insecure: true"
	}
	for _, line := range output {
		if reached := Unreached(line, open); reached != "" {
			return reached
		}
	}
	return ""
}

// Unreached is what a person can do where a line tells of a private address that
// a step of a build does not reach; empty: it does not.
func Unreached(line string, open Opening) string {
	if !unreachable.MatchString(line) {
		return ""
	}
	text := ""
	if found := dialled.FindStringSubmatch(line); found != nil {
		text = found[1]
	} else if found := connected.FindStringSubmatch(line); found != nil {
		text = found[1] + ":" + found[2]
	}
	at, err := netip.ParseAddrPort(text)
	switch {
	case err != nil, at.Port() == 0:
		return ""
	case at.Addr().IsLinkLocalUnicast():
		return "no build reaches " + at.String() + ", whatever the config says: nodes and clouds hand out credentials there"
	case at.Addr().IsPrivate(), shared.Contains(at.Addr()):
		return "a build reaches no private address that is not opened to it: " + open(at.String())
	}
	return ""
}

// shared is carrier-grade NAT (RFC 6598), which clouds use inside.
var shared = netip.MustParsePrefix("100.64.0.0/10")
