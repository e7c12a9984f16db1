package gateway

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"cofferdam/internal/gateway/authority"
	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

// looked is a rule whose requests are looked into.
func looked(name string, port int, only *plan.Requests) plan.NetRule {
	return plan.NetRule{Allow: true, Name: name, Port: port, Only: only, Rule: 1}
}

// servers' own authority, which this machine trusts, and one that it does not.
type outsideCA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

var (
	trusted   = sync.OnceValue(newOutsideCA)
	untrusted = sync.OnceValue(newOutsideCA)
)

func newOutsideCA() outsideCA {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "outside"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, _ := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	cert, _ := x509.ParseCertificate(der)
	return outsideCA{key, cert}
}

func (ca outsideCA) leaf(until time.Time, names ...string) tls.Certificate {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until, DNSNames: names,
		IPAddresses: []net.IP{public.AsSlice()}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, _ := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// inspecting is a gateway that opens TLS, and the roots of its inside.
func inspecting(t testing.TB, rules ...plan.NetRule) (*world, *x509.CertPool) {
	t.Helper()
	w := start(t, rules...)
	a, err := authority.New(time.Now(), time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(trusted().cert)
	w.cfg.Inspect = &Inspection{Certificate: a.Certificate, Roots: func() *x509.CertPool { return roots }, Sessions: tls.NewLRUClientSessionCache(8)}
	inside := x509.NewCertPool()
	inside.AppendCertsFromPEM(a.PEM())
	return w, inside
}

// serveTLS has a server of net/http answer on that port outside.
func (w *world) serveTLS(port string, config *tls.Config, h http.HandlerFunc) (requests func() []string) {
	w.t.Helper()
	if config.Certificates == nil {
		config.Certificates = []tls.Certificate{trusted().leaf(time.Now().Add(time.Hour), "example.org", "other.example")}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var seen []string
	s := &http.Server{TLSConfig: config, ErrorLog: quietLog(), Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		seen = append(seen, r.RemoteAddr+" "+r.Method+" "+r.Host+r.RequestURI)
		w.mu.Unlock()
		h(rw, r)
	})}
	go s.ServeTLS(l, "", "")
	w.t.Cleanup(func() { s.Close() })
	w.mu.Lock()
	w.servers[":"+port] = l.Addr().String()
	w.mu.Unlock()
	return func() []string {
		w.mu.Lock()
		defer w.mu.Unlock()
		return append([]string(nil), seen...)
	}
}

// shake makes TLS of a connection, as a client inside.
func shake(t *testing.T, c net.Conn, roots *x509.CertPool, name string) *tls.Conn {
	t.Helper()
	conn := tls.Client(c, &tls.Config{ServerName: name, RootCAs: roots})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	return conn
}

// An ordinary client, over each way in.
func TestInspected(t *testing.T) {
	w, inside := inspecting(t, looked("example.org", 0, nil))
	seen := w.serveTLS("443", &tls.Config{}, echo)
	w.serveTLS("8443", &tls.Config{}, echo)
	proxy, _ := url.Parse("http://" + w.addrs.http)
	for way, tr := range map[string]*http.Transport{
		"http-proxy": {Proxy: http.ProxyURL(proxy)},
		"redirect":   {Dial: func(string, string) (net.Conn, error) { return w.named("example.org", "443"), nil }},
		"socks5":     {Dial: func(string, string) (net.Conn, error) { return w.socksTo(t, "example.org", "443", 0), nil }},
	} {
		tr.TLSClientConfig = &tls.Config{RootCAs: inside}
		c := &http.Client{Transport: tr}
		before := len(seen())
		big := strings.Repeat("0123456789abcdef", 1<<16)
		for _, body := range []string{"", "hello", big} {
			for _, chunked := range []bool{false, true} {
				var r io.Reader = strings.NewReader(body)
				if chunked {
					r = io.MultiReader(r)
				}
				resp, err := c.Post("https://example.org/"+way+"?secret=1", "text/plain", r)
				if err != nil {
					t.Fatalf("%s: %v", way, err)
				}
				got, err := io.ReadAll(resp.Body)
				if err != nil || string(got) != body || resp.StatusCode != 200 {
					t.Errorf("%s: %d bytes of %d, %v %v", way, len(got), len(body), resp.Status, err)
				}
				resp.Body.Close()
			}
		}
		tr.CloseIdleConnections()
		got := seen()[before:]
		from, _, _ := strings.Cut(got[0], " ")
		for _, s := range got {
			if !strings.HasPrefix(s, from) {
				t.Errorf("%s: not one connection used again: %q", way, got)
				break
			}
		}
		f := w.told("the request", func(f Fact) bool { return f.Method == "POST" && f.Path == "/"+way })
		if f.Kind != Decided || !f.Verdict.Allow || f.Name != "example.org" || f.Port != 443 {
			t.Errorf("%+v", f)
		}
	}
	// Another port, which the Host has to name.
	conn := shake(t, w.named("example.org", "8443"), inside, "example.org")
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: example.org:8443\r\nConnection: close\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 200 {
		t.Error(resp, err)
	}
}

// What is refused is refused with words, and nothing is dialled or asked for.
func TestRequestRefused(t *testing.T) {
	w, inside := inspecting(t, looked("example.org", 0, &plan.Requests{Methods: []string{"GET"}, Paths: []string{"/ok/**"}}))
	seen := w.serveTLS("443", &tls.Config{}, echo)
	w.site("80", echo)
	for _, c := range []struct {
		request, answer, code string
		status                int
	}{
		{"GET /ok/1 HTTP/1.1\r\nHost: example.org\r\n\r\n", "", "", 200},
		{"GET /no HTTP/1.1\r\nHost: example.org\r\n\r\n", "none of the requests", decide.NotAllowed, 403},
		{"POST /ok/1 HTTP/1.1\r\nHost: example.org\r\nContent-Length: 3\r\n\r\nabc", "none of the requests", decide.NotAllowed, 403},
		{"GET /ok/1 HTTP/1.1\r\nHost: other.example\r\n\r\n", "another host", decide.Mismatch, 421},
		{"GET /ok/1 HTTP/1.1\r\nHost: example.org:444\r\n\r\n", "another host", decide.Mismatch, 421},
		{"GET http://example.org:443/ok/1 HTTP/1.1\r\nHost: example.org:443\r\n\r\n", "within TLS", badRequest, 400},
		{"GET /ok/1 HTTP/1.1\r\nHost: example.org\r\nHost: example.org\r\n\r\n", "more than one Host", badRequest, 400},
		{"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n", "no proxy", badRequest, 400},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "version", badRequest, 400},
		{"GET /ok/../no HTTP/1.1\r\nHost: example.org\r\n\r\n", "", "", 403},
	} {
		before := len(seen())
		_, dialled := w.outside()
		conn := shake(t, w.named("example.org", "443"), inside, "example.org")
		io.WriteString(conn, c.request)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%q: %v", c.request, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != c.status && c.code != "" || (resp.StatusCode == 200) != (c.status == 200) || !strings.Contains(string(body), c.answer) {
			t.Errorf("%q: %v %q %v", c.request, resp.Status, body, err)
		}
		if c.code != "" {
			w.denied(c.code, "example.org")
			if resp.Header.Get("X-Cofferdam-Refused") != c.code {
				t.Errorf("%q: %v", c.request, resp.Header)
			}
		}
		if _, now := w.outside(); c.status != 200 && (len(now) != len(dialled) || len(seen()) != before) {
			t.Errorf("%q: dialled %v, seen %v", c.request, now, seen())
		}
	}
	// In the clear it is the same.
	got := send(t, w.named("example.org", "80"), "GET /no HTTP/1.1\r\nHost: example.org\r\nAccept: application/json\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 403 ") || !strings.Contains(got, "\r\n\r\n{\"error\":\"cofferdam refused this (not-allowed)") {
		t.Errorf("%q", got)
	}
	got = send(t, dialTo(t, w.addrs.http), "GET http://example.org/no HTTP/1.1\r\nHost: example.org\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 403 ") {
		t.Errorf("%q", got)
	}
}

