package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// HTTP/1.1 (RFC 9112) as strictly as it is written down, since what two readers take
// for two different requests is how a request is smuggled past the first of them. So:
// lines end with CR LF, no folded lines, no spaces but where one has to be, one Host,
// one length or chunks but never both. What is passed on is written anew from what was
// understood.
//
// This is no use of net/http, since a program that links it pays for that in every
// start (see FuzzRequest, which compares the two).

// field is one header field; the name as it was sent.
type field struct{ name, value string }

// head is what comes before the body of a request or response.
type head struct {
	// Of a request.
	method, path string // path is what follows the authority: "/a?b" or "*"
	authority    string // host or host:port as it was sent
	// Of a response.
	status int
	reason string

	old     bool // HTTP/1.0
	fields  []field
	chunked bool
	length  int64 // -1: none given
	close   bool  // "Connection: close"
	upgrade string
	connect bool // CONNECT: authority is the destination
	proxy   bool // the absolute form, as a proxy gets it
}

// maxLines of a head: short lines take many times their bytes in memory.
const maxLines = 256

var errHeadSize = fmt.Errorf("a head of more than %d bytes or %d lines", maxHead, maxLines)

// readLines reads up to the empty line that ends a head, and returns the lines
// without their ends. What is larger than smallHead needs room. The error is io.EOF if
// there is nothing at all.
func readLines(r *bufio.Reader, m *room) ([]string, error) {
	var lines []string
	total := 0
	for {
		var line []byte
		for {
			part, err := r.ReadSlice('\n')
			if total += len(part); total > maxHead {
				return nil, errHeadSize
			}
			if total > smallHead && !m.take() {
				return nil, errNoRoom
			}
			line = append(line, part...)
			if err == nil {
				break
			}
			if err == io.EOF && total > 0 {
				return nil, io.ErrUnexpectedEOF
			}
			if err != bufio.ErrBufferFull {
				return nil, err
			}
		}
		s, ok := strings.CutSuffix(string(line), "\r\n")
		if !ok || strings.ContainsAny(s, "\r\x00") {
			return nil, errSyntax("a line that does not end with CR LF")
		}
		if s == "" {
			return lines, nil
		}
		if len(lines) == maxLines {
			return nil, errHeadSize
		}
		lines = append(lines, s)
	}
}

// passedOn returns what is still needed of a head when it has been passed on.
func (h *head) passedOn() *head {
	return &head{method: strings.Clone(h.method), status: h.status, old: h.old, chunked: h.chunked, length: h.length, close: h.close}
}

// errSyntax is what a client sent that it should not have.
type errSyntax string

func (e errSyntax) Error() string { return string(e) }

// parseRequest understands a request, or says why it is refused.
func parseRequest(lines []string) (*head, error) {
	if len(lines) == 0 {
		return nil, errSyntax("an empty line before the request")
	}
	h := &head{length: -1}
	parts := strings.Split(lines[0], " ")
	if len(parts) != 3 || len(parts[0]) > 32 || !isToken(parts[0]) || !isTarget(parts[1]) {
		return nil, errSyntax("a request line that is not HTTP/1.1")
	}
	switch parts[2] {
	case "HTTP/1.1":
	case "HTTP/1.0":
		h.old = true
	default:
		return nil, errSyntax("a version that is not HTTP/1.1")
	}
	h.method = parts[0]
	if err := h.parseFields(lines[1:]); err != nil {
		return nil, err
	}
	hosts := h.values("Host")
	if len(hosts) > 1 {
		return nil, errSyntax("more than one Host")
	}
	if err := h.parseTarget(parts[1]); err != nil {
		return nil, err
	}
	switch {
	case len(hosts) == 0 && (!h.old || h.authority == ""):
		return nil, errSyntax("no Host")
	case h.authority == "":
		h.authority = hosts[0]
	case len(hosts) == 1 && !h.connect && !strings.EqualFold(hosts[0], h.authority):
		return nil, errSyntax("a Host that differs from the request's address")
	}
	codings := h.values("Transfer-Encoding")
	switch {
	case len(codings) == 0:
	case len(codings) > 1 || !strings.EqualFold(codings[0], "chunked") || h.old:
		return nil, errSyntax("a Transfer-Encoding that is not just chunked")
	case h.length >= 0:
		return nil, errSyntax("both Transfer-Encoding and Content-Length")
	default:
		h.chunked = true
	}
	if h.connect && (h.chunked || h.length > 0) {
		return nil, errSyntax("CONNECT with a body")
	}
	if h.chunked || h.length > 0 {
		h.upgrade = ""
	}
	return h, nil
}

