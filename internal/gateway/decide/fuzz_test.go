package decide

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"cofferdam/internal/plan"
)

func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"example.org", "EXAMPLE.org.", "xn--bcher-kva.example", "xn--abc-", "xn--0", "0x7f.1", "1.2.3.0xff", "127.1", "[::1]", "fe80::1%eth0", "a..b", "a%00b", "_x.y",
		strings.Repeat("a.", 127), "\u212a.test", "a\u3002b", "-a", "a-", "\x00", "xn--xn--a-gua.test", "0X.a.0x", "::ffff:1.2.3.4", "xn--53h.test"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Canonical(s)
		if err != nil {
			if c != "" || strings.ContainsFunc(err.Error(), func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsPrint(r) }) {
				t.Fatalf("%q: %q, %q", s, c, err)
			}
			return
		}
		if again, err := Canonical(c); err != nil || again != c {
			t.Fatalf("%q is %q is %q, %v", s, c, again, err)
		}
		if !strings.EqualFold(strings.TrimSuffix(s, "."), c) || c != strings.ToLower(c) || len(c) > 253 {
			t.Fatalf("%q is %q", s, c)
		}
		// Nothing that any reader of addresses takes: the last label is no number.
		last := c[strings.LastIndexByte(c, '.')+1:]
		if _, err := netip.ParseAddr(c); err == nil {
			t.Fatalf("%q is an address", c)
		}
		if _, err := strconv.ParseUint(last, 0, 64); err == nil && !strings.ContainsAny(last, "_bo") {
			t.Fatalf("%q ends in a number", c)
		}
	})
}

// plain is the second opinion on special addresses, from netip and by arithmetic.
func plain(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.Zone() != "" {
		return false
	}
	if a.Is4() {
		n := a.As4()
		v := uint32(n[0])<<24 | uint32(n[1])<<16 | uint32(n[2])<<8 | uint32(n[3])
		in := func(base uint32, bits int) bool { return v>>(32-bits) == base>>(32-bits) }
		return n[0] != 0 && n[0] != 127 && n[0] < 224 && !in(0x64400000, 10) && !in(0xc0000000, 24) && !in(0xc0000200, 24) && !in(0xc0586300, 24) &&
			!in(0xc6120000, 15) && !in(0xc6336400, 24) && !in(0xcb007100, 24) && v != 0xa83f8110
	}
	b := a.As16()
	if b[0] == 0 && b[1] == 0x64 && b[2] == 0xff && b[3] == 0x9b && strings.Trim(string(b[4:12]), "\x00") == "" {
		return plain(netip.AddrFrom4([4]byte(b[12:])))
	}
	if b[0]>>5 != 1 || b[0] == 0x20 && b[1] == 0x02 || b[0] == 0x20 && b[1] == 0x01 && b[2] < 2 || b[0] == 0x20 && b[1] == 0x01 && b[2] == 0x0d && b[3] == 0xb8 || b[0] == 0x3f && b[1] == 0xff && b[2] < 0x10 {
		return false
	}
	if (b[8] == 0 || b[8] == 2) && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
		return plain(netip.AddrFrom4([4]byte(b[12:])))
	}
	return true
}

