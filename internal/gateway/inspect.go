package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"

	"cofferdam/internal/gateway/decide"
)

// Inspection is what it takes to look into TLS.
type Inspection struct {
	// Certificate ends the TLS of a client that wants that name (or address).
	Certificate func(name string) (*tls.Certificate, error)
	// Roots verify servers. It is asked at the first of them.
	Roots func() *x509.CertPool
	// Sessions, if not nil, keeps what makes the next handshake with a server short.
	Sessions tls.ClientSessionCache
}

// A verdict that says Look:
//
//	client says first        what becomes of it
//	-----------------        ------------------
//	TLS for the name         ended here; each request judged; then dialled, with TLS of our own
//	TLS for another name     refused (mismatch)
//	an HTTP request          each request judged, then dialled
//	something else           carried if the verdict allows it (Raw) on another port than 80
//	                         and 443, else refused
//	nothing                  the same: the other side may have to speak first
//
// There is no way from the first line to a tunnel: who does not take our certificate
// gets no connection.

// beginning is what a client's first bytes are.
type beginning int

const (
	unclear beginning = iota // more are needed
	tlsHello
	request // of HTTP, or what some server takes for one
	other
)

// maxFirstWord is longer than any method.
const maxFirstWord = 64

// beginsAs tells HTTP from what is none, where nothing may be carried unseen that a
// server could answer as HTTP. Servers differ in what they accept as the first line, so
// this takes more for HTTP than is: white space before it, any in it, no version, and
// after a method of HTTP any target. The strict reader then refuses what is not written
// as it should be. What is none is known at once: a program may wait for the answer.
func beginsAs(b []byte) beginning {
	const space = " \t\r\n\v\f"
	b = bytes.TrimLeft(b, space)
	if len(b) == 0 {
		return unclear
	}
	end := bytes.IndexAny(b, space)
	word := b
	if end >= 0 {
		word = b[:end]
	}
	for _, c := range word {
		if c <= ' ' || c >= 0x7f {
			return other
		}
	}
	if len(word) > maxFirstWord {
		return other
	}
	if end < 0 {
		return unclear
	}
	rest := b[end:]
	line, _, whole := bytes.Cut(rest, []byte("\n"))
	if bytes.Contains(bytes.ToUpper(line), []byte("HTTP/")) {
		return request
	}
	target := bytes.TrimLeft(rest, " \t\v\f\r")
	const scheme = "http"
	switch n := min(len(target), len(scheme)); {
	case len(target) > 0 && (target[0] == '/' || target[0] == '*'):
		return request
	case slices.Contains(methods, string(word)):
		return request
	case !strings.EqualFold(string(target[:n]), scheme[:n]):
		return other
	case n == len(scheme):
		return request
	case whole, len(line) > smallHead:
		return other
	}
	return unclear
}

// methods are those of HTTP and WebDAV. Some servers take a target after them that
// begins with no slash.
var methods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE",
	"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH"}

// look serves a connection within which each request is judged.
func (g *Gateway) look(c *client, t target, v decide.Verdict) {
	// On the ports of HTTP there is nothing else, as in a tunnel.
	raw := v.Raw && t.port != 80 && t.port != 443
	// Until the client has said what it speaks, a server that has to speak first can
	// be heard only where it may be anything.
	wait := headTime
	if raw {
		wait = firstTime
	}
	_ = c.tcp.SetReadDeadline(time.Now().Add(wait))
	_, err := c.r.Peek(1)
	_ = c.tcp.SetReadDeadline(time.Time{})
	var timeout net.Error
	if err != nil && raw && (err == io.EOF || errors.As(err, &timeout) && timeout.Timeout()) {
		g.lookLater(c, t)
		return
	}
	var got []byte
	what := other
	switch {
	case err == nil:
		got, what, err = g.begin(c, t, true, true)
	case errors.As(err, &timeout) && timeout.Timeout():
		err = g.refuse(c, t, badRequest, fmt.Sprintf("nothing sent within %v, so that there is nothing to judge", wait))
	}
	if err != nil {
		g.stop(c, err)
		return
	}
	if what == other && raw {
		u, err := g.connect(c, t)
		if err != nil {
			g.stop(c, err)
			return
		}
		g.relay(c, u, true, func() ([]byte, error) { return got, nil })
		return
	}
	g.lookInto(c, t, got, what)
}

