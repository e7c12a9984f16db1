package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"cofferdam/internal/gateway/decide"
)

// site serves HTTP on a port outside, with the server of net/http, and says how many
// requests and connections came.
func (w *world) site(port string, h http.HandlerFunc) (requests func() []string) {
	w.t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var seen []string
	s := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		seen = append(seen, r.RemoteAddr+" "+r.Method+" "+r.Host+r.RequestURI)
		w.mu.Unlock()
		h(rw, r)
	})}
	go s.Serve(l)
	w.t.Cleanup(func() { s.Close() })
	w.mu.Lock()
	w.servers[":"+port] = l.Addr().String()
	w.mu.Unlock()
	return func() []string {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Clone(seen)
	}
}

func echo(rw http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		rw.WriteHeader(500)
	}
	rw.Header().Set("X-Body", fmt.Sprint(len(b)))
	rw.Write(b)
	if strings.Contains(r.URL.Path, "stream") {
		for i := range 3 {
			fmt.Fprintf(rw, "event %d\n", i)
			rw.(http.Flusher).Flush()
		}
	}
}

// Ordinary clients: bodies with a length and in chunks, both ways, HEAD, Expect, on
// one connection that is used again, through a proxy and without.
func TestHTTPClient(t *testing.T) {
	w := start(t, allow("example.org", 0))
	seen := w.site("80", echo)
	proxy, _ := url.Parse("http://" + w.addrs.http)
	for way, tr := range map[string]*http.Transport{
		"http-proxy": {Proxy: http.ProxyURL(proxy)},
		"redirect":   {Dial: func(string, string) (net.Conn, error) { return w.named("example.org", "80"), nil }},
		"socks5":     {Dial: func(string, string) (net.Conn, error) { return w.socksTo(t, "example.org", "80", 0), nil }},
		"connect":    {Dial: func(string, string) (net.Conn, error) { return w.connect(t, "example.org:80", 200), nil }},
	} {
		tr.ExpectContinueTimeout = 5 * time.Second
		before := len(seen())
		c := &http.Client{Transport: tr}
		do := func(method, path string, body io.Reader, want string, header ...string) {
			t.Helper()
			req, err := http.NewRequest(method, "http://example.org"+path, body)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(header); i += 2 {
				req.Header.Set(header[i], header[i+1])
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatalf("%s %s %s: %v", way, method, path, err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != 200 || string(b) != want {
				t.Errorf("%s %s %s: %v %d bytes %v", way, method, path, resp.Status, len(b), err)
			}
		}
		big := strings.Repeat("0123456789abcdef", 1<<16)
		do("GET", "/", nil, "")
		do("HEAD", "/", nil, "")
		do("POST", "/?q=1", strings.NewReader("hello"), "hello")
		do("POST", "/", strings.NewReader(big), big)
		do("POST", "/", io.MultiReader(strings.NewReader(big), strings.NewReader("x")), big+"x") // in chunks
		do("PUT", "/", strings.NewReader("hello"), "hello", "Expect", "100-continue")
		do("GET", "/stream", nil, "event 0\nevent 1\nevent 2\n")
		tr.CloseIdleConnections()
		got := seen()[before:]
		from, _, _ := strings.Cut(got[0], " ")
		if len(got) != 7 || slices.ContainsFunc(got, func(s string) bool { return !strings.HasPrefix(s, from) }) {
			t.Errorf("%s: not one connection used again: %q", way, got)
		}
	}
}

// send sends bytes and returns all that comes back.
func send(t *testing.T, c *net.TCPConn, s string) string {
	t.Helper()
	io.WriteString(c, s)
	c.CloseWrite()
	b, _ := io.ReadAll(c)
	c.Close()
	return string(b)
}

// Each request is judged, not just the first of a connection.
func TestHostIsTheName(t *testing.T) {
	w := start(t, allow("example.org", 0), allow("other.example", 0))
	seen := w.site("80", echo)
	first := "GET /1 HTTP/1.1\r\nHost: example.org\r\n\r\n"
	for _, second := range []string{
		"GET /2 HTTP/1.1\r\nHost: other.example\r\n\r\n",
		"GET /2 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
		"GET /2 HTTP/1.1\r\nHost: example.org:8080\r\n\r\n",
		"GET http://other.example/2 HTTP/1.1\r\nHost: other.example\r\n\r\n",
	} {
		got := send(t, w.named("example.org", "80"), first+second)
		if !strings.HasPrefix(got, "HTTP/1.1 200 ") || strings.Count(got, "HTTP/1.1 421 ") != 1 || !strings.Contains(got, "own name") {
			t.Errorf("%q: %q", second, got)
		}
		w.denied(decide.Mismatch, "example.org")
	}
	got := send(t, dialTo(t, w.addrs.http), "GET http://example.org/1 HTTP/1.1\r\nHost: example.org\r\n\r\nGET http://other.example/1 HTTP/1.1\r\nHost: other.example\r\n\r\nGET http://evil.example/2 HTTP/1.1\r\nHost: evil.example\r\n\r\n")
	if strings.Count(got, "HTTP/1.1 200 ") != 2 || strings.Count(got, "HTTP/1.1 403 ") != 1 {
		t.Errorf("by proxy: %q", got)
	}
	w.denied(decide.NotAllowed, "evil.example")
	for _, s := range seen() {
		if strings.HasSuffix(s, "/2") {
			t.Errorf("got out: %s", s)
		}
	}
	// Each host has a connection of its own.
	asked, _ := w.outside()
	if slices.Contains(asked, "evil.example") || !slices.Contains(asked, "other.example") {
		t.Errorf("asked for %v", asked)
	}
}

// A Host without a port means the connection's, and goes out with it; another port is
// another host.
func TestHostWithoutPort(t *testing.T) {
	w, _ := inspecting(t, looked("example.org", 0, nil))
	w.serve("8080", func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(req.Host), req.Host)
		}
	})
	got := send(t, w.named("example.org", "8080"), "GET /1 HTTP/1.1\r\nHost: example.org\r\n\r\nGET /2 HTTP/1.1\r\nHost: example.org:80\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200 ") || !strings.Contains(got, "example.org:8080") || strings.Count(got, "HTTP/1.1 421 ") != 1 {
		t.Errorf("%q", got)
	}
	w.denied(decide.Mismatch, "example.org")
	for _, other := range []string{"GET http://example.org/2 HTTP/1.1\r\nHost: example.org\r\n\r\n", "GET /2 HTTP/1.1\r\nHost: other.example\r\n\r\n"} {
		if got := send(t, w.named("example.org", "8080"), other); strings.Contains(got, "200 OK") {
			t.Errorf("%q: %q", other, got)
		}
	}
}

