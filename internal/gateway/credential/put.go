package credential

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// Field is one header field.
type Field struct{ Name, Value string }

// Request is what of a request may have a placeholder in it.
type Request struct {
	Host string // the canonical name that was decided on; empty for an address
	Port uint16
	// Secure: it goes over TLS to who has shown to be Host.
	Secure bool
	Target string  // path and query, as sent
	Fields []Field // those that are passed on, and no other
}

// Refused is why a request must not be sent. Reason has names, never values.
type Refused struct{ Reason string }

func (e *Refused) Error() string { return e.Reason }

// Use is what has to be done with a request to a credential's host, and with the
// response.
type Use struct {
	// Names are the credentials that were put into the head.
	Names []string

	echoes []pair // of all credentials of the host
	bodies []use

	mu   sync.Mutex // a body goes out while the response comes
	used []use      // for Answered
}

type use struct {
	item  *item
	value string
}

// Put puts the values into r if it goes to their host and port. A nil Use: the host has
// no credential, at any port, and nothing has to be done. The error is a *Refused, and r, which is as it
// was, must not be sent.
//
// A response to such a host's requests is read for values (Use.Response), so none is
// asked for that could not be: compressed, or a range of bytes, that would have a part
// of a value in it.
func (s *Set) Put(ctx context.Context, r *Request) (*Use, error) {
	if s == nil || len(s.list) == 0 {
		return nil, nil
	}
	var own []*item
	for _, x := range s.list {
		if x.of(r.Host) {
			own = append(own, x)
		}
	}
	in, err := s.sent(r)
	if err != nil {
		return nil, err
	}
	if len(own) == 0 {
		return nil, nil
	}
	u := &Use{}
	values := map[*item]string{}
	need := func(x *item) error {
		if _, have := values[x]; have {
			return nil
		}
		v, err := x.value(ctx)
		if err != nil {
			return refused("the value of %s, which belongs into this request, can't be had: %v", x.Name, err)
		}
		values[x] = v
		return nil
	}
	for _, x := range in {
		if err := need(x); err != nil {
			return nil, err
		}
		u.Names = append(u.Names, x.Name)
		u.used = append(u.used, use{x, values[x]})
	}
	for _, x := range own {
		if x.Bodies && r.Secure && x.covers(r.Host, r.Port) {
			if err := need(x); err != nil {
				return nil, err
			}
			u.bodies = append(u.bodies, use{x, values[x]})
		}
	}
	to := *r
	to.Fields = slices.Clone(r.Fields)
	if len(in) > 0 {
		if r.signed() {
			return nil, refused("%s would be put into a request that is signed (AWS), so the signature would be wrong; nothing is signed anew", in[0].Name)
		}
		if err := substitute(&to, in, values); err != nil {
			return nil, err
		}
		if left, err := s.sent(&to); err != nil || len(left) > 0 {
			return nil, refused("the placeholder for %s is written in a way in which nothing can be put in its place; send it as it is", in[0].Name)
		}
	}
	*r = to
	r.Fields = slices.DeleteFunc(r.Fields, func(f Field) bool {
		return slices.ContainsFunc([]string{"Accept-Encoding", "Range", "If-Range", "Sec-WebSocket-Extensions"}, func(n string) bool { return strings.EqualFold(n, f.Name) })
	})
	r.Fields = append(r.Fields, Field{"Accept-Encoding", "identity"})
	for _, x := range own {
		x.mu.Lock()
		for _, k := range x.values {
			u.echoes = append(u.echoes, k.echoes...)
		}
		x.mu.Unlock()
	}
	return u, nil
}

func refused(format string, a ...any) error { return &Refused{fmt.Sprintf(format, a...)} }

// sent are the credentials whose placeholders a request has in its head. The error says
// why it may not have one.
func (s *Set) sent(r *Request) ([]*item, error) {
	var in []*item
	look := func(text string) error {
		for _, x := range s.in(text) {
			switch {
			case !x.covers(r.Host, r.Port):
				return refused("a placeholder for %s was sent to %s, which is none of its hosts", x.Name, r.to())
			case !r.Secure:
				return refused("a placeholder for %s was sent to %s without TLS, where others could read the value", x.Name, r.to())
			case !slices.Contains(in, x):
				in = append(in, x)
			}
		}
		return nil
	}
	if err := look(r.Target); err != nil {
		return nil, err
	}
	for _, f := range r.Fields {
		if err := look(f.Name); err != nil {
			return nil, err
		}
		if err := look(f.Value); err != nil {
			return nil, err
		}
		if user, password, ok := basic(f.Value); ok {
			if err := look(user + ":" + password); err != nil {
				return nil, err
			}
		}
	}
	return in, nil
}

func (r *Request) to() string {
	if r.Host == "" {
		return "an address"
	}
	return fmt.Sprintf("%s:%d", r.Host, r.Port)
}

// signed says whether the client has made a signature over the head: Signature Version 4
// of AWS, in a field or in the query.
func (r *Request) signed() bool {
	return strings.Contains(strings.ToLower(r.Target), "x-amz-signature=") || slices.ContainsFunc(r.Fields, func(f Field) bool {
		return strings.EqualFold(f.Name, "Authorization") && strings.HasPrefix(strings.ToUpper(f.Value), "AWS4-")
	})
}

// in are the credentials whose placeholder is in a text, as it is, percent-encoded or in
// base64.
func (s *Set) in(text string) []*item {
	var out []*item
	plain := unescape(text)
	for _, x := range s.list {
		if slices.ContainsFunc(x.sought, func(f string) bool { return strings.Contains(text, f) || strings.Contains(plain, f) }) {
			out = append(out, x)
		}
	}
	return out
}

