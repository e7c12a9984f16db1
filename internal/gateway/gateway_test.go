package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"cofferdam/internal/boundary"
	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

// world is a gateway whose inside and outside are this process: what it dials goes to
// servers here, whatever the address, after the judgement.
type world struct {
	*Gateway
	t     testing.TB
	addrs struct{ tcp, http, socks, dns, dnsTCP string }

	mu      sync.Mutex
	dest    netip.AddrPort // of the next redirected connection
	facts   []Fact
	fail    func(Fact) bool
	resolve map[string][]netip.Addr
	asked   []string
	servers map[string]string // "name-or-address:port" -> where it is really
	dialled []string
	answer  func(context.Context, Wanted) Reply
}

// The public address of the pretended outside.
var public = netip.MustParseAddr("93.184.216.34")

func start(t testing.TB, rules ...plan.NetRule) *world {
	t.Helper()
	r, err := decide.Compile(rules)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, resolve: map[string][]netip.Addr{}, servers: map[string]string{}}
	listen := func(at *string) []*os.File {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		*at = l.Addr().String()
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		return []*os.File{f}
	}
	p, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	w.addrs.dns = p.LocalAddr().String()
	pf, err := p.(*net.UDPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	sockets := boundary.Sockets{DNS: []*os.File{pf}}
	sockets.TCP, sockets.HTTP, sockets.SOCKS, sockets.DNSTCP = listen(&w.addrs.tcp), listen(&w.addrs.http), listen(&w.addrs.socks), listen(&w.addrs.dnsTCP)
	w.Gateway, err = New(Config{
		Rules:   r,
		Sockets: sockets,
		Destination: func(syscall.RawConn) (netip.AddrPort, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.dest, nil
		},
		Resolve: func(_ context.Context, name string) ([]netip.Addr, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.asked = append(w.asked, name)
			if a := w.resolve[name]; a != nil {
				return a, nil
			}
			return []netip.Addr{public}, nil
		},
		Dial: w.dialOut,
		Ask: func(ctx context.Context, q Wanted) Reply {
			w.mu.Lock()
			answer := w.answer
			w.mu.Unlock()
			if answer == nil {
				return Reply{}
			}
			return answer(ctx, q)
		},
		Own: func(a netip.Addr) bool { return a == netip.MustParseAddr("203.0.113.9") },
		Record: func(f Fact) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.fail != nil && w.fail(f) {
				return errors.New("no space left")
			}
			w.facts = append(w.facts, f)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	g := w.Gateway
	g.Serve()
	t.Cleanup(func() { g.Close() })
	return w
}

// dialOut has the address judged as a dialer does, and connects to a server here.
func (w *world) dialOut(ctx context.Context, d *net.Dialer, address string) (net.Conn, error) {
	if err := d.ControlContext(ctx, "tcp", address, nil); err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	w.mu.Lock()
	w.dialled = append(w.dialled, address)
	to := w.servers[address]
	if to == "" {
		to = w.servers[":"+port]
	}
	w.mu.Unlock()
	if to == "" {
		return nil, syscall.ECONNREFUSED
	}
	if to == "hang" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return new(net.Dialer).DialContext(ctx, "tcp", to)
}

// serve has a server handle connections to that port outside.
func (w *world) serve(port string, handle func(net.Conn)) {
	w.t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close() })
	w.mu.Lock()
	w.servers[":"+port] = l.Addr().String()
	w.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); handle(c) }()
		}
	}()
}

