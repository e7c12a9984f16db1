package decide

import (
	"net/netip"
	"sync"
)

// block is a range of addresses that are not simply hosts of the public internet.
type block struct {
	netip.Prefix
	what string
	// never: no rule opens it.
	never bool
}

func prefix(s, what string) block { return block{netip.MustParsePrefix(s), what, false} }
func never(s, what string) block  { return block{netip.MustParsePrefix(s), what, true} }

// special has the special-purpose registries of IANA (RFC 6890, RFC 8190) but for
// the few entries that are hosts for everybody (AS112, AMT), the registry of
// multicast, and the addresses at which clouds give out the keys of a machine. The
// most specific entry that holds an address is the one that counts. It is read when
// it is first needed: most starts have no network rules.
var special = sync.OnceValue(func() []block {
	return []block{
		never("0.0.0.0/8", "an address of this host (Linux connects to loopback)"),
		prefix("10.0.0.0/8", "a private address"),
		prefix("100.64.0.0/10", "an address behind a carrier's NAT"),
		prefix("100.100.100.200/32", "a cloud's metadata service"),
		prefix("127.0.0.0/8", "a loopback address"),
		prefix("168.63.129.16/32", "a cloud's host agent"),
		prefix("169.254.0.0/16", "a link-local address"),
		prefix("169.254.169.254/32", "a cloud's metadata service"),
		prefix("169.254.170.2/32", "a cloud's credentials service"),
		prefix("169.254.170.23/32", "a cloud's credentials service"),
		prefix("172.16.0.0/12", "a private address"),
		prefix("192.0.0.0/24", "an address for protocols"),
		prefix("192.0.0.192/32", "a cloud's metadata service"),
		prefix("192.0.2.0/24", "an address for documentation"),
		prefix("192.88.99.0/24", "a 6to4 relay"),
		prefix("192.168.0.0/16", "a private address"),
		never(standIn, "where the addresses that stand for names lie"),
		prefix("198.51.100.0/24", "an address for documentation"),
		prefix("203.0.113.0/24", "an address for documentation"),
		never("224.0.0.0/4", "a multicast address"),
		prefix("240.0.0.0/4", "a reserved address"),
		never("255.255.255.255/32", "the broadcast address"),

		// Of IPv6 only 2000::/3 is given out to hosts.
		prefix("::/3", "a reserved address"),
		never("::/96", "an IPv4-compatible or unspecified address"),
		prefix("::1/128", "a loopback address"),
		never("::ffff:0:0:0/96", "an IPv4-translated address"),
		prefix("64:ff9b:1::/48", "an address of a local NAT64"),
		prefix("100::/64", "an address that discards"),
		prefix("2001::/23", "an address for protocols"),
		never("2001::/32", "a Teredo address, which holds an IPv4 address"),
		prefix("2001:db8::/32", "an address for documentation"),
		never("2002::/16", "a 6to4 address, which holds an IPv4 address"),
		prefix("3fff::/20", "an address for documentation"),
		prefix("4000::/2", "a reserved address"),
		prefix("8000::/1", "a reserved address"),
		prefix("fc00::/7", "a private address"),
		prefix("fd00:ec2::23/128", "a cloud's credentials service"),
		prefix("fd00:ec2::254/128", "a cloud's metadata service"),
		prefix("fd20:ce::254/128", "a cloud's metadata service"),
		never("fe80::/10", "a link-local address"),
		prefix("fec0::/10", "a private address"),
		never("ff00::/8", "a multicast address"),
	}
})

// standIn is where the gateway takes the addresses with which it answers questions
// for names (RFC 2544, section C.2.2: benchmarks, so no network has hosts there).
const standIn = "198.18.0.0/15"

// nat64 says whether an address is of the well-known prefix 64:ff9b::/96.
func nat64(a netip.Addr) bool {
	b := a.As16()
	return [12]byte(b[:12]) == [12]byte{0, 0x64, 0xff, 0x9b}
}

// forms returns the address as it is judged, and each address that a router or a
// translator on the way may make of it: IPv4-mapped is IPv4 (RFC 4291), the
// well-known NAT64 prefix leads to the IPv4 address at its end (RFC 6052), an ISATAP
// interface identifier to that within (RFC 5214). 6to4, Teredo and the other
// embeddings are never opened, so there is no need to look into them. A NAT64
// prefix that a network has chosen for itself can't be told from any other address.
func forms(a netip.Addr) []netip.Addr {
	a = a.Unmap()
	out := []netip.Addr{a}
	if a.Is4() {
		return out
	}
	b := a.As16()
	isatap := b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe
	if nat64(a) || isatap {
		out = append(out, netip.AddrFrom4([4]byte(b[12:])))
	}
	return out
}

// blockOf returns the most specific special block that holds a; false for a host
// of the public internet. The well-known NAT64 prefix is judged by its other form.
func blockOf(a netip.Addr) (block, bool) {
	if nat64(a) {
		return block{}, false
	}
	var found block
	for _, b := range special() {
		if b.Contains(a) && b.Bits() >= found.Bits() {
			found = b
		}
	}
	return found, found.IsValid()
}

// Within returns the special blocks that a rule allowing the range does not open,
// although they lie in it, as "10.0.0.0/8 (a private address)", in order.
func Within(p netip.Prefix) []string {
	var out []string
	for _, b := range special() {
		if b.Bits() > p.Bits() && p.Contains(b.Addr()) {
			out = append(out, b.String()+" ("+b.what+")")
		}
	}
	return out
}
