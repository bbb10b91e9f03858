package sandbox

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// What a filter says of a packet (tc-bpf(8), direct action).
const (
	pass = 0
	drop = 2
)

// offsets in an Ethernet frame that carries an IPv4 packet without options.
const (
	atEtherType   = 12
	atVersion     = 14
	atFragment    = 20
	atProtocol    = 23
	atDestination = 30
	atPort        = 36
)

const dnsPort = 53

// filter is what may leave the build's interface. Routes alone are not enough: a
// program that names the interface itself (SO_BINDTODEVICE, IP_PKTINFO,
// IP_MULTICAST_IF) or uses a broadcast address gets past them, and slirp carries
// whatever arrives there to the machine's own networks.
//
// The filter passes ARP, DNS to the name server, and IPv4 without options to what is
// open. Nothing goes to the gateway itself, which offers nothing.
func filter(open map[netip.Prefix]bool, ports []netip.AddrPort) []bpf.Instruction {
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: atEtherType, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_ARP, SkipTrue: 1},
		bpf.RetConstant{Val: pass},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipTrue: 1},
		bpf.RetConstant{Val: drop},
		bpf.LoadAbsolute{Off: atVersion, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x45, SkipTrue: 1},
		bpf.RetConstant{Val: drop},
	}
	server := netip.AddrPortFrom(netip.MustParseAddr(nameserver), dnsPort)
	program = append(program, toPort(server, unix.IPPROTO_UDP)...)
	program = append(program, toPort(server, unix.IPPROTO_TCP)...)
	for _, port := range ports {
		program = append(program, toPort(port, unix.IPPROTO_TCP)...)
	}
	// The narrowest network that holds an address decides, as with routes.
	for _, prefix := range narrowestFirst(open) {
		verdict := uint32(drop)
		if open[prefix] {
			verdict = pass
		}
		program = append(program,
			bpf.LoadAbsolute{Off: atDestination, Size: 4},
			bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: ^uint32(0) << (32 - prefix.Bits())},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: number(prefix.Addr()), SkipTrue: 1},
			bpf.RetConstant{Val: verdict},
		)
	}
	return append(program, bpf.RetConstant{Val: pass})
}

// toPort lets packets to one port pass, and no fragments: only the first has a
// port.
func toPort(to netip.AddrPort, protocol uint32) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: atDestination, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: number(to.Addr()), SkipTrue: 7},
		bpf.LoadAbsolute{Off: atProtocol, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protocol, SkipTrue: 5},
		bpf.LoadAbsolute{Off: atFragment, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x3fff, SkipTrue: 3},
		bpf.LoadAbsolute{Off: atPort, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(to.Port()), SkipTrue: 1},
		bpf.RetConstant{Val: pass},
	}
}

func number(address netip.Addr) uint32 {
	four := address.As4()
	return binary.BigEndian.Uint32(four[:])
}

func narrowestFirst(open map[netip.Prefix]bool) []netip.Prefix {
	all := make([]netip.Prefix, 0, len(open))
	for prefix := range open {
		all = append(all, prefix)
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(b.Bits(), a.Bits()), a.Addr().Compare(b.Addr()))
	})
	return all
}

// attach puts a filter before an interface. It is of the classic kind, which
// needs neither the kernel's bpf system call nor its right.
func attach(link netlink.Link, program []bpf.Instruction) error {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return err
	}
	if len(raw) > unix.BPF_MAXINSNS {
		return fmt.Errorf("%d instructions, the kernel takes %d: allow fewer addresses", len(raw), unix.BPF_MAXINSNS)
	}
	var encoded []byte
	for _, instruction := range raw {
		encoded = binary.NativeEndian.AppendUint16(encoded, instruction.Op)
		encoded = append(encoded, instruction.Jt, instruction.Jf)
		encoded = binary.NativeEndian.AppendUint32(encoded, instruction.K)
	}
	index := link.Attrs().Index
	err = netlink.QdiscAdd(&netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	})
	if err != nil {
		return fmt.Errorf("clsact: %w", err)
	}
	// The library knows the extended kind only.
	request := nl.NewNetlinkRequest(unix.RTM_NEWTFILTER, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	request.AddData(&nl.TcMsg{
		Family: nl.FAMILY_ALL, Ifindex: int32(index), Handle: 1,
		Parent: netlink.HANDLE_MIN_EGRESS, Info: netlink.MakeHandle(1, bits.ReverseBytes16(unix.ETH_P_ALL)),
	})
	request.AddData(nl.NewRtAttr(nl.TCA_KIND, nl.ZeroTerminated("bpf")))
	options := nl.NewRtAttr(nl.TCA_OPTIONS, nil)
	options.AddRtAttr(nl.TCA_BPF_OPS_LEN, nl.Uint16Attr(uint16(len(raw))))
	options.AddRtAttr(nl.TCA_BPF_OPS, encoded)
	options.AddRtAttr(nl.TCA_BPF_FLAGS, nl.Uint32Attr(nl.TCA_BPF_FLAG_ACT_DIRECT))
	request.AddData(options)
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("bpf: %w", err)
	}
	return nil
}
