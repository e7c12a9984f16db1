package gateway

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"cofferdam/internal/gateway/decide"
)

// Upstream are proxies of the person's own network, through which the outside is reached.
// Such a proxy finds the address of a name itself: where a name leads is not judged then,
// and each Fact says through which proxy it was.
type Upstream struct {
	// HTTP is for requests in the clear, which it gets as they are; HTTPS for everything
	// else, by CONNECT. Nil: directly.
	HTTP, HTTPS *Proxy
	// Direct are reached without a proxy, and judged as ever.
	Direct *decide.Direct
	// Roots verify a proxy that is spoken to within TLS.
	Roots func() *x509.CertPool
}

// Proxy is one of them.
type Proxy struct {
	Secure bool // TLS to the proxy itself
	Host   string
	Port   uint16
	// User and Password are sent to it, if User is not empty, and are written nowhere.
	User, Password string `json:"-"`
}

// String names it, without what is secret.
func (p *Proxy) String() string {
	scheme := "http"
	if p.Secure {
		scheme = "https"
	}
	return scheme + "://" + net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port)))
}

// Format keeps what is secret out of every verb.
func (p *Proxy) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.String()) }

// authorization is the field that says who asks; nil if nobody has to.
func (p *Proxy) authorization() []field {
	if p == nil || p.User == "" {
		return nil
	}
	return []field{{"Proxy-Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(p.User+":"+p.Password))}}
}

// through is the proxy for a target; nil: directly.
func (u *Upstream) through(t target, clear bool) *Proxy {
	switch {
	case u == nil || t.name == "localhost" || strings.HasSuffix(t.name, ".localhost") || t.addr.IsLoopback() || u.Direct.Has(t.name, t.addr, t.port):
		return nil
	case clear:
		return u.HTTP
	}
	return u.HTTPS
}

// upstreamError: it was the proxy upstream that could not, or would not.
type upstreamError struct {
	proxy *Proxy
	said  string // its status, if it said one
	err   error
}

func (e *upstreamError) Error() string {
	return fmt.Sprintf("upstream proxy %s: %s", e.proxy, e.reason())
}

// reason is for the inside, too, which is not told where the proxy is.
func (e *upstreamError) reason() string {
	if e.said != "" {
		return e.said
	}
	return cause(e.err)
}

func (e *upstreamError) Unwrap() error { return e.err }

const wantsUser = "it wants another user name and password (407)"

// single reads byte by byte: what comes behind a head is not for who reads the head.
type single struct{ io.Reader }

func (s single) Read(p []byte) (int, error) { return s.Reader.Read(p[:min(1, len(p))]) }

// dialProxy connects to a proxy, and, unless the requests are for the proxy to read,
// has it connect to the target. The proxy is the person's choice, so no rule is asked
// about its own address.
func (g *Gateway) dialProxy(ctx context.Context, p *Proxy, t target, clear bool) (net.Conn, error) {
	bad := func(said string, err error) (net.Conn, error) {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %v", dialTime)
		}
		return nil, &upstreamError{p, said, err}
	}
	var d net.Dialer
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(p.Host, strconv.Itoa(int(p.Port))))
	if err != nil {
		return bad("", err)
	}
	// Everything from here on ends with ctx.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	raw := conn
	if p.Secure {
		c := tls.Client(conn, &tls.Config{ServerName: p.Host, RootCAs: g.cfg.Upstream.Roots(), MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
		if err := c.HandshakeContext(ctx); err != nil {
			conn.Close()
			return bad("", fmt.Errorf("TLS: %w", err))
		}
		conn = c
	}
	if !clear {
		if said, err := askProxy(conn, p, t); err != nil {
			conn.Close()
			return bad(said, err)
		}
	}
	if !stop() {
		conn.Close()
		return bad("", context.Cause(ctx))
	}
	_ = raw.SetDeadline(time.Time{})
	return conn, nil
}

// askProxy has a proxy connect to a target. Said is what it answered if that is no.
func askProxy(conn net.Conn, p *Proxy, t target) (said string, err error) {
	b := []byte("CONNECT " + t.String() + " HTTP/1.1\r\nHost: " + t.String() + "\r\n")
	for _, f := range p.authorization() {
		b = append(b, f.name+": "+f.value+"\r\n"...)
	}
	if _, err := conn.Write(append(b, "\r\n"...)); err != nil {
		return "", err
	}
	lines, err := readLines(bufio.NewReaderSize(single{conn}, 16), &room{})
	if err != nil {
		return "", fmt.Errorf("its answer: %w", noEOF(err))
	}
	resp, err := parseResponse(lines)
	switch {
	case err != nil:
		return "", fmt.Errorf("its answer: %w", err)
	case resp.status == 407:
		return wantsUser, errors.New("refused")
	case resp.status < 200 || resp.status > 299:
		return fmt.Sprintf("it refused (%d %s)", resp.status, quoted(resp.reason)), errors.New("refused")
	}
	return "", nil
}