func dialTo(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	for errors.Is(err, syscall.ECONNRESET) { // refused faster than connect(2) returned
		c, err = net.Dial("tcp", addr)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// redirected connects as a program inside does that wants dest.
func (w *world) redirected(dest string) *net.TCPConn {
	w.mu.Lock()
	w.dest = netip.MustParseAddrPort(dest)
	w.mu.Unlock()
	return dialTo(w.t, w.addrs.tcp)
}

// named asks for the name and connects to the answer.
func (w *world) named(name, port string) *net.TCPConn {
	w.t.Helper()
	code, addrs := w.ask(name, dnsmessage.TypeA)
	if code != dnsmessage.RCodeSuccess || len(addrs) != 1 {
		w.t.Fatalf("%s: %v %v", name, code, addrs)
	}
	return w.redirected(addrs[0].String() + ":" + port)
}

// ask sends a question by UDP.
func (w *world) ask(name string, kind dnsmessage.Type) (dnsmessage.RCode, []netip.Addr) {
	w.t.Helper()
	c, err := net.Dial("udp", w.addrs.dns)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(question(w.t, name, kind)); err != nil {
		w.t.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	if err != nil {
		w.t.Fatal(err)
	}
	return unpack(w.t, buf[:n])
}

func question(t testing.TB, name string, kind dnsmessage.Type) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 7, RecursionDesired: true}, Questions: []dnsmessage.Question{
		{Name: dnsmessage.MustNewName(name + "."), Type: kind, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unpack(t testing.TB, b []byte) (dnsmessage.RCode, []netip.Addr) {
	t.Helper()
	var m dnsmessage.Message
	if err := m.Unpack(b); err != nil {
		t.Fatal(err)
	}
	if !m.Response || m.ID != 7 {
		t.Fatalf("not the answer: %+v", m.Header)
	}
	var out []netip.Addr
	for _, a := range m.Answers {
		if a.Header.TTL == 0 || a.Header.TTL > 5 {
			t.Errorf("TTL %d", a.Header.TTL)
		}
		switch r := a.Body.(type) {
		case *dnsmessage.AResource:
			out = append(out, netip.AddrFrom4(r.A))
		case *dnsmessage.AAAAResource:
			out = append(out, netip.AddrFrom16(r.AAAA))
		}
	}
	return m.RCode, out
}

// told waits for a fact.
func (w *world) told(what string, fits func(Fact) bool) Fact {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		w.mu.Lock()
		i := slices.IndexFunc(w.facts, fits)
		if i >= 0 {
			defer w.mu.Unlock()
			return w.facts[i]
		}
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Fatalf("not recorded: %s; but %+v", what, w.facts)
	return Fact{}
}

func (w *world) denied(code, name string) Fact {
	w.t.Helper()
	return w.told(code+" "+name, func(f Fact) bool {
		return f.Kind == Decided && !f.Verdict.Allow && f.Verdict.Code == code && f.Name == name
	})
}

func (w *world) outside() (asked, dialled []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked), slices.Clone(w.dialled)
}

func allow(name string, port int) plan.NetRule {
	return plan.NetRule{Allow: true, Name: name, Port: port, Tunnel: true, Rule: 1}
}
func allowCIDR(p string, port int) plan.NetRule {
	return plan.NetRule{Allow: true, Prefix: p, Port: port, Tunnel: true, Rule: 2}
}

func TestDNS(t *testing.T) {
	w := start(t, allow("example.org", 443), allow("*.example.net", 0), plan.NetRule{Name: "bad.example.net", Rule: 3})
	for _, c := range []struct {
		name string
		kind dnsmessage.Type
		code dnsmessage.RCode
		n    int
	}{
		{"example.org", dnsmessage.TypeA, dnsmessage.RCodeSuccess, 1},
		{"EXAMPLE.org", dnsmessage.TypeA, dnsmessage.RCodeSuccess, 1},
		{"example.org", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, 0},
		{"example.org", 65, dnsmessage.RCodeSuccess, 0}, // HTTPS
		{"example.org", 64, dnsmessage.RCodeSuccess, 0}, // SVCB
		{"example.org", dnsmessage.TypeTXT, dnsmessage.RCodeSuccess, 0},
		{"example.org", 255, dnsmessage.RCodeRefused, 0},
		{"example.org", 252, dnsmessage.RCodeRefused, 0},
		{"example.net", dnsmessage.TypeA, dnsmessage.RCodeNameError, 0},
		{"a.example.net", dnsmessage.TypeA, dnsmessage.RCodeSuccess, 1},
		{"bad.example.net", dnsmessage.TypeA, dnsmessage.RCodeNameError, 0},
		{"x.bad.example.net", dnsmessage.TypeA, dnsmessage.RCodeNameError, 0},
		{"example.com", dnsmessage.TypeAAAA, dnsmessage.RCodeNameError, 0},
		{"a b.example.net", dnsmessage.TypeA, dnsmessage.RCodeNameError, 0},
		{"localhost", dnsmessage.TypeA, dnsmessage.RCodeSuccess, 1},
		{"my.localhost", dnsmessage.TypeAAAA, dnsmessage.RCodeSuccess, 1},
	} {
		code, addrs := w.ask(c.name, c.kind)
		if code != c.code || len(addrs) != c.n {
			t.Errorf("%s %v: %v %v, want %v and %d addresses", c.name, c.kind, code, addrs, c.code, c.n)
		}
		for _, a := range addrs {
			if !pool.Contains(a) && !a.IsLoopback() {
				t.Errorf("%s: %v", c.name, a)
			}
		}
	}
	_, a := w.ask("example.org", dnsmessage.TypeA)
	_, b := w.ask("Example.Org", dnsmessage.TypeA)
	_, c := w.ask("a.example.net", dnsmessage.TypeA)
	if a[0] != b[0] || a[0] == c[0] {
		t.Errorf("example.org is %v and %v, a.example.net is %v", a, b, c)
	}
	w.denied(decide.NotAllowed, "example.com")
	w.denied(decide.Denied, "x.bad.example.net")
	w.denied(decide.BadName, `"a b.example.net."`)
	if asked, dialled := w.outside(); len(asked)+len(dialled) > 0 {
		t.Errorf("a question got out: %v %v", asked, dialled)
	}
	// The same by TCP, several on one connection.
	tcp := dialTo(t, w.addrs.dnsTCP)
	for range 3 {
		q := question(t, "example.org", dnsmessage.TypeA)
		tcp.Write(append([]byte{0, byte(len(q))}, q...))
		var size [2]byte
		if _, err := io.ReadFull(tcp, size[:]); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, int(size[0])<<8|int(size[1]))
		if _, err := io.ReadFull(tcp, buf); err != nil {
			t.Fatal(err)
		}
		if code, addrs := unpack(t, buf); code != 0 || len(addrs) != 1 || addrs[0] != a[0] {
			t.Errorf("by TCP: %v %v", code, addrs)
		}
	}
}

func TestDNSRecordFails(t *testing.T) {
	w := start(t, allow("example.org", 0))
	w.mu.Lock()
	w.fail = func(Fact) bool { return true }
	w.mu.Unlock()
	for _, name := range []string{"example.org", "example.com"} {
		if code, addrs := w.ask(name, dnsmessage.TypeA); code != dnsmessage.RCodeServerFailure || addrs != nil {
			t.Errorf("%s: %v %v", name, code, addrs)
		}
	}
}

func TestNames(t *testing.T) {
	n := newNames(3)
	seen := map[netip.Addr]string{}
	for _, name := range []string{"a", "b", "c"} {
		a, ok := n.address(name)
		if !ok || seen[a] != "" || !pool.Contains(a) {
			t.Fatalf("%s: %v %v", name, a, ok)
		}
		seen[a] = name
		if got, ok := n.name(a); !ok || got != name {
			t.Errorf("%v is %q", a, got)
		}
	}
	if _, ok := n.address("d"); ok {
		t.Error("more names than may be")
	}
	if a, ok := n.address("b"); !ok || seen[a] != "b" {
		t.Errorf("b is now %v", a)
	}
	// Where the hash leads is taken: the next one.
	m := newNames(10)
	a, _ := newNames(1).address("x")
	m.byAddr[a] = "other"
	if b, ok := m.address("x"); !ok || b != a.Next() {
		t.Errorf("%v after %v", b, a)
	}
}

// certificate is for tests only.
func certificate(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: names, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// tlsEcho serves TLS and answers with what it gets, once that has ended.
func (w *world) tlsEcho(port string) *[]string {
	cert := certificate(w.t, "example.org")
	var names []string
	w.serve(port, func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			w.mu.Lock()
			names = append(names, h.ServerName)
			w.mu.Unlock()
			return nil, nil
		}})
		defer s.Close()
		b, err := io.ReadAll(s)
		if err == nil {
			s.Write(append([]byte("you said "), b...))
		}
	})
	return &names
}

