// Package unixsock is the mechanism of talking to another process of the same
// user: local sockets whose messages carry file descriptors, the identity of
// the peer, and file locks. It knows no protocol and no policy.
//
// It does not use package net: sockets are *os.File on the runtime's poller,
// which keeps net's initialisation (0.4 ms measured) off the start path.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxFiles is how many files one message can carry. The kernel's own limit is
// SCM_MAX_FD = 253.
const MaxFiles = 16

// Listener accepts connections. SOCK_SEQPACKET keeps the bounds of messages,
// so that no framing is needed and a message arrives with its files or not at
// all.
type Listener struct{ f *os.File }

// Listen makes the socket name in the directory dir. The address goes through
// /proc/self/fd, so dir may be longer than the 108 bytes of sun_path, and can't
// be exchanged for another directory on the way. The socket must not exist.
func Listen(dir *os.File, name string) (*Listener, error) {
	f, err := socket()
	if err != nil {
		return nil, err
	}
	l := &Listener{f}
	err = control(f, func(fd int) error {
		// bind gives the socket the mode 0777 &^ umask; setting the mode of
		// the socket itself first makes it 0600 from the start.
		if err := unix.Fchmod(fd, 0o600); err != nil {
			return os.NewSyscallError("fchmod", err)
		}
		if err := unix.Bind(fd, address(dir, name)); err != nil {
			return os.NewSyscallError("bind", err)
		}
		return os.NewSyscallError("listen", unix.Listen(fd, 16))
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("listen on %s: %w", filepath.Join(dir.Name(), name), err)
	}
	return l, nil
}

// Accept waits for a connection. After Close it returns os.ErrClosed.
func (l *Listener) Accept() (*Conn, error) {
	raw, err := l.f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var cause error
	err = raw.Read(func(s uintptr) bool {
		fd, _, cause = unix.Accept4(int(s), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return cause != unix.EAGAIN && cause != unix.EINTR && cause != unix.ECONNABORTED
	})
	if err != nil {
		return nil, closed(err)
	}
	if cause != nil {
		return nil, os.NewSyscallError("accept", cause)
	}
	return &Conn{os.NewFile(uintptr(fd), "connection")}, nil
}

// Close stops listening and wakes Accept. It leaves the socket's name.
func (l *Listener) Close() error { return l.f.Close() }

// Dial connects to the socket name in the directory dir.
func Dial(dir *os.File, name string) (*Conn, error) {
	f, err := socket()
	if err != nil {
		return nil, err
	}
	// A connect to a local socket does not wait but for a full queue, which
	// gives EAGAIN at once.
	err = control(f, func(fd int) error { return os.NewSyscallError("connect", unix.Connect(fd, address(dir, name))) })
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("connect to %s: %w", filepath.Join(dir.Name(), name), err)
	}
	return &Conn{f}, nil
}

// Pair returns two ends that are connected.
func Pair() (a, b *Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return &Conn{os.NewFile(uintptr(fds[0]), "pair")}, &Conn{os.NewFile(uintptr(fds[1]), "pair")}, nil
}

// Conn is one connection.
type Conn struct{ f *os.File }

// Peer is the process at the other end when it connected, as the kernel says.
type Peer struct{ PID, UID, GID int }

// Peer asks the kernel who is at the other end (SO_PEERCRED).
func (c *Conn) Peer() (Peer, error) {
	var p Peer
	err := control(c.f, func(fd int) error {
		u, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			return os.NewSyscallError("getsockopt SO_PEERCRED", err)
		}
		p = Peer{int(u.Pid), int(u.Uid), int(u.Gid)}
		return nil
	})
	return p, err
}

// Send sends one message with its files. The files stay open here.
func (c *Conn) Send(data []byte, files []*os.File) error {
	if len(files) > MaxFiles {
		return fmt.Errorf("send %d files: at most %d", len(files), MaxFiles)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fd := -1
			// Fd() would take the file off the poller; the number is only
			// borrowed, and f is kept alive by the caller's slice.
			if err := control(f, func(n int) error { fd = n; return nil }); err != nil {
				return fmt.Errorf("send file %d: %w", i, err)
			}
			fds[i] = fd
		}
		oob = unix.UnixRights(fds...)
	}
	raw, err := c.f.SyscallConn()
	if err != nil {
		return err
	}
	var cause error
	err = raw.Write(func(s uintptr) bool {
		cause = unix.Sendmsg(int(s), data, oob, nil, unix.MSG_NOSIGNAL)
		return cause != unix.EAGAIN && cause != unix.EINTR
	})
	if err != nil {
		return closed(err)
	}
	return os.NewSyscallError("sendmsg", cause)
}

// Receive reads one message of at most len(buf) bytes. The files are
// close-on-exec and belong to the caller. A message that was cut is an error,
// and its files are closed. io.EOF when the other end has closed.
func (c *Conn) Receive(buf []byte) (int, []*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	raw, err := c.f.SyscallConn()
	if err != nil {
		return 0, nil, err
	}
	var n, oobn, flags int
	var cause error
	err = raw.Read(func(s uintptr) bool {
		n, oobn, flags, _, cause = unix.Recvmsg(int(s), buf, oob, unix.MSG_CMSG_CLOEXEC)
		return cause != unix.EAGAIN && cause != unix.EINTR
	})
	if err != nil {
		return 0, nil, closed(err)
	}
	if cause != nil {
		return 0, nil, os.NewSyscallError("recvmsg", cause)
	}
	files, err := rights(oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("receive: message too long")
	}
	if err == nil && n == 0 && len(files) == 0 {
		err = io.EOF
	}
	if err != nil {
		for _, f := range files {
			f.Close()
		}
		return 0, nil, err
	}
	return n, files, nil
}

// SetDeadline bounds Send and Receive.
func (c *Conn) SetDeadline(t time.Time) error { return c.f.SetDeadline(t) }

// Close closes the connection.
func (c *Conn) Close() error { return c.f.Close() }

// rights takes the files out of control data; also on error it returns those
// that it found, so that they can be closed.
func rights(oob []byte) ([]*os.File, error) {
	var files []*os.File
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func socket() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

func address(dir *os.File, name string) *unix.SockaddrUnix {
	fd := -1
	// On failure the address names no descriptor and bind or connect fails.
	_ = control(dir, func(n int) error { fd = n; return nil })
	return &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", fd, name)}
}

func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var cause error
	if err := raw.Control(func(fd uintptr) { cause = do(int(fd)) }); err != nil {
		return err
	}
	return cause
}

// closed gives the poller's own "use of closed file", which no caller can
// match, its public name.
func closed(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return os.ErrClosed
}

// ErrLocked: another open file holds the lock.
var ErrLocked = errors.New("locked")

// TryLock takes a flock(2) on f, shared or not, without waiting; ErrLocked if
// it can't be had. The lock goes when every copy of the descriptor is closed,
// so also when the process is killed.
func TryLock(f *os.File, shared bool) error {
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	err := control(f, func(fd int) error { return ignoringEINTR(func() error { return unix.Flock(fd, how|unix.LOCK_NB) }) })
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrLocked
	}
	return os.NewSyscallError("flock", err)
}

// Lock takes an exclusive flock(2) on f and waits for it until ctx is done.
func Lock(ctx context.Context, f *os.File) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := TryLock(f, false)
		if !errors.Is(err, ErrLocked) {
			return err
		}
		select {
		case <-ctx.Done():
			return ErrLocked
		case <-time.After(wait):
		}
	}
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