// firstTime is how long a client has for its first byte, where it may also be the
// server that speaks first. One that is slower is still looked at (lookLater).
const firstTime = 300 * time.Millisecond

// errLook: what the client began with has to be looked into.
var errLook = errors.New("to be looked into")

// lookLater connects at once, for a server that speaks first, and looks at the client's
// first bytes when they come. If these have to be looked into, the connection was for
// nothing: it ends, before any of them has been carried.
func (g *Gateway) lookLater(c *client, t target) {
	u, err := g.connect(c, t)
	if err != nil {
		g.stop(c, err)
		return
	}
	var got []byte
	what := other
	g.relay(c, u, false, func() ([]byte, error) {
		b, w, err := g.begin(c, t, true, false)
		if err == nil && w != other {
			got, what, err = b, w, errLook
		}
		return b, err
	})
	switch {
	case what == other:
	case u.in > 0:
		// No client that has heard something begins so.
		g.stop(c, g.refuse(c, t, badRequest, "TLS or HTTP after the server had spoken, so that it can't be looked into"))
	default:
		g.lookInto(c, t, got, what)
	}
}

// lookInto serves what is TLS or HTTP, and refuses what is not.
func (g *Gateway) lookInto(c *client, t target, got []byte, what beginning) {
	switch what {
	case tlsHello:
		g.endTLS(c, t, got)
	case request:
		// All of it is in c.r again, so that what follows can be read of c.tcp.
		c.r = bufio.NewReaderSize(io.MultiReader(bytes.NewReader(got), c.tcp), max(len(got), 4096))
		_, _ = c.r.Peek(len(got))
		g.serveHTTP(c, &t)
	default:
		g.stop(c, g.refuse(c, t, badRequest, "neither TLS nor HTTP, and only requests that can be judged may go there; a rule without methods, paths and acts, for this port, carries anything"))
	}
}

// begun is a connection of which something has been read already.
type begun struct {
	stream
	first []byte
	over  bool // the other side has ended its way
}

func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) > 0 {
		n := copy(p, b.first)
		if b.first = b.first[n:]; len(b.first) == 0 {
			b.first = nil
		}
		return n, nil
	}
	n, err := b.stream.Read(p)
	b.over = b.over || err != nil
	return n, err
}

// endTLS answers TLS in the place of the server, and serves what is asked within.
// The server name has been compared.
func (g *Gateway) endTLS(c *client, t target, hello []byte) {
	if g.cfg.Inspect == nil {
		g.alertFor(c, g.refuse(c, t, tlsRefused, "TLS would have to be opened to judge what is asked, and this session can't; to carry it unopened: --tunnel-domain "+t.suggest()))
		return
	}
	select {
	case g.ended <- struct{}{}:
		defer func() { <-g.ended }()
	default:
		g.alertFor(c, g.refuse(c, t, tooMany, fmt.Sprintf("more than %d connections whose TLS is opened; close some", maxEnded)))
		return
	}
	var offered []string
	raw := &begun{stream: c.tcp, first: hello}
	conn := tls.Server(raw, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			offered = h.SupportedProtos
			return nil, nil
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return g.cfg.Inspect.Certificate(t.host())
		},
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"},
		// A ticket would be good for one name, and each connection has its own.
		SessionTicketsDisabled: true,
	})
	ctx, cancel := context.WithTimeout(g.ctx, headTime)
	err := conn.HandshakeContext(ctx)
	cancel()
	c.room.free()
	if err != nil {
		if !errors.Is(err, net.ErrClosed) { // by Close
			_ = g.refuse(c, t, tlsRefused, whyRefused(err, offered, t))
		}
		part(c) // an alert may be on its way to it
		return
	}
	c.conn, c.r, c.secure = conn, bufio.NewReader(conn), true
	// Some programs look at the certificate only when the handshake is over, and then
	// are gone without the word that TLS has for the end.
	_ = c.conn.SetDeadline(time.Now().Add(idleTime))
	if _, err := c.r.Peek(1); err != nil {
		var timeout net.Error
		if (err != io.EOF || raw.over) && !errors.Is(err, net.ErrClosed) && !(errors.As(err, &timeout) && timeout.Timeout()) {
			_ = g.refuse(c, t, tlsRefused, whyRefused(err, nil, t))
		}
		_ = conn.Close()
		return
	}
	g.serveHTTP(c, &t)
}

