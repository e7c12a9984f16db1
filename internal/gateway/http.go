package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cofferdam/internal/gateway/credential"
	"cofferdam/internal/gateway/decide"
)

// serveHTTP handles the requests of one connection, one after the other, each judged
// by itself. With a fixed target, the connection was made to that, and no request
// may name another; without, it is a proxy's, and each request names its own.
func (g *Gateway) serveHTTP(c *client, fixed *target) {
	x := &exchange{g: g, c: c, fixed: fixed}
	defer func() {
		if x.up != nil {
			x.up.end()
		}
	}()
	for x.next() {
	}
}

// exchange is an HTTP connection from inside, and the one to the outside that it
// uses at the moment.
type exchange struct {
	g     *Gateway
	c     *client
	fixed *target

	up *upstream
	to target        // of up
	r  *bufio.Reader // of up
	// stale: up is not for another request.
	stale bool
	// speaks is how the client reads a refusal of the request that is served now.
	speaks speech
	// use, if not nil, is what has to be done for credentials with the response to the
	// request that is served now.
	use *credential.Use
	// counts are the budgets that count the request that is served now.
	counts []int
	// unread, if not nil, reads what the client has to have sent before it reads a refusal.
	unread func()
}

// next handles one request, and says whether another may follow.
func (x *exchange) next() bool {
	x.speaks, x.unread = speech{}, nil
	_ = x.c.conn.SetDeadline(time.Now().Add(idleTime))
	if _, err := x.c.r.Peek(1); err != nil {
		return false
	}
	_ = x.c.conn.SetDeadline(time.Now().Add(headTime))
	defer x.c.room.free()
	lines, err := readLines(x.c.r, &x.c.room)
	var req *head
	if err == nil {
		req, err = parseRequest(lines)
	}
	if err != nil {
		return x.misunderstood(err)
	}
	_ = x.c.conn.SetDeadline(time.Time{})
	x.speaks = speechOf(req)
	t, err := x.target(req)
	if err != nil {
		x.refuse(err)
		return false
	}
	if req.connect {
		x.c.room.free()
		x.tunnel(t)
		return false
	}
	out := &body{room: room{slots: x.g.lists}}
	defer out.room.free()
	q := asked(t, req)
	v, err := x.g.decide(x.c, t, q)
	if err == nil && v.Refs {
		// What a push changes stands at the beginning of its body.
		if q.Refs, err = x.refs(t, req, out); err == nil {
			_, err = x.g.decide(x.c, t, q)
		}
	}
	if err == nil {
		err = x.afford(t, q, req)
	}
	if err == nil {
		err = x.put(t, req, out)
	}
	if err == nil {
		err = x.connect(t)
	}
	if err == nil {
		err = x.affordThere(t, q, req)
	}
	if err != nil {
		x.refuse(err)
		return false
	}
	return x.forward(req, out)
}

// asked is the request as decide takes it.
func asked(t target, req *head) *decide.Request {
	path, query, _ := strings.Cut(req.path, "?")
	return &decide.Request{Name: t.name, Addr: t.addr, Port: t.port, Method: req.method, Path: path, Query: query}
}

// misunderstood answers what is no HTTP/1.1.
func (x *exchange) misunderstood(err error) bool {
	var bad errSyntax
	var timeout net.Error
	code := badRequest
	switch {
	case err == errNoRoom:
		code = tooMany
	case errors.As(err, &bad), err == errHeadSize:
	case errors.As(err, &timeout) && timeout.Timeout():
		err = fmt.Errorf("no whole request within %v", headTime)
	default: // the client has gone
		abort(x.c.tcp)
		return false
	}
	x.refuse(x.g.refuse(x.c, x.asked(), code, "not carried: "+err.Error()))
	return false
}

// asked is the target as far as it is known before a request.
func (x *exchange) asked() target {
	if x.fixed != nil {
		return *x.fixed
	}
	return target{}
}

