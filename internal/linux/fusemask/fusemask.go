//go:build linux

// Package fusemask serves deny masks: a FUSE filesystem in which nothing can
// be opened, listed or looked up. The boundary attaches its nodes over the
// paths that the plan hides, and the supervisor, which holds the other end,
// hears who tried what. It speaks the protocol itself, knows no policy, never
// touches a path of the host and never lets anything through.
//
//	box                    kernel                 supervisor
//	open("~/.ssh/id_rsa")
//	  └────────────────► LOOKUP "id_rsa" ───────► Serve: denied(Attempt)
//	  EACCES ◄──────────────────────────────────── EACCES
//
// What fails, fails closed: if the server is gone the kernel answers ENOTCONN
// for every mask and the hidden files stay hidden. Places where the kernel
// refuses without asking, so that no Attempt is seen: unlinking or renaming
// the mask itself (EBUSY, a mount point), renaming or linking across it
// (EXDEV), executing a masked file.
//
// The process that serves must never touch a masked path through the box's
// own mounts (/proc/PID/root): it would wait for itself.
package fusemask

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Mask is one hidden path. Mask N of the list is the child "N" of the root.
type Mask struct {
	Path      string // as seen inside; only repeated in Attempt
	Directory bool
	Rule      int // plan rule ID; only repeated in Attempt
}

// Attempt is one refused request. It is valid only during the call.
type Attempt struct {
	Mask string // Mask.Path
	Rule int    // Mask.Rule
	// Name is the entry below the mask that was asked for, empty when the
	// mask itself was. The bytes are chosen by the box and point into the
	// server's buffer: copy them to keep them, quote them to print them.
	Name []byte
	// Action is "lookup", "open", "readdir", "access", "setattr", ... Any use
	// of a name below a mask (open, mkdir, unlink, exec ...) begins with a
	// lookup and ends there.
	Action string
	// Write: the request asked to change something or for write access.
	Write bool
	// PID is the process on our side of the pid namespace; 0 if unknown.
	PID int
	// InnerPID is the thread that asked, as numbered in the pid namespace in
	// which the filesystem was mounted (so the kernel's struct fuse_conn).
	InnerPID int
	UID      int // as numbered in the user namespace of the mount
}

// Server answers for one FUSE connection.
type Server struct {
	// PIDNamespace is /proc/PID/ns/pid of the box, to translate pids; may be
	// nil. Set it before Serve.
	PIDNamespace *os.File

	masks []Mask

	closed atomic.Bool
	mu     sync.Mutex // guards wake
	wake   *os.File   // eventfd; nil while not serving
}

// New makes a server for these masks. The list is not copied and must not
// change.
func New(masks []Mask) *Server { return &Server{masks: masks} }

// Serve answers requests until the filesystem is unmounted or Close is called,
// and returns nil then. f is an open /dev/fuse that is mounted already (see
// Options). Serve owns f and closes it, which ends the connection: from then
// on every mask answers ENOTCONN, open or not.
//
// denied is called from Serve's goroutine, before the answer: while it runs
// the process that asked is held in the kernel, so its pid can't be reused and
// /proc/PID can be read. It must not block and must not touch a masked path.
func (s *Server) Serve(f *os.File, denied func(Attempt)) error {
	defer f.Close()
	wake, err := s.begin()
	if err != nil || wake == nil {
		return err
	}
	defer s.end()

	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("serve masks: %w", err)
	}
	// Control keeps the descriptor alive for as long as the loop runs,
	// whoever closes f meanwhile.
	var served error
	if err := conn.Control(func(fd uintptr) { served = s.loop(int(fd), int(wake.Fd()), denied) }); err != nil {
		return fmt.Errorf("serve masks: %w", err)
	}
	return served
}

// Close makes Serve return. It may be called from any goroutine, at any time,
// also before Serve and more than once.
func (s *Server) Close() error {
	s.closed.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wake == nil {
		return nil
	}
	_, err := s.wake.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	return err
}

// begin returns the event that interrupts the loop; nil if closed already.
func (s *Server) begin() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return nil, nil
	}
	if s.wake != nil {
		return nil, errors.New("serve masks: already serving")
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("serve masks: eventfd: %w", err)
	}
	s.wake = os.NewFile(uintptr(fd), "eventfd")
	return s.wake, nil
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake.Close()
	s.wake = nil
}

// loop reads and answers one request at a time. A read that finds nothing is
// followed by poll rather than by Go's poller: the wake-up is on the way of
// every denied access and of the set-up. Nothing is allocated per request.
func (s *Server) loop(fd, wake int, denied func(Attempt)) error {
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("serve masks: %w", err)
	}
	buf := make([]byte, requestSize)
	var out [maxReplySize]byte
	var at Attempt
	pids := pidTable{namespace: s.PIDNamespace}
	wait := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	for !s.closed.Load() {
		n, err := unix.Read(fd, buf)
		switch err {
		case nil:
		case unix.EAGAIN:
			if _, err := unix.Poll(wait, -1); err != nil && err != unix.EINTR {
				return fmt.Errorf("serve masks: poll: %w", err)
			}
			continue
		case unix.EINTR, unix.ENOENT: // ENOENT: the request went away while being read
			continue
		case unix.ENODEV: // unmounted
			return nil
		default:
			return fmt.Errorf("serve masks: read: %w", err)
		}
		size, tell := s.answer(buf[:n], &out, &at)
		if tell && denied != nil {
			at.PID = pids.outer(at.InnerPID)
			denied(at)
		}
		if size == 0 {
			continue
		}
		switch _, err := unix.Write(fd, out[:size]); err {
		case nil:
		case unix.ENOENT, unix.EINTR: // whoever asked was killed meanwhile
		case unix.ENODEV:
			return nil
		default:
			// The request stays unanswered, so the connection must end, or
			// the process that asked would wait for ever.
			return fmt.Errorf("serve masks: write: %w", err)
		}
	}
	return nil
}