// tlsTalk does a handshake, says something and returns the answer.
func tlsTalk(c net.Conn, sni string) (string, error) {
	defer c.Close()
	s := tls.Client(c, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
	if err := s.Handshake(); err != nil {
		return "", err
	}
	if _, err := s.Write([]byte("hello")); err != nil {
		return "", err
	}
	s.CloseWrite()
	b, err := io.ReadAll(s)
	return string(b), err
}

// Each way in, with TLS for the name that was asked for, and for another.
func TestTLS(t *testing.T) {
	w := start(t, allow("example.org", 443), allow("example.org", 8443), allow("allowed.example", 0))
	names := w.tlsEcho("443")
	*w.tlsEcho("8443") = nil
	ways := map[string]func(port string) net.Conn{
		"redirect": func(port string) net.Conn { return w.named("example.org", port) },
		"connect":  func(port string) net.Conn { return w.connect(t, "example.org:"+port, 200) },
		"socks":    func(port string) net.Conn { return w.socksTo(t, "example.org", port, 0) },
	}
	for way, open := range ways {
		for _, port := range []string{"443", "8443"} {
			if got, err := tlsTalk(open(port), "example.org"); got != "you said hello" || err != nil {
				t.Errorf("%s %s: %q %v", way, port, got, err)
			}
			before := len(*names)
			_, err := tlsTalk(open(port), "allowed.example")
			if err == nil || port == "443" && !strings.Contains(err.Error(), "access denied") {
				t.Errorf("%s %s, another name: %v", way, port, err)
			}
			w.denied(decide.Mismatch, "example.org")
			if len(*names) != before {
				t.Errorf("%s %s: the ClientHello for another name got out: %q", way, port, *names)
			}
		}
		if _, err := tlsTalk(open("443"), ""); err == nil {
			t.Errorf("%s: TLS without a name", way)
		}
		c := open("443")
		c.Write([]byte("SSH-2.0-x\r\n"))
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("%s: not TLS on 443: %q", way, b)
		}
		w.denied(badRequest, "example.org")
	}
	end := w.told("the end", func(f Fact) bool { return f.Kind == Ended && f.BytesIn > 0 })
	if end.Actual != netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), end.Actual.Port()) || end.BytesOut == 0 || end.Duration <= 0 {
		t.Errorf("%+v", end)
	}
}

