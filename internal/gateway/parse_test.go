package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

// clientHello is what crypto/tls sends first.
func clientHello(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go tls.Client(a, c).Handshake()
	b.SetReadDeadline(time.Now().Add(5 * time.Second))
	head := make([]byte, 5)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// byStd is the server name as crypto/tls reads it; ok is false if it refuses.
func byStd(b []byte) (name string, ok bool) {
	conn := &replay{Reader: bytes.NewReader(b)}
	stop := errors.New("stop")
	_ = tls.Server(conn, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name, ok = h.ServerName, true
		return nil, stop
	}}).HandshakeContext(context.Background())
	return name, ok
}

type replay struct {
	io.Reader
	net.Conn
}

func (r *replay) Read(b []byte) (int, error)       { return r.Reader.Read(b) }
func (r *replay) Write(b []byte) (int, error)      { return len(b), nil }
func (r *replay) Close() error                     { return nil }
func (r *replay) SetDeadline(time.Time) error      { return nil }
func (r *replay) SetWriteDeadline(time.Time) error { return nil }
func (r *replay) SetReadDeadline(time.Time) error  { return nil }

// split puts the message of one record into records of n bytes.
func split(b []byte, n int) []byte {
	var out []byte
	for body := b[5:]; len(body) > 0; {
		m := min(n, len(body))
		out = append(append(out, 22, 3, 1, byte(m>>8), byte(m)), body[:m]...)
		body = body[m:]
	}
	return out
}

func hellos(t testing.TB) map[string][]byte {
	one := clientHello(t, &tls.Config{ServerName: "example.org"})
	return map[string][]byte{
		"plain":   one,
		"1.2":     clientHello(t, &tls.Config{ServerName: "example.org", MaxVersion: tls.VersionTLS12}),
		"no name": clientHello(t, &tls.Config{InsecureSkipVerify: true}),
		"alpn":    clientHello(t, &tls.Config{ServerName: "example.org", NextProtos: []string{"h2", strings.Repeat("x", 200)}}),
		"split":   split(one, 100),
	}
}

func TestHello(t *testing.T) {
	for what, b := range hellos(t) {
		want := "example.org"
		if what == "no name" {
			want = ""
		}
		if h, err := parseHello(b); err != nil || h.serverName != want {
			t.Errorf("%s: %q %v", what, h.serverName, err)
		}
		// Each beginning of it needs more, and never has an answer.
		for i := range b {
			if _, err := parseHello(b[:i]); err != errShort {
				t.Fatalf("%s, %d bytes: %v", what, i, err)
			}
		}
	}
	one := hellos(t)["plain"]
	name := bytes.Index(one, []byte("example.org"))
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(one)) }
	for what, b := range map[string][]byte{
		"bytes after it":   change(func(b []byte) []byte { b[4]++; return append(b, 0) }),
		"another record":   append(split(one, 100)[:105], 21, 3, 1, 0, 2, 2, 40),
		"empty record":     append([]byte{22, 3, 1, 0, 0}, one...),
		"too many records": split(one, 1),
		"server hello":     change(func(b []byte) []byte { b[5] = 2; return b }),
		"huge":             change(func(b []byte) []byte { b[6] = 1; return b }),
		"name too long":    change(func(b []byte) []byte { b[name-1]++; return b }),
		"name too short":   change(func(b []byte) []byte { b[name-1]--; return b }),
		"name of no kind":  change(func(b []byte) []byte { b[name-3] = 1; return b }),
		"twice": change(func(b []byte) []byte {
			ext := bytes.Clone(b[name-9 : name+11])
			b = append(b, ext...)
			for _, at := range []int{3, 7} { // lengths of the record and the message
				n := (int(b[at])<<8 | int(b[at+1])) + len(ext)
				b[at], b[at+1] = byte(n>>8), byte(n)
			}
			at := 9 + 2 + 32
			at += 1 + int(b[at])
			at += 2 + int(b[at])<<8 + int(b[at+1])
			at += 1 + int(b[at])
			n := (int(b[at])<<8 | int(b[at+1])) + len(ext)
			b[at], b[at+1] = byte(n>>8), byte(n)
			return b
		}),
	} {
		if h, err := parseHello(b); err == nil || err == errShort || err == errNotTLS {
			t.Errorf("%s: %q %v", what, h.serverName, err)
		}
	}
	for _, s := range []string{"GET / HTTP/1.1", "\x80\x2e\x01\x00\x02", "\x16\x02\x00\x00\x01\x02"} {
		if _, err := parseHello([]byte(s)); err != errNotTLS {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// Where we see a name, crypto/tls sees the same, or refuses the message.
func FuzzHello(f *testing.F) {
	for _, b := range hellos(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHello(b)
		if err != nil {
			return
		}
		if name, ok := byStd(b); ok && name != h.serverName {
			t.Errorf("%q, crypto/tls says %q", h.serverName, name)
		}
	})
}

// The negative control of FuzzHello.
func TestHelloAgrees(t *testing.T) {
	for what, b := range hellos(t) {
		h, err := parseHello(b)
		if name, ok := byStd(b); !ok || err != nil || name != h.serverName {
			t.Errorf("%s: %q %v, crypto/tls says %q %v", what, h.serverName, err, name, ok)
		}
	}
}

func FuzzSOCKS(f *testing.F) {
	for _, s := range []string{"\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x50", "\x05\x01\x02\x01\x01u\x01p\x05\x01\x00\x01\x01\x02\x03\x04\x00\x50",
		"\x05\x01\x00\x05\x01\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x50", "\x05\x00", "\x05\x01\x00\x05\x02\x00\x09"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		host, _, addr, code, err := readSOCKS(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), io.Discard})
		if err == nil && (code != socksOK || len(host) > 255 || addr.IsValid() && host != "") {
			t.Errorf("%q %v %d", host, addr, code)
		}
		if err != nil && (host != "" || addr.IsValid()) {
			t.Errorf("%v and yet %q %v", err, host, addr)
		}
	})
}

// Whatever comes, the answer is one that can be read, to the question that was asked,
// and tells of no address but a stand-in or loopback.
func FuzzDNS(f *testing.F) {
	r, err := decide.Compile([]plan.NetRule{{Allow: true, Name: "example.org"}, {Allow: true, Name: "*.example.org"}})
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"example.org", "a.example.org", "evil.example", "localhost"} {
		for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA, 255, 65} {
			f.Add(question(f, name, kind))
		}
	}
	withOPT := question(f, "example.org", dnsmessage.TypeA)
	withOPT[11] = 1
	f.Add(append(withOPT, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &Gateway{names: newNames(maxNames), cfg: Config{Record: func(Fact) error { return nil }}}
		g.rules.Store(r)
		out := g.answer(b)
		if out == nil {
			return
		}
		var m dnsmessage.Message
		if err := m.Unpack(out); err != nil {
			t.Fatalf("%x: %v", out, err)
		}
		if !m.Response || len(out) > maxQuestion || len(m.Answers) > 1 {
			t.Errorf("%+v", m)
		}
		for _, a := range m.Answers {
			if a.Header.Name.String() != m.Questions[0].Name.String() {
				t.Errorf("an answer about %s to a question for %s", a.Header.Name, m.Questions[0].Name)
			}
			if r, ok := a.Body.(*dnsmessage.AResource); ok && r.A[0] != 198 && r.A[0] != 127 {
				t.Errorf("%v", r.A)
			}
		}
	})
}
