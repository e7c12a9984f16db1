package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"cofferdam/internal/approval"
)

// maxAnswer is more than any answer: each question has a path of at most a request's head.
const maxAnswer = 8 << 20

// Questions asks the session whose folder is dir.
func Questions(ctx context.Context, dir *os.File) (*List, error) {
	var l List
	return &l, ask(ctx, dir, "GET /v1/questions", nil, &l)
}

// Settle answers one of its questions.
func Settle(ctx context.Context, dir *os.File, id int, a approval.Answer) (*Answered, error) {
	body, err := json.Marshal(map[string]string{"answer": string(a)})
	if err != nil {
		return nil, err
	}
	var r Answered
	return &r, ask(ctx, dir, "POST /v1/questions/"+strconv.Itoa(id), body, &r)
}

// ask makes one request. The error is an *Error if the session says no.
func ask(ctx context.Context, dir *os.File, what string, body []byte, to any) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", address(dir))
	if err != nil {
		return err
	}
	defer c.Close()
	// What is typed here is an answer: only for a session of one's own.
	if u, err := credentials(c.(*net.UnixConn)); err != nil || int(u.Uid) != os.Geteuid() {
		return errors.New("its socket is served by another user")
	}
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })()
	_ = c.SetDeadline(time.Now().Add(headTime))
	if _, err := c.Write(append(fmt.Appendf(nil, "%s HTTP/1.1\r\nHost: session\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", what, len(body)), body...)); err != nil {
		return err
	}
	all, err := io.ReadAll(io.LimitReader(c, maxAnswer))
	if err != nil {
		return err
	}
	head, answer, ok := bytes.Cut(all, []byte("\r\n\r\n"))
	if !ok || len(head) < len("HTTP/1.1 200") {
		return errors.New("no answer")
	}
	if status := string(head[len("HTTP/1.1 "):len("HTTP/1.1 200")]); status != "200" {
		f := failure{Error: &Error{}}
		if err := json.Unmarshal(answer, &f); err != nil || f.Error == nil || f.Error.Text == "" {
			return errors.New("an answer that can't be read, with the status " + strconv.Quote(status))
		}
		f.Error.Status, _ = strconv.Atoi(status)
		return f.Error
	}
	if err := json.Unmarshal(answer, to); err != nil {
		return fmt.Errorf("an answer that can't be read: %w", err)
	}
	return nil
}
