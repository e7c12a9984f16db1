//go:build linux

package seccomp

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A filter can't be taken off again, so the tests with the real kernel run
// this test binary a second time: TestMain turns it into one of children.

const childEnv = "SECCOMP_TEST_CHILD"

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		runtime.LockOSThread()
		os.Unsetenv(childEnv)
		children[name](os.Args[1:])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var children = map[string]func(args []string){
	// acts MODE: tries every refused act and prints what came of it.
	"acts": func(args []string) {
		confine(args[0])
		for _, a := range acts() {
			fmt.Println(a.name, int(a.try()))
		}
	},
	// exec MODE PROGRAM ARGS: the thread that calls exec takes the filter along.
	"exec": func(args []string) {
		confine(args[0])
		fail("exec", syscall.Exec(args[1], args[1:], os.Environ()))
	},
	"int80": func(args []string) {
		confine(args[0])
		fmt.Println(int80())
	},
	"x32": func(args []string) {
		confine(args[0])
		_, _, e := unix.RawSyscall(x32Bit|unix.SYS_GETPID, 0, 0, 0)
		fmt.Println(int(e))
	},
	// numbers MODE: calls that nobody has judged, and a cancelled one.
	"numbers": func(args []string) {
		confine(args[0])
		for _, nr := range []uintptr{Newest + 1, 520, 100000, ^uintptr(0)} {
			_, _, e := unix.RawSyscall(nr, 0, 0, 0)
			fmt.Println(int(e))
		}
	},
	// flood MODE N: N refused calls from each of four threads.
	"flood": func(args []string) {
		confine(args[0])
		n, _ := strconv.Atoi(args[1])
		var wait sync.WaitGroup
		for range 4 {
			wait.Go(func() {
				for range n {
					if _, _, e := unix.Syscall(unix.SYS_FSOPEN, 0, 0, 0); e != unix.EPERM {
						fail("flood", e)
					}
				}
			})
		}
		wait.Wait()
		fmt.Println("done")
	},
	// takeover MODE: lets a newer filter of its own answer for a refused call.
	"takeover": func(args []string) {
		confine(args[0])
		fmt.Println(takeover())
	},
	// time MODE N: nanoseconds per getppid, ioctl and refused call.
	"time": func(args []string) {
		confine(args[0])
		n, _ := strconv.Atoi(args[1])
		for _, nr := range []uintptr{unix.SYS_GETPPID, unix.SYS_IOCTL, unix.SYS_FSOPEN} {
			start := time.Now()
			for range n {
				unix.RawSyscall(nr, ^uintptr(0), 0, 0)
			}
			fmt.Println(float64(time.Since(start).Nanoseconds()) / float64(n))
		}
	},
}

func fail(what string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
	os.Exit(3)
}

// confine puts the filter on: "none", "errno", "notify", or "open", which is
// notify without the rule about listeners, or "foreign", the program of the
// other architecture, under which every call is a foreign one. A listener goes to the parent
// through descriptor 3, and the child waits for its word. "-all" after the
// mode means all threads.
func confine(mode string) {
	mode, everyone := strings.CutSuffix(mode, "-all")
	if mode == "none" {
		return
	}
	arch, action, list, flags := Native, Errno, Rules(), uintptr(0)
	if mode == "notify" || mode == "open" {
		action, flags = Notify, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
		if Available().WaitKillable.Yes {
			flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		}
	}
	if mode == "foreign" {
		arch = AMD64 + ARM64 - Native
	}
	if mode == "open" {
		list = slices.DeleteFunc(list, func(r Rule) bool { return r.Call == "seccomp" })
	}
	if everyone {
		flags |= unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	}
	program, err := Compile(arch, list, action)
	if err != nil {
		fail("compile", err)
	}
	listener, err := install(program, flags)
	if err != nil {
		fail("install", err)
	}
	if action == Errno {
		return
	}
	if err := unix.Sendmsg(3, []byte{1}, unix.UnixRights(listener), nil, 0); err != nil {
		fail("send listener", err)
	}
	unix.Close(listener)
	if n, err := unix.Read(3, make([]byte, 1)); n != 1 {
		fail("wait for parent", err)
	}
}

func install(p Program, flags uintptr) (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	fprog := p.Fprog()
	fd, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(fprog)))
	runtime.KeepAlive(fprog)
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}

// takeover installs a second filter with a listener, answers "continue" from
// a thread without filters, and says what then becomes of process_vm_writev,
// whose flags the kernel finds wrong (EINVAL) before anything else.
func takeover() (installed, result unix.Errno) {
	newer, err := Compile(Native, []Rule{{Call: "process_vm_writev", Number: [archs]int32{311, 271}}}, Notify)
	if err != nil {
		fail("compile", err)
	}
	listener, err := install(newer, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	if err != nil {
		installed = err.(unix.Errno)
	} else {
		ready := make(chan bool)
		go func() {
			runtime.LockOSThread()
			ready <- true
			var n seccompNotif
			if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); err != nil {
				fail("takeover", err)
			}
			answer := seccompNotifResp{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
			if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&answer)); err != nil {
				fail("takeover", err)
			}
		}()
		<-ready
	}
	_, _, result = unix.Syscall6(unix.SYS_PROCESS_VM_WRITEV, 0, 0, 0, 0, 0, 1)
	return installed, result
}

