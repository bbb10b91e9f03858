package sandbox

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// TestFilter shows every kind of packet to the filter that the kernel gets.
func TestFilter(t *testing.T) {
	t.Parallel()
	allow := reach{
		networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("172.16.0.9/32")},
		ports:    []netip.AddrPort{netip.MustParseAddrPort("192.168.7.7:5000")},
	}
	own := []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("198.51.100.4/32"), netip.MustParsePrefix("10.1.2.3/32")}
	vm, err := bpf.NewVM(filter(opened(allow, own), allow.ports))
	if err != nil {
		t.Fatal(err)
	}
	const tcp, udp, icmp = unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP
	for _, c := range []struct {
		what     string
		to       string
		protocol byte
		port     uint16
		change   func(frame []byte)
		want     int
	}{
		{what: "a public address", to: "8.8.8.8", protocol: tcp, port: 443, want: pass},
		{what: "a fragment to one", to: "8.8.8.8", protocol: udp, change: func(f []byte) { f[atFragment+1] = 1 }, want: pass},
		{what: "a packet with options", to: "8.8.8.8", protocol: tcp, port: 443, change: func(f []byte) { f[atVersion] = 0x46 }, want: drop},
		{what: "IPv6", to: "8.8.8.8", change: func(f []byte) { binary.BigEndian.PutUint16(f[atEtherType:], unix.ETH_P_IPV6) }, want: drop},
		{what: "ARP", to: "8.8.8.8", change: func(f []byte) { binary.BigEndian.PutUint16(f[atEtherType:], unix.ETH_P_ARP) }, want: pass},
		{what: "something odd", to: "8.8.8.8", change: func(f []byte) { binary.BigEndian.PutUint16(f[atEtherType:], 0x88cc) }, want: drop},
		{what: "names over UDP", to: nameserver, protocol: udp, port: 53, want: pass},
		{what: "names over TCP", to: nameserver, protocol: tcp, port: 53, want: pass},
		{what: "the name server's other ports", to: nameserver, protocol: tcp, port: 22, want: drop},
		{what: "the name server's other ports", to: nameserver, protocol: udp, port: 5353, want: drop},
		{what: "another protocol", to: nameserver, protocol: icmp, port: 53, want: drop},
		{what: "a later fragment to the name server", to: nameserver, protocol: udp, port: 53, change: func(f []byte) { f[atFragment+1] = 1 }, want: drop},
		{what: "a first fragment to the name server", to: nameserver, protocol: udp, port: 53, change: func(f []byte) { f[atFragment] = 0x20 }, want: drop},
		{what: "not to be fragmented", to: nameserver, protocol: udp, port: 53, change: func(f []byte) { f[atFragment] = 0x40 }, want: pass},
		{what: "the gateway", to: gateway, protocol: udp, port: 67, want: drop},
		{what: "slirp's broadcast address, which may be a host outside", to: "10.0.2.255", protocol: udp, port: 9, want: drop},
		{what: "slirp's network", to: "10.0.2.0", protocol: udp, port: 9, want: drop},
		{what: "broadcast", to: "255.255.255.255", protocol: udp, port: 67, want: drop},
		{what: "multicast", to: "224.0.0.251", protocol: udp, port: 5353, want: drop},
		{what: "metadata", to: "169.254.169.254", protocol: tcp, port: 80, want: drop},
		{what: "Azure's metadata", to: "168.63.129.16", protocol: tcp, port: 80, want: drop},
		{what: "its neighbour, which is anybody's", to: "168.63.129.17", protocol: tcp, port: 80, want: pass},
		{what: "a private address", to: "10.2.0.1", protocol: tcp, port: 443, want: drop},
		{what: "an allowed network", to: "10.1.9.9", protocol: tcp, port: 443, want: pass},
		{what: "our own address in it", to: "10.1.2.3", protocol: tcp, port: 443, want: drop},
		{what: "an allowed address", to: "172.16.0.9", protocol: tcp, port: 443, want: pass},
		{what: "the one beside it", to: "172.16.0.8", protocol: tcp, port: 443, want: drop},
		{what: "an allowed port", to: "192.168.7.7", protocol: tcp, port: 5000, want: pass},
		{what: "the one beside it", to: "192.168.7.7", protocol: tcp, port: 5001, want: drop},
		{what: "over UDP", to: "192.168.7.7", protocol: udp, port: 5000, want: drop},
		{what: "our own address in a public range", to: "198.51.100.4", protocol: tcp, port: 22, want: drop},
		{what: "a neighbour", to: "198.51.100.1", protocol: tcp, port: 80, want: drop},
		{what: "cut off", to: "8.8.8.8", protocol: tcp, change: func(f []byte) { f[atVersion] = 0 }, want: drop},
	} {
		frame := make([]byte, 60)
		binary.BigEndian.PutUint16(frame[atEtherType:], unix.ETH_P_IP)
		frame[atVersion], frame[atProtocol] = 0x45, c.protocol
		copy(frame[atDestination:], netip.MustParseAddr(c.to).AsSlice())
		binary.BigEndian.PutUint16(frame[atPort:], c.port)
		if c.change != nil {
			c.change(frame)
		}
		got, err := vm.Run(frame)
		if err != nil || got != c.want {
			t.Errorf("%s (%s, protocol %d, port %d): %d, want %d, %v", c.what, c.to, c.protocol, c.port, got, c.want, err)
		}
	}
}
