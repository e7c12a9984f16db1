package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cofferdam/internal/linux/unixsock"
)

// The control socket joins a live session from another process of the same
// user. One request and one reply per connection, each one message of JSON:
//
//	client                              supervisor
//	  | -- {"v":1,"op":"ping"} ---------> |
//	  | <- {"v":1,"id":ID} -------------- |
//
//	  | -- {"v":1,"op":"enter",           |  who is there? (SO_PEERCRED)
//	  |     "command":["ls"]} ----------> |  records the event "entered"
//	  | <- {"v":1,"id":ID,"files":N} ---- |  N descriptors in the same message
//
//	  | -- {"v":1,"op":"adopt"} --------> |  one descriptor in the same message:
//	  | <- {"v":1,"id":ID} -------------- |  the listener of what has entered
//
//	  | <- {"v":1,"error":"..."} -------- |  or this
const (
	opPing  = "ping"
	opEnter = "enter"
	opAdopt = "adopt"

	maxMessage = 128 << 10
	// replyTime bounds how long either side waits for the other.
	replyTime = 10 * time.Second
	maxAtOnce = 16
)

type request struct {
	Version int      `json:"v"`
	Op      string   `json:"op"`
	Command []string `json:"command,omitempty"`
}

type reply struct {
	Version int    `json:"v"`
	ID      string `json:"id,omitempty"`
	Error   string `json:"error,omitempty"`
	Files   int    `json:"files,omitempty"`
}

// Peer is the process that asks.
type Peer struct{ PID, UID int }

// EnterFunc gives out what the peer needs to start command in the boundary
// (boundary.Running.Enter). The files are closed after they are sent. It is
// called from several goroutines. What it has to record, it records before it
// returns.
type EnterFunc func(peer Peer, command []string) ([]*os.File, error)

// AdoptFunc takes over the listener of a command that has entered
// (boundary.Running.Adopt). The file is closed when it returns. It is called from
// several goroutines.
type AdoptFunc func(listener *os.File) error

// Server answers on a session's control socket.
type Server struct {
	id     string
	enter  EnterFunc
	adopt  AdoptFunc
	listen *unixsock.Listener
	wg     sync.WaitGroup
	slots  chan struct{}
}

// Serve starts to answer. The Server must be closed before the session.
func (x *Session) Serve(enter EnterFunc, adopt AdoptFunc) (*Server, error) {
	dir, err := x.Folder()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	l, err := unixsock.Listen(dir, socketFile)
	if err != nil {
		return nil, &Error{Op: "serve", Path: filepath.Join(x.Dir, socketFile), Err: err}
	}
	s := &Server{id: x.ID, enter: enter, adopt: adopt, listen: l, slots: make(chan struct{}, maxAtOnce)}
	s.wg.Go(s.accept)
	return s, nil
}

// Close stops answering and waits for what is under way.
func (s *Server) Close() error {
	err := s.listen.Close()
	s.wg.Wait()
	return err
}

func (s *Server) accept() {
	for {
		c, err := s.listen.Accept()
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return
			}
			// Out of descriptors, most likely. The session is worth more
			// than its control socket: try again, slowly.
			time.Sleep(100 * time.Millisecond)
			continue
		}
		s.slots <- struct{}{}
		s.wg.Go(func() {
			defer func() { c.Close(); <-s.slots }()
			s.answer(c)
		})
	}
}

func (s *Server) answer(c *unixsock.Conn) {
	c.SetDeadline(time.Now().Add(replyTime))
	r, files := s.decide(c)
	defer closeAll(files)
	r.Version, r.Files = 1, len(files)
	data, err := json.Marshal(r)
	if err == nil {
		// A client that has gone is no concern of the session.
		_ = c.Send(data, files)
	}
}

