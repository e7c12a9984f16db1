//lint:file-ignore U1000 the children are called from assembly, which the checker does not read

package stage

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"cofferdam/internal/linux/call"
)

const (
	slotErrors = uintptr(call.Errors)
	slotInit   = uintptr(call.Init)
)

// The hooks that package syscall itself uses around its own fork, and those by
// which a goroutine tells the scheduler that it is in a system call. The runtime
// marks them for use from outside (they carry a push linkname).
//
// BeforeFork blocks all signals; AfterFork undoes it in the parent;
// AfterForkInChild resets every handler to its default, so that no Go signal
// handler runs in a process without a scheduler.

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// In clone_*.s.
//
//go:noescape
func cloneShared(nr, a0, a1, a2 uintptr, img *image) (pid, errno uintptr)

//go:noescape
func cloneCommand(flags, stack, entry uintptr, img *image) (pid, errno uintptr)

func secondAddress() uintptr

// start clones the first child, and returns when it has executed the init or
// died. The child works in our memory and below our stack frame meanwhile, so this
// thread stands still (CLONE_VFORK); other goroutines run, and may have to answer
// the child, which is why the scheduler is told.
//
//go:nosplit
//go:noinline
//go:norace
func start(img *image, args *cloneArgs) (pid, errno uintptr) {
	runtimeBeforeFork()
	entersyscall()
	if args.flags&unix.CLONE_INTO_CGROUP != 0 {
		pid, errno = cloneShared(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, img)
	} else {
		// Where a filter knows clone3(2) only as something to refuse.
		pid, errno = cloneShared(unix.SYS_CLONE, uintptr(args.flags|args.exitSignal), 0, uintptr(args.parentTID), img)
	}
	runtimeAfterFork()
	exitsyscall()
	return pid, errno
}

// childFirst is the life of the first child, up to the init.
//
//go:nosplit
//go:norace
func childFirst(img *image) {
	runtimeAfterForkInChild()
	command := run(img, 0, img.first)
	// The init is told the command's pid as a decimal number.
	n := len(img.digits) - 1
	for ok := true; ok; ok = command > 0 {
		n--
		img.digits[n] = byte('0' + command%10)
		command /= 10
	}
	img.initArgs[1] = uintptr(unsafe.Pointer(&img.digits[n]))
	say(&img.ready[0])
	_, _, e := syscall.RawSyscall6(unix.SYS_EXECVEAT, slotInit, uintptr(unsafe.Pointer(&img.empty)),
		uintptr(unsafe.Pointer(&img.initArgs)), uintptr(unsafe.Pointer(&img.initEnv)), unix.AT_EMPTY_PATH, 0)
	fail(&img.failed[0], uint32(len(img.first)), e, 0)
}

// childSecond is the life of the command before it is the command. It has a
// stack of its own, since the launcher goes on before it executes.
//
//go:nosplit
//go:norace
func childSecond(img *image) {
	run(img, 1, img.second)
	fail(&img.failed[1], uint32(len(img.second)-1), 0, 0) // the list ended without execve
}

// run does the calls of one list, in order, and returns the pid of the child
// that a Fork call made (0 if there was none). Before the last call of the second
// list, which is the execve, it says that all others are done.
//
//go:nosplit
//go:norace
func run(img *image, who int, list []call.Call) (command uintptr) {
	failed := &img.failed[who]
	for i := 0; i < len(list); i++ {
		o := &list[i].Op
		failed.index = uint32(i) // for a launcher that has waited too long
		if who == 1 && i == len(list)-1 {
			say(&img.ready[1])
		}
		if o.Flags&call.Fork != 0 {
			pid, e := cloneCommand(unix.CLONE_VM|uintptr(unix.SIGCHLD), img.stackTop, img.entry, img)
			if e != 0 {
				fail(failed, uint32(i), syscall.Errno(e), 0)
			}
			command = pid
			continue
		}
		again := uintptr(0)
	repeat:
		r, _, e := syscall.RawSyscall6(o.NR, o.Args[0], o.Args[1]+again, o.Args[2], o.Args[3], o.Args[4], o.Args[5])
		if e != 0 || (o.Flags&call.Check != 0 && r != o.Want) {
			if o.Flags&call.Optional != 0 && (o.Only == 0 || uintptr(e) == o.Only) {
				i += int(o.Skip)
				continue
			}
			fail(failed, uint32(i), e, r)
		}
		if again++; again < o.Times {
			goto repeat
		}
		if o.Slot != 0 && r != o.Slot {
			if _, _, e := syscall.RawSyscall6(unix.SYS_DUP3, r, o.Slot, unix.O_CLOEXEC, 0, 0, 0); e != 0 {
				fail(failed, uint32(i), e, r)
			}
			syscall.RawSyscall6(unix.SYS_CLOSE, r, 0, 0, 0, 0, 0)
		}
	}
	return command
}

// fail reports a call through the Errors pipe and ends the process.
//
//go:nosplit
//go:norace
func fail(f *failure, index uint32, e syscall.Errno, r uintptr) {
	f.index, f.errno, f.result = index, uint64(e), uint64(r)
	say(f)
	exit()
}

// say writes one record to the Errors pipe. A process that can't has no launcher
// any more, and ends.
//
//go:nosplit
//go:norace
func say(f *failure) {
	if n, _, _ := syscall.RawSyscall6(unix.SYS_WRITE, slotErrors, uintptr(unsafe.Pointer(f)), uintptr(failureSize), 0, 0, 0); n != uintptr(failureSize) {
		exit()
	}
}

//go:nosplit
//go:norace
func exit() {
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 1, 0, 0, 0, 0, 0)
	}
}
