package sandbox

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// blocked are the ranges that no build reaches unless it is allowed: private and
// shared addresses, link-local ones with most clouds' metadata service, the
// public one where Azure keeps its own, this network, loopback, what is reserved,
// and multicast.
var blocked = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16",
	"168.63.129.16/32", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// allowance is one entry of Builder.Allow: a whole network, or one port of a
// host.
type allowance struct {
	prefix netip.Prefix // of a network; invalid for a host
	host   string       // name or address
	port   uint16
}

// parseAllow reads an entry: 10.1.0.0/16, 10.1.2.3, 10.1.2.3:5000 or
// registry.internal:5000. Only IPv4: a build has no IPv6.
func parseAllow(entry string) (allowance, error) {
	if prefix, err := netip.ParsePrefix(entry); err == nil {
		return network(entry, prefix.Masked())
	}
	if address, err := netip.ParseAddr(entry); err == nil {
		return network(entry, netip.PrefixFrom(address, address.BitLen()))
	}
	host, portText, err := net.SplitHostPort(entry)
	if err != nil || host == "" || strings.ContainsAny(host, "/@ ") {
		return allowance{}, fmt.Errorf("allow %q: want host:port or a CIDR", entry)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return allowance{}, fmt.Errorf("allow %q: the port must be a number from 1 to 65535", entry)
	}
	if address, err := netip.ParseAddr(host); err == nil {
		if _, err := network(entry, netip.PrefixFrom(address, address.BitLen())); err != nil {
			return allowance{}, err
		}
	} else if strings.EqualFold(host, "localhost") {
		return allowance{}, fmt.Errorf("allow %q: a build has a loopback of its own", entry)
	}
	return allowance{host: host, port: uint16(port)}, nil
}

func network(entry string, prefix netip.Prefix) (allowance, error) {
	switch {
	case !prefix.Addr().Is4():
		return allowance{}, fmt.Errorf("allow %q: a build has no IPv6", entry)
	case prefix.Addr().IsLoopback():
		return allowance{}, fmt.Errorf("allow %q: a build has a loopback of its own", entry)
	}
	return allowance{prefix: prefix}, nil
}

// reach is what Allow comes to when a build starts.
type reach struct {
	networks []netip.Prefix
	ports    []netip.AddrPort
	hosts    map[string][]netip.Addr // names looked up, for the build's hosts file
}

// lookUp resolves the entries of Allow. The build gets the very addresses that
// were found here, so that the routes fit.
func lookUp(ctx context.Context, entries []string) (reach, error) {
	r := reach{hosts: map[string][]netip.Addr{}}
	for _, entry := range entries {
		a, err := parseAllow(entry)
		if err != nil {
			return reach{}, err
		}
		if a.prefix.IsValid() {
			r.networks = append(r.networks, a.prefix)
			continue
		}
		if address, err := netip.ParseAddr(a.host); err == nil {
			r.ports = append(r.ports, netip.AddrPortFrom(address, a.port))
			continue
		}
		addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", a.host)
		if err != nil {
			return reach{}, fmt.Errorf("allow %s: %w", entry, err)
		}
		for _, address := range addresses {
			address = address.Unmap()
			if address.IsLoopback() {
				return reach{}, fmt.Errorf("allow %s: %s is this machine's loopback, and a build has its own", entry, address)
			}
			r.ports = append(r.ports, netip.AddrPortFrom(address, a.port))
			r.hosts[a.host] = append(r.hosts[a.host], address)
		}
	}
	return r, nil
}
