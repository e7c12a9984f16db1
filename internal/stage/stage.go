// Package stage is the child side of a boundary: it clones, and lets the child do
// a list of system calls that was written down before (linux/call), without a
// second start of the Go runtime and without a copy of the launcher's memory.
//
//	launcher                    first child, pid 1 inside        second child
//	--------                    -------------------------        ------------
//	clone(VM|VFORK|NEW*) -----> Program.First, in our memory
//	  (stands still)             ... clone(VM) -----------------> Program.Second,
//	goes on <------------------- execve of the init                its own stack;
//	reads "ready" from Errors
//	writes to Gate -------------------------------------------->   ... execve
//	"ready" again, Errors ends: it runs
//	reads Status <-------------- init: reaps, passes signals on,
//	                             kills the rest, writes Status
//
// Sharing memory instead of copying it saves the copy of all page tables, and the
// faults of copy-on-write in the launcher afterwards; and nothing of the launcher's
// memory is ever inside: both children leave it by execve, the first one before
// anything of the person's runs.
//
// This is the most dangerous code of the project. Between clone and execve a child
// has no Go scheduler of its own: it may not allocate, take a lock, grow its stack,
// store a pointer, or call anything that does. All of it is in child.go
// and in the assembly beside it.
package stage

//lint:file-ignore U1000 some fields are the kernel's, or read by the children only

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cofferdam/internal/linux/call"
)

// Program is what the children of one clone do.
type Program struct {
	// First is done by the child of clone, which then executes the init.
	// One of its calls is a Fork: the child of that does Second, which ends
	// in execve.
	First, Second []call.Call
	// Init: the first child is pid 1 of a new pid namespace. Its init reaps
	// everything, passes signals from outside the namespace on to the
	// command, and when that has ended kills all the rest and writes the wait
	// status to call.Status. Without Init it does the same for its own child
	// only: it passes every signal on and kills nothing.
	Init bool

	img  *image
	errs *os.File // the launcher's end of the Errors pipe
	said []byte   // what was read from it
}

// Failure is the call that went wrong in a child.
type Failure struct {
	Call   call.Call
	Second bool // in Second
	Index  int
	Errno  syscall.Errno // 0 when the call succeeded with a result that was not wanted
	Result uint64
}

func (f *Failure) Error() string {
	if f.Errno == 0 {
		return fmt.Sprintf("%s: unexpected result %d", f.Call, f.Result)
	}
	return fmt.Sprintf("%s: %s", f.Call, f.Errno.Error())
}

// image is everything the children touch. They share it with the launcher, which
// keeps it until both have executed something else.
type image struct {
	first, second []call.Call
	// failed has the number of the call that the child is at, from the start.
	failed, ready [2]failure
	pid           int32 // of the first child; the kernel stores it

	stack    []byte // of the second child
	stackTop uintptr
	entry    uintptr // childSecond

	empty  byte // "", for execveat
	digits [24]byte
	// Vectors for execveat, as integers: a child must not store a pointer,
	// since that would be the garbage collector's business while it marks,
	// and the child has no part in the scheduler that the collector needs.
	initArgs [4]uintptr
	initEnv  [1]uintptr
}

// failure is what goes through the Errors pipe, in the machine's byte order: a
// call that failed or, by the number ready, the word that only the execve is left.
// Without that word a child has not got through, whatever else the pipe says: the
// end of a pipe is also what a killed process leaves.
type failure struct {
	second uint32
	index  uint32
	errno  uint64
	result uint64
}

const ready = ^uint32(0)

const failureSize = int(unsafe.Sizeof(failure{}))

// stackSize is ample: the second child's calls are three deep.
const stackSize = 64 << 10

var (
	initName = []byte("cofferdam\x00")
	initMode = []byte("one\x00") // a third argument: not pid 1 of a namespace
)

