package gateway

import (
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"time"
)

// speech is in which form a client's program shows its user why a request was refused.
// Without any it is text: curl prints it, and git does as "remote: ...".
type speech struct {
	// json: npm and its like print "error" of an object.
	json bool
	// push is what git wants to push, once it is known that git reads a report about it.
	push *push
}

func speechOf(req *head) speech {
	return speech{json: slices.ContainsFunc(req.values("Accept"), func(v string) bool {
		return strings.Contains(strings.ToLower(v), "json")
	})}
}

// answer ends a connection with words that whoever drives the client can read. no is
// the refusal, if it was one.
func answer(c *client, s speech, status int, no *refusal, text string) {
	reasons := map[int]string{200: "OK", 400: "Bad Request", 403: "Forbidden", 421: "Misdirected Request", 429: "Too Many Requests", 502: "Bad Gateway", 503: "Service Unavailable"}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	kind, said := "text/plain; charset=utf-8", text+"\n"
	switch {
	case no != nil && s.push != nil:
		// An error would be shown by its number alone. That the server says of each ref
		// that it was not changed is what git expects of a push that is refused.
		status, kind, said = 200, "application/x-git-receive-pack-result", s.push.report(text)
	case s.json:
		if b, err := json.Marshal(map[string]string{"error": text}); err == nil {
			kind, said = "application/json", string(b)+"\n"
		}
	}
	refused := ""
	if no != nil {
		refused = "X-Cofferdam-Refused: " + no.Code + "\r\n"
		if no.wait > 0 {
			refused += fmt.Sprintf("Retry-After: %d\r\n", seconds(no.wait)/time.Second)
		}
	}
	_ = c.conn.SetDeadline(time.Now().Add(headTime))
	_, _ = fmt.Fprintf(c.conn, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%sCache-Control: no-store\r\nConnection: close\r\n\r\n%s",
		status, reasons[status], kind, len(said), refused, said)
	part(c)
}

// closing says that the other side has ended its way, although not all of it is read.
// (The first byte of TCP_INFO is the state; 8 is CLOSE_WAIT.)
func closing(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	state := 0
	_ = raw.Control(func(fd uintptr) {
		state, _ = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
	})
	return state&0xff == 8
}
