package gateway

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

// standInProxy is a proxy upstream, in the place of an organisation's: CONNECT, and
// requests in the clear, for who has the password.
type standInProxy struct {
	net.Listener
	mu    sync.Mutex
	asked []string // "METHOD target"
	// answer, if not nil, is written in the place of one's own.
	answer func(r *http.Request) string
	to     string // where everything leads
}

func newProxy(t *testing.T, secure bool, to string) *standInProxy {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if secure {
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{trusted().leaf(time.Now().Add(time.Hour), "localhost")}})
	}
	p := &standInProxy{Listener: l, to: to}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); p.serve(c) }()
		}
	}()
	return p
}

func (p *standInProxy) serve(c net.Conn) {
	r := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.asked = append(p.asked, req.Method+" "+req.RequestURI)
		answer, to := p.answer, p.to
		p.mu.Unlock()
		switch {
		case answer != nil && answer(req) != "":
			io.WriteString(c, answer(req))
			return
		case req.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte("me:s3cret")):
			io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
			return
		case req.Method == "CONNECT":
			up, err := net.Dial("tcp", to)
			if err != nil {
				io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
				return
			}
			defer up.Close()
			io.WriteString(c, "HTTP/1.1 200 Connection established\r\nVia: stand-in\r\n\r\n")
			go func() { io.Copy(up, r); up.(*net.TCPConn).CloseWrite() }()
			io.Copy(c, up)
			return
		}
		body, _ := io.ReadAll(req.Body)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body)+3, "by "+string(body))
	}
}

func (p *standInProxy) took() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.asked
	p.asked = nil
	return s
}

func (p *standInProxy) as(t *testing.T, secure bool, user, password string) *Proxy {
	_, port, _ := net.SplitHostPort(p.Addr().String())
	n, _ := strconv.Atoi(port)
	return &Proxy{Secure: secure, Host: "localhost", Port: uint16(n), User: user, Password: password}
}

func upstreamRoots() *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(trusted().cert)
	return roots
}

// Everything goes by the proxy: opened TLS, tunnels, other protocols, requests in the
// clear. Nothing is resolved here, and the person's password is nowhere but there.
func TestUpstream(t *testing.T) {
	for _, secure := range []bool{false, true} {
		tunnel := looked("tunnel.example", 443, nil)
		tunnel.Tunnel = true
		w, inside := inspecting(t, looked("example.org", 0, nil), tunnel, allowCIDR("10.0.0.0/8", 443))
		w.serveTLS("443", &tls.Config{}, echo)
		p := newProxy(t, secure, w.servers[":443"])
		w.cfg.Upstream = &Upstream{HTTP: p.as(t, secure, "me", "s3cret"), HTTPS: p.as(t, secure, "me", "s3cret"), Roots: upstreamRoots}
		client := w.proxied(t, &tls.Config{RootCAs: inside})
		get := func(client *http.Client, method, url, body string) (int, string) {
			t.Helper()
			r, _ := http.NewRequest(method, url, strings.NewReader(body))
			r.Header.Set("Proxy-Authorization", "Basic aW5zaWRl")
			got, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer got.Body.Close()
			b, _ := io.ReadAll(got.Body)
			return got.StatusCode, string(b)
		}
		if status, body := get(client, "POST", "https://example.org/x", "hello"); status != 200 || body != "hello" {
			t.Errorf("opened: %d %q", status, body)
		}
		if asked := p.took(); !slices.Equal(asked, []string{"CONNECT example.org:443"}) {
			t.Errorf("opened: %q", asked)
		}
		for i := range 2 {
			if status, body := get(client, "POST", "http://example.org/y?z", "hello"); status != 200 || body != "by hello" {
				t.Errorf("clear, %d: %d %q", i, status, body)
			}
		}
		if asked := p.took(); !slices.Equal(asked, []string{"POST http://example.org/y?z", "POST http://example.org/y?z"}) {
			t.Errorf("clear: %q", asked)
		}
		// A protocol in which the server speaks first, behind the proxy's head.
		first, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer first.Close()
		go func() {
			for {
				c, err := first.Accept()
				if err != nil {
					return
				}
				io.WriteString(c, "hello first")
				go io.Copy(c, c)
			}
		}()
		p.mu.Lock()
		p.to = first.Addr().String()
		p.mu.Unlock()
		for _, c := range []net.Conn{w.connect(t, "example.org:5432", 200), w.named("example.org", "5432"), w.socksTo(t, "example.org", "5432", 0)} {
			b := make([]byte, len("hello first"))
			if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello first" {
				t.Fatalf("%q, %v", b, err)
			}
			says(t, c, "\x00\x01\x02")
		}
		p.took()
		if asked, dialled := w.outside(); len(asked)+len(dialled) != 0 {
			t.Errorf("resolved %q, dialled %q", asked, dialled)
		}
		f := w.told("opened", func(f Fact) bool { return f.Kind == Opened })
		if f.Proxy != w.cfg.Upstream.HTTPS.String() || strings.Contains(fmt.Sprintf("%+v %#v", w.facts, *w.cfg.Upstream), "s3cret") {
			t.Errorf("%+v", f)
		}
		// Rules decide as ever, before the proxy hears of it.
		if status, _ := get(client, "GET", "http://elsewhere.test/", ""); status != 403 {
			t.Errorf("not allowed: %d", status)
		}
		w.connect(t, "192.168.1.1:443", 403)
		w.connect(t, "169.254.169.254:80", 403)
		if asked := p.took(); len(asked) != 0 {
			t.Errorf("asked of the proxy: %q", asked)
		}
	}
}

