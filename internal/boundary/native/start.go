package native

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"cofferdam/internal/boundary"
	"cofferdam/internal/linux/call"
	"cofferdam/internal/linux/fusemask"
	"cofferdam/internal/linux/process"
	"cofferdam/internal/linux/seccomp"
	"cofferdam/internal/plan"
	"cofferdam/internal/stage"
)

// Boundary is the native boundary.
type Boundary struct {
	// Remedy turns a failed operation into what the person can do; it may be
	// nil. (host/probe knows, which a backend does not import.)
	Remedy func(stage, object string, errno syscall.Errno) string
}

func (Boundary) Name() string { return "native" }

// Start implements boundary.Boundary.
func (b Boundary) Start(ctx context.Context, p *plan.Plan, s boundary.Streams, denied func(boundary.Denial)) (boundary.Running, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := prepareHome(p); err != nil {
		return nil, err
	}
	group, err := newGroup(p)
	if err != nil {
		return nil, err
	}
	r := &running{plan: p, denied: serial(denied), group: group, inner: true}
	err = r.start(s, process.AllNamespaces, func(fd descriptors) (*stage.Program, error) { return program(p, s, fd) })
	if err != nil {
		group.remove()
		return nil, b.explain(err)
	}
	return r, nil
}

// Enter starts one more command in a running boundary: namespaces are what
// Running.Enter of its owner handed out. p is the plan of the boundary with the new
// Command, Program, Dir and Environment. The command gets the same locks. It does
// not end with the boundary's own command but with the boundary.
func (b Boundary) Enter(ctx context.Context, p *plan.Plan, namespaces []*os.File, s boundary.Streams, denied func(boundary.Denial)) (boundary.Running, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slots := process.NamespaceSlots()
	if len(namespaces) != len(slots) {
		return nil, fmt.Errorf("%d namespaces to enter, want %d", len(namespaces), len(slots))
	}
	r := &running{plan: p, denied: serial(denied)}
	err := r.start(s, 0, func(fd descriptors) (*stage.Program, error) { return entry(p, s, fd, namespaces) })
	runtime.KeepAlive(namespaces)
	if err != nil {
		return nil, b.explain(err)
	}
	return r, nil
}

// explain turns what a child reported into the errors of the contract.
func (b Boundary) explain(err error) error {
	var f *stage.Failure
	if !errors.As(err, &f) {
		return err
	}
	if f.Call.Stage == "exec" {
		return &boundary.ExecError{Program: f.Call.Object, Errno: f.Errno}
	}
	e := &boundary.SetupError{Stage: f.Call.Stage, Op: strings.TrimSpace(f.Call.Verb + " " + f.Call.Object), Errno: f.Errno}
	if b.Remedy != nil {
		e.Remedy = b.Remedy(e.Stage, e.Op, e.Errno)
	}
	return e
}

// serial makes denied safe to call from several servers.
func serial(denied func(boundary.Denial)) func(boundary.Denial) {
	if denied == nil {
		return func(boundary.Denial) {}
	}
	var mu sync.Mutex
	return func(d boundary.Denial) {
		mu.Lock()
		defer mu.Unlock()
		denied(d)
	}
}

// running is a live boundary, or a command that entered one.
type running struct {
	plan   *plan.Plan
	denied func(boundary.Denial)
	group  *group
	inner  bool // pid is pid 1 of its own namespace

	pid        int
	terminal   *os.File
	namespaces []*os.File
	status     *os.File
	lifeline   *os.File

	// servers are the goroutines that answer the kernel for the inside.
	servers  sync.WaitGroup
	masks    *fusemask.Server
	notifier *seccomp.Notifier

	mu   sync.Mutex
	dead bool // the child is reaped; its pid means nothing any more
}

// pipe is an os.Pipe whose child end is blocking, as the child expects.
func pipe() (r, w int, err error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return -1, -1, fmt.Errorf("pipe: %w", err)
	}
	return p[0], p[1], nil
}

