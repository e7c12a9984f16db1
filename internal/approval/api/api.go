// Package api lets other programs of the person see and answer the questions of a
// session: HTTP/1.1 with JSON on a local socket in the session's folder, described in
// docs/approvals.md. Only the same user may ask, and only from outside of every
// boundary. It knows no policy; what an answer does is the Board's owner's.
//
// It is no use of net/http, since a program that links it pays for that in every
// start. What it reads is little: a request line, fields of which one counts, a body
// of one small object; one request for each connection.
package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"cofferdam/internal/approval"
	"cofferdam/internal/event"
)

// Socket is the name of the socket in a session's folder.
const Socket = "approvals.sock"

// version of what is said; it is in every answer.
const version = 1

const (
	maxHead  = 8 << 10
	maxBody  = 4 << 10
	maxPeers = 32
	// headTime is how long a request may take to come, and an answer to go.
	headTime = 10 * time.Second
	maxWait  = time.Minute
)

// List is the answer to GET /v1/questions.
type List struct {
	Version int    `json:"version"`
	Session string `json:"session"`
	// Seq is another number after each change.
	Seq       int                 `json:"seq"`
	Questions []approval.Question `json:"questions"`
}

// Answered is the answer to POST /v1/questions/ID.
type Answered struct {
	Version int             `json:"version"`
	ID      int             `json:"id"`
	Answer  approval.Answer `json:"answer"`
	// Note says what came of it, as that "always" could not be kept.
	Note string `json:"note,omitempty"`
}

// Error is any other answer.
type Error struct {
	Status int    `json:"-"`
	Code   string `json:"code"`
	Text   string `json:"text"`
}

func (e *Error) Error() string { return e.Text }

type failure struct {
	Version int    `json:"version"`
	Error   *Error `json:"error"`
}

func bad(text string) *Error { return &Error{400, "bad-request", text} }

// Server answers on one session's socket.
type Server struct {
	session string
	board   *approval.Board
	listen  net.Listener
	// peer says who is at the other end, or why it may not ask.
	peer   func(*net.UnixConn) (approval.Peer, error)
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	slots  chan struct{}
}

// Serve makes the socket in the directory dir, for nobody else to connect to, and
// starts to answer. The socket's name is left behind by Close.
func Serve(dir *os.File, session string, b *approval.Board) (*Server, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var cause error
		// The mode that bind(2) gives to the name, less the umask.
		if err := c.Control(func(fd uintptr) { cause = syscall.Fchmod(int(fd), 0o600) }); err != nil {
			return err
		}
		return cause
	}}
	l, err := config.Listen(context.Background(), "unix", address(dir))
	if err != nil {
		return nil, fmt.Errorf("listen for answers: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	s := &Server{session: session, board: b, listen: l, peer: outside, slots: make(chan struct{}, maxPeers)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.accept)
	return s, nil
}

// address leads through the open directory: its path may be longer than the 108
// bytes of an address, and can't be exchanged on the way.
func address(dir *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), Socket) }

// Close stops answering and waits for what is under way.
func (s *Server) Close() error {
	s.cancel()
	err := s.listen.Close()
	s.wg.Wait()
	return err
}

func (s *Server) accept() {
	for {
		c, err := s.listen.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, most likely
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			c.Close() // as many wait for news already
			continue
		}
		s.wg.Go(func() {
			stop := context.AfterFunc(s.ctx, func() { c.SetDeadline(time.Now()) })
			defer func() { stop(); c.Close(); <-s.slots }()
			_ = c.SetDeadline(time.Now().Add(headTime))
			v, failed := s.answer(c.(*net.UnixConn))
			if failed != nil {
				v = failure{version, failed}
			} else {
				failed = &Error{Status: 200}
			}
			_ = c.SetDeadline(time.Now().Add(headTime))
			if write(c, failed.Status, v) == nil && c.(*net.UnixConn).CloseWrite() == nil {
				// With something unread, the end would be a reset that may come
				// before the answer.
				_ = c.SetReadDeadline(time.Now().Add(time.Second))
				_, _ = io.CopyN(io.Discard, c, 8*maxHead)
			}
		})
	}
}

// answer reads the request of one connection and does what it asks for.
func (s *Server) answer(c *net.UnixConn) (any, *Error) {
	peer, err := s.peer(c)
	if err != nil {
		return nil, &Error{403, "forbidden", err.Error()}
	}
	r, err := readRequest(c)
	if err != nil {
		return nil, bad(err.Error())
	}
	const list = "/v1/questions"
	id, one := strings.CutPrefix(r.path, list+"/")
	switch {
	case r.path == list && r.method == "GET":
		return s.list(r)
	case one && r.method == "POST":
		return s.settle(id, r, peer)
	case r.path == list || one:
		return nil, &Error{405, "bad-method", "GET " + list + " or POST " + list + "/ID"}
	}
	return nil, &Error{404, "no-such-path", "GET " + list + " or POST " + list + "/ID"}
}