// answer decides one request: it fills out and returns the size of the reply
// (0 for none), and with tell the Attempt to report.
func (s *Server) answer(req []byte, out *[maxReplySize]byte, at *Attempt) (size int, tell bool) {
	h, body, ok := decodeHeader(req)
	if !ok {
		return 0, false
	}
	clear(out[:])
	e := binary.NativeEndian
	reply := func(n int, errno syscall.Errno) int {
		putHeader(out[:], h.unique, outHeaderSize+n, errno)
		return outHeaderSize + n
	}
	payload := out[outHeaderSize:]

	switch h.opcode {
	case opForget, opBatchForget, opInterrupt, opNotifyReply:
		// No state to forget; every answer has been given by the time an
		// interrupt is read. None of these has a reply.
		return 0, false
	case opInit:
		if len(body) < 16 || e.Uint32(body) != protocolMajor {
			return reply(0, unix.EPROTO), false
		}
		e.PutUint32(payload[0:], protocolMajor)
		e.PutUint32(payload[4:], protocolMinor)
		e.PutUint32(payload[20:], 4096) // max_write
		e.PutUint32(payload[24:], 1)    // time_gran
		return reply(initOutSize, 0), false
	case opDestroy, opRelease, opReleasedir, opFlush:
		return reply(0, 0), false
	case opStatfs:
		return reply(statfsOutSize, 0), false
	case opStatx:
		// ENOSYS makes the kernel use GETATTR from now on. It is the only
		// ENOSYS here: for ACCESS and OPEN it would mean "always allowed".
		return reply(0, unix.ENOSYS), false
	}

	if h.node == rootNode {
		return s.answerRoot(&h, body, payload, reply), false
	}
	mask := uint64(h.node - firstMask)
	if h.node < firstMask || mask >= uint64(len(s.masks)) {
		return reply(0, unix.EACCES), false
	}
	m := &s.masks[mask]
	if h.opcode == opGetattr {
		e.PutUint64(payload[0:], forever)
		putAttr(payload[16:], h.node, m.Directory, &h)
		return reply(attrOutSize, 0), false
	}

	if h.opcode == opGetxattr && len(body) > 8 && housekeeping(body[8:]) {
		return reply(0, unix.ENODATA), false
	}

	r := request{action: "unknown", name: -1}
	if h.opcode < uint32(len(requests)) && requests[h.opcode].action != "" {
		r = requests[h.opcode]
	}
	switch {
	case h.opcode == opOpen && len(body) >= 4:
		r.write = e.Uint32(body)&unix.O_ACCMODE != unix.O_RDONLY
	case h.opcode == opAccess && len(body) >= 4:
		wanted := e.Uint32(body)
		if wanted == 0 { // F_OK: that the path exists is no secret, stat says it too
			return reply(0, 0), false
		}
		r.write = wanted&unix.W_OK != 0
	}
	*at = Attempt{
		Mask: m.Path, Rule: m.Rule, Name: cstring(body, r.name), Action: r.action, Write: r.write,
		InnerPID: int(int32(h.pid)), UID: int(h.uid),
	}
	return reply(0, unix.EACCES), true
}

// housekeeping: attributes that the kernel (security.capability before each
// write) and ls -l (security.selinux, system.posix_acl_access) ask for of
// everything they meet. That a mask has none is the truth and nobody's attempt.
func housekeeping(name []byte) bool {
	return bytes.HasPrefix(name, []byte("security.")) || bytes.HasPrefix(name, []byte("system."))
}

// answerRoot serves the one thing that the set-up needs: finding masks by
// number. The box can't reach the root, so nothing here is reported.
func (s *Server) answerRoot(h *inHeader, body, payload []byte, reply func(int, syscall.Errno) int) int {
	e := binary.NativeEndian
	switch h.opcode {
	case opGetattr:
		e.PutUint64(payload[0:], forever)
		putAttr(payload[16:], rootNode, true, h)
		return reply(attrOutSize, 0)
	case opLookup:
		n := number(cstring(body, 0))
		if n < 0 || n >= len(s.masks) {
			return reply(0, unix.ENOENT)
		}
		node := uint64(n) + firstMask
		e.PutUint64(payload[0:], node)
		e.PutUint64(payload[16:], forever) // entry_valid
		e.PutUint64(payload[24:], forever) // attr_valid
		putAttr(payload[40:], node, s.masks[n].Directory, h)
		return reply(entryOutSize, 0)
	}
	return reply(0, unix.EACCES)
}