// parseTarget understands what is asked for (RFC 9112, 3.2).
func (h *head) parseTarget(s string) error {
	switch {
	case h.method == "CONNECT":
		h.connect, h.authority = true, s
		return nil
	case strings.HasPrefix(s, "/"), s == "*" && h.method == "OPTIONS":
		h.path = s
		return nil
	}
	const scheme = "http://"
	if len(s) < len(scheme) || !strings.EqualFold(s[:len(scheme)], scheme) {
		return errSyntax("a request for something that is not http://; use CONNECT for https")
	}
	h.proxy = true
	s = s[len(scheme):]
	end := strings.IndexAny(s, "/?")
	if end < 0 {
		end = len(s)
	}
	h.authority, h.path = s[:end], s[end:]
	if !strings.HasPrefix(h.path, "/") {
		h.path = "/" + h.path
	}
	if h.authority == "" || strings.Contains(h.authority, "@") {
		return errSyntax("an address with a user, or with no host")
	}
	return nil
}

// parseResponse understands a response to a request with that method.
func parseResponse(lines []string) (*head, error) {
	if len(lines) == 0 {
		return nil, errSyntax("an empty line before the response")
	}
	h := &head{length: -1}
	version, rest, _ := strings.Cut(lines[0], " ")
	code, reason, _ := strings.Cut(rest, " ")
	h.old = version == "HTTP/1.0"
	if !h.old && version != "HTTP/1.1" {
		return nil, errSyntax("a response that is not HTTP/1.1")
	}
	n, err := strconv.Atoi(code)
	if err != nil || len(code) != 3 || n < 100 || !isValue(reason) {
		return nil, errSyntax("a response without a status")
	}
	h.status, h.reason = n, reason
	if err := h.parseFields(lines[1:]); err != nil {
		return nil, err
	}
	if codings := h.values("Transfer-Encoding"); len(codings) > 0 {
		if len(codings) > 1 || !strings.EqualFold(codings[0], "chunked") || h.old {
			return nil, errSyntax("a Transfer-Encoding that is not just chunked")
		}
		h.chunked, h.length = true, -1
	}
	return h, nil
}

// parseFields understands the lines after the first.
func (h *head) parseFields(lines []string) error {
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !ok || !isToken(name) || !isValue(value) {
			return errSyntax("a header field that is not well formed: " + quoted(line))
		}
		h.fields = append(h.fields, field{name, value})
		if strings.EqualFold(name, "Content-Length") {
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || strings.Trim(value, "0123456789") != "" || h.length >= 0 && h.length != n {
				return errSyntax("a Content-Length that is not one number")
			}
			h.length = n
		}
	}
	for _, option := range h.options() {
		switch strings.ToLower(option) {
		case "close":
			h.close = true
		case "upgrade":
			if v := h.values("Upgrade"); len(v) == 1 {
				h.upgrade = v[0]
			}
		}
	}
	return nil
}

// options are what Connection names.
func (h *head) options() []string {
	var out []string
	for _, v := range h.values("Connection") {
		for o := range strings.SplitSeq(v, ",") {
			out = append(out, strings.Trim(o, " \t"))
		}
	}
	return out
}

func (h *head) values(name string) []string {
	var out []string
	for _, f := range h.fields {
		if strings.EqualFold(f.name, name) {
			out = append(out, f.value)
		}
	}
	return out
}

