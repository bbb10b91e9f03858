package config

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

func (l *loader) builder(b *Builder) {
	l.oneOf(l.at("builder.type"), b.Type, BuilderKubernetes, BuilderSandbox)
	l.within("builder.concurrency", int64(b.Concurrency), 1, 256)
	l.duration("builder.timeout", b.Timeout)
	for i, arg := range b.Kaniko.Args {
		l.kanikoArg(l.at(index("builder.kaniko.args", i)), arg)
	}
	if b.Type != BuilderKubernetes {
		l.notEmpty(l.at("builder.kaniko.executor"), b.Kaniko.Executor)
		l.notEmpty(l.at("builder.sandbox.runtime"), b.Sandbox.Runtime)
	}
	if least := Bytes(64 << 20); b.Sandbox.Memory < least {
		l.flag(l.at("builder.sandbox.memory"), "is less than 64Mi", "")
	}
	l.within("builder.sandbox.pids", b.Sandbox.PIDs, 16, 4<<20)
	for i, allow := range b.Sandbox.Allow {
		l.allowed(l.at(index("builder.sandbox.allow", i)), allow)
	}
	for i, entry := range b.Egress {
		l.egress(l.at(index("builder.egress", i)), entry)
	}
	l.oneBuilder(b)
	l.kubernetes("builder.kubernetes", b)
	if b.Cache.Enabled {
		l.flag(l.at("builder.cache.enabled"), "is not in this version", "set it to false")
	}
}

// kanikoArg allows the arguments that change neither what is built, nor where it goes,
// nor what is read. The list is that of kaniko/executor, which checks it again; this
// package may not import that one, so a test in e2e compares the two.
func (l *loader) kanikoArg(at place, arg string) {
	flag, isFlag := strings.CutPrefix(arg, "--")
	flag, value, _ := strings.Cut(flag, "=")
	harmless := []string{
		"annotation", "compressed-caching", "compression", "compression-level", "force-build-metadata", "ignore-path", "ignore-var-run",
		"image-download-retry", "image-fs-extract-retry", "label", "log-timestamp", "registry-map", "registry-mirror", "reproducible",
		"single-snapshot", "skip-default-registry-fallback", "skip-unused-stages", "snapshot-mode", "use-new-run", "verbosity",
	}
	switch {
	case !isFlag || flag == "" || strings.ContainsRune(arg, 0):
		l.flag(at, "is no argument of kaniko", "write --flag or --flag=value, in one")
	case !slices.Contains(harmless, flag):
		l.flag(at, quote("--"+flag)+" is not allowed: Towpath sets it, or it changes what is built", "such as --label, --registry-mirror or --verbosity are allowed")
	case strings.HasPrefix(flag, "registry-") && strings.Contains(value, "@"):
		l.flag(at, quote("--"+flag)+" holds a credential", "a build could read it, and the provenance shows it: name a registry without one")
	}
}

// oneBuilder reports settings of the one builder that somebody may believe to hold for
// the other. Otherwise the settings of both may stand side by side, so that one config
// serves a cluster and, with TOWPATH_BUILDER_TYPE=sandbox, somebody's machine.
func (l *loader) oneBuilder(b *Builder) {
	switch b.Type {
	case BuilderKubernetes:
		if len(b.Sandbox.Allow) > 0 && len(b.Egress) == 0 {
			l.flag(l.at("builder.sandbox.allow"), "says nothing to build Jobs", "what they may reach is builder.egress: "+flow(b.Sandbox.Allow))
		}
	case BuilderSandbox:
		if len(b.Egress) > 0 && len(b.Sandbox.Allow) == 0 {
			l.flag(l.at("builder.egress"), "says nothing to the sandbox", "what it may reach is builder.sandbox.allow: "+flow(b.Egress))
		}
		if at := l.at("builder.kubernetes"); l.report.written(at) && !l.report.written(l.at("builder.type")) {
			l.flag(at, "is there, and builder.type is not: it would be sandbox", "write type: kubernetes, or type: sandbox")
		}
	}
}

// reach is what a build may reach: a network, or a port of a host.
type reach struct {
	network netip.Prefix // of an address or a network; else invalid
	host    string       // a DNS name; else empty
}

// reachable reads host:port, an address or a network in CIDR notation. It is
// false where it reported what is wrong.
func (l *loader) reachable(at place, entry string) (reach, bool) {
	network, err := netip.ParsePrefix(entry)
	if address, notAddress := netip.ParseAddr(entry); notAddress == nil {
		network, err = netip.PrefixFrom(address, address.BitLen()), nil
	}
	if host, port, notPort := net.SplitHostPort(entry); err != nil && notPort == nil {
		if number, wrong := strconv.ParseUint(port, 10, 16); wrong != nil || number == 0 {
			l.flag(at, quote(entry)+" has no port from 1 to 65535", "")
			return reach{}, false
		}
		switch address, notAddress := netip.ParseAddr(host); {
		case notAddress == nil:
			network, err = netip.PrefixFrom(address, address.BitLen()), nil
		case strings.EqualFold(host, "localhost"):
			l.flag(at, quote(entry)+" is the loopback, of which a build has its own", "")
			return reach{}, false
		case len(validation.IsDNS1123Subdomain(strings.ToLower(host))) == 0:
			return reach{host: host}, true
		}
	}
	switch {
	case err != nil:
		l.flag(at, quote(entry)+" is neither host:port nor a CIDR", "as in 10.1.2.3:5000 or 10.1.2.0/24")
	case network.Addr().IsLoopback():
		l.flag(at, quote(entry)+" is the loopback, of which a build has its own", "")
	case network != network.Masked():
		l.flag(at, quote(entry)+" has bits beyond its mask", "write "+network.Masked().String())
	default:
		return reach{network: network}, true
	}
	return reach{}, false
}

// flow writes texts as a list in YAML.
func flow(texts []string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = quote(text)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// allowed checks what the sandbox opens: it has no IPv6.
func (l *loader) allowed(at place, entry string) {
	if to, ok := l.reachable(at, entry); ok && to.host == "" && !to.network.Addr().Is4() {
		l.flag(at, quote(entry)+" is IPv6, which a build has not", "")
	}
}

// egress checks what build Jobs may reach. The node's credentials are to be had
// at the link-local and metadata addresses, so no entry may cover one.
func (l *loader) egress(at place, entry string) {
	to, ok := l.reachable(at, entry)
	if !ok || to.host != "" {
		return
	}
	for _, never := range NeverReached() {
		if never.Overlaps(to.network) {
			l.flag(at, quote(entry)+" covers "+never.String()+", where nodes and clouds hand out credentials", "")
			return
		}
	}
}

// NeverReached are the networks that no build may reach, whatever the config
// says: link-local ones, and the metadata addresses of clouds that are
// elsewhere (AWS over IPv6, Azure's wire server, Alibaba, Oracle).
func NeverReached() []netip.Prefix {
	var all []netip.Prefix
	for _, network := range []string{
		"169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32",
	} {
		all = append(all, netip.MustParsePrefix(network))
	}
	return all
}
