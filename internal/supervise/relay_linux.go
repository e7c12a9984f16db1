package supervise

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// relaySize is the size of each direction's buffer.
const relaySize = 32 << 10

const (
	// backgroundPoll: how often we look whether the terminal is ours again.
	// A shell's fg of a job that runs sends no signal.
	backgroundPoll = 200 * time.Millisecond
	// reopenPoll: how often we look whether somebody inside has opened the
	// pty again after all had closed it.
	reopenPoll = 50 * time.Millisecond
	// heldPoll: after the end of everything inside, how long a master that
	// gives neither bytes nor end of file is waited for.
	heldPoll = 500 * time.Millisecond
	// eot is Ctrl-D: what a terminal says instead of end of file.
	eot = 4
)

// relay carries bytes between the person's terminal and the pty of the
// inside, both ways, in one loop on one thread:
//
//	in  --read-->  toInside  --write--> master
//	out <--write-- toPerson  <--read--  master
//
// The thread has SIGTTIN and SIGTTOU blocked. So a read in the background is
// EIO instead of a stopped process, and a change of mode or a write under
// "stty tostop" goes through. A process-wide ignore would be inherited by
// every child.
//
// Nothing in it blocks but poll(2). The descriptors of the person's side are
// opened again where possible, because O_NONBLOCK on the given ones would
// also hit the shell that shares them.
type relay struct {
	tty     *tty // nil when in is no terminal
	in, out int  // -1: closed or gone
	ownOut  bool // out is non-blocking
	master  int
	size    int // descriptor that knows the window size, or -1
	wake    int // eventfd

	commands chan command
	lost     chan struct{}
	done     chan struct{}
	started  bool // set before anybody else has the relay
	closed   sync.Once

	toInside, toPerson buffer
}

// command is a word from Run's goroutine to the loop; done is closed when the
// loop has acted on it.
type command struct {
	what commandKind
	done chan struct{}
}

type commandKind int

const (
	suspend commandKind = iota
	resume
	drain
	abandon
	ring
)

type buffer struct {
	bytes [relaySize]byte
	r, w  int
}

func (b *buffer) empty() bool { return b.r == b.w }

// newRelay takes its own descriptors; in and out may be nil or closed, which
// is a terminal without keyboard or screen.
func newRelay(in, out, master *os.File) (_ *relay, err error) {
	r := &relay{
		in: -1, out: -1, master: -1, size: -1, wake: -1,
		commands: make(chan command, 8),
		lost:     make(chan struct{}),
		done:     make(chan struct{}),
	}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if r.master, err = duplicate(master); err != nil {
		return nil, fmt.Errorf("pty master: %w", err)
	}
	if err := unix.SetNonblock(r.master, true); err != nil {
		return nil, fmt.Errorf("pty master: set non-blocking: %w", err)
	}
	if r.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	if fd, err := duplicate(in); err == nil {
		if term.IsTerminal(fd) {
			r.tty = &tty{fd: fd}
			r.size = fd
		}
		if r.in = reopen(fd, unix.O_RDONLY); r.in < 0 {
			r.in = fd
		} else if r.tty == nil {
			_ = unix.Close(fd)
		}
	}
	if fd, err := duplicate(out); err == nil {
		if r.size < 0 && term.IsTerminal(fd) {
			if size, err := duplicate(out); err == nil {
				r.size = size
			}
		}
		if r.out = reopen(fd, unix.O_WRONLY); r.out >= 0 {
			r.ownOut = true
			_ = unix.Close(fd)
		} else {
			r.out = fd
		}
	}
	return r, nil
}

var errNoFile = errors.New("no file")