// passed returns the fields that are for the other side: not those of this one
// connection (RFC 9110, 7.6.1), and not those that are written anew.
func (h *head) passed() []field {
	drop := map[string]bool{"connection": true, "proxy-connection": true, "keep-alive": true, "te": true, "trailer": true,
		"transfer-encoding": true, "upgrade": true, "proxy-authorization": true, "proxy-authenticate": true,
		"content-length": true, "host": true, "http2-settings": true,
		// HTTP/3 is not carried, and another host (RFC 7838) would be asked past the one
		// that was decided on.
		"alt-svc": true,
		// What was judged is what the server shall see: some take another method, path
		// or host from these.
		"x-http-method-override": true, "x-http-method": true, "x-method-override": true, "x-original-method": true, "x-forwarded-method": true,
		"x-original-url": true, "x-original-uri": true, "x-rewrite-url": true, "x-forwarded-uri": true, "x-forwarded-path": true,
		"x-host": true, "x-forwarded-host": true, "x-forwarded-server": true, "x-original-host": true, "forwarded": true}
	for _, o := range h.options() {
		drop[strings.ToLower(o)] = true
	}
	var out []field
	for _, f := range h.fields {
		if !drop[asRead(f.name)] {
			out = append(out, f)
		}
	}
	return out
}

// asRead is the name of a field as the loosest server reads it: for CGI and what comes
// from it, whatever is no letter and no digit is the same.
func asRead(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
}

// writeFields writes fields, how the body is framed, and the empty line.
func writeFields(b []byte, fields []field, chunked bool, length int64, upgrade string, close bool) []byte {
	for _, f := range fields {
		b = append(b, f.name+": "+f.value+"\r\n"...)
	}
	switch {
	case chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case length >= 0:
		b = append(b, "Content-Length: "+strconv.FormatInt(length, 10)+"\r\n"...)
	}
	switch {
	case upgrade != "":
		b = append(b, "Connection: Upgrade\r\nUpgrade: "+upgrade+"\r\n"...)
	case close:
		b = append(b, "Connection: close\r\n"...)
	}
	return append(b, "\r\n"...)
}

// splitAuthority takes host and port apart; without a port it is byDefault, and if that
// is 0 there has to be one. IPv6 addresses have brackets, and nothing else has.
func splitAuthority(s string, byDefault uint16) (host string, port uint16, err error) {
	bad := errSyntax("not a host and port: " + quoted(s))
	if rest, ok := strings.CutPrefix(s, "["); ok {
		addr, after, ok := strings.Cut(rest, "]")
		if !ok || !strings.Contains(addr, ":") || after != "" && after[0] != ':' {
			return "", 0, bad
		}
		host, s = addr, after
	} else {
		i := strings.IndexByte(s, ':')
		if i < 0 {
			i = len(s)
		}
		host, s = s[:i], s[i:]
	}
	if host == "" || strings.ContainsAny(host, "[]@%/\\") {
		return "", 0, bad
	}
	if s == "" {
		if byDefault == 0 {
			return "", 0, errSyntax("no port: " + quoted(host))
		}
		return host, byDefault, nil
	}
	digits := s[1:]
	n, perr := strconv.ParseUint(digits, 10, 16)
	if perr != nil || n == 0 || len(digits) > 5 || strings.Trim(digits, "0123456789") != "" {
		return "", 0, bad
	}
	return host, uint16(n), nil
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// isTarget: visible ASCII, no fragment.
func isTarget(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '#' || c == '\\' {
			return false
		}
	}
	return s != ""
}

func isValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// copyLength carries n bytes. What r has not buffered goes from connection to
// connection, so that the kernel can do it.
func copyLength(w io.Writer, r *bufio.Reader, conn net.Conn, n int64) (int64, error) {
	buffered := min(n, int64(r.Buffered()))
	total, err := io.CopyN(w, r, buffered)
	if err != nil || total == n {
		return total, err
	}
	m, err := io.CopyN(w, conn, n-total)
	return total + m, noEOF(err)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