// oldRecord writes the first TLS record with another version than any TLS has; servers
// of crypto/tls and some others do not look at that.
type oldRecord struct {
	net.Conn
	major byte
}

func (o *oldRecord) Write(b []byte) (int, error) {
	if o.major != 3 {
		b = bytes.Clone(b)
		b[1], o.major = o.major, 3
	}
	return o.Conn.Write(b)
}

// What a server might take for TLS is compared, whatever version its record has.
func TestVersionOfRecord(t *testing.T) {
	w := start(t, allow("example.org", 8443))
	names := w.tlsEcho("8443")
	for _, major := range []byte{0, 2, 4, 0x0f} {
		if _, err := tlsTalk(&oldRecord{w.named("example.org", "8443"), major}, "another.example"); err == nil || len(*names) != 0 {
			t.Errorf("version %d: %v, got out: %q", major, err, *names)
		}
	}
	// The control: such a server exists.
	if got, err := tlsTalk(&oldRecord{w.named("example.org", "8443"), 2}, "example.org"); got != "you said hello" {
		t.Errorf("control: %q %v", got, err)
	}
}

// What goes wrong outside is told without this machine's own addresses.
func TestErrorsTellNothingOfThisMachine(t *testing.T) {
	w := start(t, allow("example.org", 0), allow("nowhere.example", 0))
	w.serve("80", func(c net.Conn) { c.Read(make([]byte, 1)); abort(c) })
	own := netip.MustParseAddrPort("192.0.2.1:45678")
	resolver := "192.0.2.53:53"
	before := w.cfg.Resolve
	w.cfg.Resolve = func(ctx context.Context, name string) ([]netip.Addr, error) {
		if name == "nowhere.example" {
			return nil, &net.DNSError{Err: "no such host", Name: name + ".", Server: resolver, IsNotFound: true}
		}
		return before(ctx, name)
	}
	for _, name := range []string{"example.org", "nowhere.example"} {
		c := dialTo(t, w.addrs.http)
		fmt.Fprintf(c, "GET http://%s/ HTTP/1.1\r\nHost: %[1]s\r\n\r\n", name)
		b, _ := io.ReadAll(c)
		text := string(b)
		if !strings.HasPrefix(text, "HTTP/1.1 502 ") || !strings.Contains(text, "no such host") && !strings.Contains(text, "reset") ||
			strings.Contains(text, "->") || strings.Contains(text, resolver) {
			t.Errorf("%s: %s", name, text)
		}
	}
	// As connect(2) and read(2) of a connection with an address of its own say it.
	err := &net.OpError{Op: "dial", Net: "tcp", Source: net.TCPAddrFromAddrPort(own), Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("93.184.216.34:80")), Err: syscall.ECONNREFUSED}
	if s := cause(fmt.Errorf("resolve: %w", err)); strings.Contains(s, own.String()) || !strings.Contains(s, "refused") {
		t.Error(s)
	}
}