func (r *running) start(s boundary.Streams, flags uintptr, write func(descriptors) (*stage.Program, error)) (err error) {
	if err := roomForSlots(); err != nil {
		return err
	}
	fd := descriptors{gate: -1, in: -1, out: -1, err: -1}
	var mine, theirs []int
	defer func() {
		for _, n := range theirs {
			syscall.Close(n)
		}
		if err != nil {
			for _, n := range mine {
				syscall.Close(n)
			}
		}
	}()
	open := func(childWrites bool) (child, launcher int) {
		if err != nil {
			return -1, -1
		}
		var a, b int
		if a, b, err = pipe(); err != nil {
			return -1, -1
		}
		if childWrites {
			a, b = b, a
		}
		theirs, mine = append(theirs, a), append(mine, b)
		return a, b
	}
	var errs, status, lifeline, gate int
	fd.errors, errs = open(true)
	fd.status, status = open(true)
	fd.lifeline, lifeline = open(false)
	fd.gate, gate = open(false)
	if err != nil {
		return err
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socketpair: %w", err)
	}
	fd.channel = pair[0]
	theirs, mine = append(theirs, pair[0]), append(mine, pair[1])
	if !s.Terminal {
		if err := noDirectory(s); err != nil {
			return err
		}
		fd.in, fd.out, fd.err = int(s.In.Fd()), int(s.Out.Fd()), int(s.Err.Fd())
	}

	prog, err := write(fd)
	if err != nil {
		return err
	}
	channel := os.NewFile(uintptr(pair[1]), "channel")
	mine = mine[:len(mine)-1]
	// What the child sends has to be served while it goes on: it waits for
	// an answer of the masks' server.
	received := make(chan error, 1)
	go func() { received <- r.receive(channel) }()

	r.pid, err = stage.Start(prog, flags, r.group.directory())
	runtime.KeepAlive(s)
	// The child has its copies; ours must go, or end of file never comes.
	for _, n := range theirs {
		syscall.Close(n)
	}
	theirs = nil
	if err != nil {
		<-received
		return err
	}
	mine = nil
	r.status = os.NewFile(uintptr(status), "status")
	r.lifeline = os.NewFile(uintptr(lifeline), "lifeline")
	errors := os.NewFile(uintptr(errs), "errors")
	defer errors.Close()

	// Pid 1 has left our memory, or it is dead; the command may go on.
	g := os.NewFile(uintptr(gate), "gate")
	err = r.group.attach(r.pid)
	if err == nil && s.Ready != nil {
		err = s.Ready()
	}
	if err == nil {
		_, _ = g.Write([]byte{1}) // a dead child is reported below
	}
	g.Close()
	result := prog.Result(errors)
	if rerr := <-received; result == nil {
		result = rerr
	}
	if err != nil {
		result = err
	}
	if result != nil {
		r.abandon()
		return result
	}
	return nil
}

// roomForSlots checks that the child may use the numbers of the slots. One that
// may not can't even say so: the pipe for that is in a slot.
func roomForSlots() error {
	var l syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
	if err == nil && l.Cur >= call.Last {
		return nil
	}
	return &boundary.SetupError{
		Stage: "descriptors", Op: fmt.Sprintf("open files up to number %d with a limit of %d", call.Last-1, l.Cur), Errno: syscall.EMFILE,
		Remedy: "raise the limit of open files: ulimit -n 1024",
	}
}

// noDirectory refuses a directory as a standard stream: through it all of the
// host's files can be opened ("/proc/self/fd/0/..", openat(2)), whatever is mounted.
func noDirectory(s boundary.Streams) error {
	for i, f := range []*os.File{s.In, s.Out, s.Err} {
		if st, err := f.Stat(); err != nil || !st.IsDir() {
			continue
		}
		return &boundary.SetupError{
			Stage: "descriptors", Op: "pass standard " + [...]string{"input", "output", "error"}[i], Errno: syscall.EISDIR,
			Remedy: "redirect it to a file, or to /dev/null: through a directory everything outside can be opened",
		}
	}
	return nil
}

// receive takes the child's descriptors until the channel ends.
func (r *running) receive(channel *os.File) error {
	defer channel.Close()
	buf, oob := make([]byte, 1), make([]byte, syscall.CmsgSpace(4*len(process.NamespaceSlots())))
	for {
		n, fds, err := receiveFDs(int(channel.Fd()), buf, oob)
		if err != nil {
			return fmt.Errorf("receive from the boundary: %w", err)
		}
		if n == 0 {
			return nil
		}
		switch buf[0] {
		case tagNamespaces:
			for _, f := range fds {
				r.namespaces = append(r.namespaces, os.NewFile(uintptr(f), "namespace"))
			}
		case tagTerminal:
			// Nonblocking, so that the runtime's poller serves it and a
			// blocked read ends when it is closed.
			if err := syscall.SetNonblock(fds[0], true); err != nil {
				return fmt.Errorf("terminal: %w", err)
			}
			r.terminal = os.NewFile(uintptr(fds[0]), "terminal")
		case tagFuse:
			r.serveMasks(os.NewFile(uintptr(fds[0]), "fuse"))
		case tagListener:
			if err := r.serveListener(fds[0]); err != nil {
				return err
			}
		default:
			return fmt.Errorf("the boundary sent %q, which nobody knows", buf[0])
		}
	}
}

// receiveFDs takes one message; n is 0 at the end.
func receiveFDs(fd int, buf, oob []byte) (n int, fds []int, err error) {
	for {
		n, oobn, _, _, err := syscall.Recvmsg(fd, buf, oob, syscall.MSG_CMSG_CLOEXEC)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return 0, nil, err
		}
		msgs, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return 0, nil, err
		}
		for _, m := range msgs {
			more, err := syscall.ParseUnixRights(&m)
			if err != nil {
				return 0, nil, err
			}
			fds = append(fds, more...)
		}
		if len(fds) == 0 {
			return 0, nil, io.ErrUnexpectedEOF
		}
		return n, fds, nil
	}
}

// serveMasks answers for the masks, and so sees who tries to read them.
func (r *running) serveMasks(device *os.File) {
	r.masks = fusemask.New(fuseMaskList(r.plan))
	if len(r.namespaces) > 0 {
		r.masks.PIDNamespace = r.namespaces[len(r.namespaces)-1]
	}
	r.servers.Go(func() {
		_ = r.masks.Serve(device, func(a fusemask.Attempt) {
			subject := a.Mask
			if len(a.Name) > 0 {
				subject += "/" + string(a.Name)
			}
			r.denied(boundary.Denial{Action: a.Action, Subject: subject, PID: a.PID, Process: comm(a.PID), Rule: a.Rule})
		})
	})
}

// serveListener answers every refused system call with EPERM.
func (r *running) serveListener(listener int) error {
	n, err := seccomp.NewNotifier(listener)
	if err != nil {
		return fmt.Errorf("seccomp listener: %w", err)
	}
	r.notifier = n
	r.servers.Go(func() {
		_ = n.Serve(func(c seccomp.Notification) {
			r.denied(boundary.Denial{Action: "system call", Subject: c.Rule.Call, PID: c.PID, Process: comm(c.PID), Reason: c.Rule.Reason})
		})
	})
	return nil
}

// comm is the name of a process, which it chose itself: hostile text.
func comm(pid int) string {
	if pid <= 0 {
		return ""
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || len(b) == 0 {
		return ""
	}
	return string(b[:len(b)-1])
}

func (r *running) PID() int           { return r.pid }
func (r *running) Terminal() *os.File { return r.terminal }

// Signal delivers to the command by way of pid 1, which passes it on.
func (r *running) Signal(sig syscall.Signal) error { return r.signal(sig) }

// Kill ends pid 1, and with it the kernel ends all of its namespace. A command
// that entered is killed by the death of the process that waits for it.
func (r *running) Kill() error { return r.signal(syscall.SIGKILL) }

func (r *running) signal(sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead {
		return nil
	}
	return syscall.Kill(r.pid, sig)
}

// abandon ends a child that did not get through.
func (r *running) abandon() {
	_ = r.Kill()
	r.reap()
	r.release()
}

// reap waits for the child's end.
func (r *running) reap() {
	var ws syscall.WaitStatus
	for {
		// WNOWAIT is not in package syscall; the lock keeps Signal from
		// using a pid that has just become free.
		_, err := syscall.Wait4(r.pid, &ws, 0, nil)
		if err != syscall.EINTR {
			break
		}
	}
	r.mu.Lock()
	r.dead = true
	r.mu.Unlock()
}

// Wait implements boundary.Running.
func (r *running) Wait() (boundary.Exit, error) {
	buf := make([]byte, 4)
	_, err := io.ReadFull(r.status, buf)
	if err == nil && r.inner {
		// Pid 1 tells when all others are dead and reaped. Its own end, and
		// that of its namespaces, is for the kernel to finish; we need not
		// wait for it.
		go r.reap()
	} else {
		r.reap()
	}
	r.release()
	if err != nil {
		// Pid 1 was killed before it could tell: by us, or by the kernel.
		return boundary.Exit{Signal: syscall.SIGKILL}, nil
	}
	ws := syscall.WaitStatus(binary.NativeEndian.Uint32(buf))
	if ws.Signaled() {
		return boundary.Exit{Signal: ws.Signal()}, nil
	}
	return boundary.Exit{Code: ws.ExitStatus()}, nil
}

// release lets go of everything that served the child. The terminal stays: its
// last output is still to be read; it ends when its reader has had it.
func (r *running) release() {
	if r.masks != nil {
		r.masks.Close()
	}
	if r.notifier != nil {
		_ = r.notifier.Close()
	}
	r.servers.Wait()
	for _, f := range r.namespaces {
		f.Close()
	}
	r.status.Close()
	r.lifeline.Close()
	r.group.remove()
}

// Enter implements boundary.Running: duplicates of the namespaces, for the
// caller to close.
func (r *running) Enter() ([]*os.File, error) {
	if len(r.namespaces) != len(process.NamespaceSlots()) {
		return nil, errors.New("this boundary can't be entered")
	}
	var out []*os.File
	for _, f := range r.namespaces {
		n, err := syscall.Dup(int(f.Fd()))
		if err != nil {
			for _, o := range out {
				o.Close()
			}
			return nil, err
		}
		syscall.CloseOnExec(n)
		out = append(out, os.NewFile(uintptr(n), f.Name()))
	}
	return out, nil
}