// FuzzDial: what a name alone gives is a public address, by another account of what
// that is; and no range gives more than what lies in it.
func FuzzDial(f *testing.F) {
	for _, s := range []string{"1.1.1.1", "10.0.0.1", "169.254.169.254", "168.63.129.16", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001::1", "2606:4700::5efe:a00:1",
		"fe80::1", "2001:db8::1", "3fff::1", "198.18.0.1", "2001:200::1", "64:ff9b::101:101", "ff02::1", "0.0.0.0", "::"} {
		f.Add(netip.MustParseAddr(s).AsSlice(), uint8(8), uint16(443))
	}
	f.Fuzz(func(t *testing.T, raw []byte, bits uint8, port uint16) {
		a, ok := netip.AddrFromSlice(raw)
		if !ok || port == 0 {
			return
		}
		at := netip.AddrPortFrom(a, port)
		name := compiled(t, allow("example.org", 0, 1))
		if v := name.Dial("example.org", port, at, nobody); v.Allow != plain(a) {
			t.Fatalf("%s: %+v, by the other account %v", a, v, plain(a))
		}
		if v := name.Dial("example.org", port, at, func(netip.Addr) bool { return true }); v.Allow {
			t.Fatalf("own %s: %+v", a, v)
		}
		if v := name.ConnectAddr(at); v.Allow {
			t.Fatalf("%s without a name: %+v", a, v)
		}
		p, err := a.Unmap().Prefix(int(bits) % (a.Unmap().BitLen() + 1))
		if err != nil {
			t.Fatal(err)
		}
		r, err := Compile([]plan.NetRule{{Allow: true, Prefix: p.String(), Port: int(port)}})
		if err != nil {
			return
		}
		v := r.ConnectAddr(at)
		u := a.Unmap()
		wide := p.Bits() < 7 && (u.IsPrivate() || u.IsLoopback() || u.IsLinkLocalUnicast()) // fc00::/7 is the widest of these
		if v.Allow && wide || v.Allow && !p.Contains(a.Unmap()) || !v.Allow && plain(a) && len(forms(a)) == 1 {
			t.Fatalf("%s by %s: %+v", a, p, v)
		}
		if v := r.ConnectAddr(netip.AddrPortFrom(a, port^1)); v.Allow {
			t.Fatalf("another port: %+v", v)
		}
		// A denial of the same takes it away again, with and without a name.
		r, err = Compile([]plan.NetRule{{Allow: true, Prefix: p.String()}, allow("example.org", 0, 1), {Prefix: p.String()}})
		if err != nil {
			t.Fatal(err)
		}
		if a, b := r.ConnectAddr(at), r.Dial("example.org", port, at, nobody); a.Allow || b.Allow {
			t.Fatalf("denied: %+v, %+v", a, b)
		}
	})
}

// FuzzRules reads rules from text, "+name:port" or "-name:port" a line, and asks
// about a name; the second opinion goes through the list as the words of
// plan.NetRule say.
func FuzzRules(f *testing.F) {
	f.Add("+example.org\n-*.example.org:443", "a.example.org", uint16(443))
	f.Add("+*.example.org:22\n+example.org:80\n-bad.example.org", "x.bad.example.org", uint16(22))
	f.Add("-*:25\n+a.test", "a.test", uint16(25))
	f.Add("+a.test\n+b.test:22", "a.test", uint16(22))
	f.Add("-a.test\n+a.test:22", "a.test", uint16(22))
	f.Add("-*\n+a.test", "A.test.", uint16(80))
	f.Fuzz(func(t *testing.T, text, name string, port uint16) {
		var list []plan.NetRule
		for line := range strings.SplitSeq(text, "\n") {
			if line == "" {
				continue
			}
			host, p, _ := strings.Cut(line[1:], ":")
			n, _ := strconv.Atoi(p)
			one := plan.NetRule{Allow: line[0] == '+', Name: host, Port: n, Rule: len(list) + 1}
			if _, err := Compile([]plan.NetRule{one}); err == nil {
				list = append(list, one)
			}
		}
		r := compiled(t, list...)
		v := r.Connect(name, port)
		c, err := Canonical(name)
		if err != nil || port == 0 {
			if v.Allow {
				t.Fatalf("%q: %+v", name, v)
			}
			return
		}
		fits := func(n plan.NetRule, port uint16) bool {
			below, wild := strings.CutPrefix(n.Name, "*")
			in := n.Name == c || !n.Allow && strings.HasSuffix(c, "."+n.Name) || wild && strings.HasSuffix(c, below) && c != below
			return in && (n.Port == 0 && (!n.Allow || port != 22 && port != 9418) || n.Port == int(port))
		}
		opinion := func(port uint16) (allow, deny bool) {
			for _, n := range list {
				allow, deny = allow || n.Allow && fits(n, port), deny || !n.Allow && fits(n, port)
			}
			return allow, deny
		}
		a, d := opinion(port)
		if v.Allow != (a && !d) || (v.Code == Denied) != d {
			t.Fatalf("%q at %d by %+v: %+v", c, port, list, v)
		}
		if v.Rule != 0 && !fits(list[v.Rule-1], port) {
			t.Fatalf("%q at %d: %+v is not of the rule %+v", c, port, v, list[v.Rule-1])
		}
		if v.Allow && !r.Name(name).Allow {
			t.Fatalf("%q can be connected to and not asked for", c)
		}
		if n := r.Name(name); n.Allow {
			// Some port can: one that a rule names, or one that none does.
			ports := []uint16{65000}
			for _, x := range list {
				ports = append(ports, uint16(x.Port))
			}
			if !slices.ContainsFunc(ports, func(p uint16) bool { return r.Connect(name, p).Allow }) {
				t.Fatalf("%q can be asked for: %+v, and connected to at none of %v", c, n, ports)
			}
		}
	})
}