// A ClientHello that comes in pieces, in time.
func TestHelloInPieces(t *testing.T) {
	w := start(t, allow("example.org", 0))
	w.tlsEcho("443")
	c := w.named("example.org", "443")
	if got, err := tlsTalk(slow{c}, "example.org"); got != "you said hello" || err != nil {
		t.Errorf("%q %v", got, err)
	}
}

type slow struct{ net.Conn }

func (s slow) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := s.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// A server that speaks first, and half-closed connections in both orders.
func TestServerSpeaksFirst(t *testing.T) {
	w := start(t, allow("example.org", 22), allowCIDR("198.51.100.7/32", 22))
	w.serve("22", func(c net.Conn) {
		io.WriteString(c, "SSH-2.0-server\r\n")
		b, _ := io.ReadAll(c)
		fmt.Fprintf(c, "got %s", b)
	})
	for _, c := range []*net.TCPConn{w.named("example.org", "22"), w.redirected("198.51.100.7:22")} {
		line := make([]byte, 16)
		if _, err := io.ReadFull(c, line); err != nil || string(line) != "SSH-2.0-server\r\n" {
			t.Fatalf("%q %v", line, err)
		}
		io.WriteString(c, "SSH-2.0-client\r\n")
		c.CloseWrite()
		if b, err := io.ReadAll(c); string(b) != "got SSH-2.0-client\r\n" || err != nil {
			t.Errorf("%q %v", b, err)
		}
	}
}

// What is not allowed is reset, and nothing leaves.
func TestDenied(t *testing.T) {
	w := start(t, allow("example.org", 443))
	for _, dest := range []string{"1.2.3.4:443", "169.254.169.254:8080", "10.0.0.1:22", "[2001:db8::1]:443", "198.18.7.7:443", "127.0.0.1:22", "8.8.8.8:853"} {
		c := w.redirected(dest)
		want := ""
		if strings.HasSuffix(dest, ":443") { // words for TLS
			c.Write([]byte{22})
			want = "\x15\x03\x01\x00\x02\x02\x31"
			c.CloseWrite()
		}
		if b, err := io.ReadAll(c); string(b) != want || want == "" && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %q %v", dest, b, err)
		}
		c.Close()
		w.told(dest, func(f Fact) bool {
			return f.Kind == Decided && !f.Verdict.Allow && netip.AddrPortFrom(f.Dest, f.Port).String() == dest
		})
	}
	c := w.named("example.org", "22")
	if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("another port: %v", err)
	}
	w.denied(decide.NotAllowed, "example.org")
	// On port 80 with words.
	for _, c := range []*net.TCPConn{w.redirected("1.2.3.4:80"), w.named("example.org", "80")} {
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
		b, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 403 ") || !strings.Contains(string(b), "--allow-") {
			t.Errorf("%q %v", b, err)
		}
	}
	if asked, dialled := w.outside(); len(asked)+len(dialled) > 0 {
		t.Errorf("got out: %v %v", asked, dialled)
	}
}