// Start clones with the given CLONE_NEW* flags and runs the program in the
// child. cgroup, if not negative, is a cgroup v2 directory to be born in
// (clone3, Linux 5.7). It returns when the first child has executed the init or is
// dead; which of the two, the Errors pipe tells: errs is the launcher's end, and
// from then on belongs to the program; it does not block. When ctx ends, the child is
// killed. Without a pid there is no child, with one Result must be called.
//
// PR_SET_PDEATHSIG of the child follows the thread that clones, not the process;
// the runtime never ends a thread but one whose goroutine ended while locked to it,
// so nothing in a process that uses Start may do that.
func Start(ctx context.Context, p *Program, flags uintptr, cgroup int, errs *os.File) (pid int, err error) {
	p.errs = errs
	defer func() {
		if pid == 0 {
			p.release()
		}
	}()
	file, err := initFile()
	if err != nil {
		return 0, err
	}
	defer file.Close()
	img := &image{second: p.Second}
	img.first = append([]call.Call{
		call.New("start", "pass the init", unix.SYS_DUP3, file.Fd(), call.Init, unix.O_CLOEXEC),
	}, p.First...)
	img.failed[1].second = 1
	for i := range img.ready {
		img.ready[i] = failure{second: uint32(i), index: ready}
	}
	img.initArgs[0] = uintptr(unsafe.Pointer(&initName[0]))
	if !p.Init {
		img.initArgs[2] = uintptr(unsafe.Pointer(&initMode[0]))
	}
	if img.stack, err = syscall.Mmap(-1, 0, stackSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON); err != nil {
		return 0, fmt.Errorf("memory for a stack: %w", err)
	}
	img.stackTop = uintptr(unsafe.Pointer(unsafe.SliceData(img.stack))) + stackSize
	img.entry = secondAddress()
	p.img = img

	args := &cloneArgs{
		flags:      uint64(flags) | unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_PARENT_SETTID,
		exitSignal: uint64(syscall.SIGCHLD),
		parentTID:  uint64(uintptr(unsafe.Pointer(&img.pid))),
	}
	if cgroup >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroup)
	}
	done := make(chan syscall.Errno, 1)
	go func() {
		// No descriptor may be made without O_CLOEXEC between here and the
		// child's close_range; see syscall.ForkLock.
		syscall.ForkLock.Lock()
		_, errno := start(img, args)
		syscall.ForkLock.Unlock()
		runtime.KeepAlive(args)
		done <- syscall.Errno(errno)
	}()
	errno, err := p.cloned(ctx, done)
	if errno != 0 {
		return 0, &Failure{Call: call.New("namespaces", "clone", unix.SYS_CLONE).On(flagNames(flags)), Errno: errno}
	}
	return int(atomic.LoadInt32(&img.pid)), err
}

// cloned waits for the clone to return, which it does when the first child has left
// our memory. At the end of ctx it kills the child, again and again, since it may
// not have been there; a child that even this does not end waits in the kernel for
// something that does not answer, and is left to its fate.
func (p *Program) cloned(ctx context.Context, done <-chan syscall.Errno) (syscall.Errno, error) {
	select {
	case errno := <-done:
		return errno, nil
	case <-ctx.Done():
	}
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	limit := time.After(grace)
	for {
		pid := int(atomic.LoadInt32(&p.img.pid))
		if pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		select {
		case errno := <-done:
			return errno, nil
		case <-again.C:
		case <-limit:
			if pid == 0 {
				limit = time.After(grace) // it waits for another fork
				continue
			}
			return 0, ErrStuck
		}
	}
}

// grace is how long a killed child has to be gone.
const grace = 2 * time.Second

// release lets go of what the children shared. Both must have left it.
func (p *Program) release() {
	p.errs.Close()
	if p.img != nil {
		_ = syscall.Munmap(p.img.stack)
		p.img = nil
	}
}

// cloneArgs is struct clone_args of clone3(2), up to the cgroup field.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

var (
	// ErrDied: a child ended without a word before it executed anything. It was
	// killed, by somebody or for want of memory.
	ErrDied = errors.New("the process was killed before it was done")
	// ErrStuck: a child does not even end when it is killed, since the kernel
	// waits for a file system that does not answer. It ends when that does.
	ErrStuck = errors.New("the process waits for a file system that does not answer, and can't be ended")
)

// Begun reports whether the first child has executed the init, and the second may
// be let through the gate. Silence is no: what has to be said was said before
// Start returned.
func (p *Program) Begun() bool {
	raw, err := p.errs.SyscallConn()
	if err != nil {
		return false
	}
	var b [failureSize]byte
	n := 0
	err = raw.Control(func(fd uintptr) { n, _ = syscall.Read(int(fd), b[:]) })
	if err != nil || n <= 0 {
		return false
	}
	p.said = append(p.said, b[:n]...)
	return n == failureSize && b == [failureSize]byte(asBytes(&p.img.ready[0]))
}

func asBytes(f *failure) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(f)), failureSize) }

