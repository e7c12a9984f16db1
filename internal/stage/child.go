package stage

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"cofferdam/internal/linux/call"
)

const (
	slotErrors = uintptr(call.Errors)
	slotStatus = uintptr(call.Status)
)

// The three hooks that package syscall itself uses around its own fork. The
// runtime marks them for use from outside (they carry a push linkname).
//
// BeforeFork blocks all signals and holds off the profiler; AfterFork undoes it
// in the parent; AfterForkInChild resets every handler to its default, so that
// no Go signal handler runs in a process without a scheduler.

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// cloneAndRun returns in the parent only.
//
//go:noinline
//go:norace
func cloneAndRun(img *image, args *cloneArgs, clone3 bool) (pid uintptr, errno syscall.Errno) {
	runtimeBeforeFork()
	if clone3 {
		pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, 0, 0, 0)
	} else {
		// The order of clone's arguments differs between architectures, but
		// all but the flags are 0: no new stack, since memory is copied.
		pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(args.flags|args.exitSignal), 0, 0, 0, 0, 0)
	}
	if errno != 0 || pid != 0 {
		runtimeAfterFork()
		return pid, errno
	}
	runtimeAfterForkInChild()
	first(img)
	return 0, 0 // not reached
}

// first is the life of the first child.
//
//go:nosplit
//go:norace
func first(img *image) {
	// The arguments and the environment go before anything can look:
	// /proc/1/cmdline is readable whatever the process says of itself.
	syscall.RawSyscall6(unix.SYS_MADVISE, img.stack.start, img.stack.end-img.stack.start, unix.MADV_DONTNEED, 0, 0, 0)
	child := run(img, img.first, 0)
	// From here on an error has nobody to go to; the pipe's end tells the
	// launcher that this child got through.
	syscall.RawSyscall6(unix.SYS_CLOSE, slotErrors, 0, 0, 0, 0, 0)
	forget(img)
	attend(img, child)
}

// forget drops the rest of the launcher's memory, but for the stack around this
// frame. Nothing after it may touch the heap: the lists of calls are gone.
//
//go:nosplit
//go:norace
func forget(img *image) {
	here := uintptr(unsafe.Pointer(&img))
	low, high := (here-stackKept)&^4095, (here+stackKept)&^4095
	for i := uintptr(0); i < img.nrest && i < maxSpans; i++ {
		s := &img.rest[i]
		if s.end <= low || s.start >= high {
			syscall.RawSyscall6(unix.SYS_MADVISE, s.start, s.end-s.start, unix.MADV_DONTNEED, 0, 0, 0)
			continue
		}
		if s.start < low {
			syscall.RawSyscall6(unix.SYS_MADVISE, s.start, low-s.start, unix.MADV_DONTNEED, 0, 0, 0)
		}
		if s.end > high {
			syscall.RawSyscall6(unix.SYS_MADVISE, high, s.end-high, unix.MADV_DONTNEED, 0, 0, 0)
		}
	}
}

// run does the calls of one list, in order, and returns the pid of the child
// that a Fork call made (0 if there was none). The child of a Fork call runs
// img.second and never returns from here: its list ends in execve.
//
//go:nosplit
//go:norace
func run(img *image, list []call.Call, who uint32) (child uintptr) {
	for i := 0; i < len(list); i++ {
		o := &list[i].Op
		again := uintptr(0)
	repeat:
		r, _, e := syscall.RawSyscall6(o.NR, o.Args[0], o.Args[1]+again, o.Args[2], o.Args[3], o.Args[4], o.Args[5])
		if e != 0 || (o.Flags&call.Check != 0 && r != o.Want) {
			if o.Flags&call.Optional != 0 {
				i += int(o.Skip)
				continue
			}
			fail(img, who, uint32(i), e, r)
		}
		if again++; again < o.Times {
			goto repeat
		}
		if o.Flags&call.Fork != 0 {
			if r == 0 {
				list, who, i = img.second, 1, -1
				continue
			}
			child = r
		}
		if o.Slot != 0 && r != o.Slot {
			if _, _, e := syscall.RawSyscall6(unix.SYS_DUP3, r, o.Slot, unix.O_CLOEXEC, 0, 0, 0); e != 0 {
				fail(img, who, uint32(i), e, r)
			}
			syscall.RawSyscall6(unix.SYS_CLOSE, r, 0, 0, 0, 0, 0)
		}
	}
	if who != 0 {
		// The second list ended without execve.
		fail(img, who, uint32(len(list)-1), 0, 0)
	}
	return child
}

// fail reports a call through the Errors pipe and ends the process.
//
//go:nosplit
//go:norace
func fail(img *image, who, index uint32, e syscall.Errno, r uintptr) {
	img.fail.second, img.fail.index = who, index
	img.fail.errno, img.fail.result = uint64(e), uint64(r)
	syscall.RawSyscall6(unix.SYS_WRITE, slotErrors, uintptr(unsafe.Pointer(&img.fail)), uintptr(failureSize), 0, 0, 0)
	exit()
}

// attend waits for the command, reaps whatever else ends, and passes signals on.
// All signals are blocked and fetched one at a time. As pid 1 it passes on only
// what comes from outside its namespace (a sender that has no pid here); what is
// sent from inside is nobody's business.
//
//go:nosplit
//go:norace
func attend(img *image, child uintptr) {
	for {
		sig, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&img.all)), uintptr(unsafe.Pointer(&img.info)), 0, 8, 0, 0)
		if e != 0 {
			continue
		}
		if sig == uintptr(unix.SIGCHLD) {
			for {
				r, _, e := syscall.RawSyscall6(unix.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&img.status)), unix.WNOHANG|unix.WALL, 0, 0, 0)
				if r == child {
					finish(img)
				}
				if r == 0 || (e != 0 && e != syscall.EINTR) {
					break
				}
			}
			continue
		}
		// siginfo_t on 64-bit Linux: si_code at 8 (SI_USER is 0: kill(2)),
		// si_pid at 16.
		code := *(*int32)(unsafe.Pointer(&img.info[8]))
		from := *(*int32)(unsafe.Pointer(&img.info[16]))
		if code == 0 && (from == 0 || !img.init) {
			syscall.RawSyscall6(unix.SYS_KILL, child, sig, 0, 0, 0, 0)
		}
	}
}

// finish ends what the command left behind, tells its status and exits. As pid 1
// kill(-1) reaches all of the namespace and nothing else; elsewhere it is left
// out, since it would reach everything of the user.
//
//go:nosplit
//go:norace
func finish(img *image) {
	if img.init {
		syscall.RawSyscall6(unix.SYS_KILL, ^uintptr(0), uintptr(unix.SIGKILL), 0, 0, 0, 0)
		for {
			_, _, e := syscall.RawSyscall6(unix.SYS_WAIT4, ^uintptr(0), 0, unix.WALL, 0, 0, 0)
			if e != 0 && e != syscall.EINTR {
				break
			}
		}
	}
	syscall.RawSyscall6(unix.SYS_WRITE, slotStatus, uintptr(unsafe.Pointer(&img.status)), 4, 0, 0, 0)
	exit()
}

//go:nosplit
//go:norace
func exit() {
	for {
		syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 0, 0, 0, 0, 0, 0)
	}
}