// The name in TLS is the one that was decided on, before anything of it is understood.
func TestInspectedNames(t *testing.T) {
	w, inside := inspecting(t, looked("example.org", 0, nil), looked("other.example", 0, nil), allowCIDR(public.String()+"/32", 0), plan.NetRule{Allow: true, Prefix: "198.51.99.1/32", Rule: 1})
	w.serveTLS("443", &tls.Config{}, echo)
	w.serveTLS("8443", &tls.Config{}, echo)
	for _, c := range []struct{ name, port, sni string }{
		{"example.org", "443", "other.example"}, {"example.org", "8443", "other.example"}, {"example.org", "443", ""}, {"example.org", "8443", ""}, {"198.51.99.1", "443", "example.org"},
	} {
		var conn net.Conn
		if a, err := netip.ParseAddr(c.name); err == nil {
			conn = w.redirected(net.JoinHostPort(a.String(), c.port))
		} else {
			conn = w.named(c.name, c.port)
		}
		err := tls.Client(conn, &tls.Config{ServerName: c.sni, InsecureSkipVerify: true}).Handshake()
		if err == nil || !strings.Contains(err.Error(), "access denied") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, dialled := w.outside(); len(dialled) > 0 {
		t.Errorf("dialled %v", dialled)
	}
	// An address has no server name, and a certificate of its own.
	conn := tls.Client(w.redirected("198.51.99.1:443"), &tls.Config{ServerName: "198.51.99.1", RootCAs: inside})
	if err := conn.Handshake(); err != nil {
		t.Error(err)
	}
}

// Who does not take the certificate gets nothing, and the record says why.
func TestCertificateRefused(t *testing.T) {
	w, inside := inspecting(t, looked("example.org", 0, nil))
	w.serveTLS("443", &tls.Config{}, echo)
	conn := tls.Client(w.named("example.org", "443"), &tls.Config{ServerName: "example.org", RootCAs: x509.NewCertPool()})
	if err := conn.Handshake(); err == nil {
		t.Fatal("trusted")
	}
	if f := w.denied(tlsRefused, "example.org"); !strings.Contains(f.Verdict.Reason, "does not trust") || !strings.Contains(f.Verdict.Reason, "--tunnel-domain example.org") {
		t.Errorf("%+v", f)
	}
	for what, c := range map[string]struct {
		do   func(c *net.TCPConn)
		says string
	}{
		"only HTTP/2": {func(c *net.TCPConn) {
			_ = tls.Client(c, &tls.Config{ServerName: "example.org", RootCAs: inside, NextProtos: []string{"h2"}}).Handshake()
		}, "speaks only"},
		"an old version": {func(c *net.TCPConn) {
			_ = tls.Client(c, &tls.Config{ServerName: "example.org", RootCAs: inside, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).Handshake()
		}, "handshake failed"},
		"gone after the handshake": {func(c *net.TCPConn) {
			if err := tls.Client(c, &tls.Config{ServerName: "example.org", RootCAs: inside}).Handshake(); err != nil {
				t.Error(err)
			}
			c.Close()
		}, "ended the connection"},
		"garbage": {func(c *net.TCPConn) {
			c.Write(helloBytes(t, "example.org"))
			c.Write([]byte("this is no TLS at all, although it begins as such"))
			io.Copy(io.Discard, c)
		}, "handshake failed"},
	} {
		w.mu.Lock()
		w.facts = nil
		w.mu.Unlock()
		c.do(w.named("example.org", "443"))
		if f := w.denied(tlsRefused, "example.org"); !strings.Contains(f.Verdict.Reason, c.says) {
			t.Errorf("%s: %+v", what, f.Verdict)
		}
	}
	// A ClientHello that is too large, or does not end.
	for _, hello := range [][]byte{append([]byte{22, 3, 1, 0x40, 0, 1, 1, 0, 0}, make([]byte, 1<<14)...), {22, 3, 1, 1, 0, 1, 0, 0, 250}} {
		c := w.named("example.org", "443")
		c.Write(hello)
		c.CloseWrite()
		if n, _ := io.Copy(io.Discard, c); n > 0 {
			t.Errorf("%d bytes of answer", n)
		}
		w.denied(badRequest, "example.org")
	}
	if _, dialled := w.outside(); len(dialled) > 0 {
		t.Errorf("dialled %v", dialled)
	}
	// A pause between connecting ahead and the first request is no refusal.
	w.mu.Lock()
	w.facts = nil
	w.mu.Unlock()
	ahead := shake(t, w.named("example.org", "443"), inside, "example.org")
	ahead.CloseWrite()
	io.Copy(io.Discard, ahead)
	w.Close()
	for _, f := range w.facts {
		if f.Verdict.Code == tlsRefused {
			t.Errorf("%+v", f)
		}
	}
}

// helloBytes is what a client says first.
func helloBytes(t *testing.T, name string) []byte {
	t.Helper()
	a, b := net.Pipe()
	go tls.Client(a, &tls.Config{ServerName: name}).Handshake()
	defer a.Close()
	buf := make([]byte, 8192)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// A server that is not who was decided on gets no request.
func TestServerRefused(t *testing.T) {
	soon := time.Now().Add(time.Hour)
	for what, c := range map[string]struct {
		config *tls.Config
		says   string
	}{
		"expired":      {&tls.Config{Certificates: []tls.Certificate{trusted().leaf(time.Now().Add(-time.Hour), "example.org")}}, "expired"},
		"another name": {&tls.Config{Certificates: []tls.Certificate{trusted().leaf(soon, "evil.example")}}, "not example.org"},
		"unknown":      {&tls.Config{Certificates: []tls.Certificate{untrusted().leaf(soon, "example.org")}}, "does not trust"},
		"old version":  {&tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "protocol version"},
		"wants more":   {&tls.Config{ClientAuth: tls.RequireAnyClientCert}, "certificate required"},
	} {
		w, inside := inspecting(t, looked("example.org", 0, nil))
		seen := w.serveTLS("443", c.config, echo)
		conn := shake(t, w.named("example.org", "443"), inside, "example.org")
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 502 || !strings.Contains(string(body), c.says) || len(seen()) > 0 {
			t.Errorf("%s: %v %q, seen %v", what, resp.Status, body, seen())
		}
		if what != "wants more" {
			w.told("the end", func(f Fact) bool { return f.Kind == Ended && strings.Contains(f.Err, c.says) })
		}
	}
}

// What is neither TLS nor HTTP goes where a rule is about all requests, and nowhere
// else. HTTP is judged on each port.
func TestLookWithoutTLS(t *testing.T) {
	only := &plan.Requests{Methods: []string{"GET"}}
	w, inside := inspecting(t, looked("example.org", 0, nil), looked("narrow.example", 0, only), looked("denied.example", 0, nil),
		plan.NetRule{Name: "denied.example", Only: &plan.Requests{Paths: []string{"/no/**"}}, Rule: 3})
	w.serve("7000", func(c net.Conn) { io.Copy(c, c) })
	w.serve("7001", func(c net.Conn) { // speaks first
		io.WriteString(c, "220 ready\r\n")
		io.Copy(c, c)
	})
	w.site("8080", echo)
	w.serveTLS("8443", &tls.Config{}, echo)
	if got := send(t, w.named("example.org", "7000"), "EHLO x\r\n"); got != "EHLO x\r\n" {
		t.Errorf("%q", got)
	}
	if got := send(t, w.named("example.org", "7000"), "\x00\x01binary"); got != "\x00\x01binary" {
		t.Errorf("%q", got)
	}
	c := w.named("example.org", "7001")
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); line != "220 ready\r\n" {
		t.Errorf("%q %v", line, err)
	}
	if got := send(t, c, "EHLO x\r\n"); got != "EHLO x\r\n" {
		t.Errorf("%q", got)
	}
	// Not on the ports of HTTP, where the server is not heard either.
	w.serve("443", func(c net.Conn) { io.WriteString(c, "220 ready\r\n"); io.Copy(c, c) })
	c = w.named("example.org", "443")
	c.SetReadDeadline(time.Now().Add(2 * firstTime))
	if b, err := io.ReadAll(c); len(b) > 0 || err == nil {
		t.Errorf("%q %v", b, err)
	}
	if got := send(t, w.named("example.org", "443"), "EHLO x\r\n"); got != "" {
		t.Errorf("%q", got)
	}
	w.denied(badRequest, "example.org")
	// A late request is looked into too; after the server has spoken there is none.
	for port, want := range map[string]string{"8080": "HTTP/1.1 200", "7001": "220 ready\r\n"} {
		c := w.named("example.org", port)
		time.Sleep(2 * firstTime) // a slow client is the point
		if got := send(t, c, "GET /late HTTP/1.1\r\nHost: example.org:"+port+"\r\n\r\n"); !strings.HasPrefix(got, want) || port == "7001" && got != want {
			t.Errorf("%s: %q", port, got)
		}
	}
	w.told("late", func(f Fact) bool { return f.Path == "/late" && f.Verdict.Allow })
	late := w.named("example.org", "8443")
	time.Sleep(2 * firstTime)
	conn := shake(t, late, inside, "example.org")
	io.WriteString(conn, "GET /latetls HTTP/1.1\r\nHost: example.org:8443\r\n\r\n")
	if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 200 {
		t.Error(resp, err)
	}
	for _, name := range []string{"narrow.example", "denied.example"} {
		for _, s := range []string{"EHLO x\r\n", "\x00\x01binary", "SSH-2.0-x\r\n"} {
			if got := send(t, w.named(name, "7000"), s); got != "" {
				t.Errorf("%s %q: %q", name, s, got)
			}
			w.denied(badRequest, name)
		}
	}
	for _, s := range []string{
		"POST / HTTP/1.1\r\nHost: narrow.example:8080\r\n\r\n", "\r\nPOST / HTTP/1.1\r\nHost: narrow.example:8080\r\n\r\n", "POST http://narrow.example:8080/ HTTP/1.1\r\nHost: narrow.example:8080\r\n\r\n",
		"POST /\r\n\r\n", "POST\t/ HTTP/1.0\r\n\r\n", " POST / HTTP/1.0\r\n\r\n",
	} {
		if got := send(t, w.named("narrow.example", "8080"), s); !strings.HasPrefix(got, "HTTP/1.1 4") {
			t.Errorf("%q: %q", s, got)
		}
	}
	if got := send(t, w.named("narrow.example", "8080"), "GET / HTTP/1.1\r\nHost: narrow.example:8080\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("%q", got)
	}
}

// What may yet become a request is not gathered without end.
func TestEndlessWhiteSpace(t *testing.T) {
	w, _ := inspecting(t, looked("example.org", 0, nil))
	c := w.named("example.org", "8080")
	c.SetDeadline(time.Now().Add(headTime / 2))
	for {
		if _, err := io.WriteString(c, strings.Repeat("\r\n", 512)); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("still being read")
			}
			break
		}
	}
	w.denied(badRequest, "example.org")
}