// An allowed name that leads to where nobody may go.
func TestAddressJudgedWhenDialled(t *testing.T) {
	w := start(t, allow("example.org", 0), allowCIDR("10.1.2.3/32", 8080))
	w.serve("8080", func(c net.Conn) { io.WriteString(c, "hello") })
	for _, a := range []string{"127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "203.0.113.9", "0.0.0.0", "fd00:ec2::254"} {
		w.mu.Lock()
		w.resolve["example.org"], w.facts = []netip.Addr{netip.MustParseAddr(a)}, nil
		w.mu.Unlock()
		if b, err := io.ReadAll(w.named("example.org", "8080")); err == nil {
			t.Errorf("%s: %q", a, b)
		}
		w.denied(decide.SpecialAddress, "example.org")
	}
	if _, dialled := w.outside(); len(dialled) > 0 {
		t.Fatalf("dialled %v", dialled)
	}
	// One of several is enough, and by a rule of its own a private one.
	for _, list := range [][]netip.Addr{{netip.MustParseAddr("127.0.0.1"), public}, {netip.MustParseAddr("10.1.2.3")}} {
		w.mu.Lock()
		w.resolve["example.org"] = list
		w.mu.Unlock()
		if b, err := io.ReadAll(w.named("example.org", "8080")); string(b) != "hello" || err != nil {
			t.Errorf("%v: %q %v", list, b, err)
		}
	}
	if _, dialled := w.outside(); !slices.Equal(dialled, []string{public.String() + ":8080", "10.1.2.3:8080"}) {
		t.Errorf("dialled %v", dialled)
	}
}

// With the dialer of package net the judgement is made too.
func TestRealDialer(t *testing.T) {
	w := start(t, allow("example.org", 0))
	w.mu.Lock()
	w.resolve["example.org"] = []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	w.mu.Unlock()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	rules := w.rules.Load()
	w.Gateway = &Gateway{ctx: w.ctx, cfg: w.cfg}
	w.cfg.Dial = func(ctx context.Context, d *net.Dialer, a string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", a)
	}
	_, err = w.dial(rules, target{name: "example.org", port: port})
	var no *refusal
	if !errors.As(err, &no) || no.Code != decide.SpecialAddress {
		t.Errorf("%v", err)
	}
	l.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := l.Accept(); err == nil {
		t.Error("it was dialled")
	}
}

// A second address is tried while the first hangs, and after one that fails.
func TestRace(t *testing.T) {
	w := start(t, allow("example.org", 0))
	w.serve("9000", func(c net.Conn) { io.WriteString(c, "hello") })
	six := netip.MustParseAddr("2606:2800:220:1::1")
	w.mu.Lock()
	w.resolve["example.org"] = []netip.Addr{six, public}
	w.servers[netip.AddrPortFrom(six, 9000).String()] = "hang"
	w.mu.Unlock()
	began := time.Now()
	if b, err := io.ReadAll(w.named("example.org", "9000")); string(b) != "hello" || err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("%q %v after %v", b, err, time.Since(began))
	}
	got := interleave([]netip.Addr{six, six.Next(), public, public.Next()})
	if want := []netip.Addr{six, public, six.Next(), public.Next()}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

// connect asks the HTTP proxy for a tunnel.
func (w *world) connect(t *testing.T, to string, want int) *net.TCPConn {
	t.Helper()
	c := dialTo(t, w.addrs.http)
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to, to)
	if want != 200 {
		b, err := io.ReadAll(c)
		if err != nil || !strings.HasPrefix(string(b), fmt.Sprintf("HTTP/1.1 %d ", want)) || !strings.Contains(string(b), "cofferdam") {
			t.Errorf("CONNECT %q: %q %v, want %d", to, b, err, want)
		}
		return nil
	}
	const ok = "HTTP/1.1 200 Connection established\r\n\r\n"
	b := make([]byte, len(ok))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != ok {
		t.Fatalf("CONNECT %s: %q %v", to, b, err)
	}
	return c
}

// socksTo asks the SOCKS proxy for a connection.
func (w *world) socksTo(t *testing.T, host, port string, want byte) *net.TCPConn {
	t.Helper()
	c := dialTo(t, w.addrs.socks)
	p, _ := net.LookupPort("tcp", port)
	msg := []byte{5, 2, 2, 0, 5, 1, 0}
	if a, err := netip.ParseAddr(host); err != nil {
		msg = append(append(msg, 3, byte(len(host))), host...)
	} else if a.Is4() {
		msg = append(append(msg, 1), a.AsSlice()...)
	} else {
		msg = append(append(msg, 4), a.AsSlice()...)
	}
	c.Write(append(msg, byte(p>>8), byte(p)))
	b := make([]byte, 12)
	if n, err := io.ReadFull(c, b); err != nil || !bytes.Equal(b[:3], []byte{5, 0, 5}) || b[3] != want {
		t.Fatalf("SOCKS %q %s: %v %v, want %d", host, port, b[:n], err, want)
	}
	return c
}

