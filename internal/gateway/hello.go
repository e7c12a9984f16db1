package gateway

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// hello is what the decision needs of a TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3).
type hello struct {
	// serverName as it was sent; empty if there was none.
	serverName string
}

var (
	errNotTLS = errors.New("not TLS")
	errShort  = errors.New("more bytes are needed")
)

// maxRecords is far more than any client needs: one record holds 16 KiB.
const maxRecords = 64

// parseHello reads the ClientHello at the beginning of what a client sent, over as
// many records as it takes. The error is errShort if it is right so far, errNotTLS
// if it does not begin as TLS does. Whatever two readers might take for different
// names is an error: a message that does not fill its lengths, an extension twice, two
// names, bytes after the message.
//
// This is no use of crypto/tls, since a program that links it pays for that in every
// start (see TestHelloAgrees, which compares the two).
func parseHello(b []byte) (hello, error) {
	var msg []byte
	for records := 0; ; records++ {
		if records == maxRecords {
			return hello{}, fmt.Errorf("a ClientHello in more than %d records", maxRecords)
		}
		if len(b) > 0 && b[0] != 22 {
			if msg == nil {
				return hello{}, errNotTLS
			}
			return hello{}, errors.New("a ClientHello with something else in it")
		}
		if len(b) < 5 {
			return hello{}, errShort
		}
		// Not every server looks at the version of a record, so a ClientHello is one in
		// any. What begins otherwise may be another protocol.
		if b[1] != 3 {
			switch {
			case msg != nil:
				return hello{}, errors.New("a ClientHello with something else in it")
			case len(b) == 5:
				return hello{}, errShort
			case b[5] != 1:
				return hello{}, errNotTLS
			}
		}
		n := int(binary.BigEndian.Uint16(b[3:]))
		if n == 0 || n > 1<<14 {
			return hello{}, fmt.Errorf("a TLS record of %d bytes", n)
		}
		rest := b[5:]
		msg = append(msg, rest[:min(n, len(rest))]...)
		if len(msg) > 0 && msg[0] != 1 {
			return hello{}, errors.New("TLS that does not begin with a ClientHello")
		}
		if len(msg) >= 4 {
			want := 4 + (int(msg[1])<<16 | int(msg[2])<<8 | int(msg[3]))
			switch {
			case want > maxHead:
				return hello{}, fmt.Errorf("a ClientHello of %d bytes", want)
			case len(msg) > want:
				return hello{}, errors.New("bytes after the ClientHello in its record")
			case len(msg) == want && n <= len(rest):
				return parseHelloBody(msg[4:])
			}
		}
		if n > len(rest) {
			return hello{}, errShort
		}
		b = rest[n:]
	}
}

// fields reads a TLS structure; after an error it returns nothing more.
type fields struct {
	b   []byte
	bad bool
}

// vector reads one that has its length before it, in size bytes.
func (f *fields) vector(size int) []byte {
	n := 0
	for _, c := range f.take(size) {
		n = n<<8 | int(c)
	}
	return f.take(n)
}

func (f *fields) take(n int) []byte {
	if n > len(f.b) {
		f.bad, f.b = true, nil
		return nil
	}
	out := f.b[:n]
	f.b = f.b[n:]
	return out
}

func parseHelloBody(b []byte) (hello, error) {
	wrong := errors.New("a ClientHello that is not well formed")
	f := fields{b: b}
	f.take(2 + 32) // legacy version, random
	if len(f.vector(1)) > 32 {
		return hello{}, wrong
	}
	suites, compressions := f.vector(2), f.vector(1)
	if f.bad || len(suites) == 0 || len(suites)%2 != 0 || len(compressions) == 0 {
		return hello{}, wrong
	}
	var h hello
	if len(f.b) == 0 { // TLS 1.2 and older may have no extensions
		return h, nil
	}
	list := fields{b: f.vector(2)}
	if f.bad || len(f.b) != 0 {
		return hello{}, wrong
	}
	seen := map[uint16]bool{}
	for len(list.b) > 0 {
		head := list.take(2)
		body := list.vector(2)
		if list.bad {
			return hello{}, wrong
		}
		kind := binary.BigEndian.Uint16(head)
		if seen[kind] {
			return hello{}, fmt.Errorf("a ClientHello with extension %d twice", kind)
		}
		seen[kind] = true
		if kind != 0 { // server_name
			continue
		}
		ext := fields{b: body}
		entries := fields{b: ext.vector(2)}
		host := entries.take(1)
		name := entries.vector(2)
		if ext.bad || entries.bad || len(ext.b) != 0 || len(entries.b) != 0 || host[0] != 0 || len(name) == 0 {
			return hello{}, errors.New("a ClientHello whose server name is not well formed")
		}
		h.serverName = string(name)
	}
	return h, nil
}
