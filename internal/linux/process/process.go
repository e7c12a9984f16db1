// Package process writes down what a child does to itself between clone and
// execve: descriptors, session, signals, terminal, limits. It makes no system call
// itself, but for the few functions that a launcher needs around it.
package process

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"cofferdam/internal/linux/call"
)

// Pass moves descriptor fd of the launcher to slot. Every Pass comes before
// CloseAllButSlots; fd must be below call.First, so that none overwrites another.
func Pass(fd, slot int) call.Call {
	return call.New("descriptors", "pass to the child", unix.SYS_DUP3, fd, slot, unix.O_CLOEXEC)
}

// CloseAllButSlots closes every descriptor above 2 that is not in a slot.
func CloseAllButSlots() []call.Call {
	return []call.Call{
		call.New("descriptors", "close what is not for the inside", unix.SYS_CLOSE_RANGE, 3, call.First-1, 0),
		call.New("descriptors", "close what is not for the inside", unix.SYS_CLOSE_RANGE, call.Last, uint64(^uint32(0)), 0),
	}
}

// CloseAllBut closes every descriptor above 2 but one; that one must have
// O_CLOEXEC.
func CloseAllBut(slot int) []call.Call {
	return []call.Call{
		call.New("descriptors", "close", unix.SYS_CLOSE_RANGE, 3, slot-1, 0),
		call.New("descriptors", "close", unix.SYS_CLOSE_RANGE, slot+1, uint64(^uint32(0)), 0),
	}
}

// CloseForInit closes all but what the init has: Errors and Status, which begin the
// block of slots, and itself. Status stays open over execve.
func CloseForInit() []call.Call {
	const first, second = call.Errors, call.Status
	_ = [1]int{}[(first-call.First)+(second-first-1)] // does not compile if they do not
	return []call.Call{
		call.New("descriptors", "close what was for the command", unix.SYS_CLOSE_RANGE, 3, first-1, 0),
		call.New("descriptors", "close what was for the command", unix.SYS_CLOSE_RANGE, second+1, call.Init-1, 0),
		call.New("descriptors", "close what was for the command", unix.SYS_CLOSE_RANGE, call.Init+1, uint64(^uint32(0)), 0),
		call.New("descriptors", "keep over execve", unix.SYS_FCNTL, second, unix.F_SETFD, 0),
	}
}

// Standard makes the descriptor in slot number n (0, 1 or 2).
func Standard(slot, n int) call.Call {
	return call.New("descriptors", "make standard", unix.SYS_DUP3, slot, n, 0)
}

// Null opens /dev/null of the inside as 0, 1 and 2.
func Null() []call.Call {
	list := []call.Call{
		call.New("descriptors", "open /dev/null", unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/null", unix.O_RDWR|unix.O_CLOEXEC).Into(call.Socket),
	}
	for n := range 3 {
		list = append(list, Standard(call.Socket, n))
	}
	return list
}

// DieWithLauncher asks for SIGKILL at the death of the thread that cloned us,
// and then makes sure that it was not too late: the launcher holds the other end
// of the Lifeline pipe, so a hang-up means that it is gone already.
func DieWithLauncher() []call.Call {
	p := &unix.PollFd{Fd: call.Lifeline, Events: unix.POLLIN}
	return []call.Call{
		call.New("start", "die with the launcher", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL), 0, 0, 0),
		call.New("start", "the launcher is alive", unix.SYS_PPOLL, call.Ptr(p), 1, call.Ptr(&unix.Timespec{}), 0, 0, 0).Wanting(0),
	}
}

// DieWithParent is DieWithLauncher without the pipe, for a child whose parent
// waits for it.
func DieWithParent() call.Call {
	return call.New("start", "die with the parent", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL), 0, 0, 0)
}

// WaitGate lets the command go on when the launcher has written one byte.
func WaitGate() call.Call {
	return call.New("start", "wait for the launcher", unix.SYS_READ, call.Gate, make([]byte, 1), 1).Wanting(1)
}

// Session makes the process the leader of a session of its own, without a
// terminal. A process that was just forked can't be one already, so it can't fail.
func Session() call.Call {
	return call.New("session", "new session", unix.SYS_SETSID)
}

// BlockSignals blocks all signals; UnblockSignals none.
func BlockSignals() call.Call {
	all := ^uint64(0)
	return call.New("signals", "block all", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, call.Ptr(&all), 0, 8)
}

func UnblockSignals() call.Call {
	return call.New("signals", "unblock all", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, call.Ptr(new(uint64)), 0, 8)
}

// Fork clones once more; the child goes on with the second list.
func Fork() call.Call {
	return call.New("start", "fork the command", unix.SYS_CLONE, int(unix.SIGCHLD), 0, 0, 0, 0).Forking()
}

// Chdir changes the working directory.
func Chdir(dir string) call.Call {
	return call.New("start", "change directory to", unix.SYS_CHDIR, dir).On(dir)
}