// What the proxy will not do is told as its doing; no password is.
func TestUpstreamRefuses(t *testing.T) {
	w, inside := inspecting(t, looked("example.org", 0, nil))
	p := newProxy(t, false, "127.0.0.1:1")
	set := func(proxy *Proxy) { w.cfg.Upstream = &Upstream{HTTP: proxy, HTTPS: proxy, Roots: upstreamRoots} }
	get := func(url string) string {
		t.Helper()
		client := w.proxied(t, &tls.Config{RootCAs: inside})
		got, err := client.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer got.Body.Close()
		b, _ := io.ReadAll(got.Body)
		return fmt.Sprint(got.StatusCode, " ", string(b))
	}
	for _, url := range []string{"https://example.org/", "http://example.org/"} {
		set(p.as(t, false, "me", "wr0ng"))
		if got := get(url); !strings.HasPrefix(got, "502 ") || !strings.Contains(got, "upstream proxy: it wants another user name and password") {
			t.Errorf("%s: %q", url, got)
		}
	}
	set(p.as(t, false, "me", "s3cret"))
	if got := get("https://example.org/"); !strings.Contains(got, `upstream proxy: it refused (502 "Bad Gateway")`) {
		t.Errorf("%q", got)
	}
	for text, want := range map[string]string{
		"nonsense\r\n\r\n":                                         "its answer",
		"HTTP/1.1 403 " + strings.Repeat("x", 9000):                "its answer",
		"HTTP/1.1 200 fine\r\nX:" + strings.Repeat("y\r\nZ:", 300): "its answer",
		"HTTP/1.1 403 \x1b[2J\r\n\r\n":                             "upstream proxy",
		"":                                                         "",
	} {
		p.mu.Lock()
		p.answer = func(*http.Request) string { return text }
		p.mu.Unlock()
		if got := get("https://example.org/"); !strings.HasPrefix(got, "502 ") || !strings.Contains(got, want) || strings.Contains(got, "\x1b") {
			t.Errorf("%q: %q", text, got)
		}
	}
	// One that does not answer at all, or is not there.
	p.Close()
	if got := get("https://example.org/"); !strings.Contains(got, "upstream proxy: dial: connect: connection refused") || strings.Contains(got, "127.0.0.1") {
		t.Errorf("%q", got)
	}
	f := w.told("end", func(f Fact) bool { return f.Kind == Ended && strings.Contains(f.Err, "refused") && f.Proxy != "" })
	if strings.Contains(fmt.Sprint(w.facts), "s3cret") || strings.Contains(fmt.Sprint(w.facts), "wr0ng") || !strings.Contains(f.Err, "upstream proxy http://localhost:") {
		t.Errorf("%+v", f)
	}
	// A proxy that is spoken to within TLS has to show who it is.
	q := newProxy(t, true, "127.0.0.1:1")
	proxy := q.as(t, true, "me", "s3cret")
	w.cfg.Upstream = &Upstream{HTTPS: proxy, Roots: func() *x509.CertPool { return x509.NewCertPool() }}
	if got := get("https://example.org/"); !strings.Contains(got, "upstream proxy: TLS: ") {
		t.Errorf("%q", got)
	}
	if asked := q.took(); len(asked) > 0 {
		t.Errorf("a stranger was asked: %q", asked)
	}
}

// What is listed is reached without, and judged as ever; so is what has no proxy at all.
func TestUpstreamDirect(t *testing.T) {
	w, inside := inspecting(t, looked("example.org", 0, nil), looked("other.example", 0, nil), looked("private.example", 0, nil))
	w.serveTLS("443", &tls.Config{}, echo)
	p := newProxy(t, false, w.servers[":443"])
	direct, err := decide.CompileDirect([]string{"other.example", "private.example"})
	if err != nil {
		t.Fatal(err)
	}
	w.cfg.Upstream = &Upstream{HTTPS: p.as(t, false, "me", "s3cret"), Direct: direct, Roots: upstreamRoots}
	w.spends(plan.Budget{Prefix: "127.0.0.0/8", Of: plan.BudgetConnections, Amount: 1}) // where the proxy is: nothing leads there
	w.mu.Lock()
	w.resolve["private.example"] = append(w.resolve["private.example"], public.Next(), netip.MustParseAddr("10.0.0.1"))[1:]
	w.mu.Unlock()
	client := w.proxied(t, &tls.Config{RootCAs: inside})
	for _, host := range []string{"example.org", "other.example"} {
		u := url.URL{Scheme: "https", Host: host, Path: "/"}
		r, err := client.Get(u.String())
		if err != nil || r.StatusCode != 200 {
			t.Fatal(r, err)
		}
		r.Body.Close()
	}
	if r, err := client.Get("https://private.example/"); err != nil || r.StatusCode != 403 {
		t.Error(r, err)
	}
	_, dialled := w.outside()
	if asked := p.took(); !slices.Equal(asked, []string{"CONNECT example.org:443"}) || !slices.Equal(dialled, []string{public.String() + ":443"}) {
		t.Errorf("by the proxy %q, directly %q", asked, dialled)
	}
	if f := w.denied(decide.SpecialAddress, "private.example"); f.Proxy != "" {
		t.Errorf("%+v", f)
	}
}