func TestBeginsAs(t *testing.T) {
	for s, want := range map[string]beginning{
		"": unclear, "G": unclear, "GET": unclear, "GET ": request, "GET x": request, "ABC ": unclear, "ABC h": unclear, "ABC x": other, "get x": other, "and this": other, "GET /": request, "\r\n\r\nGET /": request, "GET *": request, "GET http://": request, "GET HTTPS:": request,
		"GET\t/x": request, "  GET /": request, "GET x HTTP/1.1": request, "CONNECT x:1 HTTP/1.1\r\n": request, "PRI * HTTP/2.0": request, "get /": request, "M-SEARCH *": request,
		"EHLO x\r\n": other, "EHLO h\r\n": other, "PING\r\nPING\r\n": other, "SSH-2.0-OpenSSH\r\n": other, "\x00": other, "ab\x80": other, strings.Repeat("a", 65): other,
		"PING\r\n/": other, "*2\r\n$3\r\nGET\r\n": other, "\x16": other,
	} {
		got := beginsAs([]byte(s))
		if got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}

// Nothing waits for more than has come: events, both ways, and an upgrade.
func TestInspectedStreams(t *testing.T) {
	w, inside := inspecting(t, looked("example.org", 0, nil))
	step := make(chan struct{})
	w.serveTLS("443", &tls.Config{}, func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/events":
			rw.Header().Set("Alt-Svc", `h3="evil.example:443"`)
			for i := range 3 {
				fmt.Fprintf(rw, "data: %d\n\n", i)
				rw.(http.Flusher).Flush()
				<-step
			}
		case "/ws":
			rw.Header().Set("Connection", "Upgrade")
			rw.Header().Set("Upgrade", "websocket")
			rw.WriteHeader(101)
			c, b, _ := rw.(http.Hijacker).Hijack()
			io.Copy(c, b)
			c.Close()
		case "/override":
			fmt.Fprint(rw, len(r.Header))
		}
	})
	conn := shake(t, w.named("example.org", "443"), inside, "example.org")
	r := bufio.NewReader(conn)
	io.WriteString(conn, "GET /events HTTP/1.1\r\nHost: example.org\r\n\r\n")
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.Header.Get("Alt-Svc") != "" {
		t.Fatal(resp, err)
	}
	buf := make([]byte, 100)
	for i := range 3 {
		n, err := resp.Body.Read(buf)
		if want := fmt.Sprintf("data: %d\n\n", i); string(buf[:n]) != want {
			t.Fatalf("%q %v", buf[:n], err)
		}
		step <- struct{}{}
	}
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "GET /override HTTP/1.1\r\nHost: example.org\r\nX-HTTP-Method-Override: DELETE\r\nX_HTTP_METHOD_OVERRIDE: DELETE\r\nX.HTTP!Method.Override: DELETE\r\nX-Original-URL: /no\r\nForwarded: host=other.example\r\n\r\n")
	if resp, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	} else if b, _ := io.ReadAll(resp.Body); string(b) != "0" {
		t.Errorf("%s method overrides passed on", b)
	}
	io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	for range 3 {
		io.WriteString(conn, "frame")
		if _, err := io.ReadFull(r, buf[:5]); err != nil || string(buf[:5]) != "frame" {
			t.Fatalf("%q %v", buf[:5], err)
		}
	}
	conn.CloseWrite()
	if b, err := io.ReadAll(r); len(b) > 0 || err != nil {
		t.Errorf("%q %v", b, err)
	}
	if f := w.told("the end", func(f Fact) bool { return f.Kind == Ended }); f.BytesOut < 15 || f.BytesIn < 15 {
		t.Errorf("%+v", f)
	}
}

