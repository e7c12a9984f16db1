package netns

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"cofferdam/internal/linux/call"
	"cofferdam/internal/linux/process"
)

// How everything comes to the gateway, which is outside:
//
//	program inside                    the kernel, inside                     supervisor
//	connect 1.2.3.4:443 ------------> route: local default dev lo
//	                                  nft: TCP, not loopback
//	                                    -> 127.0.0.1:TCPPort --------------> accept, Destination
//	send 8.8.8.8:53 ----------------> nft: port 53 -> 127.0.0.1:53 --------> read, answer
//	connect 127.0.0.1:(proxy) ---------------------------------------------> accept
//	send 1.2.3.4:443 (UDP) ---------> nobody listens: refused at once
//	connect 127.0.0.1:3000 ---------> the inside's own server
//
// The namespace has no interface but lo, so nothing can leave it; the rules only
// decide who gets what is sent. They need CAP_NET_ADMIN, which the inside never has.

// Ports of the loopback addresses inside that Gateway listens on. As those of the
// proxies they are below 1024, where nothing inside may bind.
const (
	TCPPort = 1012 // for redirected connections
	DNSPort = 53
)

// Tags of what the calls of a Setup send: the sockets by what they are for, IPv4
// first, then the netlink sockets with the kernel's answers. Rules4 is the last.
const (
	TCP    = 'T'
	DNS    = 'D'
	DNSTCP = 'd'
	HTTP   = 'H'
	SOCKS  = 'S'
	Route6 = '6'
	Rules6 = 'X'
	Route4 = '4'
	Rules4 = 'x'
)

// Setup is the network of an inside with a gateway, as calls for the child.
type Setup struct {
	// Calls open the sockets, write routes and rules, and send the descriptors.
	// Where there is no IPv6 they leave out what is for it. They can't look at
	// the kernel's answers on netlink: whoever gets the sockets tagged with a key
	// of Requests has to, with Confirm, and before anything runs inside.
	Calls    []call.Call
	Requests map[byte]Request
	// Last is the tag of the last message.
	Last byte
}

// Gateway writes down the network with a gateway, after LoopbackUp. http and socks
// are ports for proxies.
func Gateway(http, socks uint16) Setup {
	s := Setup{Last: Rules4, Requests: map[byte]Request{
		Route4: Route(unix.AF_INET), Rules4: Redirect(unix.AF_INET, TCPPort),
		Route6: Route(unix.AF_INET6), Rules6: Redirect(unix.AF_INET6, TCPPort),
	}}
	listeners := func(family int) (list []call.Call) {
		for _, l := range []struct {
			tag  byte
			kind int
			port uint16
		}{
			{TCP, unix.SOCK_STREAM, TCPPort}, {DNS, unix.SOCK_DGRAM, DNSPort}, {DNSTCP, unix.SOCK_STREAM, DNSPort},
			{HTTP, unix.SOCK_STREAM, http}, {SOCKS, unix.SOCK_STREAM, socks},
		} {
			list = append(list, listen(family, l.kind, l.port)...)
			list = append(list, process.Send(l.tag, call.Socket).On(string(rune(l.tag))))
		}
		return list
	}
	send := func(protocol int, tag byte) []call.Call { return ask(s.Requests[tag], protocol, tag) }
	s.Calls = listeners(unix.AF_INET)
	// IPv6 may be absent (ipv6.disable=1: no such socket) or switched off for new
	// namespaces (ipv6.disable_ipv6=1, or net.core.devconf_inherit_init_net=1: no
	// ::1). Without an address and a route the inside has none of it either.
	six := listeners(unix.AF_INET6)
	six = append(six, send(unix.NETLINK_ROUTE, Route6)...)
	six = append(six, send(unix.NETLINK_NETFILTER, Rules6)...)
	for i := range 2 { // the first socket, its bind
		six[i] = six[i].OrSkip(len(six) - 1 - i)
	}
	s.Calls = append(s.Calls, six...)
	s.Calls = append(s.Calls, send(unix.NETLINK_ROUTE, Route4)...)
	s.Calls = append(s.Calls, send(unix.NETLINK_NETFILTER, Rules4)...)
	return s
}