func (s *Server) decide(c *unixsock.Conn) (reply, []*os.File) {
	// The kernel's word for who asks. The folder's mode already keeps others
	// out; this also holds if someone loosens it. Root may do as it likes.
	peer, err := c.Peer()
	if err != nil {
		return reply{Error: err.Error()}, nil
	}
	if peer.UID != os.Geteuid() && peer.UID != 0 {
		// Unread, the request would make a reset of our answer.
		if _, files, err := c.Receive(make([]byte, maxMessage)); err == nil {
			closeAll(files)
		}
		return reply{Error: "this session belongs to another user"}, nil
	}
	var req request
	var given []*os.File
	if err := receive(c, &req, &given); err != nil {
		return reply{Error: "bad request: " + err.Error()}, nil
	}
	defer closeAll(given)
	if req.Version != 1 {
		return reply{Error: fmt.Sprintf("the session speaks version 1, the client %d", req.Version)}, nil
	}
	switch req.Op {
	case opPing:
		return reply{ID: s.id}, nil
	case opEnter:
		files, err := s.enter(Peer{peer.PID, peer.UID}, req.Command)
		if err != nil {
			closeAll(files)
			return reply{Error: err.Error()}, nil
		}
		return reply{ID: s.id}, files
	case opAdopt:
		if len(given) != 1 {
			return reply{Error: fmt.Sprintf("%d files to adopt, want 1", len(given))}, nil
		}
		if err := s.adopt(given[0]); err != nil {
			return reply{Error: err.Error()}, nil
		}
		return reply{ID: s.id}, nil
	}
	return reply{Error: fmt.Sprintf("unknown request %q", req.Op)}, nil
}

// receive reads one message strictly, with the files that came along.
func receive(c *unixsock.Conn, v any, files *[]*os.File) error {
	buf := make([]byte, maxMessage)
	n, got, err := c.Receive(buf)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(buf[:n]))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		closeAll(got)
		return err
	}
	*files = got
	return nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// ControlError is the refusal of a session to do what was asked.
type ControlError struct{ ID, Text string }

func (e *ControlError) Error() string { return "session " + e.ID + ": " + e.Text }

// Ping asks a session whether it answers.
func (s *Store) Ping(i Info) error {
	_, err := s.ask(i, request{Op: opPing}, nil)
	return err
}

// Enter asks a live session for what is needed to start command inside. The
// files belong to the caller.
func (s *Store) Enter(i Info, command []string) ([]*os.File, error) {
	// What the session records may be cut; what is executed is not this.
	if len(command) > 64 {
		command = command[:64]
	}
	short := make([]string, len(command))
	for n, w := range command {
		short[n] = w[:min(len(w), 256)]
	}
	return s.ask(i, request{Op: opEnter, Command: short}, nil)
}

// Adopt gives a live session the listener of a command that has entered: from then
// on the session answers for its refused calls, and records them.
func (s *Store) Adopt(i Info, listener *os.File) error {
	files, err := s.ask(i, request{Op: opAdopt}, []*os.File{listener})
	closeAll(files)
	return err
}

func (s *Store) ask(i Info, req request, give []*os.File) ([]*os.File, error) {
	dir, err := s.Folder(i)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	c, err := unixsock.Dial(dir, socketFile)
	if err != nil {
		return nil, &ControlError{i.ID, "it does not answer: " + err.Error()}
	}
	defer c.Close()
	// Not that somebody else's server gives us descriptors to type into.
	if peer, err := c.Peer(); err != nil || peer.UID != os.Geteuid() && peer.UID != 0 {
		return nil, &ControlError{i.ID, "its control socket is served by another user"}
	}
	c.SetDeadline(time.Now().Add(replyTime))
	req.Version = 1
	data, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	if err := c.Send(data, give); err != nil {
		return nil, &ControlError{i.ID, err.Error()}
	}
	var r reply
	var files []*os.File
	if err := receive(c, &r, &files); err != nil {
		return nil, &ControlError{i.ID, "bad reply: " + err.Error()}
	}
	why := r.Error
	switch {
	case why != "":
	case r.Version != 1:
		why = fmt.Sprintf("it speaks version %d", r.Version)
	case r.ID != i.ID:
		why = "another session answers"
	case r.Files != len(files):
		why = fmt.Sprintf("%d of %d files came", len(files), r.Files)
	}
	if why != "" {
		closeAll(files)
		return nil, &ControlError{i.ID, why}
	}
	return files, nil
}