// What two readers may take for different requests is refused, and the outside sees
// no byte of it.
func TestSmuggling(t *testing.T) {
	w := start(t, allow("example.org", 0))
	var out bytes.Buffer
	w.serve("80", func(c net.Conn) {
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			w.mu.Lock()
			out.Write(buf[:n])
			w.mu.Unlock()
			if err != nil {
				return
			}
		}
	})
	const h = "Host: example.org\r\n"
	for _, c := range []string{
		"GET / HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\n" + h + h + "\r\n",
		"GET / HTTP/1.1\r\nHost: example.org, evil.example\r\n\r\n",
		"GET / HTTP/1.1\r\n" + h + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked, identity\r\n\r\n",
		"GET / HTTP/1.1\r\n" + h + "Transfer-Encoding: xchunked\r\n\r\n",
		"GET / HTTP/1.1\r\n" + h + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
		"GET / HTTP/1.1\r\n" + h + "Transfer-Encoding : chunked\r\n\r\n",
		"GET / HTTP/1.0\r\n" + h + "Transfer-Encoding: chunked\r\n\r\n",
		"GET / HTTP/1.1\r\n" + h + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
		"GET / HTTP/1.1\r\n" + h + "Content-Length: +3\r\n\r\nabc",
		"GET / HTTP/1.1\r\n" + h + "Content-Length: 3, 3\r\n\r\nabc",
		"GET / HTTP/1.1\r\n" + h + "Content-Length: 0x3\r\n\r\nabc",
		"GET / HTTP/1.1\r\n" + h + "Content-Length: 99999999999999999999\r\n\r\nabc",
		"GET / HTTP/1.1\r\n" + h + "X: a\r\n b\r\n\r\n",
		"GET / HTTP/1.1\r\n" + h + "X: a\rY: b\r\n\r\n",
		"GET / HTTP/1.1\r\n" + h + "X: a\nY: b\r\n\r\n",
		"GET / HTTP/1.1\n" + h + "\r\n",
		"GET / HTTP/1.1\r\n" + h + "X: a\x00b\r\n\r\n",
		"GET / HTTP/1.1\r\n" + h + "X\x00: a\r\n\r\n",
		"GET / HTTP/1.1\r\n" + h + " X: a\r\n\r\n",
		"GET / HTTP/1.1\r\n" + h + "X a\r\n\r\n",
		"\r\nGET / HTTP/1.1\r\n" + h + "\r\n",
		"GET  / HTTP/1.1\r\n" + h + "\r\n",
		"GET /a b HTTP/1.1\r\n" + h + "\r\n",
		"GET /#x HTTP/1.1\r\n" + h + "\r\n",
		"GET /é HTTP/1.1\r\n" + h + "\r\n",
		"GET /\r\n" + h + "\r\n",
		"GET / HTTP/1.2\r\n" + h + "\r\n",
		"GET / HTTP/2.0\r\n" + h + "\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET * HTTP/1.1\r\n" + h + "\r\n",
		"GET example.org HTTP/1.1\r\n" + h + "\r\n",
		"GET https://example.org/ HTTP/1.1\r\n" + h + "\r\n",
		"GET http://user@example.org/ HTTP/1.1\r\n" + h + "\r\n",
		"GET http://example.org/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
		"GET http:///x HTTP/1.1\r\n" + h + "\r\n",
		"CONNECT example.org:443 HTTP/1.1\r\n" + h + "\r\n",
		"GET / HTTP/1.1\r\n" + h + "X: " + strings.Repeat("a", maxHead) + "\r\n\r\n",
		"\x16\x03\x01\x00\x05hello\r\n\r\n",
	} {
		got := send(t, w.named("example.org", "80"), c)
		if !strings.HasPrefix(got, "HTTP/1.1 4") || strings.Count(got, "HTTP/1.1 4") != 1 {
			t.Errorf("%.200q: %q", c, got)
		}
	}
	w.mu.Lock()
	if out.Len() > 0 {
		t.Errorf("got out: %q", out.String())
	}
	w.mu.Unlock()
	// A body that is wrong ends the connection, so that nothing after it is a request.
	for _, c := range []string{"3\r\nabcd\r\n0\r\n\r\n", "3\r\nabcXX0\r\n\r\n", "-1\r\n", "0x3\r\nabc\r\n", "\r\n", "3\nabc\r\n", "3;\x01\r\nabc\r\n", "0\r\nX\r\n\r\n", "11111111111111111\r\n"} {
		got := send(t, w.named("example.org", "80"), "POST / HTTP/1.1\r\n"+h+"Transfer-Encoding: chunked\r\n\r\n"+c+"GET /smuggled HTTP/1.1\r\n"+h+"\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 400 ") || strings.Count(got, "HTTP/1.1 4") != 1 {
			t.Errorf("chunks %q: %q", c, got)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if strings.Contains(out.String(), "smuggled") {
		t.Errorf("got out: %q", out.String())
	}
}

// What goes out is written anew.
func TestRequestRewritten(t *testing.T) {
	w := start(t, allow("example.org", 0))
	got := make(chan string, 1)
	w.serve("8080", func(c net.Conn) {
		r := bufio.NewReader(c)
		lines, _ := readLines(r, &room{slots: make(chan struct{}, 1)})
		body := make([]byte, len("3\r\nabc\r\n0\r\n\r\n"))
		io.ReadFull(r, body)
		got <- strings.Join(lines, "|") + "|" + string(body)
		io.WriteString(c, "HTTP/1.1 204 No Content\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\nUpgrade: h2c\r\n\r\n")
	})
	back := send(t, dialTo(t, w.addrs.http), "POST HTTP://EXAMPLE.org.:8080?q HTTP/1.1\r\nhost: example.ORG.:8080\r\nConnection: Upgrade, HTTP2-Settings, x-hop\r\nX-Hop: 1\r\n"+
		"Upgrade: h2c\r\nHTTP2-Settings: AAA\r\nProxy-Authorization: Basic eDp5\r\nTE: trailers\r\nX-End:  2 \r\ntransfer-encoding: Chunked\r\n\r\n003;x=y\r\nabc\r\n0\r\nTrailer: 1\r\n\r\n")
	if want := "POST /?q HTTP/1.1|Host: example.org:8080|X-End: 2|Transfer-Encoding: chunked|3\r\nabc\r\n0\r\n\r\n"; <-got != want {
		t.Errorf("not %q", want)
	}
	if want := "HTTP/1.1 204 No Content\r\nX-End: 2\r\n\r\n"; back != want {
		t.Errorf("%q, want %q", back, want)
	}
}

// WebSocket is carried after the decision; a server that switches unasked is not.
func TestUpgrade(t *testing.T) {
	w := start(t, allow("example.org", 0))
	w.serve("80", func(c net.Conn) {
		r := bufio.NewReader(c)
		if _, err := readLines(r, &room{slots: make(chan struct{}, 1)}); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst")
		b, _ := io.ReadAll(r)
		fmt.Fprintf(c, "got %s", b)
	})
	const get = "GET / HTTP/1.1\r\nHost: example.org\r\n"
	got := send(t, w.named("example.org", "80"), get+"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\nearly")
	if !strings.HasPrefix(got, "HTTP/1.1 101 ") || !strings.HasSuffix(got, "\r\n\r\nfirstgot early") {
		t.Errorf("%q", got)
	}
	for _, up := range []string{"", "Connection: Upgrade\r\nUpgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n"} {
		if got := send(t, w.named("example.org", "80"), get+up+"\r\nx"); !strings.HasPrefix(got, "HTTP/1.1 502 ") {
			t.Errorf("%q: %q", up, got)
		}
	}
}

// An answer that comes before the request is over; and what servers get wrong.
func TestResponses(t *testing.T) {
	w := start(t, allow("example.org", 0))
	var reply string
	w.serve("80", func(c net.Conn) {
		readLines(bufio.NewReader(c), &room{slots: make(chan struct{}, 1)})
		io.WriteString(c, reply)
	})
	const get = "GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n"
	for _, c := range []struct{ request, reply, want string }{
		{get, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"},
		{get, "HTTP/1.0 200 OK\r\n\r\nuntil the end", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end"},
		{get, "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\n\r\n"},
		{"GET / HTTP/1.0\r\nHost: example.org\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi"},
		{"POST / HTTP/1.1\r\nHost: example.org\r\nContent-Length: 10\r\n\r\nab", "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"},
		{get, "", "HTTP/1.1 502 "},
		{get, "SSH-2.0-x\r\n\r\n", "HTTP/1.1 502 "},
		{get, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi", "HTTP/1.1 502 "},
		{get, "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "HTTP/1.1 502 "},
		{get, "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", maxHead) + "\r\n\r\n", "HTTP/1.1 502 "},
	} {
		reply = c.reply
		conn := w.named("example.org", "80")
		io.WriteString(conn, c.request)
		b, _ := io.ReadAll(conn)
		conn.Close()
		if got := string(b); got != c.want && !(strings.HasSuffix(c.want, " ") && strings.HasPrefix(got, c.want)) {
			t.Errorf("%.100q %.100q: %q", c.request, c.reply, got)
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "POST /x?y HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\r\nabc",
		"GET http://a.example/x HTTP/1.1\r\nHost: a.example\r\nConnection: close, x\r\n\r\n", "CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "GET / HTTP/1.0\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: \x80\r\n\r\nGET /2 HTTP/1.1\r\nHost: b\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		lines, err := readLines(r, &room{slots: make(chan struct{}, 1)})
		if err != nil {
			return
		}
		h, err := parseRequest(lines)
		if err != nil {
			return
		}
		// What we understand, net/http understands in the same way.
		std := bufio.NewReader(bytes.NewReader(b))
		req, err := http.ReadRequest(std)
		if err != nil {
			// It parses the target and the fields further; only that may it refuse.
			return
		}
		if req.Method != h.method || (!h.connect && !strings.EqualFold(req.Host, h.authority)) || req.ProtoAtLeast(1, 1) == h.old {
			t.Errorf("%q: %s %q %q, net/http says %s %q", b, h.method, h.authority, h.path, req.Method, req.Host)
		}
		chunked := slices.Equal(req.TransferEncoding, []string{"chunked"})
		if chunked != h.chunked || !chunked && req.ContentLength != max(h.length, 0) {
			t.Errorf("%q: chunked %v, length %d, net/http says %v %d", b, h.chunked, h.length, req.TransferEncoding, req.ContentLength)
		}
		// What we write is read back as the same.
		again := []byte(h.method + " / HTTP/1.1\r\nHost: a\r\n")
		again = writeFields(again, h.passed(), h.chunked, h.length, "", false)
		lines2, err := readLines(bufio.NewReader(bytes.NewReader(again)), &room{slots: make(chan struct{}, 1)})
		if err == errHeadSize {
			return
		}
		if h.connect {
			return
		}
		h2, err2 := parseRequest(lines2)
		if err != nil || err2 != nil && h.method != "CONNECT" || h2.chunked != h.chunked || h2.length != h.length {
			t.Fatalf("%q: written as %q: %v %v", b, again, err, err2)
		}
		// The bodies agree as well, and where they end.
		if h.chunked {
			var got bytes.Buffer
			_, err := (&chunks{r: r, m: &room{}}).copy(&got, true)
			want, werr := io.ReadAll(req.Body)
			if err == nil && (werr != nil || !bytes.Equal(want, got.Bytes())) {
				t.Errorf("%q: body %q, net/http says %q %v", b, got.Bytes(), want, werr)
			}
			if err == nil {
				rest, _ := io.ReadAll(r)
				stdRest, _ := io.ReadAll(std)
				if !bytes.Equal(rest, stdRest) {
					t.Errorf("%q: then %q, net/http says %q", b, rest, stdRest)
				}
			}
		}
	})
}

func FuzzResponse(f *testing.F) {
	for _, s := range []string{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 204\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, err := readLines(bufio.NewReader(bytes.NewReader(b)), &room{slots: make(chan struct{}, 1)})
		if err != nil {
			return
		}
		h, err := parseResponse(lines)
		if err != nil {
			return
		}
		out := append([]byte(fmt.Sprintf("HTTP/1.1 %d %s\r\n", h.status, h.reason)), writeFields(nil, h.passed(), h.chunked, h.length, "", h.close)...)
		lines, err = readLines(bufio.NewReader(bytes.NewReader(out)), &room{slots: make(chan struct{}, 1)})
		if err == errHeadSize {
			return
		}
		h2, err2 := parseResponse(lines)
		if err != nil || err2 != nil || h2.status != h.status || h2.chunked != h.chunked || h2.length != h.length {
			t.Errorf("%q: written as %q: %v %v", b, out, err, err2)
		}
	})
}

func FuzzAuthority(f *testing.F) {
	for _, s := range []string{"a", "a:80", "[::1]:443", "[::1]", "::1", "a:0", "a@b", "[a]:1", "a:80:80", "a:+1", "a:", ":80"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, port, err := splitAuthority(s, 80)
		if err != nil {
			return
		}
		if port == 0 || host == "" || strings.ContainsAny(host, "[]@%/\\") {
			t.Fatalf("%q: %q %d", s, host, port)
		}
		if h, p, err := splitAuthority(net.JoinHostPort(host, fmt.Sprint(port)), 0); err != nil || h != host || p != port {
			t.Errorf("%q: %q %d, then %q %d %v", s, host, port, h, p, err)
		}
	})
}
