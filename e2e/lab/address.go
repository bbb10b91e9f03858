package lab

import (
	"net"
	"testing"
)

// OuterAddress is an IPv4 address of this machine other than loopback: to a
// build it is of a private network, and reachable only if that is allowed.
func OuterAddress(t testing.TB) string {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range addresses {
		if ip, ok := address.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			return ip.IP.String()
		}
	}
	t.Fatal("this machine has no address but loopback: what a private network is cannot be tested")
	return ""
}