func duplicate(f *os.File) (int, error) {
	if f == nil {
		return -1, errNoFile
	}
	c, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, inner := -1, error(nil)
	if err := c.Control(func(p uintptr) { fd, inner = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return -1, err
	}
	return fd, inner
}

// reopen gives a new open file of the same terminal or pipe, non-blocking, or
// -1. A regular file would lose its position and a socket can't be reopened:
// those stay as they are. The terminal of another user (su) can't either.
func reopen(fd, flags int) int {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return -1
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFCHR && kind != unix.S_IFIFO {
		return -1
	}
	n, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return n
}

// Lost is closed when the person's terminal has hung up.
func (r *relay) Lost() <-chan struct{} { return r.lost }

// Done is closed when the loop has ended: drained, abandoned or panicked.
func (r *relay) Done() <-chan struct{} { return r.done }

// Resize gives the pty the size of the person's terminal; the kernel tells
// the foreground programs inside by SIGWINCH if it changed.
func (r *relay) Resize() {
	if r.size < 0 {
		return
	}
	ws, err := unix.IoctlGetWinsize(r.size, unix.TIOCGWINSZ)
	if err != nil || ws.Row == 0 && ws.Col == 0 {
		return
	}
	_ = unix.IoctlSetWinsize(r.master, unix.TIOCSWINSZ, ws)
}

// Suspend puts the person's terminal back and stops relaying until Resume.
func (r *relay) Suspend() { r.tell(suspend) }
func (r *relay) Resume()  { r.tell(resume) }

// Drain says that nothing inside is alive: what is in the pty is the rest.
func (r *relay) Drain() { r.tell(drain) }

// Abandon ends the loop now.
func (r *relay) Abandon() { r.tell(abandon) }

// Ring sounds the bell of the person's terminal, as soon as it disturbs nothing of what
// is shown.
func (r *relay) Ring() { r.tell(ring) }

// tell returns when the loop has acted, or has ended.
func (r *relay) tell(k commandKind) {
	c := command{k, make(chan struct{})}
	select {
	case r.commands <- c:
	case <-r.done:
		return
	}
	r.kick()
	select {
	case <-c.done:
	case <-r.done:
	}
}

func (r *relay) kick() {
	one := [8]byte{1}
	_, _ = unix.Write(r.wake, one[:])
}

// Close ends the loop, puts the person's terminal back and closes what the
// relay opened. Any number of times, also without Run.
func (r *relay) Close() {
	r.closed.Do(func() {
		if r.started {
			r.Abandon()
			<-r.done
		}
		if r.tty != nil {
			blockingStops(r.tty.cook)
		}
		fds := map[int]bool{r.in: true, r.out: true, r.master: true, r.size: true, r.wake: true}
		if r.tty != nil {
			fds[r.tty.fd] = true
		}
		for fd := range fds {
			if fd >= 0 {
				_ = unix.Close(fd)
			}
		}
	})
}

// Start runs the loop in a goroutine that Close waits for; catch is deferred
// in it and ends before Done is closed.
func (r *relay) Start(catch func()) {
	r.started = true
	go func() {
		defer close(r.done)
		defer catch()
		blockingStops(func() {
			if r.tty != nil {
				defer r.tty.cook()
			}
			r.loop()
		})
	}()
}

// loopState is what the loop knows besides its buffers.
type loopState struct {
	suspended  bool
	foreground bool
	inOpen     bool // in may still give bytes
	outOpen    bool
	eotOwed    bool // in has ended and the inside has not been told
	hung       bool // nobody inside has the pty open
	draining   bool
	lost       bool
	ring       bool // a bell is due
	screen     screen
}

func (r *relay) loop() {
	st := loopState{inOpen: r.in >= 0, outOpen: r.out >= 0}
	st.eotOwed = !st.inOpen
	lastMaster := time.Now()
	var fds [4]unix.PollFd // wake, in, master, out
	for {
		if r.obey(&st, &lastMaster) {
			return
		}
		timeout := -1
		wait := func(d time.Duration) {
			if ms := int(d.Milliseconds()); timeout < 0 || ms < timeout {
				timeout = ms
			}
		}
		if r.tty != nil && !st.suspended && !st.lost {
			was := st.foreground
			if st.foreground = r.tty.foreground(); st.foreground {
				r.tty.raw()
				if !was {
					r.tty.again()
				}
			} else {
				wait(backgroundPoll)
			}
		} else {
			st.foreground = !st.suspended
		}
		if st.eotOwed && r.toInside.empty() {
			r.toInside.bytes[0], r.toInside.r, r.toInside.w = eot, 0, 1
			st.eotOwed = false
		}

		if st.ring && r.toPerson.empty() && st.foreground && !st.suspended && !st.draining && st.screen.settled() {
			r.toPerson.bytes[0], r.toPerson.r, r.toPerson.w = bel, 0, 1
			st.ring = false
		}

		fds[0] = unix.PollFd{Fd: int32(r.wake), Events: unix.POLLIN}
		fds[1] = unix.PollFd{Fd: -1}
		if st.inOpen {
			fds[1].Fd = int32(r.in)
			if st.foreground && r.toInside.empty() {
				fds[1].Events = unix.POLLIN
			}
			if r.tty == nil && fds[1].Events == 0 {
				fds[1].Fd = -1 // a closed pipe says POLLHUP without end
			}
		}
		fds[2] = unix.PollFd{Fd: -1}
		fds[3] = unix.PollFd{Fd: -1}
		if !st.suspended {
			if st.hung {
				wait(reopenPoll)
			} else {
				if r.toPerson.empty() {
					fds[2].Events |= unix.POLLIN
				}
				if !r.toInside.empty() {
					fds[2].Events |= unix.POLLOUT
				}
				if fds[2].Events != 0 {
					fds[2].Fd = int32(r.master)
				}
			}
			if !r.toPerson.empty() {
				fds[3] = unix.PollFd{Fd: int32(r.out), Events: unix.POLLOUT}
			}
		}
		if st.draining && r.toPerson.empty() {
			if st.hung {
				return
			}
			left := heldPoll - time.Since(lastMaster)
			if left <= 0 {
				return
			}
			wait(left + time.Millisecond)
		}

		if _, err := unix.Poll(fds[:], timeout); err != nil && err != unix.EINTR {
			// EFAULT and EINVAL can't be; ENOMEM passes.
			time.Sleep(time.Millisecond)
			continue
		}
		if fds[0].Revents != 0 {
			var b [8]byte
			_, _ = unix.Read(r.wake, b[:])
			continue // a command first: it may forbid the rest
		}
		if fds[1].Revents != 0 {
			r.readPerson(&st, fds[1].Revents)
		}
		if st.suspended {
			continue
		}
		if !r.toInside.empty() {
			r.writeInside(&st)
		}
		if r.toPerson.empty() {
			if r.readInside(&st) {
				lastMaster = time.Now()
			}
		}
		if !r.toPerson.empty() {
			r.writePerson(&st)
			if st.draining {
				lastMaster = time.Now()
			}
		}
	}
}

// obey acts on the commands that wait; true means to end.
func (r *relay) obey(st *loopState, lastMaster *time.Time) bool {
	for {
		select {
		case c := <-r.commands:
			switch c.what {
			case suspend:
				st.suspended = true
				if r.tty != nil {
					r.tty.cook()
				}
			case resume:
				st.suspended = false
				if r.tty != nil {
					// After a SIGSTOP, of which we were not told, the
					// shell has put its own mode.
					r.tty.again()
				}
			case drain:
				st.draining, st.hung = true, false
				*lastMaster = time.Now()
			case ring:
				st.ring = true
			case abandon:
				close(c.done)
				return true
			}
			close(c.done)
		default:
			return false
		}
	}
}

// readPerson reads keys, or learns that there will be none any more.
func (r *relay) readPerson(st *loopState, revents int16) {
	if r.tty != nil && revents&(unix.POLLHUP|unix.POLLNVAL) != 0 {
		r.lose(st)
		return
	}
	n, err := unix.Read(r.in, r.toInside.bytes[:])
	switch {
	case n > 0:
		r.toInside.r, r.toInside.w = 0, n
	case err == unix.EAGAIN || err == unix.EINTR:
	case err == unix.EIO && r.tty != nil && !r.tty.foreground():
		// We lost the foreground between the look and the read.
		st.foreground = false
	case r.tty != nil:
		// In raw mode a read of nothing is a hung-up terminal.
		r.lose(st)
	default:
		st.inOpen, st.eotOwed = false, true
	}
}

// lose: the person's terminal is gone. The inside is told by Run (SIGHUP);
// until it ends its output is read and dropped so that it can't hang on it.
func (r *relay) lose(st *loopState) {
	if !st.lost {
		st.lost, st.inOpen, st.outOpen = true, false, false
		close(r.lost)
	}
}

func (r *relay) writeInside(st *loopState) {
	b := &r.toInside
	n, err := unix.Write(r.master, b.bytes[b.r:b.w])
	if n > 0 {
		b.r += n
	} else if err != unix.EAGAIN && err != unix.EINTR {
		b.r = b.w // nobody to read it
	}
}

// readInside fills the buffer with what is there. A pty gives at most 4 KiB
// at a time; taking what there is until it says EAGAIN saves the terminal
// most of the writes.
func (r *relay) readInside(st *loopState) (some bool) {
	b := &r.toPerson
	b.r, b.w = 0, 0
	for b.w < len(b.bytes) {
		n, err := unix.Read(r.master, b.bytes[b.w:])
		if n > 0 {
			b.w += n
			st.hung = false
			continue
		}
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			st.hung = false
			break
		}
		// EIO: the buffer is empty and the last descriptor of the other
		// side is closed. Before the end somebody may open it again.
		st.hung = true
		break
	}
	st.screen.show(b.bytes[:b.w])
	return b.w > 0
}