// target says where a request goes. The error is a *refusal or errRecord, and
// recorded.
func (x *exchange) target(req *head) (target, error) {
	g, c := x.g, x.c
	byDefault := x.port()
	switch {
	case req.connect:
		byDefault = 0
	case x.fixed != nil && !req.proxy:
		// Some clients leave out any port (libgit2 before 1.7, which cargo has). It can
		// mean only this connection's, and what goes out names that.
		byDefault = x.fixed.port
	}
	host, port, err := splitAuthority(req.authority, byDefault)
	var t target
	if err == nil {
		t, err = g.target(host, port)
	}
	switch {
	case err != nil:
		v := decide.Verdict{Code: decide.BadName, Reason: err.Error()}
		if g.cfg.Record(Fact{Kind: Decided, Via: c.via, Conn: c.id, Name: quoted(req.authority), Port: port, Verdict: v}) != nil {
			return t, errRecord
		}
		return t, &refusal{Verdict: v}
	case x.fixed == nil && !req.connect && !req.proxy:
		return t, g.refuse(c, t, badRequest, "this is a proxy: ask for http://host/path, or use CONNECT")
	case x.fixed == nil:
		return t, nil
	case req.connect:
		return t, g.refuse(c, *x.fixed, badRequest, "this is no proxy, so there is no CONNECT")
	case x.c.secure && req.proxy:
		return t, g.refuse(c, *x.fixed, badRequest, "within TLS, a request for something that is not")
	case t != *x.fixed:
		return t, g.refuse(c, *x.fixed, decide.Mismatch, fmt.Sprintf("a request for another host, %s; connect to that by its own name", quoted(req.authority)))
	}
	return t, nil
}

// port is what a request means that names none.
func (x *exchange) port() uint16 {
	if x.c.secure {
		return 443
	}
	return 80
}

// tunnel answers CONNECT.
func (x *exchange) tunnel(t target) {
	g, c := x.g, x.c
	const ok = "HTTP/1.1 200 Connection established\r\n\r\n"
	if t.name != "" && t.port == 80 {
		// HTTP inside of the tunnel, so each request is judged.
		if !g.mayCome(t) {
			_, err := g.decide(c, t, nil)
			x.refuse(err)
			return
		}
		if _, err := io.WriteString(c.conn, ok); err == nil {
			g.serveHTTP(c, &t)
		}
		return
	}
	v, err := g.decide(c, t, nil)
	if err == nil && v.Look {
		if _, err := io.WriteString(c.conn, ok); err == nil {
			g.look(c, t, v)
		}
		return
	}
	var u *upstream
	if err == nil {
		u, err = g.connect(c, t)
	}
	if err != nil {
		x.refuse(err)
		return
	}
	if _, err := io.WriteString(c.conn, ok); err != nil {
		u.end()
		return
	}
	g.tunnel(c, t, u)
}

// connect sees to it that x.up leads to an allowed target and is alive.
func (x *exchange) connect(t target) error {
	if x.up != nil {
		if x.to == t && x.r.Buffered() == 0 && x.quiet() {
			return nil
		}
		x.up.end()
		x.up = nil
	}
	u, err := x.g.open(x.c, t, false)
	if err != nil {
		return err
	}
	if x.c.secure {
		if err := x.g.secure(u, t); err != nil {
			u.fact.Err = err.Error()
			u.end()
			return err
		}
	}
	x.up, x.to, x.r = u, t, bufio.NewReader(u.Conn)
	return nil
}

// quiet is the same of x.up, within TLS too.
func (x *exchange) quiet() bool {
	if !quiet(x.up.tcp) {
		return false
	}
	if !x.c.secure {
		return true
	}
	// What TLS has read and not given out yet comes without waiting; nothing is read of
	// the connection.
	_ = x.up.SetReadDeadline(time.Unix(1, 0))
	_, err := x.r.Peek(1)
	_ = x.up.SetReadDeadline(time.Time{})
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// quiet says that the other side of an idle connection neither closed it nor said
// anything: what it said would be taken for the answer to the next request.
func quiet(c net.Conn) bool {
	n, err, ok := glance(c)
	return ok && n < 0 && (err == syscall.EAGAIN || err == syscall.EWOULDBLOCK)
}

// glance looks at what has come, and takes nothing away.
func glance(c net.Conn) (n int, err error, ok bool) {
	s, isSys := c.(syscall.Conn)
	if !isSys {
		return 0, nil, false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, err, false
	}
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		n, _, rerr = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		return true
	})
	return n, rerr, err == nil
}

