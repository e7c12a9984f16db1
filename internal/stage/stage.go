// Package stage is the child side of a boundary: it clones, and lets the child do
// a list of system calls that was written down before (linux/call), without a
// second start of the Go runtime and without a copy of the launcher's memory.
//
//	launcher                    first child, pid 1 inside        second child
//	--------                    -------------------------        ------------
//	clone(VM|VFORK|NEW*) -----> Program.First, in our memory
//	  (stands still)             ... clone(VM) -----------------> Program.Second,
//	goes on <------------------- execve of the init                its own stack;
//	writes to Gate -------------------------------------------->   ... execve
//	Errors ends: it runs
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
// store a pointer, or call anything that does. All of it is in child.go, under 150 lines, and in the
// assembly beside it.
package stage

//lint:file-ignore U1000 some fields are the kernel's, or read by the children only

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

	img *image
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
	failed        [2]failure

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

// failure is what goes through the Errors pipe, in the machine's byte order.
type failure struct {
	second uint32
	index  uint32
	errno  uint64
	result uint64
}

const failureSize = int(unsafe.Sizeof(failure{}))

// stackSize is ample: the second child's calls are three deep.
const stackSize = 64 << 10

var (
	initName = []byte("cofferdam\x00")
	initMode = []byte("one\x00") // a third argument: not pid 1 of a namespace
)

// Start clones with the given CLONE_NEW* flags and runs the program in the
// child. cgroup, if not negative, is a cgroup v2 directory to be born in
// (clone3, Linux 5.7). PR_SET_PDEATHSIG of the child follows the thread that
// calls Start, not the process; the runtime never ends a thread but one whose
// goroutine ended while locked to it, so nothing in a process that uses Start may
// do that. Start returns at once; how the program went is read from the Errors pipe.
func Start(p *Program, flags uintptr, cgroup int) (pid int, err error) {
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

	args := &cloneArgs{flags: uint64(flags) | unix.CLONE_VM | unix.CLONE_VFORK, exitSignal: uint64(syscall.SIGCHLD)}
	if cgroup >= 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(cgroup)
	}
	// No descriptor may be made without O_CLOEXEC between here and the
	// child's close_range; see syscall.ForkLock.
	syscall.ForkLock.Lock()
	r, errno := start(img, args)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(args)
	if errno != 0 {
		p.release()
		return 0, &Failure{Call: call.New("namespaces", "clone", unix.SYS_CLONE).On(flagNames(flags)), Errno: syscall.Errno(errno)}
	}
	return int(r), nil
}

// release lets go of what the children shared.
func (p *Program) release() {
	if p.img != nil {
		_ = syscall.Munmap(p.img.stack)
		p.img = nil
	}
}

// cloneArgs is struct clone_args of clone3(2), up to the cgroup field.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// Result reads the Errors pipe to its end, which is when both children have
// executed something or are dead. It returns nil when both got through (the command
// was executed), a *Failure when a call went wrong, and io.ErrUnexpectedEOF when a
// child died without a word. It must be called after Start, once.
func (p *Program) Result(errs *os.File) error {
	defer p.release()
	text, err := io.ReadAll(io.LimitReader(errs, int64(2*failureSize)))
	switch {
	case err != nil:
		return fmt.Errorf("read from the child: %w", err)
	case len(text) == 0:
		return nil
	case len(text) < failureSize:
		return io.ErrUnexpectedEOF
	}
	f := failure{
		second: binary.NativeEndian.Uint32(text),
		index:  binary.NativeEndian.Uint32(text[4:]),
		errno:  binary.NativeEndian.Uint64(text[8:]),
		result: binary.NativeEndian.Uint64(text[16:]),
	}
	list := p.img.first
	if f.second != 0 {
		list = p.img.second
	}
	c := call.New("start", "execute the init", unix.SYS_EXECVEAT)
	switch {
	case int(f.index) < len(list):
		c = list[f.index]
	case f.second != 0:
		return fmt.Errorf("stage: the child reports call %d of %d", f.index, len(list))
	}
	return &Failure{
		Call: c, Second: f.second != 0, Index: int(f.index),
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
