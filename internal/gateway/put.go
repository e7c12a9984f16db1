package gateway

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"cofferdam/internal/gateway/credential"
)

// notPut: a placeholder where it may not go, or a value that can't be had.
const notPut = "credential"

// maxHeld bounds a body that is held in memory to learn its length, because what is put
// in is longer or shorter than what stands for it.
const maxHeld = 1 << 20

// put is the last step before a request leaves: values come in the place of
// placeholders, in what of the head is passed on, and it is settled what becomes of the
// body and of the response. The error is a *refusal or errRecord.
func (x *exchange) put(t target, req *head, out *body) error {
	if x.use = nil; x.g.cfg.Credentials == nil {
		return nil
	}
	r := &credential.Request{Host: t.name, Port: t.port, Secure: x.c.secure, Target: req.path}
	passed := out.passed(req)
	for _, f := range passed {
		r.Fields = append(r.Fields, credential.Field{Name: f.name, Value: f.value})
	}
	use, err := x.g.cfg.Credentials.Put(x.g.ctx, r)
	var no *credential.Refused
	switch {
	case errors.As(err, &no):
		return x.g.refuse(x.c, t, notPut, no.Reason)
	case err != nil:
		return x.g.refuse(x.c, t, notPut, err.Error())
	case use == nil:
		return nil
	}
	if err := x.putting(t, use.Names...); err != nil {
		return err
	}
	x.use = use
	req.path = r.Target
	out.fields = make([]field, 0, len(r.Fields))
	for _, f := range r.Fields {
		out.fields = append(out.fields, field{f.Name, f.Value})
	}
	if !req.chunked && req.length <= 0 || encoded(req) {
		return nil
	}
	var kind string
	if v := req.values("Content-Type"); len(v) == 1 {
		kind = v[0]
	}
	var unrecorded error
	out.change = use.Body(kind, func(name string) {
		if unrecorded == nil {
			unrecorded = x.putting(t, name)
		}
	})
	out.unrecorded = &unrecorded
	if out.change == nil || req.chunked || out.change.KeepsLength() {
		return nil
	}
	return x.hold(t, req, out)
}

// putting records that credentials were put into a request, by their names.
func (x *exchange) putting(t target, names ...string) error {
	if len(names) == 0 {
		return nil
	}
	return x.g.record(Fact{Kind: Put, Via: x.c.via, Conn: x.c.id, Name: t.name, Dest: t.addr, Port: t.port, Credentials: names})
}

// encoded says whether the body is in an encoding in which nothing can be found.
func encoded(h *head) bool {
	for _, v := range h.values("Content-Encoding") {
		if !strings.EqualFold(v, "identity") {
			return true
		}
	}
	return false
}

// hold changes a body of known length as a whole, since its length is said before it.
func (x *exchange) hold(t target, req *head, out *body) error {
	bad := func(why string) error { return x.g.refuse(x.c, t, notPut, why) }
	if req.length > maxHeld {
		return bad(fmt.Sprintf("a body of more than %d KiB, into which something would be put that is not as long as its placeholder; send it in chunks", maxHeld>>10))
	}
	if req.length > smallHead && !out.room.take() {
		return x.g.refuse(x.c, t, tooMany, fmt.Sprintf("a body of more than %d bytes that has to be held, while %d others are; try again", smallHead, largeLists))
	}
	if err := x.goOn(req, out); err != nil {
		return bad(err.Error())
	}
	rest := make([]byte, req.length-int64(len(out.first)))
	_ = x.c.conn.SetReadDeadline(time.Now().Add(idleTime))
	_, err := io.ReadFull(x.c.r, rest)
	_ = x.c.conn.SetReadDeadline(time.Time{})
	if err != nil {
		return bad("a body that does not end")
	}
	out.first = out.change.All(append(out.first, rest...))
	out.change = nil
	req.length = int64(len(out.first))
	return *out.unrecorded
}

// goOn answers for the server to a client that waits before it sends the body.
func (x *exchange) goOn(req *head, out *body) error {
	v := req.values("Expect")
	if len(v) == 0 || out.asked {
		return nil
	}
	if len(v) > 1 || !strings.EqualFold(v[0], "100-continue") {
		return errors.New("it expects something unknown")
	}
	if !req.old {
		if _, err := io.WriteString(x.c.conn, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return errors.New("the client has gone")
		}
	}
	out.asked = true
	out.fields = withoutExpect(out.fields)
	return nil
}

// changed carries a body into which something is put.
func (b *body) changed(to io.Writer, c *client, req *head) (int64, error) {
	var r io.Reader
	if req.chunked {
		if b.in == nil {
			b.in = &chunks{r: c.r, m: &c.room}
		}
		r = b.in
	} else {
		r = whole(c.r, req.length-int64(len(b.first)))
	}
	r = b.change.Reader(io.MultiReader(strings.NewReader(string(b.first)), r))
	return pour(to, r, req.chunked, b.unrecorded)
}

// whole reads n bytes, and fails if there are fewer.
func whole(r io.Reader, n int64) io.Reader { return &wholeReader{r, n} }

type wholeReader struct {
	r    io.Reader
	left int64
}

func (w *wholeReader) Read(p []byte) (int, error) {
	if w.left == 0 {
		return 0, io.EOF
	}
	n, err := w.r.Read(p[:min(int64(len(p)), w.left)])
	w.left -= int64(n)
	if w.left > 0 {
		err = noEOF(err)
	}
	return n, err
}

// pour carries what r gives, at once, in chunks if it shall be. stop, if not nil, is
// looked at before each write.
func pour(to io.Writer, r io.Reader, chunked bool, stop *error) (total int64, err error) {
	buf := make([]byte, 32<<10)
	var piece []byte
	for {
		n, rerr := r.Read(buf)
		if stop != nil && *stop != nil {
			return total, *stop
		}
		if n > 0 {
			piece = append(piece[:0], buf[:n]...)
			if chunked {
				piece = append(strconv.AppendInt(piece[:0], int64(n), 16), "\r\n"...)
				piece = append(append(piece, buf[:n]...), "\r\n"...)
			}
			if _, err := to.Write(piece); err != nil {
				return total, err
			}
			total += int64(n)
		}
		if rerr == io.EOF {
			break
		}
		if rerr != nil {
			return total, rerr
		}
	}
	if chunked {
		_, err = io.WriteString(to, "0\r\n\r\n")
	}
	return total, err
}

// echo takes values out of the head of a response.
func (x *exchange) echo(resp *head, fields []field) []field {
	if x.use == nil {
		return fields
	}
	resp.reason = x.use.Text(resp.reason)
	out := make([]field, len(fields))
	for i, f := range fields {
		out[i] = field{x.use.Text(f.name), x.use.Text(f.value)}
	}
	return out
}

// heard carries the body of a response from a credential's host, without values.
func (x *exchange) heard(resp *head, chunked, untilClose bool, m *room) (int64, error) {
	var r io.Reader = x.r
	switch {
	case resp.chunked:
		r = &chunks{r: x.r, m: m}
	case !untilClose:
		r = whole(x.r, resp.length)
	}
	return pour(x.c.conn, x.use.Response().Reader(r), chunked, nil)
}
