//go:build linux

package seccomp

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Notification is one refused call, while the caller waits for the answer.
type Notification struct {
	// ID is the kernel's name of this call, for Notifier.Waiting.
	ID uint64
	// PID is the thread that made the call, as seen from here; 0 if it is in a
	// pid namespace that can't be seen from here.
	PID int
	// Rule says why it is refused. If the caller of Compile used other rules
	// than Rules, it may be zero.
	Rule Rule
	Nr   int
	// Args are the argument registers. What they point to is never read: it
	// can change at any time.
	Args [6]uint64
}

// Notifier answers the kernel for a filter compiled with Notify:
//
//	task          kernel                  Notifier
//	 bpf(...) ──▶ filter: USER_NOTIF
//	 (waits)      poll: readable   ─────▶ RECV {id, pid, nr, args}
//	                                      report it
//	 EPERM   ◀──  SEND {id, -EPERM} ◀──── answer
//
// The answer is always EPERM. It never tells the kernel to continue the call,
// so nothing here can be raced into letting one through; the reports are
// evidence, not judgement.
//
// The listener is as strong as the filter: whoever holds it can answer
// "continue". No copy of it may stay where sandboxed code runs, nor in a
// process which that code may trace.
type Notifier struct {
	file *os.File // in the runtime's poller, so that Close wakes Serve
	conn syscall.RawConn
	recv []byte // struct seccomp_notif, at least
	send []byte // struct seccomp_notif_resp, at least
	// closed tells the errors that Close causes from others.
	closed atomic.Bool
}

// The structures of linux/seccomp.h as far as they are known here.
type (
	seccompData struct {
		nr   int32
		arch uint32
		ip   uint64
		args [6]uint64
	}
	seccompNotif struct {
		id    uint64
		pid   uint32
		flags uint32
		data  seccompData
	}
	seccompNotifResp struct {
		id    uint64
		val   int64
		error int32
		flags uint32
	}
)

// NewNotifier takes over the listener, which seccomp(2) gave for
// SECCOMP_FILTER_FLAG_NEW_LISTENER. It is closed by Close, or at once if
// there is an error.
func NewNotifier(listener int) (*Notifier, error) {
	var sizes struct{ notif, resp, data uint16 }
	if _, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_NOTIF_SIZES, 0, uintptr(unsafe.Pointer(&sizes))); e != 0 {
		unix.Close(listener)
		return nil, fmt.Errorf("seccomp: sizes of notifications: %w", e)
	}
	// A listener says of a call that nobody made that it does not wait.
	var nobody uint64
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&nobody)); err != unix.ENOENT {
		unix.Close(listener)
		return nil, fmt.Errorf("seccomp: this is no listener: %v", err)
	}
	// Without this os.NewFile would not hand the descriptor to the poller. RECV
	// itself blocks all the same.
	if err := unix.SetNonblock(listener, true); err != nil {
		unix.Close(listener)
		return nil, fmt.Errorf("seccomp: listener: %w", err)
	}
	unix.CloseOnExec(listener)
	// The task that asks runs again only after the answer, so the two may share
	// a processor: half the time per refused call. Since 6.6; older kernels say
	// EINVAL and are merely slower.
	_ = unix.IoctlSetInt(listener, unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	file := os.NewFile(uintptr(listener), "seccomp listener")
	conn, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("seccomp: listener: %w", err)
	}
	return &Notifier{
		file: file,
		conn: conn,
		recv: make([]byte, max(int(sizes.notif), int(unsafe.Sizeof(seccompNotif{})))),
		send: make([]byte, max(int(sizes.resp), int(unsafe.Sizeof(seccompNotifResp{})))),
	}, nil
}

// Serve answers until no task is left under the filter (then it returns nil),
// or until Close (os.ErrClosed). Before 5.9 the kernel does not say when the
// last task has gone; there only Close ends it. Call it once.
//
// report is called from this goroutine before the answer is sent: the task
// stands still, so /proc/PID is its own if Waiting says yes afterwards. report
// must not block, and must not wait for anything inside the sandbox. A report
// can come twice for one call that a signal interrupted, unless the filter was
// installed with SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
func (n *Notifier) Serve(report func(Notification)) error {
	for {
		var call Notification
		var state int
		var failed error
		err := n.conn.Read(func(fd uintptr) (done bool) {
			call, state, failed = n.receive(int(fd))
			return state != idle
		})
		switch {
		case n.closed.Load():
			return os.ErrClosed
		case err != nil:
			return fmt.Errorf("seccomp: wait for notification: %w", err)
		case failed != nil:
			return fmt.Errorf("seccomp: receive notification: %w", failed)
		case state == over:
			return nil
		case state == vanished:
			continue
		}
		report(call)
		if err := n.refuse(call.ID); n.closed.Load() {
			return os.ErrClosed
		} else if err != nil {
			return fmt.Errorf("seccomp: answer notification: %w", err)
		}
	}
}

// What receive found.
const (
	received = iota
	idle     // nothing there
	vanished // the task was killed, or a signal took it out of the call
	over     // no task is left
)

// receive takes one notification if there is one. RECV waits if there is
// none, whatever the descriptor's flags say, so poll is asked first; with one
// reader that is safe. A task that goes away in between leaves a token that
// makes RECV return ENOENT at once.
func (n *Notifier) receive(fd int) (Notification, int, error) {
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(ready, 0)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return Notification{}, received, err
		}
	}
	switch r := ready[0].Revents; {
	case r&unix.POLLIN != 0:
	case r&(unix.POLLHUP|unix.POLLERR) != 0:
		return Notification{}, over, nil
	default:
		return Notification{}, idle, nil
	}
	clear(n.recv) // the kernel insists on zeros (EINVAL)
	switch err := ioctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n.recv[0])); err {
	case nil:
	case unix.ENOENT, unix.EINTR:
		return Notification{}, vanished, nil
	default:
		return Notification{}, received, err
	}
	raw := (*seccompNotif)(unsafe.Pointer(&n.recv[0]))
	call := Notification{ID: raw.id, PID: int(raw.pid), Nr: int(raw.data.nr), Args: raw.data.args}
	call.Rule, _ = Lookup(Native, call.Nr, call.Args)
	return call, received, nil
}

// refuse answers EPERM. ENOENT means that the task no longer waits: it was
// killed, or a signal took it out of the call. Then it asks again or is gone;
// it has not passed.
func (n *Notifier) refuse(id uint64) error {
	clear(n.send)
	resp := (*seccompNotifResp)(unsafe.Pointer(&n.send[0]))
	resp.id, resp.error = id, -int32(unix.EPERM)
	for {
		err := n.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(resp))
		switch err {
		case unix.EINTR:
			continue
		case unix.ENOENT:
			return nil
		}
		return err
	}
}

// Waiting says whether the call still waits for its answer. What was read from
// /proc/PID before a yes belongs to the task that made the call.
func (n *Notifier) Waiting(call Notification) bool {
	id := call.ID
	return n.ioctl(unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) == nil
}

// Close ends Serve. Calls that wait now, and all refused calls from now on,
// fail with ENOSYS. It may be called at any time, and twice.
func (n *Notifier) Close() error {
	if n.closed.Swap(true) {
		return nil
	}
	return n.file.Close()
}

func (n *Notifier) ioctl(request uintptr, arg unsafe.Pointer) error {
	var result error
	if err := n.conn.Control(func(fd uintptr) { result = ioctl(int(fd), request, arg) }); err != nil {
		return err
	}
	return result
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}