// Execve replaces the process by the program.
func Execve(program string, argv, env []string) call.Call {
	return call.New("exec", "execute", unix.SYS_EXECVE, program, call.Ptr(&vector(argv)[0]), call.Ptr(&vector(env)[0])).On(program)
}

// vector is a NULL-terminated array of strings.
func vector(list []string) []*byte {
	out := make([]*byte, len(list)+1)
	for i, s := range list {
		out[i] = call.Bytes(s)
	}
	return out
}

// Limit is one resource limit of setrlimit(2), soft and hard alike.
func Limit(name string, resource int, soft, hard uint64) call.Call {
	return call.New("limits", "limit", unix.SYS_PRLIMIT64, 0, resource,
		call.Ptr(&unix.Rlimit{Cur: soft, Max: hard}), 0).On(name)
}

// Processors lists the processors that the caller may use.
func Processors() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("sched_getaffinity: %w", err)
	}
	var out []int
	for cpu := 0; len(out) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			out = append(out, cpu)
		}
	}
	return out, nil
}

// Affinity confines the process to the processors of mask, whose words are not
// empty.
func Affinity(mask []uint64) call.Call {
	return call.New("limits", "choose processors", unix.SYS_SCHED_SETAFFINITY, 0, 8*len(mask), call.Ptr(&mask[0]))
}

// Filter installs a seccomp filter, with a listener for refused calls if notify.
func Filter(prog *unix.SockFprog, notify bool) call.Call {
	flags := 0
	if notify {
		flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	return call.New("seccomp", "install the filter", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, call.Ptr(prog))
}

// Terminal makes a pty of the devpts at /dev/pts: the master in slot Ptmx, the
// other side in Pts.
func Terminal(rows, cols uint16) []call.Call {
	return []call.Call{
		call.New("terminal", "open /dev/pts/ptmx", unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC).Into(call.Ptmx),
		call.New("terminal", "unlock the pty", unix.SYS_IOCTL, call.Ptmx, unix.TIOCSPTLCK, call.Ptr(new(int32))),
		call.New("terminal", "open the pty", unix.SYS_IOCTL, call.Ptmx, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC).Into(call.Pts),
		call.New("terminal", "set its size", unix.SYS_IOCTL, call.Ptmx, unix.TIOCSWINSZ, call.Ptr(&unix.Winsize{Row: rows, Col: cols})),
	}
}

// Control makes the pty in slot Pts the controlling terminal.
func Control() call.Call {
	return call.New("terminal", "take the controlling terminal", unix.SYS_IOCTL, call.Pts, unix.TIOCSCTTY, 0)
}

// Send passes the descriptors in slots to the launcher, with one byte that says
// what they are.
func Send(tag byte, slots ...int) call.Call {
	oob := syscall.UnixRights(slots...)
	data := []byte{tag}
	iov := &unix.Iovec{Base: &data[0], Len: 1}
	msg := &unix.Msghdr{Iov: iov, Iovlen: 1, Control: &oob[0], Controllen: uint64(len(oob))}
	return call.New("descriptors", "send", unix.SYS_SENDMSG, call.Channel, call.Ptr(msg), unix.MSG_NOSIGNAL).Wanting(1)
}

// Namespaces opens the namespaces of the calling process, so that they can be
// sent, in the order of NamespaceSlots. It must come before the process becomes
// undumpable.
func Namespaces() []call.Call {
	var list []call.Call
	for _, n := range namespaces {
		list = append(list, call.New("namespaces", "open", unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/self/ns/"+n.name, unix.O_RDONLY|unix.O_CLOEXEC).On(n.name).Into(n.slot))
	}
	return list
}

// Join enters the namespaces in NamespaceSlots. The user namespace comes first:
// it gives the capabilities that the others ask for. The pid namespace is that
// of children made from then on.
func Join() []call.Call {
	var list []call.Call
	for _, n := range namespaces {
		list = append(list, call.New("namespaces", "join", unix.SYS_SETNS, n.slot, n.flag).On(n.name))
	}
	return list
}

// NamespaceSlots is the order in which namespaces are sent and joined.
func NamespaceSlots() []int {
	var out []int
	for _, n := range namespaces {
		out = append(out, n.slot)
	}
	return out
}

var namespaces = [...]struct {
	name string
	slot int
	flag int
}{
	{"user", call.NsUser, unix.CLONE_NEWUSER},
	{"mnt", call.NsMnt, unix.CLONE_NEWNS},
	{"net", call.NsNet, unix.CLONE_NEWNET},
	{"ipc", call.NsIpc, unix.CLONE_NEWIPC},
	{"uts", call.NsUts, unix.CLONE_NEWUTS},
	{"cgroup", call.NsCgroup, unix.CLONE_NEWCGROUP},
	{"pid", call.NsPid, unix.CLONE_NEWPID},
}

// AllNamespaces are the clone flags of a whole boundary.
const AllNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID |
	unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