// ask sends a request to the kernel, and the socket with the answers on.
func ask(r Request, protocol int, tag byte) []call.Call {
	list := []call.Call{
		call.New(r.Stage, r.Op, unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol).Into(call.Socket),
	}
	for _, b := range [][]byte{r.Bytes, r.Check} {
		if b != nil {
			list = append(list, call.New(r.Stage, r.Op, unix.SYS_SENDTO, call.Socket, b, len(b), 0, 0, 0).Wanting(uintptr(len(b))))
		}
	}
	return append(list, process.Send(tag, call.Socket).On(string(rune(tag))))
}

// Without the rules, for a kernel that has none: no connection is turned, so there is a
// listener on every address for each of some ports, and the route alone. What is sent to
// other ports, and questions to other name servers than 127.0.0.1, nobody gets: they are
// refused at once. There is no IPv6 but ::1.
//
//	connect 1.2.3.4:443 ------------> route: local default dev lo
//	                                  0.0.0.0:443 -----------------------> accept, Local
//	send 127.0.0.1:53 ---------------------------------------------------> read, answer
//	connect 127.0.0.1:(proxy) -------------------------------------------> accept

// AnyIP writes down such a network, after LoopbackUp. No port may be that of a proxy, or
// DNSPort.
func AnyIP(ports []uint16, http, socks uint16) Setup {
	s := Proxies(http, socks)
	s.Last, s.Requests = Route4, map[byte]Request{Route4: Route(unix.AF_INET)}
	for _, port := range ports {
		s.Calls = append(s.Calls, listenEverywhere(port)...)
		s.Calls = append(s.Calls, process.Send(TCP, call.Socket).On(string(rune(TCP))))
	}
	s.Calls = append(s.Calls, ask(s.Requests[Route4], unix.NETLINK_ROUTE, Route4)...)
	return s
}

// Proxies writes down a network in which nothing comes to the gateway but what is sent to
// its proxies and its name server, on loopback.
func Proxies(http, socks uint16) Setup {
	s := Setup{Last: SOCKS}
	for _, l := range []struct {
		tag  byte
		kind int
		port uint16
	}{{DNS, unix.SOCK_DGRAM, DNSPort}, {DNSTCP, unix.SOCK_STREAM, DNSPort}, {HTTP, unix.SOCK_STREAM, http}, {SOCKS, unix.SOCK_STREAM, socks}} {
		s.Calls = append(s.Calls, listen(unix.AF_INET, l.kind, l.port)...)
		s.Calls = append(s.Calls, process.Send(l.tag, call.Socket).On(string(rune(l.tag))))
	}
	return s
}

// listenEverywhere opens a TCP listener on every IPv4 address. It gets what is sent to
// loopback, too, which Local tells apart.
func listenEverywhere(port uint16) []call.Call {
	at := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	address := call.Ptr(&unix.RawSockaddrInet4{Family: unix.AF_INET, Port: networkOrder(port)})
	list := []call.Call{
		call.New("network", "listen on", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0).Into(call.Socket),
		call.New("network", "listen on", unix.SYS_BIND, call.Socket, address, unix.SizeofSockaddrInet4),
		call.New("network", "listen on", unix.SYS_LISTEN, call.Socket, backlog),
	}
	for i := range list {
		list[i] = list[i].On("TCP " + at.String())
	}
	return list
}

// backlog is how many connections wait to be accepted; the kernel cuts it to
// net.core.somaxconn.
const backlog = 4096

// listen opens a socket on a loopback address. Not on the wildcard: an answer would
// not come from the address that the rules have put in, and nobody would get it.
func listen(family, kind int, port uint16) []call.Call {
	address, size := loopback(family, port)
	at := netip.AddrPortFrom(netip.IPv6Loopback(), port)
	if family == unix.AF_INET {
		at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	}
	protocol := "TCP "
	if kind == unix.SOCK_DGRAM {
		protocol = "UDP "
	}
	list := []call.Call{
		call.New("network", "listen on", unix.SYS_SOCKET, family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0).Into(call.Socket),
		call.New("network", "listen on", unix.SYS_BIND, call.Socket, address, size),
		call.New("network", "listen on", unix.SYS_LISTEN, call.Socket, backlog),
	}
	if kind == unix.SOCK_DGRAM {
		list = list[:2]
	}
	for i := range list {
		list[i] = list[i].On(protocol + at.String())
	}
	return list
}