// forward carries a request out and its response back.
func (x *exchange) forward(req *head, out *body) bool {
	host := x.to.name
	if host == "" {
		host = x.to.addr.String()
		if x.to.addr.Is6() {
			host = "[" + host + "]"
		}
	}
	if x.to.port != x.port() {
		host += ":" + strconv.Itoa(int(x.to.port))
	}
	upgrade := ""
	if strings.EqualFold(req.upgrade, "websocket") && req.method == "GET" {
		upgrade = "websocket" // and never h2c, within which names are not seen
	}
	to := req.path
	if x.up.proxy != nil { // reads it, as it is in the clear
		if to = "http://" + host; req.path != "*" {
			to += req.path
		}
	}
	b := []byte(req.method + " " + to + " HTTP/1.1\r\nHost: " + host + "\r\n")
	for _, f := range x.up.proxy.authorization() {
		b = append(b, f.name+": "+f.value+"\r\n"...)
	}
	b = writeFields(b, out.passed(req), req.chunked, req.length, upgrade, false)
	n, err := x.up.Write(b)
	if x.up.out += int64(n); err != nil {
		x.cut(err)
		return false
	}
	b, req, out.fields = nil, req.passedOn(), nil
	x.c.room.free()
	// The body goes out while the response may come already.
	body := make(chan error, 1)
	if up, c := x.up, x.c; req.chunked || req.length > 0 {
		go func() {
			var n int64
			var err error
			switch {
			case out.change != nil:
				n, err = out.changed(up.Conn, c, req)
			case req.chunked:
				n, err = out.copyChunks(up.Conn, c)
			default:
				n, err = out.copyLength(up.Conn, c, req.length)
			}
			up.out += n
			if err != nil {
				abort(up.Conn) // or the server would wait for the rest, or answer to a part
			}
			body <- err
		}()
	} else {
		body <- nil
	}
	again, unanswered := x.back(req, upgrade)
	select {
	case err = <-body:
	case <-time.After(time.Second):
		// Answered before the body was over, as with 413: nobody wants the rest. What
		// is left of it can't be told from another request.
		_ = x.c.conn.SetReadDeadline(time.Unix(1, 0))
		x.up.Close()
		<-body
		err = io.ErrUnexpectedEOF
	}
	var bad errSyntax
	var no *refusal
	switch {
	case unanswered != nil && (errors.As(err, &no) || errors.Is(err, errRecord)):
		x.refuse(err)
		return false
	case unanswered != nil && errors.As(err, &bad):
		x.refuse(x.g.refuse(x.c, x.to, badRequest, "not carried on: "+bad.Error()))
		return false
	case unanswered != nil:
		x.bad(unanswered)
		return false
	case err != nil && again:
		part(x.c)
	}
	if x.stale {
		x.up.end()
		x.up, x.stale = nil, false
	}
	return err == nil && again
}

// back carries the response. It says whether the connection can be used again, or why
// the client has got no answer.
func (x *exchange) back(req *head, upgrade string) (again bool, unanswered error) {
	m := &room{slots: x.g.large}
	defer m.free()
	for {
		m.free()
		if err := x.await(); err != nil {
			return false, err
		}
		lines, err := readLines(x.r, m)
		if err != nil {
			return false, noEOF(err)
		}
		resp, err := parseResponse(lines)
		if err != nil {
			return false, err
		}
		if resp.status == 407 && x.up.proxy != nil {
			return false, &upstreamError{proxy: x.up.proxy, said: wantsUser}
		}
		if resp.status == 101 && upgrade == "" {
			return false, errors.New("it changed the protocol without being asked")
		}
		if done, again := x.respond(req, resp, m, upgrade); done {
			return again, nil
		}
	}
}

// await waits for a response, as long as there is a client.
func (x *exchange) await() error {
	defer x.up.SetReadDeadline(time.Time{})
	for {
		_ = x.up.SetReadDeadline(time.Now().Add(30 * time.Second))
		_, err := x.r.Peek(1)
		var timeout net.Error
		if err == nil || !errors.As(err, &timeout) || !timeout.Timeout() {
			return noEOF(err)
		}
		if n, err, ok := glance(x.c.tcp); ok && (n == 0 || n < 0 && err != syscall.EAGAIN && err != syscall.EINTR || n > 0 && x.c.secure && closing(x.c.tcp)) {
			return errors.New("the client has gone")
		}
	}
}