func (r *relay) writePerson(st *loopState) {
	b := &r.toPerson
	if !st.outOpen {
		b.r = b.w
		return
	}
	chunk := b.bytes[b.r:b.w]
	if !r.ownOut {
		// A blocking descriptor: after POLLOUT a pipe takes PIPE_BUF without
		// blocking. Only after POLLOUT, so ask again.
		ask := [1]unix.PollFd{{Fd: int32(r.out), Events: unix.POLLOUT}}
		if n, _ := unix.Poll(ask[:], 0); n == 0 {
			return
		}
		chunk = chunk[:min(len(chunk), 4096)]
	}
	n, err := unix.Write(r.out, chunk)
	switch {
	case n > 0:
		b.r += n
	case err == unix.EAGAIN || err == unix.EINTR:
	default:
		// EIO or EPIPE: nobody looks any more.
		st.outOpen = false
		b.r = b.w
		if r.tty != nil && err == unix.EIO {
			r.lose(st)
		}
	}
}

// tty is the person's terminal and its mode.
type tty struct {
	fd    int
	mu    sync.Mutex
	ours  bool         // we have set the mode and not put the old one back
	saved *term.State  // the mode to put back
	set   unix.Termios // the mode that we set
}

// raw makes the terminal raw unless we have done so.
func (t *tty) raw() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ours {
		t.make()
	}
}