func loopback(family int, port uint16) (address call.Pointer, size int) {
	p := networkOrder(port)
	if family == unix.AF_INET {
		return call.Ptr(&unix.RawSockaddrInet4{Family: unix.AF_INET, Port: p, Addr: [4]byte{127, 0, 0, 1}}), unix.SizeofSockaddrInet4
	}
	return call.Ptr(&unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: p, Addr: netip.IPv6Loopback().As16()}), unix.SizeofSockaddrInet6
}

// lo is the index of the loopback interface, the same in every network namespace
// (LOOPBACK_IFINDEX).
const lo = 1

// Route makes every address of a family local ("ip route add local default dev lo").
// It lies in the main table, after the local one, which knows the loopback addresses.
// What is sent to others has 127.0.0.1 for its source (IPv6 chooses ::1, the only
// address there is), so that a program that looks for its own address in this way
// finds one that reaches it.
func Route(family int) Request {
	m := &message{}
	m.begin(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "add the route")
	m.b = append(m.b, byte(family), 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_HOST, unix.RTN_LOCAL)
	m.b = binary.NativeEndian.AppendUint32(m.b, 0)
	m.attribute(unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, lo)...)
	if family == unix.AF_INET {
		m.attribute(unix.RTA_PREFSRC, 127, 0, 0, 1)
	}
	m.end()
	return Request{"network", "make every " + familyName(family) + " address local", m.b, nil, m.acks}
}

func familyName(family int) string {
	if family == unix.AF_INET {
		return "IPv4"
	}
	return "IPv6"
}

// table is the name of our nftables table.
const table = "cofferdam"

// Redirect is the nftables rules of one family, as one transaction:
//
//	table ip cofferdam { chain output { type nat hook output priority dstnat;
//		tcp dport 53 redirect to :53
//		udp dport 53 redirect to :53
//		meta l4proto tcp ip daddr != 127.0.0.0/8 redirect to :port } }
//
// and the same in table ip6 with "ip6 daddr != ::1". There is a table for each
// family, since a kernel without IPv6 has no family inet. A redirect in this hook
// is one to 127.0.0.1 or ::1.
func Redirect(family int, port uint16) Request {
	f := byte(unix.NFPROTO_IPV4)
	if family == unix.AF_INET6 {
		f = unix.NFPROTO_IPV6
	}
	m := &message{}
	begin := func(kind, flags uint16, what string) {
		m.begin(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags, what)
		m.b = append(m.b, f, 0, 0, 0) // nfgenmsg
	}
	bound := func(kind uint16) {
		m.begin(kind, 0, "")
		m.b = append(m.b, unix.AF_UNSPEC, 0, 0, unix.NFNL_SUBSYS_NFTABLES)
		m.end()
	}
	bound(unix.NFNL_MSG_BATCH_BEGIN)

	begin(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "add the table")
	m.text(unix.NFTA_TABLE_NAME, table)
	m.end()

	const chain = "output"
	begin(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "add the chain")
	m.text(unix.NFTA_CHAIN_TABLE, table)
	m.text(unix.NFTA_CHAIN_NAME, chain)
	m.nested(unix.NFTA_CHAIN_HOOK, func() {
		m.number(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_LOCAL_OUT)
		m.number(unix.NFTA_HOOK_PRIORITY, 0xffffff9c) // -100, NF_IP_PRI_NAT_DST
	})
	m.text(unix.NFTA_CHAIN_TYPE, "nat")
	m.end()

	rule := func(what string, expressions func()) {
		begin(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, what)
		m.text(unix.NFTA_RULE_TABLE, table)
		m.text(unix.NFTA_RULE_CHAIN, chain)
		m.nested(unix.NFTA_RULE_EXPRESSIONS, expressions)
		m.end()
	}
	for _, protocol := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
		rule("redirect DNS", func() {
			m.protocol(protocol)
			m.load(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2) // the destination port
			m.compare(unix.NFT_CMP_EQ, port16(DNSPort)...)
			m.redirect(DNSPort)
		})
	}
	rule("redirect TCP", func() {
		m.protocol(unix.IPPROTO_TCP)
		if family == unix.AF_INET {
			m.load(unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 1) // the first byte of the destination
			m.compare(unix.NFT_CMP_NEQ, 127)
		} else {
			one := netip.IPv6Loopback().As16()
			m.load(unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16)
			m.compare(unix.NFT_CMP_NEQ, one[:]...)
		}
		m.redirect(port)
	})
	bound(unix.NFNL_MSG_BATCH_END)

	// The kernel acknowledges the messages of a transaction also when it is given up
	// in the end. The chain is there if all of it is.
	batch := len(m.b)
	begin(unix.NFT_MSG_GETCHAIN, 0, "read the chain back")
	m.text(unix.NFTA_CHAIN_TABLE, table)
	m.text(unix.NFTA_CHAIN_NAME, chain)
	m.end()
	return Request{"nftables", "redirect " + familyName(family) + " to the gateway", m.b[:batch:batch], m.b[batch:], m.acks}
}

