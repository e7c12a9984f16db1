package gateway

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"cofferdam/internal/gateway/decide"
)

// push is the beginning of what git sends to change refs (gitprotocol-pack(5)).
type push struct {
	refs   []decide.Ref
	report func(text string) string
}

// maxPush bounds the list of changes. Git's own push of ten thousand refs has less.
const maxPush = 1 << 20

// refs reads what a push changes, up to where the objects begin, into out. The error is
// a *refusal or errRecord, and recorded.
func (x *exchange) refs(t target, req *head, out *body) ([]decide.Ref, error) {
	g, c := x.g, x.c
	bad := func(why string) error {
		return g.refuse(c, t, badRequest, "a push that can't be judged: "+why)
	}
	for _, v := range req.values("Content-Encoding") {
		if !strings.EqualFold(v, "identity") {
			return nil, bad("it is compressed (" + quoted(v) + ")")
		}
	}
	if err := x.goOn(req, out); err != nil {
		return nil, bad(err.Error())
	}
	var r io.Reader = io.LimitReader(c.r, max(req.length, 0))
	if req.chunked {
		out.in = &chunks{r: c.r, m: &c.room}
		r = out.in
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(headTime))
	p, first, err := readPush(r, out.room.take)
	_ = c.conn.SetReadDeadline(time.Time{})
	switch {
	case err == errNoLists:
		return nil, g.refuse(c, t, tooMany, err.Error())
	case err != nil:
		return nil, bad(err.Error())
	}
	out.first = first
	if p.report != nil {
		x.speaks.push = p
		x.unread = func() {
			// Git reads no answer before it has sent everything.
			_ = c.conn.SetReadDeadline(time.Now().Add(secureTime))
			_, _ = io.CopyN(io.Discard, r, maxDrop)
		}
	}
	return p.refs, nil
}

var errNoLists = fmt.Errorf("a list of changes of more than %d bytes, while %d others are being read; try again", smallHead, largeLists)

// maxDrop is how much of a refused push is read, so that git comes to read the answer.
const maxDrop = 256 << 20

// readPush reads the list of changes, and returns what it has read for it. It takes
// what git itself sends and nothing else that a server could understand otherwise: a
// signed push has its list within the signature; push options may ask a server for more
// than to change refs. More says whether there is room for a long list.
func readPush(r io.Reader, more func() bool) (*push, []byte, error) {
	p := &push{refs: []decide.Ref{}}
	var first []byte
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return nil, nil, fmt.Errorf("the list of changes: %w", noEOF(err))
		}
		first = append(first, size[:]...)
		n, err := strconv.ParseUint(string(size[:]), 16, 16)
		if err != nil || strings.Trim(string(size[:]), "0123456789abcdefABCDEF") != "" {
			return nil, nil, errSyntax("a line without a length")
		}
		if n == 0 {
			return p, first, nil
		}
		// 1 and 2 delimit other lists of the protocol, and 4 is an empty line.
		if n <= 4 || n > 65520 {
			return nil, nil, errSyntax("a line that is none of the list of changes")
		}
		if len(first)+int(n) > maxPush {
			return nil, nil, fmt.Errorf("a list of changes of more than %d KiB", maxPush>>10)
		}
		if len(first)+int(n) > smallHead && !more() {
			return nil, nil, errNoLists
		}
		at := len(first)
		first = append(first, make([]byte, n-4)...)
		if _, err := io.ReadFull(r, first[at:]); err != nil {
			return nil, nil, fmt.Errorf("the list of changes: %w", noEOF(err))
		}
		if err := p.line(string(first[at:])); err != nil {
			return nil, nil, err
		}
	}
}

// line takes one line of the list: what a clone lacks, or a change, of which the first
// has behind it what the client can do.
func (p *push) line(s string) error {
	s = strings.TrimSuffix(s, "\n")
	if id, ok := strings.CutPrefix(s, "shallow "); ok && len(p.refs) == 0 && isID(id) {
		return nil
	}
	s, features, has := strings.Cut(s, "\x00")
	if has && len(p.refs) > 0 {
		return errSyntax("what the client can do, twice")
	}
	old, rest, ok1 := strings.Cut(s, " ")
	now, name, ok2 := strings.Cut(rest, " ")
	switch {
	case strings.HasPrefix(s, "push-cert"):
		return errSyntax("it is signed (git push --signed)")
	case !ok1 || !ok2 || !isID(old) || !isID(now) || len(old) != len(now) || !isRef(name):
		return errSyntax("a line that is no change of a ref: " + quoted(s))
	}
	p.refs = append(p.refs, decide.Ref{Name: strings.Clone(name), Create: strings.Trim(old, "0") == "", Delete: strings.Trim(now, "0") == ""})
	if !has {
		return nil
	}
	can := strings.Fields(features)
	if slices.ContainsFunc(can, func(f string) bool { return strings.HasPrefix(f, "push-options") || strings.HasPrefix(f, "push-cert") }) {
		return errSyntax("it has push options (git push -o), which may ask the server for more than to change refs")
	}
	status := slices.Contains(can, "report-status") || slices.Contains(can, "report-status-v2")
	if status && slices.Contains(can, "side-band-64k") {
		p.report = p.refused
	}
	return nil
}

// refused is the answer of a server that changed nothing: text for the person, and for
// each ref that it was refused.
func (p *push) refused(text string) string {
	line := func(s string) string { return fmt.Sprintf("%04x%s", 4+len(s), s) }
	const most = 60000 // of one line
	if len(text) > 4096 {
		text = text[:4096]
	}
	var status strings.Builder
	status.WriteString(line("unpack refused by cofferdam\n"))
	for _, r := range p.refs {
		status.WriteString(line("ng " + r.Name + " refused by cofferdam\n"))
	}
	status.WriteString("0000")
	var b strings.Builder
	b.WriteString(line("\x02" + text + "\n"))
	for s := status.String(); s != ""; {
		n := min(len(s), most)
		b.WriteString(line("\x01" + s[:n]))
		s = s[n:]
	}
	b.WriteString("0000")
	return b.String()
}

// isID: the name of an object, by SHA-1 or SHA-256.
func isID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdefABCDEF") == ""
}

// isRef: a name that git takes (git-check-ref-format(1)), below refs/. A name that
// servers could read in two ways is none.
func isRef(s string) bool {
	if !strings.HasPrefix(s, "refs/") || len(s) > 4096 || strings.Contains(s, "..") || strings.Contains(s, "@{") || strings.HasSuffix(s, ".") {
		return false
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c == 0x7f || strings.IndexByte(`~^:?*[\`, c) >= 0 {
			return false
		}
	}
	return true
}