// again makes the terminal raw if somebody has changed its mode since we did.
func (t *tty) again() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ours && t.foreground() && !t.untouched() {
		t.make()
	}
}

func (t *tty) make() {
	saved, err := term.MakeRaw(t.fd)
	if err != nil {
		return // the terminal is gone; the next read says so
	}
	if now, err := unix.IoctlGetTermios(t.fd, unix.TCGETS); err == nil {
		t.set = *now
	}
	t.saved, t.ours = saved, true
}

// cook puts back the mode that raw found. In the background only if it is
// still the one we set: otherwise the shell has set its own.
func (t *tty) cook() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ours && (t.foreground() || t.untouched()) {
		_ = term.Restore(t.fd, t.saved)
	}
	t.ours = false
}

func (t *tty) untouched() bool {
	now, err := unix.IoctlGetTermios(t.fd, unix.TCGETS)
	return err == nil && *now == t.set
}

// foreground says whether the terminal listens to us. One that is not our
// controlling terminal (ENOTTY) knows no background.
func (t *tty) foreground() bool {
	pgrp, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
	return err != nil || pgrp == unix.Getpgrp()
}

// stopSelf stops this process and returns when it has been continued. By
// SIGSTOP: once SIGTSTP has been asked for, the Go runtime never gives it its
// default action back (signal.Reset leaves the runtime's handler in place).
func stopSelf() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// To this thread: it is delivered before the call returns.
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), unix.SIGSTOP)
}

// blockingStops runs f with SIGTTIN and SIGTTOU blocked in its thread.
func blockingStops(f func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set, old unix.Sigset_t
	for _, sig := range []unix.Signal{unix.SIGTTIN, unix.SIGTTOU} {
		set.Val[(sig-1)/64] |= 1 << (uint(sig-1) % 64)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err == nil {
		defer func() { _ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) }()
	}
	f()
}
