package gateway

import (
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"syscall"
	"time"

	"cofferdam/internal/gateway/decide"
)

// Replies of SOCKS5 (RFC 1928, 6).
const (
	socksOK          = 0
	socksFailure     = 1
	socksNotAllowed  = 2
	socksUnreachable = 4
	socksRefused     = 5
	socksNoCommand   = 7
	socksNoAddress   = 8
)

// serveSOCKS handles a SOCKS5 connection: CONNECT only. A user name and a password
// may be given (RFC 1929) and mean nothing.
func (g *Gateway) serveSOCKS(c *client) {
	_ = c.tcp.SetDeadline(time.Now().Add(headTime))
	host, port, addr, code, err := readSOCKS(struct {
		io.Reader
		io.Writer
	}{c.r, c.tcp})
	if err != nil {
		if code != socksOK {
			_ = g.decided(c, target{}, decide.Verdict{Code: badRequest, Reason: err.Error()})
			g.socksEnd(c, code)
			return
		}
		abort(c.tcp)
		return
	}
	_ = c.tcp.SetDeadline(time.Time{})
	var t target
	if addr.IsValid() {
		t = g.toAddr(netip.AddrPortFrom(addr, port))
	} else if t, err = g.target(host, port); err != nil {
		v := decide.Verdict{Code: decide.BadName, Reason: err.Error()}
		_ = g.cfg.Record(Fact{Kind: Decided, Via: c.via, Conn: c.id, Name: quoted(host), Port: port, Verdict: v})
		g.socksEnd(c, socksNotAllowed)
		return
	}
	if t.name != "" && t.port == 80 && g.mayCome(t) {
		if g.socksReply(c, socksOK) {
			g.serveHTTP(c, &t) // decides on each request
		}
		return
	}
	v, err := g.decide(c, t, nil)
	if err == nil && v.Look {
		if g.socksReply(c, socksOK) {
			g.look(c, t, v)
		}
		return
	}
	var u *upstream
	if err == nil {
		u, err = g.connect(c, t)
	}
	var no *refusal
	switch {
	case err == nil:
	case errors.As(err, &no):
		g.socksEnd(c, socksNotAllowed)
		return
	case errors.Is(err, errRecord):
		g.socksEnd(c, socksFailure)
		return
	case errors.Is(err, syscall.ECONNREFUSED):
		g.socksEnd(c, socksRefused)
		return
	default:
		g.socksEnd(c, socksUnreachable)
		return
	}
	if !g.socksReply(c, socksOK) {
		u.end()
		return
	}
	g.tunnel(c, t, u)
}

// socksReply answers the request. The address in it is of no use to anybody.
func (g *Gateway) socksReply(c *client, code byte) bool {
	_, err := c.tcp.Write([]byte{5, code, 0, 1, 0, 0, 0, 0, 0, 0})
	return err == nil
}

func (g *Gateway) socksEnd(c *client, code byte) {
	_ = c.tcp.SetDeadline(time.Now().Add(time.Second))
	if g.socksReply(c, code) {
		part(c)
	}
}

// readSOCKS reads what comes before the reply: the methods, perhaps a user name, the
// request. Either addr is valid or host is set. With an error, code is the reply to
// give, or socksOK if there is none to give.
func readSOCKS(rw io.ReadWriter) (host string, port uint16, addr netip.Addr, code byte, err error) {
	fail := func(code byte, err error) (string, uint16, netip.Addr, byte, error) {
		return "", 0, netip.Addr{}, code, err
	}
	buf := make([]byte, 256)
	read := func(n int) error { _, err := io.ReadFull(rw, buf[:n]); return err }
	if err := read(2); err != nil {
		return fail(socksOK, err)
	}
	if buf[0] != 5 {
		return fail(socksOK, errSyntax("not SOCKS5"))
	}
	n := int(buf[1])
	if err := read(n); err != nil {
		return fail(socksOK, err)
	}
	const noMethod = 0xff
	method := byte(noMethod)
	for _, m := range buf[:n] {
		if m == 0 || m == 2 && method != 0 {
			method = m
		}
	}
	if _, err := rw.Write([]byte{5, method}); err != nil {
		return fail(socksOK, err)
	}
	switch method {
	case noMethod:
		return fail(socksOK, errSyntax("SOCKS5 without a method that is known"))
	case 2:
		if err := read(2); err != nil {
			return fail(socksOK, err)
		}
		if err := read(int(buf[1])); err != nil {
			return fail(socksOK, err)
		}
		if err := read(1); err != nil {
			return fail(socksOK, err)
		}
		if err := read(int(buf[0])); err != nil {
			return fail(socksOK, err)
		}
		if _, err := rw.Write([]byte{1, 0}); err != nil {
			return fail(socksOK, err)
		}
	}
	if err := read(4); err != nil {
		return fail(socksOK, err)
	}
	if buf[0] != 5 {
		return fail(socksOK, errSyntax("not SOCKS5"))
	}
	command, kind := buf[1], buf[3]
	switch kind {
	case 1:
		err = read(4)
		addr = netip.AddrFrom4([4]byte(buf[:4]))
	case 4:
		err = read(16)
		addr = netip.AddrFrom16([16]byte(buf[:16]))
	case 3:
		if err = read(1); err == nil {
			n := int(buf[0])
			err = read(n)
			host = string(buf[:n])
		}
	default:
		return fail(socksNoAddress, errSyntax("SOCKS5 with an address of an unknown kind"))
	}
	if err != nil {
		return fail(socksOK, err)
	}
	if err := read(2); err != nil {
		return fail(socksOK, err)
	}
	if command != 1 {
		return fail(socksNoCommand, errSyntax("SOCKS5 for something else than a connection; there is no UDP and no BIND"))
	}
	return host, binary.BigEndian.Uint16(buf), addr, socksOK, nil
}