// zeros are many bytes that take no memory.
type zeros struct{ n int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.n)
	clear(p[:n])
	z.n -= n
	return int(n), nil
}

// A large body takes no more memory than a small one, either way, in chunks or not.
func TestInspectedMemory(t *testing.T) {
	size := int64(1 << 30)
	if testing.Short() {
		size = 64 << 20
	}
	w, inside := inspecting(t, looked("example.org", 0, nil))
	w.serveTLS("443", &tls.Config{}, func(rw http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		rw.Header().Set("X-N", fmt.Sprint(n))
		if r.URL.Path == "/down" {
			io.Copy(rw, &zeros{size / 2})
		}
	})
	var peak uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: inside}, DialContext: func(context.Context, string, string) (net.Conn, error) {
		c := w.named("example.org", "443")
		c.SetDeadline(time.Time{})
		return c, nil
	}}}
	req, _ := http.NewRequest("POST", "https://example.org/up", &zeros{size / 2})
	req.ContentLength = size / 2
	resp, err := c.Do(req)
	if err != nil || resp.Header.Get("X-N") != fmt.Sprint(size/2) {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	if resp, err = c.Get("https://example.org/down"); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != size/2 || err != nil {
		t.Error(n, err)
	}
	close(stop)
	<-done
	if peak > 64<<20 {
		t.Errorf("%d MiB of memory", peak>>20)
	}
}