func TestProxyRefusals(t *testing.T) {
	w := start(t, allow("example.org", 443), allow("down.example", 0))
	for to, want := range map[string]int{
		"example.com:443": 403, "example.org:22": 403, "1.2.3.4:443": 403, "[::1]:443": 403, "127.0.0.1:80": 403, "169.254.169.254:80": 403,
		"0x7f.1:443": 400, "2130706433:443": 400, "127.1:80": 400, "example.org": 400, "example.org:0": 400, "example.org:99999": 400,
		"user@example.org:443": 400, "[example.org]:443": 400, "example.org%00.evil.test:443": 400, "example。org:443": 400,
		"example.org.:22": 403, "EXAMPLE.ORG:22": 403, "::1:443": 400, "[fe80::1%25lo]:443": 400, "down.example:443": 502, "example.org:": 400,
		"[::ffff:127.0.0.1]:443": 403, "198.18.0.1:443": 403,
	} {
		w.connect(t, to, want)
	}
	for host, want := range map[string]byte{"example.com": 2, "1.2.3.4": 2, "::1": 2, "::ffff:10.0.0.1": 2, "0x7f000001": 2, "127.1": 2, "a\x00b": 2,
		"a\r\nb": 2, strings.Repeat("a", 255): 2, "down.example": 5} {
		w.socksTo(t, host, "443", want)
	}
	// A name that is an address is one.
	c := dialTo(t, w.addrs.socks)
	c.Write(append([]byte{5, 1, 0, 5, 1, 0, 3, 9}, "127.0.0.1\x01\xbb"...))
	if b, _ := io.ReadAll(c); len(b) < 4 || b[3] != 2 {
		t.Errorf("%v", b)
	}
	// Other commands, versions, methods; an empty name.
	for msg, want := range map[string]string{
		"\x05\x01\x00\x05\x02\x00\x01\x01\x02\x03\x04\x00\x50": "\x05\x00\x05\x07",
		"\x05\x01\x00\x05\x03\x00\x01\x01\x02\x03\x04\x00\x50": "\x05\x00\x05\x07",
		"\x05\x01\x00\x05\x01\x00\x09\x01\x02\x03\x04\x00\x50": "\x05\x00\x05\x08",
		"\x05\x01\x00\x05\x01\x00\x03\x00\x00\x50":             "\x05\x00\x05\x02",
		"\x05\x01\x01":                                                        "\x05\xff",
		"\x04\x01\x00\x50\x01\x02\x03\x04\x00":                                "",
		"\x05\x01\x02\x01\x01u\x01p\x05\x01\x00\x03\x01a\x00\x50":             "\x05\x02\x01\x00\x05\x02",
		"\x05\x02\x00\x02\x05\x01\x00\x01\x01\x02\x03\x04\x00\x50trailing...": "\x05\x00\x05\x02",
	} {
		c := dialTo(t, w.addrs.socks)
		io.WriteString(c, msg)
		c.CloseWrite()
		if b, _ := io.ReadAll(c); !strings.HasPrefix(string(b), want) || want == "" && len(b) > 0 {
			t.Errorf("%q: %q, want %q", msg, b, want)
		}
	}
	if _, dialled := w.outside(); slices.ContainsFunc(dialled, func(s string) bool { return s != public.String()+":443" }) {
		t.Errorf("dialled %v", dialled)
	}
}

// An address that a program got from our DNS and gives to a proxy is the name.
func TestStandInThroughProxy(t *testing.T) {
	w := start(t, allow("example.org", 443))
	w.tlsEcho("443")
	_, a := w.ask("example.org", dnsmessage.TypeA)
	for _, c := range []net.Conn{w.connect(t, a[0].String()+":443", 200), w.socksTo(t, a[0].String(), "443", 0), w.socksTo(t, "::ffff:"+a[0].String(), "443", 0)} {
		if got, err := tlsTalk(c, "example.org"); got != "you said hello" || err != nil {
			t.Errorf("%q %v", got, err)
		}
	}
	if _, err := tlsTalk(w.connect(t, a[0].String()+":443", 200), "other.example"); err == nil {
		t.Error("another name")
	}
}