// respond writes one response. It is not done after an interim one (1xx).
func (x *exchange) respond(req, resp *head, m *room, upgrade string) (done, again bool) {
	c := x.c
	interim := resp.status < 200
	switched := resp.status == 101
	if interim && req.old {
		return false, false // HTTP/1.0 does not know them
	}
	none := interim || resp.status == 204 || resp.status == 304 || req.method == "HEAD"
	untilClose := !none && !resp.chunked && resp.length < 0
	plain := resp.chunked && req.old
	last := !interim && (req.close || req.old || untilClose || plain)
	length, chunked := resp.length, resp.chunked && !plain
	if interim || resp.status == 204 {
		length, chunked = -1, false
	}
	if !switched {
		upgrade = ""
	}
	if x.use != nil && !interim {
		x.use.Answered(resp.status)
	}
	fields := x.echo(resp, resp.passed())
	readable := x.use != nil && !encoded(resp)
	b := []byte("HTTP/1.1 " + strconv.Itoa(resp.status) + " " + resp.reason + "\r\n")
	b = writeFields(b, fields, chunked, length, upgrade, last)
	if _, err := c.conn.Write(b); err != nil {
		abort(c.tcp)
		return true, false
	}
	b, fields, resp = nil, nil, resp.passedOn()
	m.free()
	if switched {
		x.splice()
		return true, false
	}
	if interim {
		return false, false
	}
	var n int64
	var err error
	switch {
	case none:
	case readable:
		n, err = x.heard(resp, chunked, untilClose, m)
	case resp.chunked:
		n, err = (&chunks{r: x.r, m: m}).copy(c.conn, plain)
	case untilClose:
		if n, err = io.CopyN(c.conn, x.r, int64(x.r.Buffered())); err == nil {
			var m int64
			m, err = io.Copy(c.conn, x.up.Conn)
			n += m
		}
	default:
		n, err = copyLength(c.conn, x.r, x.up.Conn, resp.length)
	}
	x.up.in += n
	if err != nil {
		abort(c.tcp) // the client must not take a part for the whole
		return true, false
	}
	if last {
		part(c)
		return true, false
	}
	x.stale = resp.close || resp.old
	return true, true
}

// splice carries what follows a change of protocol, both ways, until it ends.
func (x *exchange) splice() {
	c, u := x.c, x.up
	down := make(chan struct{})
	go func() {
		defer close(down)
		var n int64
		var err error
		if x.use != nil {
			n, err = pour(c.conn, x.use.Response().Reader(x.r), false, nil)
		} else if n, err = io.CopyN(c.conn, x.r, int64(x.r.Buffered())); err == nil {
			u.in += n
			n, err = io.Copy(c.conn, u.Conn)
		}
		u.in += n
		if err != nil {
			abort(c.tcp)
			u.Close()
			return
		}
		_ = c.conn.CloseWrite()
	}()
	n, err := io.CopyN(u.Conn, c.r, int64(c.r.Buffered()))
	if u.out += n; err == nil {
		n, err = io.Copy(u.Conn, c.conn)
		u.out += n
	}
	if err != nil {
		abort(u.Conn)
		c.tcp.Close()
	} else if half, ok := u.Conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	} else {
		u.Close()
	}
	<-down
}

// bad answers for an outside that failed before it said anything.
func (x *exchange) bad(err error) {
	answer(x.c, x.speaks, 502, nil, fmt.Sprintf("cofferdam: %s was reached, and then: %s", x.to, cause(err)))
}

// cut answers when what was to be sent could not all be.
func (x *exchange) cut(err error) {
	var no *refusal
	if errors.As(err, &no) || errors.Is(err, errRecord) {
		x.refuse(err)
		return
	}
	x.bad(err)
}

// refuse answers with an error of decide or connect.
func (x *exchange) refuse(err error) {
	var no *refusal
	if !errors.As(err, &no) && errors.Is(err, errRecord) {
		abort(x.c.tcp)
		return
	}
	status := 502
	text := ""
	if no != nil {
		text = fmt.Sprintf("cofferdam refused this (%s): %s", no.Code, no.Reason)
		switch status = 403; no.Code {
		case badRequest, decide.BadName:
			status = 400
		case decide.Mismatch:
			status = 421
		case tooMany:
			status = 503
		case Spent:
			status = 429
		}
	} else {
		text = fmt.Sprintf("cofferdam allows this, but it can't be reached: %s", cause(err))
	}
	if no != nil && x.unread != nil {
		x.unread()
	}
	answer(x.c, x.speaks, status, no, text)
}

// refuseHTTP reads a request and answers it with the error.
func (g *Gateway) refuseHTTP(c *client, err error) {
	_ = c.conn.SetDeadline(time.Now().Add(headTime))
	defer c.room.free()
	if _, herr := readLines(c.r, &c.room); herr != nil {
		abort(c.tcp)
		return
	}
	(&exchange{g: g, c: c}).refuse(err)
}