func (s *Server) list(r *request) (any, *Error) {
	wait, seq := time.Duration(0), -1
	for pair := range strings.SplitSeq(r.query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		var err error
		switch name {
		case "":
			if pair != "" {
				err = errors.New("no name")
			}
		case "wait":
			wait, err = time.ParseDuration(value)
			if err == nil && wait < 0 {
				err = errors.New("less than 0")
			}
		case "seq":
			seq, err = strconv.Atoi(value)
			if err == nil && seq < 0 {
				err = errors.New("less than 0")
			}
		default:
			err = errors.New("unknown")
		}
		if err != nil {
			return nil, bad("a query that is not wait=30s or seq=NUMBER")
		}
	}
	if len(r.body) > 0 {
		return nil, bad("GET with a body")
	}
	ctx, cancel := context.WithTimeout(s.ctx, min(wait, maxWait))
	defer cancel()
	questions, now := s.board.Wait(ctx, seq)
	return List{version, s.session, now, questions}, nil
}

func (s *Server) settle(id string, r *request, peer approval.Peer) (any, *Error) {
	n, err := strconv.Atoi(id)
	if err != nil || n <= 0 || strconv.Itoa(n) != id {
		return nil, &Error{404, "no-question", approval.ErrNoQuestion.Error()}
	}
	var body struct {
		Answer string `json:"answer"`
	}
	d := json.NewDecoder(bytes.NewReader(r.body))
	d.DisallowUnknownFields()
	err = d.Decode(&body)
	if _, more := d.Token(); err != nil || more != io.EOF || r.query != "" {
		return nil, bad(`the body has to be {"answer": "once"}, or another answer`)
	}
	a, ok := approval.ParseAnswer(body.Answer)
	if !ok {
		return nil, bad("an answer is one of once, session, always, no")
	}
	note, err := s.board.Answer(n, a, peer)
	switch {
	case errors.Is(err, approval.ErrNoQuestion):
		return nil, &Error{404, "no-question", err.Error()}
	case err != nil:
		return nil, &Error{500, "failed", "nothing was allowed: " + err.Error()}
	}
	return Answered{version, n, a, note}, nil
}

// request is what one of them says.
type request struct {
	method, path, query string
	body                []byte
}

// readRequest reads strictly: what may be understood in two ways is refused.
func readRequest(from io.Reader) (*request, error) {
	r := bufio.NewReaderSize(from, maxHead)
	total := 0
	line := func() (string, error) {
		b, err := r.ReadSlice('\n')
		if total += len(b); total > maxHead || err == bufio.ErrBufferFull {
			return "", errors.New("a head that is too long")
		}
		if err != nil {
			return "", errors.New("a head that does not end")
		}
		s, ok := strings.CutSuffix(string(b), "\r\n")
		if !ok || strings.IndexFunc(s, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) >= 0 {
			return "", errors.New("a line that is not HTTP/1.1")
		}
		return s, nil
	}
	first, err := line()
	if err != nil {
		return nil, err
	}
	parts := strings.Split(first, " ")
	if len(parts) != 3 || !strings.HasPrefix(parts[1], "/") || parts[2] != "HTTP/1.1" && parts[2] != "HTTP/1.0" {
		return nil, errors.New("a request line that is not HTTP/1.1")
	}
	q := &request{method: parts[0]}
	q.path, q.query, _ = strings.Cut(parts[1], "?")
	length := -1
	for {
		s, err := line()
		if err != nil {
			return nil, err
		}
		if s == "" {
			break
		}
		name, value, ok := strings.Cut(s, ":")
		value = strings.Trim(value, " \t")
		switch {
		case !ok || name == "" || strings.ContainsAny(name, " \t"):
			return nil, errors.New("a header field that is not well formed")
		case strings.EqualFold(name, "Transfer-Encoding"):
			return nil, errors.New("a body without Content-Length")
		case strings.EqualFold(name, "Content-Length"):
			n, err := strconv.ParseUint(value, 10, 31)
			if err != nil || length >= 0 || n > maxBody {
				return nil, fmt.Errorf("a Content-Length that is not one number up to %d", maxBody)
			}
			length = int(n)
		}
	}
	if length > 0 {
		q.body = make([]byte, length)
		if _, err := io.ReadFull(r, q.body); err != nil {
			return nil, errors.New("a body that is shorter than its Content-Length")
		}
	}
	if r.Buffered() > 0 {
		return nil, errors.New("more than one request")
	}
	return q, nil
}

func write(c io.Writer, status int, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	body := event.VisibleJSON(b.Bytes()) // a person reads it on a terminal
	reason := map[int]string{200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed", 500: "Internal Server Error"}[status]
	_, err := c.Write(append(fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
		status, reason, len(body)), body...))
	return err
}