// Result reads the Errors pipe to its end, which is when both children have
// executed something or are dead. It returns nil when both have said that they were
// about to (the command was executed), a *Failure when a call went wrong or had not
// returned at the end of ctx, and ErrDied or ErrStuck, with the call. It must be
// called after Start, once.
func (p *Program) Result(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = p.errs.SetReadDeadline(time.Now()) })
	defer stop()
	late := false
	for {
		b := make([]byte, 4*failureSize)
		n, err := p.errs.Read(b)
		p.said = append(p.said, b[:n]...)
		switch {
		case err == io.EOF:
			defer p.release()
			return p.verdict(ctx, late)
		case errors.Is(err, os.ErrDeadlineExceeded) && !late:
			late = true
			_ = syscall.Kill(int(atomic.LoadInt32(&p.img.pid)), syscall.SIGKILL)
			_ = p.errs.SetReadDeadline(time.Now().Add(grace))
		case err != nil:
			// Somebody may still work in our memory, which stays therefore.
			go func() {
				_ = p.errs.SetReadDeadline(time.Time{})
				_, _ = io.Copy(io.Discard, p.errs)
				p.release()
			}()
			return fmt.Errorf("%s: %w", p.at(), ErrStuck)
		}
	}
}

// verdict is what the records of the pipe come to. What the first child met comes
// before what that brought upon the second.
func (p *Program) verdict(ctx context.Context, late bool) error {
	var done [2]bool
	var failed [2]*failure
	for text := p.said; len(text) > 0; {
		if len(text) < failureSize {
			return fmt.Errorf("%s: %w", p.at(), ErrDied)
		}
		f := &failure{
			second: binary.NativeEndian.Uint32(text),
			index:  binary.NativeEndian.Uint32(text[4:]),
			errno:  binary.NativeEndian.Uint64(text[8:]),
			result: binary.NativeEndian.Uint64(text[16:]),
		}
		text = text[failureSize:]
		switch {
		case f.second > 1:
			return fmt.Errorf("stage: a report of child %d", f.second)
		case f.index == ready:
			done[f.second] = true
		case failed[f.second] == nil:
			failed[f.second] = f
		}
	}
	for i := range done {
		switch {
		case failed[i] != nil:
			return p.failure(failed[i])
		case done[i]:
		case late || ctx.Err() != nil: // killed by us, by Start perhaps
			return p.late(ctx)
		default:
			return fmt.Errorf("%s: %w", p.call(i, atomic.LoadUint32(&p.img.failed[i].index)), ErrDied)
		}
	}
	if late {
		return p.late(ctx) // it got through, to be killed
	}
	return nil
}

// late is the error of a program that was not done at the end of ctx.
func (p *Program) late(ctx context.Context) error {
	if ctx.Err() == context.DeadlineExceeded {
		return &Failure{Call: p.at(), Errno: syscall.ETIMEDOUT}
	}
	return context.Cause(ctx)
}

// at is the call that a child is in: the second one's, once the first is done.
func (p *Program) at() call.Call {
	i := 0
	if bytes.HasPrefix(p.said, asBytes(&p.img.ready[0])) {
		i = 1
	}
	return p.call(i, atomic.LoadUint32(&p.img.failed[i].index))
}

// call is a call of a child, by its number.
func (p *Program) call(child int, index uint32) call.Call {
	list := [2][]call.Call{p.img.first, p.img.second}[child]
	if int(index) < len(list) {
		return list[index]
	}
	return call.New("start", "execute the init", unix.SYS_EXECVEAT)
}

func (p *Program) failure(f *failure) error {
	if f.second != 0 && int(f.index) >= len(p.img.second) {
		return fmt.Errorf("stage: the child reports call %d of %d", f.index, len(p.img.second))
	}
	return &Failure{
		Call: p.call(int(f.second), f.index), Second: f.second != 0, Index: int(f.index),
		Errno: syscall.Errno(f.errno), Result: f.result,
	}
}

func flagNames(flags uintptr) string {
	out := ""
	for _, f := range []struct {
		bit  uintptr
		name string
	}{
		{unix.CLONE_NEWUSER, "user"}, {unix.CLONE_NEWNS, "mount"}, {unix.CLONE_NEWPID, "pid"},
		{unix.CLONE_NEWNET, "net"}, {unix.CLONE_NEWIPC, "ipc"}, {unix.CLONE_NEWUTS, "uts"},
		{unix.CLONE_NEWCGROUP, "cgroup"},
	} {
		if flags&f.bit != 0 {
			if out != "" {
				out += ","
			}
			out += f.name
		}
	}
	if out == "" {
		return "without namespaces"
	}
	return out + " namespaces"
}