// No record, no traffic: whichever fact can't be recorded.
func TestNoRecordNoTraffic(t *testing.T) {
	for _, kind := range []Kind{Decided, Opened} {
		w := start(t, allow("example.org", 0))
		var got []string
		for _, port := range []string{"80", "9000"} {
			w.serve(port, func(c net.Conn) {
				b, _ := io.ReadAll(c)
				w.mu.Lock()
				defer w.mu.Unlock()
				got = append(got, string(b))
			})
		}
		_, a := w.ask("example.org", dnsmessage.TypeA)
		w.mu.Lock()
		w.fail = func(f Fact) bool { return f.Kind == kind }
		w.mu.Unlock()
		c := w.redirected(a[0].String() + ":9000")
		_, werr := io.WriteString(c, "secret")
		if _, err := io.ReadAll(c); err == nil && werr == nil {
			t.Error("no reset")
		}
		h := dialTo(t, w.addrs.http)
		io.WriteString(h, "GET http://example.org/secret HTTP/1.1\r\nHost: example.org\r\n\r\n")
		if b, err := io.ReadAll(h); len(b) > 0 && err == nil {
			t.Errorf("%q", b)
		}
		asked, _ := w.outside()
		if kind == Decided && len(asked) > 0 {
			t.Errorf("asked for %v", asked)
		}
		w.Close()
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			w.mu.Lock()
			heard, dialled := slices.Clone(got), len(w.dialled)
			w.mu.Unlock()
			if (kind == Decided) != (dialled == 0) {
				t.Fatalf("%s: dialled %d times", kind, dialled)
			}
			if len(heard) == dialled && strings.Join(heard, "") == "" {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%s not recorded, and %q got out over %d connections", kind, heard, dialled)
			}
		}
	}
}

// Neither goroutines nor descriptors are left, whatever state connections are in.
func TestNothingLeft(t *testing.T) {
	count := func() (int, int) {
		d, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(d)
	}
	goroutines, fds := count()
	t.Run("gateway", func(t *testing.T) {
		w := start(t, allow("example.org", 0), allow("hang.example", 0))
		w.tlsEcho("443")
		w.serve("80", func(c net.Conn) { io.Copy(io.Discard, c) })
		w.mu.Lock()
		w.servers[":1"] = "hang"
		w.mu.Unlock()
		var conns []net.Conn
		for range 20 {
			silent := w.named("example.org", "443")
			begun := w.named("example.org", "443")
			io.WriteString(begun, "\x16\x03")
			dialling := w.named("hang.example", "1")
			half := w.named("example.org", "80")
			io.WriteString(half, "GET / HTTP/1.1\r\nHost: ")
			waiting := w.named("example.org", "80")
			io.WriteString(waiting, "POST / HTTP/1.1\r\nHost: example.org\r\nContent-Length: 10\r\n\r\nabc")
			refused := w.redirected("1.2.3.4:80")
			socks := dialTo(t, w.addrs.socks)
			tunnel := w.connect(t, "example.org:443", 200)
			conns = append(conns, silent, begun, dialling, half, waiting, refused, socks, tunnel)
		}
		w.told("a dial", func(f Fact) bool { return f.Name == "hang.example" && f.Port == 1 })
		began := time.Now()
		w.Close()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("Close took %v", took)
		}
		for _, c := range conns {
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			var timeout net.Error
			if _, err := io.ReadAll(c); errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("a connection is left open")
			}
			c.Close()
		}
	})
	var g, f int
	for range 200 {
		if g, f = count(); g <= goroutines && f <= fds {
			return
		}
		runtime.GC() // closes the pipes that package net keeps for splice(2)
		time.Sleep(10 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	t.Errorf("%d goroutines were %d, %d descriptors were %d\n%s", g, goroutines, f, fds, buf[:runtime.Stack(buf, true)])
}
