package decide

import (
	"net/netip"
	"strings"
	"testing"

	"cofferdam/internal/plan"
)

func nobody(netip.Addr) bool { return false }

func compiled(t testing.TB, rules ...plan.NetRule) *Rules {
	t.Helper()
	r, err := Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func allow(name string, port, id int) plan.NetRule {
	return plan.NetRule{Allow: true, Name: name, Port: port, Rule: id}
}

func deny(name string, port, id int) plan.NetRule {
	return plan.NetRule{Name: name, Port: port, Rule: id}
}

func allowPrefix(p string, port, id int) plan.NetRule {
	return plan.NetRule{Allow: true, Prefix: p, Port: port, Rule: id}
}

func TestConnect(t *testing.T) {
	r := compiled(t,
		allow("example.org", 0, 1), allow("*.example.net", 443, 2), allow("git.example.com", 22, 3), allow("*.example.com", 443, 4),
		deny("bad.example.net", 0, 5), deny("*.only.example.net", 0, 6), deny("example.org", 25, 7), deny("example.com", 22, 8))
	for _, c := range []struct {
		name string
		port uint16
		code string
		rule int
	}{
		{"example.org", 80, Allowed, 1},
		{"EXAMPLE.org.", 80, Allowed, 1},
		{"example.org", 25, Denied, 7},
		{"example.org", 22, NotAllowed, 0}, // has to be written
		{"example.org", 9418, NotAllowed, 0},
		{"example.org", 0, NotAllowed, 0},
		{"a.example.org", 25, Denied, 7},
		{"a.example.org", 80, NotAllowed, 0},
		{"notexample.org", 80, NotAllowed, 0},
		{"example.org.evil.test", 80, NotAllowed, 0},
		{"a.example.net", 443, Allowed, 2},
		{"a.b.example.net", 443, Allowed, 2},
		{"a.example.net", 80, NotAllowed, 0},
		{"example.net", 443, NotAllowed, 0},
		{"xexample.net", 443, NotAllowed, 0},
		{"bad.example.net", 443, Denied, 5},
		{"a.bad.example.net", 443, Denied, 5},
		{"only.example.net", 443, Allowed, 2},
		{"a.only.example.net", 443, Denied, 6},
		{"git.example.com", 22, Denied, 8},
		{"git.example.com", 443, Allowed, 4},
		{"org", 80, NotAllowed, 0},
		{"example.org..", 80, BadName, 0},
		{"1.2.3.4", 80, BadName, 0},
		{"", 80, BadName, 0},
	} {
		v := r.Connect(c.name, c.port)
		if v.Code != c.code || v.Rule != c.rule || v.Allow != (c.code == Allowed) || v.Reason == "" {
			t.Errorf("%s:%d: %+v, want %s by %d", c.name, c.port, v, c.code, c.rule)
		}
	}
	for name, want := range map[string]string{
		"example.org": Allowed, "a.example.net": Allowed, "example.net": NotAllowed, "bad.example.net": Denied,
		// Its only port is denied; the other rule allows another port.
		"git.example.com": Allowed, "example.com": NotAllowed, "0x7f.1": BadName,
	} {
		if v := r.Name(name); v.Code != want || v.Allow != (want == Allowed) {
			t.Errorf("%s: %+v, want %s", name, v, want)
		}
	}
	if v := compiled(t, allow("a.test", 22, 1), deny("a.test", 22, 2)).Name("a.test"); v.Code != Denied || v.Rule != 2 {
		t.Errorf("a name whose only port is denied: %+v", v)
	}
}

// The reason names the rule, or what comes near, and the flag that would do.
func TestReasons(t *testing.T) {
	r := compiled(t, allow("*.example.net", 443, 1), deny("bad.example.net", 0, 2), allow("git.test", 0, 3))
	for _, c := range []struct {
		name string
		port uint16
		want []string
	}{
		{"A.example.net", 443, []string{"a.example.net:443", "by the rule *.example.net:443"}},
		{"x.bad.example.net", 443, []string{"denied by the rule bad.example.net"}},
		{"a.example.net", 80, []string{"*.example.net:443 is another port", "--allow-domain a.example.net:80"}},
		{"example.net", 443, []string{"*.example.net:443 is its subdomains only", "--allow-domain example.net:443"}},
		{"other.test", 443, []string{"not allowed by any rule; to allow it: --allow-domain other.test:443"}},
		{"git.test", 22, []string{"git.test has no port", "what git pushes by ssh; use https://git.test", "--allow-domain git.test:22"}},
		{"git.test", 9418, []string{"git's own protocol; use https://git.test"}},
		{"a\x1b[2J\n", 443, []string{`"a\x1b[2J\n" is not a host name`}},
	} {
		v := r.Connect(c.name, c.port)
		for _, want := range c.want {
			if !strings.Contains(v.Reason, want) {
				t.Errorf("%q at %d: %s", c.name, c.port, v.Reason)
			}
		}
	}
}

func TestNothingAllowsNothing(t *testing.T) {
	for _, r := range []*Rules{nil, {}, compiled(t)} {
		at := netip.MustParseAddrPort("1.1.1.1:443")
		for _, v := range []Verdict{r.Name("example.org"), r.Connect("example.org", 443), r.ConnectAddr(at), r.Dial("example.org", 443, at, nobody), r.Dial("", 443, at, nobody)} {
			if v.Allow || v.Code != NotAllowed {
				t.Errorf("%+v", v)
			}
		}
	}
	every := compiled(t, allow("example.org", 0, 1), allowPrefix("1.1.1.0/24", 0, 2), deny("*", 0, 3))
	at := netip.MustParseAddrPort("1.1.1.1:443")
	for _, v := range []Verdict{every.Name("example.org"), every.Connect("example.org", 443), every.ConnectAddr(at), every.Dial("", 443, at, nobody)} {
		if v.Allow || v.Code != Denied || v.Rule != 3 {
			t.Errorf("%+v", v)
		}
	}
}

// What a name leads to: with a rule for the name alone, only a public address.
func TestDial(t *testing.T) {
	r := compiled(t, allow("example.org", 0, 1), plan.NetRule{Prefix: "9.9.9.0/24", Rule: 9})
	own := func(a netip.Addr) bool { return a == netip.MustParseAddr("8.8.4.4") }
	for text, code := range map[string]string{
		"1.1.1.1": Allowed, "8.8.8.8": Allowed, "2606:4700::1111": Allowed, "::ffff:1.1.1.1": Allowed, "64:ff9b::101:101": Allowed,
		"192.31.196.1": Allowed, "223.255.255.255": Allowed, "100.63.255.255": Allowed, "100.128.0.0": Allowed, "172.15.0.1": Allowed, "172.32.0.1": Allowed,
		"9.9.9.9": Denied, "::ffff:9.9.9.9": Denied, "64:ff9b::909:909": Denied,
		"8.8.4.4": SpecialAddress, "::ffff:8.8.4.4": SpecialAddress, "64:ff9b::808:404": SpecialAddress,
		"0.0.0.0": SpecialAddress, "0.1.2.3": SpecialAddress, "10.0.0.1": SpecialAddress, "100.64.0.1": SpecialAddress, "100.100.100.200": SpecialAddress,
		"127.0.0.1": SpecialAddress, "127.255.0.1": SpecialAddress, "168.63.129.16": SpecialAddress, "169.254.169.254": SpecialAddress,
		"169.254.170.2": SpecialAddress, "172.16.0.1": SpecialAddress, "172.31.255.255": SpecialAddress, "192.0.0.192": SpecialAddress,
		"192.0.2.1": SpecialAddress, "192.88.99.1": SpecialAddress, "192.168.1.1": SpecialAddress, "198.18.0.1": SpecialAddress, "198.19.255.255": SpecialAddress,
		"198.51.100.1": SpecialAddress, "203.0.113.1": SpecialAddress, "224.0.0.1": SpecialAddress, "239.1.1.1": SpecialAddress, "240.0.0.1": SpecialAddress,
		"255.255.255.255": SpecialAddress,
		"::":              SpecialAddress, "::1": SpecialAddress, "::7f00:1": SpecialAddress, "::101:101": SpecialAddress,
		"::ffff:127.0.0.1": SpecialAddress, "::ffff:0:127.0.0.1": SpecialAddress, "::ffff:0:1.1.1.1": SpecialAddress,
		"64:ff9b::7f00:1": SpecialAddress, "64:ff9b::a9fe:a9fe": SpecialAddress, "64:ff9b:1::101:101": SpecialAddress, "64:ff9b::": SpecialAddress,
		"100::1": SpecialAddress, "2001::1": SpecialAddress, "2001:0:4136:e378:8000:63bf:3fff:fdd2": SpecialAddress, "2001:10::1": SpecialAddress,
		"2001:1ff:ffff::1": SpecialAddress, "2001:200::1": Allowed, "2001:db8::1": SpecialAddress, "2002:7f00:1::": SpecialAddress, "2002:101:101::1": SpecialAddress,
		"3fff::1": SpecialAddress, "3fff:1000::1": Allowed, "4000::1": SpecialAddress, "5f00::1": SpecialAddress, "9000::1": SpecialAddress,
		"fc00::1": SpecialAddress, "fd00:ec2::254": SpecialAddress, "fe80::1": SpecialAddress, "fe80::1%eth0": SpecialAddress, "2606:4700::1111%1": SpecialAddress,
		"169.254.1.1": SpecialAddress, "192.0.0.1": SpecialAddress, "200::1": SpecialAddress,
		"fec0::1": SpecialAddress, "ff02::1": SpecialAddress,
		"2606:4700::5efe:a00:1": SpecialAddress, "2606:4700::200:5efe:a00:1": SpecialAddress, "2606:4700::5efe:101:101": Allowed,
	} {
		v := r.Dial("example.org", 443, netip.AddrPortFrom(netip.MustParseAddr(text), 443), own)
		if v.Code != code || v.Allow != (code == Allowed) {
			t.Errorf("%s: %+v, want %s", text, v, code)
		}
		if code == SpecialAddress && !strings.HasPrefix(v.Reason, "example.org leads to ") {
			t.Errorf("%s: %s", text, v.Reason)
		}
	}
	// What a person can do about it, and only what helps.
	for text, want := range map[string]string{"10.0.0.1": "--allow-cidr 10.0.0.1/32:443", "::1": "--allow-cidr [::1/128]:443", "8.8.4.4": "this machine itself",
		"224.0.0.1": "no rule opens it", "fe80::1": "no rule opens it", "9.9.9.9": "denied by the rule 9.9.9.0/24"} {
		v := r.Dial("example.org", 443, netip.AddrPortFrom(netip.MustParseAddr(text), 443), own)
		if !strings.Contains(v.Reason, want) || strings.Contains(want, "no rule") && strings.Contains(v.Reason, "--allow") {
			t.Errorf("%s: %s", text, v.Reason)
		}
	}
	public := netip.MustParseAddrPort("1.1.1.1:443")
	if v := r.Dial("example.org", 80, public, own); v.Code != Mismatch || v.Allow {
		t.Errorf("another port: %+v", v)
	}
	if v := r.Dial("other.test", 443, public, own); v.Code != NotAllowed || v.Allow {
		t.Errorf("another name: %+v", v)
	}
	if v := r.Dial("example.org", 443, netip.AddrPortFrom(netip.Addr{}, 443), own); v.Allow {
		t.Errorf("no address: %+v", v)
	}
	if v := r.Dial("example.org", 443, public, nil); v.Code != SpecialAddress || v.Allow {
		t.Errorf("nobody knows whose the address is: %+v", v)
	}
}

// A range opens what lies in it, at its port, and no block that it merely overlaps.
func TestRanges(t *testing.T) {
	for _, c := range []struct {
		rule, addr string
		port       int
		own        bool
		want       string
	}{
		{"10.1.0.0/16", "10.1.2.3:5432", 5432, false, Allowed},
		{"10.1.0.0/16", "[::ffff:10.1.2.3]:5432", 5432, false, Allowed},
		{"::ffff:10.1.0.0/112", "10.1.2.3:5432", 5432, false, Allowed},
		{"10.1.0.0/16", "10.1.2.3:5432", 0, false, Allowed},
		{"10.1.0.0/16", "10.1.2.3:5433", 5432, false, SpecialAddress},
		{"10.1.0.0/16", "10.2.2.3:5432", 5432, false, SpecialAddress},
		{"10.1.0.0/16", "10.1.2.3:5432", 5432, true, SpecialAddress},
		{"10.1.2.3/32", "10.1.2.3:5432", 5432, true, Allowed},
		{"10.0.0.0/8", "10.1.2.3:5432", 0, false, Allowed},
		{"8.0.0.0/5", "10.1.2.3:5432", 0, false, SpecialAddress},
		{"0.0.0.0/0", "10.1.2.3:5432", 0, false, SpecialAddress},
		{"0.0.0.0/0", "169.254.169.254:80", 0, false, SpecialAddress},
		{"169.254.0.0/16", "169.254.1.1:80", 0, false, Allowed},
		{"169.254.0.0/16", "169.254.169.254:80", 0, false, SpecialAddress},
		{"169.254.169.254/32", "169.254.169.254:80", 0, false, Allowed},
		{"127.0.0.0/8", "127.0.0.1:80", 0, false, Allowed},
		{"127.0.0.0/8", "127.0.0.1:80", 0, true, SpecialAddress},
		{"0.0.0.0/0", "0.0.0.0:80", 0, false, SpecialAddress},
		{"0.0.0.0/0", "198.18.0.1:80", 0, false, SpecialAddress},
		{"0.0.0.0/0", "224.0.0.1:80", 0, false, SpecialAddress},
		{"::/0", "[fe80::1]:80", 0, false, SpecialAddress},
		{"::/0", "[::1]:80", 0, false, SpecialAddress},
		{"::/0", "[2002:101:101::1]:80", 0, false, SpecialAddress},
		{"::1/128", "[::1]:80", 0, true, Allowed},
		{"fd00::/8", "[fd00::1]:80", 0, false, Allowed},
		{"fd00::/8", "[fd00:ec2::254]:80", 0, false, SpecialAddress},
		{"100.64.0.0/10", "100.64.0.1:80", 0, false, Allowed},
		{"100.64.0.0/10", "100.100.100.200:80", 0, false, SpecialAddress},
		{"169.0.0.0/8", "169.254.1.1:80", 0, false, SpecialAddress},
		{"169.254.0.0/16", "169.254.170.2:80", 0, false, SpecialAddress},
		{"169.254.0.0/16", "169.254.170.23:80", 0, false, SpecialAddress},
		{"192.0.0.0/16", "192.0.0.1:80", 0, false, SpecialAddress},
		{"192.0.0.0/24", "192.0.0.1:80", 0, false, Allowed},
		{"192.0.0.0/24", "192.0.0.192:80", 0, false, SpecialAddress},
		{"168.63.0.0/16", "168.63.129.16:80", 0, false, SpecialAddress},
		{"240.0.0.0/4", "240.0.0.1:80", 0, false, Allowed},
		{"240.0.0.0/4", "255.255.255.255:80", 0, false, SpecialAddress},
		{"fd00::/8", "[fd00:ec2::23]:80", 0, false, SpecialAddress},
		{"fd00::/8", "[fd20:ce::254]:80", 0, false, SpecialAddress},
		{"::/3", "[64:ff9b:1::1]:80", 0, false, SpecialAddress},
		{"::/3", "[100::1]:80", 0, false, SpecialAddress},
		{"::/3", "[::ffff:0:101:101]:80", 0, false, SpecialAddress},
		{"8000::/1", "[fc00::1]:80", 0, false, SpecialAddress},
		{"8000::/1", "[fec0::1]:80", 0, false, SpecialAddress},
		{"2001::/23", "[2001::1]:80", 0, false, SpecialAddress},
		{"2001::/23", "[2001:1::1]:80", 0, false, Allowed},
		{"64:ff9b::/96", "[64:ff9b::101:101]:80", 0, false, Allowed},
		{"64:ff9b::/96", "[64:ff9b::a00:1]:80", 0, false, SpecialAddress},
	} {
		r := compiled(t, allowPrefix(c.rule, c.port, 7), allow("example.org", 0, 1))
		at := netip.MustParseAddrPort(c.addr)
		own := func(netip.Addr) bool { return c.own }
		for _, name := range []string{"", "example.org"} {
			v := r.Dial(name, at.Port(), at, own)
			if v.Code != c.want || v.Allow != (c.want == Allowed) {
				t.Errorf("%q at %s by %s:%d: %+v, want %s", name, c.addr, c.rule, c.port, v, c.want)
			}
		}
		if v := r.ConnectAddr(at); !c.own && v.Code != c.want {
			t.Errorf("%s by %s:%d: %+v, want %s", c.addr, c.rule, c.port, v, c.want)
		}
	}
	// A public address without a name needs a rule too.
	r := compiled(t, allow("example.org", 0, 1), allowPrefix("1.1.1.0/24", 443, 2))
	for text, want := range map[string]string{"1.1.1.1:443": Allowed, "1.1.1.1:80": NotAllowed, "1.1.2.1:443": NotAllowed, "[2606:4700::1]:443": NotAllowed} {
		if v := r.ConnectAddr(netip.MustParseAddrPort(text)); v.Code != want || v.Allow != (want == Allowed) {
			t.Errorf("%s: %+v, want %s", text, v, want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	for _, n := range []plan.NetRule{
		{}, {Allow: true}, {Allow: true, Name: "*"}, {Allow: true, Name: "a.test", Prefix: "1.0.0.0/8"},
		{Name: "A.test"}, {Name: "a.test."}, {Name: "*.*.test"}, {Name: "a.*.test"}, {Name: "*test"}, {Name: "1.2.3.4"}, {Name: "*."}, {Name: "b\x00.test"},
		{Name: "a.test", Port: -1}, {Name: "a.test", Port: 65536},
		{Allow: true, Ask: true, Name: "a.test"}, {Tunnel: true, Name: "a.test"}, {Ask: true, Tunnel: true, Name: "a.test"}, {Ask: true, Prefix: "224.0.0.0/4"},
		{Allow: true, Tunnel: true, Name: "a.test", Only: &plan.Requests{Methods: []string{"GET"}}}, {Name: "a.test", Only: &plan.Requests{}},
		{Prefix: "10.0.0.1/8"}, {Prefix: "10.0.0.1"}, {Prefix: "x"}, {Prefix: "fe80::%1/64"}, {Prefix: "::ffff:0:0/90"},
		// Rules that could never have an effect.
		{Allow: true, Prefix: "0.0.0.0/32"}, {Allow: true, Prefix: "198.18.0.0/15"}, {Allow: true, Prefix: "198.19.1.0/24"}, {Allow: true, Prefix: "224.0.0.0/4"},
		{Allow: true, Prefix: "fe80::/10"}, {Allow: true, Prefix: "2002::/16"}, {Allow: true, Prefix: "2001::/32"}, {Allow: true, Prefix: "::/96"}, {Allow: true, Prefix: "ff02::/16"},
	} {
		if r, err := Compile([]plan.NetRule{{Allow: true, Name: "example.org"}, n}); err == nil || r != nil {
			t.Errorf("%+v is taken", n)
		}
	}
}

func TestCanonical(t *testing.T) {
	long := strings.Repeat("a.", 126) + "a"
	for name, want := range map[string]string{
		"example.org": "example.org", "EXAMPLE.Org.": "example.org", "_dmarc.example.org": "_dmarc.example.org", "a_b-c.test": "a_b-c.test", "host": "host",
		"r3---sn.test": "r3---sn.test", "1.2.3.test": "1.2.3.test", "1.2.3.4x": "1.2.3.4x", "0xg.test": "0xg.test", "7zip.0xyz": "7zip.0xyz",
		"xn--bcher-kva.example": "xn--bcher-kva.example", "XN--BCHER-KVA.example": "xn--bcher-kva.example", long: long,
		strings.Repeat("a", 63) + ".test": strings.Repeat("a", 63) + ".test",

		"": "", ".": "", "..": "", "a..b": "", ".a": "", "a..": "", "a b": "", "a\x00.test": "", "a\n": "", "a\r\nb": "", "a%2e.test": "", "a%eth0": "",
		"[::1]": "", "::1": "", "[a.test]": "", "a/b": "", "a:80": "", "a@b": "", "a#b": "", "a*": "", "*.test": "", "-a.test": "", "a-.test": "",
		"1.2.3.4": "", "1.2.3.4.": "", "127.1": "", "2130706433": "", "0x7f000001": "", "0x7f.1": "", "1.2.3.0xff": "", "1.2.3.0XFF": "", "0177.0.0.1": "", "0x": "", "a.0x": "",
		"a.1": "", "1.2.3.4.5": "", "example.org.0": "",
		"b\u00fccher.example": "", "\u212aelvin.test": "", "a\u3002test": "", "\uff11.test": "", "\xff.test": "",
		"xn--": "", "xn--a": "", "xn--abc-": "", "xn--example-": "", "xn--1.test": "", "xn--bcher-kv.example": "", "xn--99999999.test": "", "xn--a.xn--b": "",
		long + "a": "", strings.Repeat("a", 64) + ".test": "",
	} {
		got, err := Canonical(name)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", name, got, err, want)
		}
	}
}
