package decide

import (
	"net/netip"
	"testing"
)

func TestDirect(t *testing.T) {
	d, err := CompileDirect([]string{"a.test", ".b.test", "*.c.test:8443", "10.0.0.0/8", "192.0.2.1:80", "[2001:db8::1]", "LocalHost."})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host string
		port uint16
		want bool
	}{
		{"a.test", 1, true}, {"x.a.test", 1, true}, {"xa.test", 1, false},
		{"b.test", 1, false}, {"x.b.test", 1, true}, {"x.y.b.test", 1, true},
		{"x.c.test", 8443, true}, {"x.c.test", 443, false}, {"c.test", 8443, false},
		{"10.9.9.9", 1, true}, {"11.9.9.9", 1, false}, {"192.0.2.1", 80, true}, {"192.0.2.1", 81, false}, {"2001:db8::1", 1, true}, {"2001:db8::2", 1, false},
		{"localhost", 1, true},
	} {
		name := c.host
		a, err := netip.ParseAddr(c.host)
		if err == nil {
			name = ""
		}
		if got := d.Has(name, a, c.port); got != c.want {
			t.Errorf("%s:%d: %v", c.host, c.port, got)
		}
	}
	if d, _ := CompileDirect([]string{"*"}); !d.Has("any.test", netip.Addr{}, 1) {
		t.Error("*")
	}
	if (*Direct)(nil).Has("a.test", netip.Addr{}, 1) {
		t.Error("nil")
	}
	for _, bad := range []string{"", "a test", "*a.test", "a.test:", "a.test:0", "a.test:99999", "http://a.test", "10.0.0.0/99"} {
		if d, err := CompileDirect([]string{bad, "ok.test"}); err == nil || !d.Has("ok.test", netip.Addr{}, 1) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzDirect(f *testing.F) {
	f.Add("a.test", "x.a.test")
	f.Add("10.0.0.0/8", "10.1.2.3")
	f.Add("*", "")
	f.Fuzz(func(t *testing.T, entry, host string) {
		d, _ := CompileDirect([]string{entry})
		a, err := netip.ParseAddr(host)
		if err == nil {
			host = ""
		}
		// Whatever is direct: with nothing listed nothing is.
		if none, _ := CompileDirect(nil); none.Has(host, a, 443) {
			t.Error("nothing is listed")
		}
		if len(d.list) > 1 {
			t.Error("one entry is two")
		}
		_ = d.Has(host, a, 443)
	})
}
