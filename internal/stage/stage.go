// Package stage is the child side of a boundary: it clones and lets the child,
// without executing anything, run a list of system calls that was written down
// before (linux/call). So a boundary starts in the time of its system calls: no
// second start of the Go runtime, no hand-shake for the uid map, and
// capabilities that survive because nothing was executed in between.
//
//	launcher                       child: pid 1 inside            second child
//	--------                       --------------------           ------------
//	clone(NEW*) ----------------->  Program.First, in order
//	                                 ... clone (a Fork call) ---->  Program.Second
//	reads Errors: end of file       closes Errors                   ... execve
//	means that the command runs     reaps, forwards signals
//	reads Status <----------------  kills the rest, writes Status
//
// This is the most dangerous code of the project. After clone the child has one
// thread, a copy of the launcher's memory and no Go scheduler: it may not
// allocate, take a lock, grow its stack, or call anything that does. All of it is
// in child.go, under 150 lines, and works on integers only.
package stage

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"cofferdam/internal/linux/call"
)

// Program is what the children of one clone do.
type Program struct {
	// First is run by the child of clone. If one of its calls is a Fork,
	// the child of that runs Second; otherwise Second is not used.
	First, Second []call.Call
	// Init: the first child is pid 1 of a new pid namespace. After First it
	// stays, reaps everything, passes signals from outside the namespace on
	// to the command, and when that has ended kills all the rest and writes
	// the wait status to call.Status. Without Init it does the same for its
	// own child only: it passes every signal on and kills nothing.
	Init bool
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

// image is everything the child touches, in memory mapped for it alone. The two
// lists are on the launcher's heap, of which the child has a copy until it has
// run them.
type image struct {
	first, second []call.Call
	init          bool

	stack  span
	rest   [maxSpans]span
	nrest  uintptr
	fail   failure
	info   [128]byte // siginfo_t
	status uint32
	all    uint64 // signal set
}

// failure is what goes through the Errors pipe, in the machine's byte order.
type failure struct {
	second uint32
	index  uint32
	errno  uint64
	result uint64
}

const failureSize = int(unsafe.Sizeof(failure{}))

// Start clones with the given CLONE_NEW* flags and runs the program in the
// child. cgroup, if not negative, is a cgroup v2 directory to be born in
// (clone3, Linux 5.7). PR_SET_PDEATHSIG of the child follows the thread that
// calls Start, not the process; the runtime never ends a thread but one whose
// goroutine ended while locked to it, so nothing in a process that uses Start may
// do that. Start returns at once; how the program went is read from the Errors pipe.
func Start(p *Program, flags uintptr, cgroup int) (pid int, err error) {
	img, err := newImage()
	if err != nil {
		return 0, err
	}
	defer img.free()
	// The image is no memory of the garbage collector's: what it points to is
	// kept alive here.
	img.first, img.second, img.init, img.all = p.First, p.Second, p.Init, ^uint64(0)
	stack, rest, err := memory(uintptr(unsafe.Pointer(img)))
	if err != nil {
		return 0, err
	}
	img.stack, img.nrest = stack, uintptr(copy(img.rest[:], rest))
	args := &cloneArgs{flags: uint64(flags), exitSignal: uint64(syscall.SIGCHLD)}
	if cgroup >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroup)
	}
	// No descriptor may be made without O_CLOEXEC between here and the
	// child's close_range; see syscall.ForkLock.
	syscall.ForkLock.Lock()
	r, errno := cloneAndRun(img, args, cgroup >= 0)
	syscall.ForkLock.Unlock()
	call.Alive(p.First)
	call.Alive(p.Second)
	runtime.KeepAlive(args)
	if errno != 0 {
		return 0, &Failure{Call: call.New("namespaces", "clone", unix.SYS_CLONE).On(flagNames(flags)), Errno: errno}
	}
	return int(r), nil
}

// cloneArgs is struct clone_args of clone3(2), up to the cgroup field.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// Result reads the Errors pipe to its end. It returns nil when both children got
// through (the command was executed), a *Failure when a call went wrong, and
// io.ErrUnexpectedEOF when a child died without a word.
func (p *Program) Result(errs *os.File) error {
	buf := make([]byte, failureSize)
	n, err := io.ReadFull(errs, buf)
	switch {
	case err == io.EOF && n == 0:
		return nil
	case err != nil:
		return io.ErrUnexpectedEOF
	}
	f := failure{
		second: binary.NativeEndian.Uint32(buf),
		index:  binary.NativeEndian.Uint32(buf[4:]),
		errno:  binary.NativeEndian.Uint64(buf[8:]),
		result: binary.NativeEndian.Uint64(buf[16:]),
	}
	list := p.First
	if f.second != 0 {
		list = p.Second
	}
	if int(f.index) >= len(list) {
		return fmt.Errorf("stage: the child reports call %d of %d", f.index, len(list))
	}
	return &Failure{
		Call: list[f.index], Second: f.second != 0, Index: int(f.index),
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