// alertFor tells a TLS client of a refusal, unless it could not be recorded.
func (g *Gateway) alertFor(c *client, err error) {
	if errors.Is(err, errRecord) {
		abort(c.tcp)
		return
	}
	g.alert(c)
}

// whyRefused says what a handshake failed of, and what to do.
func whyRefused(err error, offered []string, t target) string {
	tunnel := "; to carry its TLS unopened: --tunnel-domain " + t.suggest()
	var remote *net.OpError
	switch {
	case len(offered) > 0 && !slices.Contains(offered, "http/1.1"):
		return "the program speaks only " + quoted(strings.Join(offered, ", ")) + " within TLS, of which only http/1.1 can be looked into" + tunnel
	case strings.Contains(err.Error(), "bad record MAC"):
		// OpenSSL's alert about a certificate, sent before it has keys to send it with.
		return "the program most likely does not trust the session's certificate authority: TLS has to be opened for a rule" + tunnel
	case errors.As(err, &remote) && remote.Op == "remote error":
		return "the program does not trust the session's certificate authority, or not this certificate (" + remote.Err.Error() + "): TLS has to be opened for a rule" + tunnel
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the program ended the connection when it saw the session's certificate: it may not trust the session's certificate authority, or pin another; TLS has to be opened for a rule" + tunnel
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("no TLS handshake within %v", headTime)
	}
	return "the TLS handshake failed: " + err.Error() + tunnel
}

// host is the name or the address alone.
func (t target) host() string {
	if t.name != "" {
		return t.name
	}
	return t.addr.String()
}

// suggest is t as a flag's value.
func (t target) suggest() string {
	if t.name != "" && t.port == 443 {
		return t.name
	}
	return t.String()
}

// secureTime bounds the TLS handshake with a server.
const secureTime = 15 * time.Second

// secure puts TLS on a connection that was dialled. The server has to be who was
// decided on; who is not gets no byte of a request.
func (g *Gateway) secure(u *upstream, t target) error {
	conn := tls.Client(u.tcp, &tls.Config{
		ServerName:         t.host(),
		RootCAs:            g.cfg.Inspect.Roots(),
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
		ClientSessionCache: g.cfg.Inspect.Sessions,
	})
	ctx, cancel := context.WithTimeout(g.ctx, secureTime)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no handshake within %v", secureTime)
		}
		return &tlsError{t, err}
	}
	u.Conn = u.metered(conn)
	return nil
}

// tlsError: the server was reached and is not, or can't show that it is, who was
// decided on.
type tlsError struct {
	t   target
	err error
}

func (e *tlsError) Error() string {
	var unknown x509.UnknownAuthorityError
	if errors.As(e.err, &unknown) {
		return fmt.Sprintf("TLS with %s: its certificate is of an authority that this machine does not trust; if it should be, start cofferdam with its certificate in SSL_CERT_FILE or NODE_EXTRA_CA_CERTS", e.t)
	}
	return fmt.Sprintf("TLS with %s: %s", e.t, strings.TrimPrefix(e.err.Error(), "tls: "))
}

func (e *tlsError) Unwrap() error { return e.err }
