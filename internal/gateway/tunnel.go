package gateway

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"cofferdam/internal/gateway/decide"
)

// serveRedirect handles a connection that a program inside made to some address.
func (g *Gateway) serveRedirect(c *client) {
	raw, err := c.tcp.SyscallConn()
	if err != nil {
		abort(c.tcp)
		return
	}
	dest, err := g.cfg.Destination(raw)
	if err != nil || dest.Addr().Unmap().IsLoopback() || dest.Addr().IsUnspecified() {
		// Made to the listener itself, which is nobody's destination.
		_ = g.decided(c, target{addr: dest.Addr(), port: dest.Port()}, decide.Verdict{Code: badRequest,
			Reason: "a connection to the gateway's own socket; connect to where you want to go"})
		abort(c.tcp)
		return
	}
	t := g.toAddr(dest)
	if t.port == 80 && t.name != "" {
		g.serveHTTP(c, &t) // decides on each request
		return
	}
	v, err := g.decide(c, t, nil)
	if err != nil {
		g.refuseRedirect(c, t, err)
		return
	}
	if v.Look {
		g.look(c, t, v)
		return
	}
	u, err := g.connect(c, t)
	if err != nil {
		g.refuseRedirect(c, t, err)
		return
	}
	g.tunnel(c, t, u)
}

// refuseRedirect says no in the protocol that the port stands for, where that has a
// way to say it; else by a reset.
func (g *Gateway) refuseRedirect(c *client, t target, err error) {
	switch {
	case t.port == 80 && !errors.Is(err, errRecord):
		g.refuseHTTP(c, err)
	case t.port == 443 && !errors.Is(err, errRecord):
		// Who speaks TLS does so at once; nobody else waits long for a no.
		_ = c.tcp.SetDeadline(time.Now().Add(time.Second))
		if b, err := c.r.Peek(1); err == nil && b[0] == 22 {
			g.alert(c)
			return
		}
		fallthrough
	default:
		abort(c.tcp)
	}
}

// alert tells a TLS client that access is denied (RFC 8446, 6.2: 49, fatal).
func (g *Gateway) alert(c *client) {
	_ = c.tcp.SetDeadline(time.Now().Add(time.Second))
	_, _ = c.tcp.Write([]byte{21, 3, 1, 0, 2, 2, 49})
	part(c)
}

// tunnel carries bytes both ways until both sides have ended. For a name, what the
// client sends first is looked at: TLS for another name is not carried. On port 443
// there is nothing but TLS with a name, and the outside is not heard before. It owns u.
func (g *Gateway) tunnel(c *client, t target, u *upstream) {
	strict := t.name != "" && t.port == 443
	g.relay(c, u, strict, func() ([]byte, error) {
		b, err := g.first(c, t)
		if err == nil && len(b) == 0 && strict {
			err = io.ErrUnexpectedEOF
		}
		return b, err
	})
}

// relay carries bytes both ways until both sides have ended. first returns what the
// client sends before anything else of it is carried; with strict, before the outside
// is heard. It owns u.
func (g *Gateway) relay(c *client, u *upstream, strict bool, first func() ([]byte, error)) {
	defer u.end()
	send := func() bool {
		b, err := first()
		if err == nil {
			var n int
			n, err = u.Write(b)
			u.out += int64(n)
			c.room.free()
		}
		if err != nil {
			u.stopped.Store(true)
			u.Close()
			if err != errLook {
				g.stop(c, err)
			}
		}
		return err == nil
	}
	if strict && !send() {
		return
	}
	down := make(chan struct{})
	go func() {
		defer close(down)
		n, err := io.Copy(c.tcp, u.Conn)
		u.in += n
		switch {
		case u.stopped.Load(): // the client is being told why
		case err != nil:
			abort(c.tcp) // a reset there is one here
			u.Close()
		default:
			_ = c.tcp.CloseWrite()
		}
	}()
	defer func() { <-down }()
	if !strict && !send() {
		return
	}
	// From here on the kernel carries it (splice(2)): c.r is empty.
	n, err := io.Copy(u.Conn, c.tcp)
	u.out += n
	if err != nil {
		abort(u.Conn)
		c.tcp.Close()
		return
	}
	if half, ok := u.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	} else {
		u.Close()
	}
}