// networkOrder is a port as it stands in a socket address, and the reverse.
func networkOrder(port uint16) uint16 {
	return binary.NativeEndian.Uint16(port16(port))
}

func port16(port uint16) []byte { return binary.BigEndian.AppendUint16(nil, port) }

// expression is one step of a rule; all work on register 1.
func (m *message) expression(name string, data func()) {
	m.nested(unix.NFTA_LIST_ELEM, func() {
		m.text(unix.NFTA_EXPR_NAME, name)
		m.nested(unix.NFTA_EXPR_DATA, data)
	})
}

// protocol lets the rule go on for one transport.
func (m *message) protocol(p byte) {
	m.expression("meta", func() {
		m.number(unix.NFTA_META_DREG, unix.NFT_REG_1)
		m.number(unix.NFTA_META_KEY, unix.NFT_META_L4PROTO)
	})
	m.compare(unix.NFT_CMP_EQ, p)
}

func (m *message) load(base, offset, size uint32) {
	m.expression("payload", func() {
		m.number(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1)
		m.number(unix.NFTA_PAYLOAD_BASE, base)
		m.number(unix.NFTA_PAYLOAD_OFFSET, offset)
		m.number(unix.NFTA_PAYLOAD_LEN, size)
	})
}

func (m *message) compare(op uint32, value ...byte) {
	m.expression("cmp", func() {
		m.number(unix.NFTA_CMP_SREG, unix.NFT_REG_1)
		m.number(unix.NFTA_CMP_OP, op)
		m.nested(unix.NFTA_CMP_DATA, func() { m.attribute(unix.NFTA_DATA_VALUE, value...) })
	})
}

func (m *message) redirect(port uint16) {
	m.expression("immediate", func() {
		m.number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_1)
		m.nested(unix.NFTA_IMMEDIATE_DATA, func() { m.attribute(unix.NFTA_DATA_VALUE, port16(port)...) })
	})
	m.expression("redir", func() { m.number(unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFT_REG_1) })
}

// Knobs returns the calls that set what the kernel does in this network besides. dirfd
// is where proc is a procfs.
//
// Pings are not answered, which with every address local they would be for all of them.
//
// Timestamps of TCP have one origin. By default each pair of addresses has a random one
// (secure_tcp_ts_off). To the listeners of the gateway, connections to different addresses
// come from one: a port that is used again within a minute, for another address, then
// looks like a segment from the past (PAWS) to the socket in TIME_WAIT, and its SYN is
// dropped. The origin tells how long this machine has been up, which /proc/uptime
// says inside, and outside nobody sees it.
func Knobs(dirfd int) []call.Call {
	list := call.Write("network", dirfd, "proc/sys/net/ipv4/icmp_echo_ignore_all", "1")
	list = append(list, call.Write("network", dirfd, "proc/sys/net/ipv4/tcp_timestamps", "2")...)
	six := call.Write("network", dirfd, "proc/sys/net/ipv6/icmp/echo_ignore_all", "1") // 5.0
	six[0] = six[0].OrSkip(len(six) - 1)                                               // no IPv6
	return append(list, six...)
}

// String is for listings.
func (r Request) String() string {
	return fmt.Sprintf("%s: %s (%d bytes)", r.Stage, r.Op, len(r.Bytes))
}
