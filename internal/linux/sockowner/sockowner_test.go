package sockowner

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6"} {
		l, err := net.Listen(network, map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network])
		if err != nil {
			continue // no IPv6 here
		}
		defer l.Close()
		c, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		at := c.LocalAddr().(*net.TCPAddr).AddrPort()
		comm, _ := os.ReadFile("/proc/self/comm")
		p, ok := Find(os.Getpid(), at)
		if !ok || p.PID != os.Getpid() || p.Comm != strings.TrimSpace(string(comm)) {
			t.Errorf("%s: %+v, %v", at, p, ok)
		}
		c.Close()
		if p, ok := Find(os.Getpid(), at); ok {
			t.Errorf("closed: %+v", p)
		}
	}
	if p, ok := Find(os.Getpid(), netip.MustParseAddrPort("127.0.0.1:1")); ok {
		t.Errorf("nobody's: %+v", p)
	}
	if p, ok := Find(1<<30, netip.MustParseAddrPort("127.0.0.1:1")); ok {
		t.Errorf("no process: %+v", p)
	}
}

func TestAddress(t *testing.T) {
	for s, want := range map[string]string{
		"0100007F:1F90": "127.0.0.1:8080", "00000000000000000000000001000000:0050": "[::1]:80", "0000000000000000FFFF00000100007F:0050": "127.0.0.1:80",
		"": "", "0100007F": "", "0100007F:10000": "", "01:1": "", "zz00007F:1": "",
	} {
		a, ok := address(s)
		if ok != (want != "") || ok && a.String() != want {
			t.Errorf("%s: %v %v", s, a, ok)
		}
	}
}