// stop ends a client whose first bytes were refused, or could not be carried.
func (g *Gateway) stop(c *client, err error) {
	var no *refusal
	if errors.As(err, &no) && no.Code == decide.Mismatch {
		g.alert(c)
		return
	}
	abort(c.tcp)
}

// first returns all that has been read from the client when it can be decided on: the
// bytes of a whole ClientHello, or whatever came first if it is no TLS. It leaves
// nothing in c.r. No bytes and no error: the client will send none.
//
// The first byte has time, but on port 443; what begins as TLS has to be whole within
// headTime. A program that sends nothing but waits for the other side is served, since
// the way back is open (but on port 443).
func (g *Gateway) first(c *client, t target) ([]byte, error) {
	got, _, err := g.begin(c, t, false, t.name != "" && t.port == 443)
	return got, err
}

// begin is first, and says what it is that begins. With look, that has to be known:
// HTTP is told from other things, and TLS has a server name. With timed, the first byte
// has no more time than the rest.
func (g *Gateway) begin(c *client, t target, look, timed bool) ([]byte, beginning, error) {
	if timed {
		_ = c.tcp.SetReadDeadline(time.Now().Add(headTime))
	}
	var got []byte
	buf := make([]byte, 4096)
	for {
		n, err := c.r.Read(buf)
		got = append(got, buf[:n]...)
		if len(got) > smallHead && (look || t.name != "") && !c.room.take() {
			return nil, other, g.refuse(c, t, tooMany, errNoRoom.Error())
		}
		wanted := "ClientHello"
		if len(got) > 0 {
			if t.name == "" && !look {
				return g.rest(c, got), other, nil
			}
			h, bad := parseHello(got)
			if bad == errNotTLS && look {
				switch what := beginsAs(got); what {
				case unclear:
					if len(got) > smallHead {
						return nil, other, g.refuse(c, t, badRequest, fmt.Sprintf("more than %d bytes, and still no request", smallHead))
					}
					bad, wanted = errShort, "first line"
				default:
					return g.rest(c, got), what, nil
				}
			}
			switch {
			case bad == nil:
				if err := g.checkHello(c, t, h, look); err != nil {
					return nil, tlsHello, err
				}
				return g.rest(c, got), tlsHello, nil
			case bad == errNotTLS && t.port == 443:
				return nil, other, g.refuse(c, t, badRequest, "port 443 carries only TLS, so that the name in it can be compared")
			case bad == errNotTLS:
				return g.rest(c, got), other, nil
			case bad != errShort:
				return nil, tlsHello, g.refuse(c, t, badRequest, bad.Error())
			case !timed:
				timed = true
				_ = c.tcp.SetReadDeadline(time.Now().Add(headTime))
			}
		}
		var timeout net.Error
		switch {
		case err == nil:
		case err == io.EOF && len(got) == 0:
			return nil, other, nil
		case err == io.EOF:
			return nil, other, g.refuse(c, t, badRequest, "a "+wanted+" that does not end")
		case errors.As(err, &timeout) && timeout.Timeout():
			return nil, other, g.refuse(c, t, badRequest, fmt.Sprintf("no whole %s within %v", wanted, headTime))
		default:
			return nil, other, err
		}
	}
}

// rest empties c.r into what has been read, and lifts the deadline.
func (g *Gateway) rest(c *client, got []byte) []byte {
	_ = c.tcp.SetReadDeadline(time.Time{})
	more, _ := c.r.Peek(c.r.Buffered())
	got = append(got, more...)
	_, _ = c.r.Discard(len(more))
	return got
}

// checkHello: the name in TLS is the name that was decided on. An address is named by
// no server name at all (RFC 6066, 3); that matters only where TLS is opened.
func (g *Gateway) checkHello(c *client, t target, h hello, look bool) error {
	switch {
	case h.serverName == "" && t.name != "" && (look || t.port == 443):
		return g.refuse(c, t, decide.Mismatch, "TLS without a server name (SNI), so that there is nothing to compare")
	case h.serverName == "":
		return nil
	}
	if name, err := decide.Canonical(h.serverName); err != nil || name != t.name {
		return g.refuse(c, t, decide.Mismatch, fmt.Sprintf("TLS for another name, %s; connect to that by its own name", quoted(h.serverName)))
	}
	return nil
}