// Many at once, each its own.
func TestInspectedMany(t *testing.T) {
	w, inside := inspecting(t, looked("*.example.org", 443, nil))
	w.serveTLS("443", &tls.Config{Certificates: []tls.Certificate{trusted().leaf(time.Now().Add(time.Hour), "*.example.org")}}, func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, r.Host) })
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			name := fmt.Sprintf("h%d.example.org", i)
			c, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", w.addrs.http)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			fmt.Fprintf(c, "CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n", name, name)
			if resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(c, int64(len("HTTP/1.1 200 Connection established\r\n\r\n")))), nil); err != nil || resp.StatusCode != 200 {
				t.Error(err)
				return
			}
			conn := tls.Client(c, &tls.Config{ServerName: name, RootCAs: inside})
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", name)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := io.ReadAll(resp.Body); string(b) != name {
				t.Errorf("%q, want %s, %v", b, name, err)
			}
		})
	}
	wg.Wait()
}

// holding sends several records as one piece.
type holding struct {
	net.Conn
	hold bool
	b    []byte
}

func (h *holding) Write(p []byte) (int, error) {
	if h.hold {
		h.b = append(h.b, p...)
		return len(p), nil
	}
	return h.Conn.Write(p)
}

// An answer that is not one answer is not used, and no more of it.
func TestInspectedSplitting(t *testing.T) {
	w, inside := inspecting(t, looked("example.org", 0, nil))
	cert := trusted().leaf(time.Now().Add(time.Hour), "example.org")
	answers := make(chan string, 1)
	w.serve("443", func(c net.Conn) {
		held := &holding{Conn: c}
		conn := tls.Server(held, &tls.Config{Certificates: []tls.Certificate{cert}})
		r := bufio.NewReader(conn)
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			held.hold = true
			for record := range strings.SplitSeq(<-answers, "|") {
				io.WriteString(conn, record)
			}
			held.hold = false
			c.Write(held.b)
			held.b = nil
		}
	})
	conn := shake(t, w.named("example.org", "443"), inside, "example.org")
	r := bufio.NewReader(conn)
	// The next answer was sent before its request: in one TLS record, or two.
	const ok, good, evil = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	for want, answer := range map[string]string{"ok": ok + evil, "good": good + "|" + evil} {
		answers <- answer
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if string(b) != want {
			t.Errorf("%q, want %q", b, want)
		}
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
		answers <- good
		if resp, err = http.ReadResponse(r, nil); err != nil {
			t.Fatal(err)
		}
		if b, _ = io.ReadAll(resp.Body); string(b) != "good" {
			t.Errorf("after %q: %q", answer, b)
		}
	}
	for _, bad := range []string{"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n"} {
		conn := shake(t, w.named("example.org", "443"), inside, "example.org")
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
		answers <- bad
		if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || resp.StatusCode != 502 {
			t.Errorf("%q: %v %v", bad, resp, err)
		}
	}
}

// Without the means, TLS that has to be opened is refused.
func TestNoInspection(t *testing.T) {
	w := start(t, looked("example.org", 0, nil))
	err := tls.Client(w.named("example.org", "443"), &tls.Config{ServerName: "example.org"}).Handshake()
	if err == nil || !strings.Contains(err.Error(), "access denied") {
		t.Error(err)
	}
	w.denied(tlsRefused, "example.org")
}

func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }
