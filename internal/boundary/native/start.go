package native

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"cofferdam/internal/boundary"
	"cofferdam/internal/linux/call"
	"cofferdam/internal/linux/fusemask"
	"cofferdam/internal/linux/netns"
	"cofferdam/internal/linux/process"
	"cofferdam/internal/linux/seccomp"
	"cofferdam/internal/plan"
	"cofferdam/internal/stage"
)

// Boundary is the native boundary.
type Boundary struct {
	// SetupLimit is how long the system calls of a start may take, without
	// what Streams.Ready takes; 0 is a minute.
	SetupLimit time.Duration
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
	calls, net, err := networkOf(p)
	if err != nil {
		return nil, err
	}
	return b.launch(ctx, p, s, denied, calls, net)
}

// launch is Start with the network as calls.
func (b Boundary) launch(ctx context.Context, p *plan.Plan, s boundary.Streams, denied func(boundary.Denial), calls []call.Call, net *network) (boundary.Running, error) {
	if net != nil && s.Gateway == nil {
		return nil, errors.New("nobody serves the gateway of the plan's network")
	}
	if err := prepareHome(p); err != nil {
		return nil, err
	}
	group, err := newGroup(p)
	if err != nil {
		return nil, err
	}
	r := &running{plan: p, denied: serial(denied), group: group, net: net, inner: true}
	err = r.start(ctx, b.limit(), s, process.AllNamespaces, func(fd descriptors) (*stage.Program, error) { return program(p, s, fd, calls) })
	if err != nil {
		group.remove()
		return nil, b.explain(err)
	}
	return r, nil
}

// Enter starts one more command in a running boundary: files are what
// Running.Enter of its owner handed out. p is the plan of the boundary with the new
// Command, Program, Dir and Environment. The command gets the same locks and
// ceilings. It does not end with the boundary's own command but with the boundary.
// If the plan has SeccompNotify, handOver must pass the listener of the command's
// filter on to Running.Adopt; the file is closed when it returns.
func (b Boundary) Enter(ctx context.Context, p *plan.Plan, files []*os.File, s boundary.Streams, handOver func(listener *os.File) error) (boundary.Running, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slots := process.NamespaceSlots()
	if len(files) < len(slots) {
		return nil, fmt.Errorf("%d namespaces to enter, want %d", len(files), len(slots))
	}
	if p.SeccompNotify && handOver == nil {
		return nil, errors.New("nobody answers for the refused system calls of a command that enters")
	}
	group, err := joinedGroup(p, files[len(slots):])
	if err != nil {
		return nil, err
	}
	r := &running{plan: p, group: group, handOver: handOver}
	err = r.start(ctx, b.limit(), s, 0, func(fd descriptors) (*stage.Program, error) { return entry(p, s, fd, files[:len(slots)]) })
	runtime.KeepAlive(files)
	if err != nil {
		return nil, b.explain(err)
	}
	return r, nil
}

// limit is long enough for file systems that have to be mounted or woken first.
func (b Boundary) limit() time.Duration {
	if b.SetupLimit > 0 {
		return b.SetupLimit
	}
	return time.Minute
}

// explain turns what a child reported into the errors of the contract.
func (b Boundary) explain(err error) error {
	var f *stage.Failure
	if r, ok := errors.AsType[*netns.Refused](err); ok {
		e := &boundary.SetupError{Stage: r.Stage, Op: r.Op, Errno: r.Errno}
		if b.Remedy != nil {
			e.Remedy = b.Remedy(e.Stage, e.Op, e.Errno)
		}
		return e
	}
	if !errors.As(err, &f) {
		return err
	}
	if f.Call.Stage == "exec" {
		return &boundary.ExecError{Program: f.Call.Object, Errno: f.Errno}
	}
	e := &boundary.SetupError{Stage: f.Call.Stage, Op: strings.TrimSpace(f.Call.Verb + " " + f.Call.Object), Errno: f.Errno}
	switch {
	case e.Errno == syscall.ETIMEDOUT:
		e.Remedy = "a path of the policy is perhaps on a file system that does not answer (network, FUSE): see that it does, or leave the path out"
	case b.Remedy != nil:
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
	// handOver passes the listener of a command that entered on to the owner.
	handOver func(listener *os.File) error

	net *network // nil if it has no gateway

	pid        int
	terminal   *os.File
	namespaces []*os.File
	status     *os.File
	lifeline   *os.File

	// servers are the goroutines that answer the kernel for the inside.
	servers sync.WaitGroup
	masks   *fusemask.Server

	mu        sync.Mutex
	notifiers map[*seccomp.Notifier]bool // one for each command that lives
	dead      bool                       // the child is reaped; its pid means nothing any more
	entered   bool                       // somebody was let in
	over      bool                       // nobody is let in any more
}

// pipe is an os.Pipe whose child end is blocking, as the child expects.
func pipe() (r, w int, err error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return -1, -1, fmt.Errorf("pipe: %w", err)
	}
	return p[0], p[1], nil
}

func (r *running) start(ctx context.Context, limit time.Duration, s boundary.Streams, flags uintptr, write func(descriptors) (*stage.Program, error)) (err error) {
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
	// No thread of the launcher waits in a read of this one.
	if err := syscall.SetNonblock(errs, true); err != nil {
		return fmt.Errorf("pipe: %w", err)
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
	go func() {
		err := r.receive(channel)
		r.net.end(cmp.Or(err, errors.New("network: the boundary ended before it stood")))
		received <- err
	}()

	setup, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	mine = slices.DeleteFunc(mine, func(n int) bool { return n == errs })
	r.pid, err = stage.Start(setup, prog, flags, r.group.directory(), os.NewFile(uintptr(errs), "errors"))
	runtime.KeepAlive(s)
	// The child has its copies; ours must go, or end of file never comes.
	for _, n := range theirs {
		syscall.Close(n)
	}
	theirs = nil
	if r.pid == 0 {
		<-received
		r.net.close()
		return err
	}
	mine = nil
	r.status = os.NewFile(uintptr(status), "status")
	r.lifeline = os.NewFile(uintptr(lifeline), "lifeline")

	// Pid 1 has left our memory, or it is dead; only then the command may go on.
	g := os.NewFile(uintptr(gate), "gate")
	begun := err == nil && prog.Begun()
	if begun {
		err = r.group.attach(r.pid)
		if err == nil {
			err = r.net.give(setup, s.Gateway)
		}
		if err == nil && s.Ready != nil {
			err = s.Ready()
		}
		if err == nil {
			_, _ = g.Write([]byte{1}) // a dead child is reported below
		}
	}
	g.Close()
	ready, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if !begun {
		ready = setup // it is late already, or dead
	}
	result := prog.Result(ready)
	if result == nil && !begun {
		result = stage.ErrDied
	}
	stuck := errors.Is(result, stage.ErrStuck)
	if stuck {
		// It holds the other end of the channel.
		_ = control(channel, func(fd int) error { return syscall.Shutdown(fd, syscall.SHUT_RDWR) })
	}
	if rerr := <-received; result == nil {
		result = rerr
	}
	r.net.close()
	if err != nil && !stuck {
		result = err
	}
	switch {
	case stuck:
		go r.abandon()
	case result != nil:
		r.abandon()
	}
	return result
}

// control does something to the descriptor of a file that another goroutine may
// close meanwhile.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err == nil {
		if cerr := raw.Control(func(fd uintptr) { err = do(int(fd)) }); err == nil {
			err = cerr
		}
	}
	return err
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
		op := "pass standard " + [...]string{"input", "output", "error"}[i]
		st, err := f.Stat()
		if err != nil { // closed, perhaps: see what a shell makes of <&-
			return &boundary.SetupError{Stage: "descriptors", Op: op, Errno: syscall.EBADF, Remedy: "redirect it to a file, or to /dev/null"}
		}
		if !st.IsDir() {
			continue
		}
		return &boundary.SetupError{
			Stage: "descriptors", Op: op, Errno: syscall.EISDIR,
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
		if r.net.take(buf[0], fds) {
			continue
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
				return fmt.Errorf("seccomp listener: %w", err)
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

// serveListener sees to it that every refused system call is answered with EPERM:
// here, or by the owner of the boundary that was entered. The listener is closed,
// also on error.
func (r *running) serveListener(listener int) error {
	if r.handOver != nil {
		f := os.NewFile(uintptr(listener), "seccomp listener")
		defer f.Close()
		return r.handOver(f)
	}
	n, err := seccomp.NewNotifier(listener)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		_ = n.Close()
		return errors.New("the boundary has ended")
	}
	if r.notifiers == nil {
		r.notifiers = map[*seccomp.Notifier]bool{}
	}
	r.notifiers[n] = true
	r.servers.Go(func() {
		err := n.Serve(func(c seccomp.Notification) {
			r.denied(boundary.Denial{Action: "system call", Subject: c.Rule.Call, PID: c.PID, Process: comm(c.PID), Reason: c.Rule.Reason})
		})
		if err != nil && !errors.Is(err, os.ErrClosed) {
			_ = r.Kill() // what is refused from now on would not be seen
		}
		_ = n.Close()
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.notifiers, n)
	})
	return nil
}

// Adopt implements boundary.Running.
func (r *running) Adopt(listener *os.File) error {
	n, err := duplicate(listener)
	if err != nil {
		return err
	}
	return r.serveListener(n)
}

// duplicate is the descriptor once more, for others to close.
func duplicate(f *os.File) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	n, err := syscall.Dup(int(f.Fd()))
	if err == nil {
		syscall.CloseOnExec(n)
	}
	return n, err
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

// enteredTime is how long Wait waits for the end of what has entered.
const enteredTime = 5 * time.Second

// Wait implements boundary.Running.
func (r *running) Wait() (boundary.Exit, error) {
	buf := make([]byte, 4)
	_, err := io.ReadFull(r.status, buf)
	r.mu.Lock()
	r.over = true
	entered := r.entered
	r.mu.Unlock()
	reaped := make(chan struct{})
	go func() {
		defer close(reaped)
		r.reap()
	}()
	switch {
	case entered:
		// What entered is no child of pid 1, which told without it. The kernel
		// lets pid 1 end when all of these are dead and reaped by those who
		// brought them in; one of those may be dead himself, and his heir may
		// not reap.
		select {
		case <-reaped:
		case <-time.After(enteredTime):
			r.release()
			return boundary.Exit{}, errors.New("a process that entered is still there, or nobody has reaped it")
		}
	case err == nil && r.inner:
		// Pid 1 tells when all others are dead and reaped. Its own end, and
		// that of its namespaces, is for the kernel to finish; we need not
		// wait for it.
	default:
		<-reaped
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
	r.mu.Lock()
	r.over = true
	for n := range r.notifiers {
		_ = n.Close()
	}
	r.mu.Unlock()
	r.servers.Wait()
	for _, f := range r.namespaces {
		f.Close()
	}
	r.status.Close()
	r.lifeline.Close()
	r.group.tell(r.plan, r.denied)
	r.group.remove()
}

// Enter implements boundary.Running: duplicates of the namespaces, then the
// directories of the control group, for the caller to close.
func (r *running) Enter() ([]*os.File, error) {
	if len(r.namespaces) != len(process.NamespaceSlots()) {
		return nil, errors.New("this boundary can't be entered")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, errors.New("the boundary has ended")
	}
	out, err := r.group.handOut()
	if err != nil {
		return nil, err
	}
	for i, f := range r.namespaces {
		n, err := duplicate(f)
		if err != nil {
			for _, o := range out {
				o.Close()
			}
			return nil, err
		}
		out = slices.Insert(out, i, os.NewFile(uintptr(n), f.Name()))
	}
	r.entered = true
	return out, nil
}