// act is one call that the filter refuses, with arguments that do no harm
// where it is not refused.
type act struct {
	name string // of the call, with a note after "/"
	nr   uintptr
	args [6]uintptr
}

func (a act) try() unix.Errno {
	r, _, e := unix.Syscall6(a.nr, a.args[0], a.args[1], a.args[2], a.args[3], a.args[4], a.args[5])
	if e == 0 && strings.HasPrefix(a.name, "socket") {
		unix.Close(int(r))
	}
	return e
}

func (a act) call() string { return strings.SplitN(a.name, "/", 2)[0] }

// dangerous acts are not tried without the filter.
var dangerous = map[string]bool{"vhangup": true}

func acts() []act {
	const bad = ^uintptr(0)
	// CLONE_THREAD without CLONE_SIGHAND is EINVAL, whatever else is there.
	const noClone = unix.CLONE_THREAD
	const high = 1 << 40
	special := map[string][][]uintptr{
		"clone": {
			{noClone | unix.CLONE_NEWUSER}, {noClone | unix.CLONE_NEWNS}, {noClone | unix.CLONE_NEWNET}, {noClone | unix.CLONE_NEWPID},
			{noClone | unix.CLONE_NEWIPC}, {noClone | unix.CLONE_NEWUTS}, {noClone | unix.CLONE_NEWCGROUP}},
		// A user namespace is EINVAL for a process of several threads.
		"unshare":     {{unix.CLONE_NEWUSER | unix.CLONE_NEWNS}, {unix.CLONE_NEWUSER | unix.CLONE_NEWTIME}},
		"personality": {{0x0400000}, {0x0100000 | high}},
		"socket": {
			{unix.AF_PACKET, unix.SOCK_DGRAM, 0}, {unix.AF_VSOCK, unix.SOCK_STREAM, 0}, {unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
			{unix.AF_BLUETOOTH, unix.SOCK_RAW, 1}, {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, {unix.AF_NETLINK | high, unix.SOCK_DGRAM, unix.NETLINK_XFRM},
			{unix.AF_INET, unix.SOCK_RAW | unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP}, {unix.AF_INET, unix.SOCK_RAW | high, unix.IPPROTO_UDP},
			{unix.AF_INET6, unix.SOCK_RAW | unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6}, {unix.AF_INET, unix.SOCK_PACKET, 0},
			{unix.AF_UNIX, unix.SOCK_RAW, 0}, {unix.AF_INET, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP}, {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE},
			{unix.AF_INET, unix.SOCK_DCCP | unix.SOCK_CLOEXEC, 0}, {unix.AF_INET6, unix.SOCK_SEQPACKET | high, 0}},
		"socketpair": {{unix.AF_INET, unix.SOCK_STREAM, 0, bad}, {unix.AF_TIPC, unix.SOCK_STREAM, 0, bad}},
		"ioctl":      {{bad, tiocsti}, {bad, tiocsti | high}, {bad, tioclinux | high}, {bad, tiocsetd}},
		"seccomp":    {{unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, 0}},
	}
	var out []act
	seen := map[string]bool{}
	for _, r := range rules {
		if r.Number[Native] == none || seen[r.Call] {
			continue
		}
		seen[r.Call] = true
		nr := uintptr(r.Number[Native])
		if r.When == nil {
			out = append(out, act{r.Call, nr, [6]uintptr{bad, bad, bad, bad, bad, bad}})
		}
		for _, args := range special[r.Call] {
			a := act{name: fmt.Sprintf("%s/%#x", r.Call, args), nr: nr}
			a.name = strings.ReplaceAll(a.name, " ", ",")
			copy(a.args[:], args)
			out = append(out, a)
		}
	}
	return out
}

// child prepares a run of this test binary. The other end of its descriptor 3
// is returned; the caller starts it and closes both.
func child(t testing.TB, name string, args ...string) (*exec.Cmd, *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stderr = os.Stderr
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return cmd, ours
}

// listener receives what confine sends.
func listener(t testing.TB, from *os.File) int {
	t.Helper()
	oob := make([]byte, unix.CmsgSpace(4))
	var n int
	for {
		var err error
		_, n, _, _, err = unix.Recvmsg(int(from.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			t.Fatal(err)
		}
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("no listener came: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	return fds[0]
}

// results parses the lines "name errno" of the child acts.
func results(t testing.TB, out string) map[string]unix.Errno {
	t.Helper()
	m := map[string]unix.Errno{}
	lines := bufio.NewScanner(strings.NewReader(out))
	for lines.Scan() {
		name, number, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("line %q: %v", lines.Text(), err)
		}
		m[name] = unix.Errno(n)
	}
	if len(m) != len(acts()) {
		t.Fatalf("%d results for %d acts", len(m), len(acts()))
	}
	return m
}