// substitute puts values in the place of placeholders. A value that was put in is not
// looked at again. No part of the head gets two credentials: no program sends such, so
// nobody can say which of them was meant.
func substitute(r *Request, in []*item, values map[*item]string) error {
	var at string // where we are, for people
	put := func(text string, escape func(string) string) (string, error) {
		var pairs []pair
		for _, x := range in {
			if strings.Contains(text, x.placeholder) {
				pairs = append(pairs, pair{x.placeholder, escape(values[x])})
			}
		}
		if len(pairs) > 1 {
			return "", refused("placeholders of two credentials are in %s: it is not clear which is meant", at)
		}
		return replaceAll(text, pairs), nil
	}
	asItIs := func(v string) string { return v }
	path, query, asked := strings.Cut(r.Target, "?")
	var err error
	at = "the path"
	if path, err = put(path, pathEscape); err != nil {
		return err
	}
	if r.Target = path; asked {
		parts := strings.Split(query, "&")
		for i := range parts {
			at = "one parameter of the query"
			if parts[i], err = put(parts[i], queryEscape); err != nil {
				return err
			}
		}
		r.Target += "?" + strings.Join(parts, "&")
	}
	for i := range r.Fields {
		f := &r.Fields[i]
		at = "one value of the field " + f.Name
		if user, password, ok := basic(f.Value); ok && strings.EqualFold(f.Name, "Authorization") {
			newUser, err := put(user, asItIs)
			if err == nil && newUser != user && strings.Contains(newUser, ":") {
				err = refused("the value has a colon in it, so it can't be the user of Basic authentication")
			}
			if err != nil {
				return err
			}
			newPassword, err := put(password, asItIs)
			if err != nil {
				return err
			}
			if newUser != user || newPassword != password {
				f.Value = "Basic " + base64.StdEncoding.EncodeToString([]byte(newUser+":"+newPassword))
			}
			continue
		}
		if f.Value, err = put(f.Value, asItIs); err != nil {
			return err
		}
	}
	return nil
}

// basic takes the credentials of Basic authentication apart (RFC 7617): the way in which
// git sends a token.
func basic(value string) (user, password string, ok bool) {
	scheme, text, ok := strings.Cut(value, " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	text = strings.TrimRight(strings.Trim(text, " \t"), "=")
	enc := base64.RawStdEncoding
	if strings.ContainsAny(text, "-_") {
		enc = base64.RawURLEncoding
	}
	b, err := enc.DecodeString(text)
	if err != nil {
		return "", "", false
	}
	user, password, _ = strings.Cut(string(b), ":")
	return user, password, true
}

// Answered is told the status of the response. After 401 the value that was sent is
// taken for expired, once.
func (u *Use) Answered(status int) {
	if status != 401 {
		return
	}
	u.mu.Lock()
	used := slices.Clone(u.used)
	u.mu.Unlock()
	for _, x := range used {
		x.item.Source.Rejected(x.value)
	}
}

// Body is how the body of the request is to be changed, by its Content-Type; nil for not
// at all. put is told of each credential that is put in, before its bytes are passed on.
func (u *Use) Body(contentType string, put func(name string)) *Stream {
	if len(u.bodies) == 0 {
		return nil
	}
	kind, _, _ := strings.Cut(strings.ToLower(contentType), ";")
	escape := func(v string) string { return v }
	switch kind = strings.Trim(kind, " \t"); {
	case kind == "application/x-www-form-urlencoded":
		escape = queryEscape
	case kind == "application/json", strings.HasSuffix(kind, "+json"):
		escape = jsonEscape
	}
	var pairs []pair
	by := map[string]use{}
	for _, x := range u.bodies {
		pairs = append(pairs, pair{x.item.placeholder, escape(x.value)})
		by[x.item.placeholder] = x
	}
	s := newStream(pairs)
	told := map[string]bool{}
	s.found = func(p pair) {
		if x := by[p.find]; !told[p.find] {
			told[p.find] = true
			u.mu.Lock()
			u.used = append(u.used, x)
			u.mu.Unlock()
			put(x.item.Name)
		}
	}
	return &Stream{s}
}

// Text is a part of the head of a response, without values.
func (u *Use) Text(text string) string { return replaceAll(text, u.echoes) }

// Response is how the body of the response is to be changed: it keeps its length.
func (u *Use) Response() *Stream { return &Stream{newStream(u.echoes)} }

// Stream is a change of bytes that come piece by piece.
type Stream struct{ s *stream }

// KeepsLength says whether the result is as long as what comes in.
func (t *Stream) KeepsLength() bool {
	return !slices.ContainsFunc(t.s.pairs, func(p pair) bool { return len(p.find) != len(p.put) })
}

// All changes a whole text.
func (t *Stream) All(text []byte) []byte { return t.s.next(nil, text, true) }

// Reader gives what r gives, changed. What has come is given before more is waited for,
// but for what may be the beginning of something to be changed.
func (t *Stream) Reader(r io.Reader) io.Reader { return &reader{s: t.s, r: r} }

type reader struct {
	s    *stream
	r    io.Reader
	in   []byte
	out  []byte // not yet given
	room []byte // under out
	err  error
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.out) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		if r.in == nil {
			r.in = make([]byte, 32<<10)
		}
		n, err := r.r.Read(r.in)
		// What is held back of a stream that broke off is passed on too: it is not
		// the text that is looked for.
		r.err = err
		r.out = r.s.next(r.room[:0], r.in[:n], err != nil)
		r.room = r.out
	}
	n := copy(p, r.out)
	r.out = r.out[n:]
	return n, nil
}
