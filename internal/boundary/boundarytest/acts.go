package boundarytest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// act is one thing that code inside may or may not do. do returns nil when it
// succeeded.
type act struct {
	name  string
	works bool // must it succeed inside?
	do    func(w *World) error
	// noControl says why there is no control outside, if there is none.
	noControl string
}

func reads(path func(*World) string) func(*World) error {
	return func(w *World) error {
		b, err := os.ReadFile(path(w))
		if err != nil {
			return err
		}
		if !strings.Contains(string(b), w.Secret) {
			return errors.New("read something else")
		}
		return nil
	}
}

func writes(path func(*World) string) func(*World) error {
	return func(w *World) error {
		f, err := os.OpenFile(path(w), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteString("# written\n")
		return errors.Join(err, f.Close())
	}
}

func at(f func(*World) string, name string) func(*World) string {
	return func(w *World) string { return f(w) + name }
}

func home(w *World) string      { return w.Home }
func workspace(w *World) string { return w.Workspace }
func outside(w *World) string   { return w.Outside }
func readonly(w *World) string  { return w.ReadOnly }

func dials(network string, address func(*World) string) func(*World) error {
	return func(w *World) error {
		c, err := net.DialTimeout(network, address(w), 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		if err != nil || string(b) != w.Secret {
			return fmt.Errorf("answer %q: %v", b, err)
		}
		return nil
	}
}

// refusedCall succeeds when the system call is not refused by a filter: any
// other outcome, an error for its silly arguments included, means that the kernel
// has looked at it.
func refusedCall(nr uintptr, args ...uintptr) func(*World) error {
	return func(*World) error {
		var a [6]uintptr
		copy(a[:], args)
		_, _, e := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		if e == syscall.EPERM || e == syscall.ENOSYS {
			return e
		}
		return nil
	}
}

// exchange swaps two names at once (RENAME_EXCHANGE).
func exchange(a, b string) error {
	const cwd, swap = -100, 2
	from, err := syscall.BytePtrFromString(a)
	if err != nil {
		return err
	}
	to, err := syscall.BytePtrFromString(b)
	if err != nil {
		return err
	}
	at := cwd
	_, _, e := syscall.Syscall6(renameat2, uintptr(at), uintptr(unsafe.Pointer(from)), uintptr(at), uintptr(unsafe.Pointer(to)), swap, 0)
	if e != 0 {
		return e
	}
	return nil
}

var acts = []act{
	// Files.
	{name: "read a key in the home", do: reads(at(home, "/.ssh/id_ed25519"))},
	{name: "read a file in the home", do: reads(at(home, "/notes"))},
	{name: "read a file nobody named", do: reads(at(outside, "/file"))},
	{name: "read a masked file in the workspace", do: reads(at(workspace, "/.env"))},
	{name: "read a masked file by a link", do: func(w *World) error {
		link := w.Workspace + "/link"
		_ = os.Remove(link)
		if err := os.Symlink(".env", link); err != nil {
			return err
		}
		defer os.Remove(link)
		return reads(func(*World) string { return link })(w)
	}},
	{name: "read by way of /proc of an outside process", do: func(w *World) error {
		return reads(func(*World) string { return fmt.Sprintf("/proc/%d/root%s/file", w.PID, w.Outside) })(w)
	}},
	{name: "read the environment of an outside process", do: reads(func(w *World) string { return fmt.Sprintf("/proc/%d/environ", w.PID) })},
	{name: "move a masked file to another name", do: func(w *World) error {
		if err := os.Rename(w.Workspace+"/.env", w.Workspace+"/env2"); err != nil {
			return err
		}
		defer os.Rename(w.Workspace+"/env2", w.Workspace+"/.env")
		return reads(at(workspace, "/env2"))(w)
	}},
	{name: "exchange a masked file with another", do: func(w *World) error {
		swap := func() error {
			return exchange(w.Workspace+"/.env", w.Workspace+"/plain")
		}
		if err := swap(); err != nil {
			return err
		}
		defer swap()
		return reads(at(workspace, "/plain"))(w)
	}},
	{name: "read a masked file by a path descriptor", do: func(w *World) error {
		const oPath = 0x200000 // O_PATH, which package syscall does not have
		fd, err := syscall.Open(w.Workspace+"/.env", oPath|syscall.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer syscall.Close(fd)
		return reads(func(*World) string { return fmt.Sprintf("/proc/self/fd/%d", fd) })(w)
	}},
	{name: "give a protected file a second name", do: func(w *World) error {
		second := w.Workspace + "/.git/config2"
		if err := os.Link(w.Workspace+"/.git/config", second); err != nil {
			return err
		}
		defer os.Remove(second)
		return writes(func(*World) string { return second })(w)
	}},
	{name: "open a readable file anew for writing", do: func(w *World) error {
		f, err := os.Open(w.ReadOnly + "/file")
		if err != nil {
			return err
		}
		defer f.Close()
		return writes(func(*World) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) })(w)
	}},
	{name: "make a file outside", do: writes(at(outside, "/new"))},
	{name: "append to a file outside", do: writes(at(outside, "/file"))},
	{name: "append to a readable file", do: writes(at(readonly, "/file"))},
	{name: "change the mode of a readable file", do: func(w *World) error { return os.Chmod(w.ReadOnly+"/file", 0o600) }},
	{name: "rename in a readable directory", do: func(w *World) error {
		if err := os.Rename(w.ReadOnly+"/sub", w.ReadOnly+"/sub2"); err != nil {
			return err
		}
		return os.Rename(w.ReadOnly+"/sub2", w.ReadOnly+"/sub")
	}},
	{name: "plant a git hook", do: writes(at(workspace, "/.git/hooks/pre-commit"))},
	{name: "change the git configuration", do: writes(at(workspace, "/.git/config"))},
	{name: "replace the git configuration", do: func(w *World) error {
		tmp := w.Workspace + "/.git/config.new"
		if err := os.WriteFile(tmp, []byte("[core]\n"), 0o644); err != nil {
			return err
		}
		defer os.Remove(tmp)
		return os.Rename(tmp, w.Workspace+"/.git/config")
	}},
	{name: "carry .git away", do: func(w *World) error {
		if err := os.Rename(w.Workspace+"/.git", w.Workspace+"/git2"); err != nil {
			return err
		}
		return os.Rename(w.Workspace+"/git2", w.Workspace+"/.git")
	}},
	{name: "plant a hook in a nested repository", do: writes(at(workspace, "/a/b/.git/hooks/pre-commit"))},
	{name: "carry the parent of a nested repository away", do: func(w *World) error {
		if err := os.Rename(w.Workspace+"/a", w.Workspace+"/c"); err != nil {
			return err
		}
		return os.Rename(w.Workspace+"/c", w.Workspace+"/a")
	}},
	{name: "read through an inherited directory descriptor", do: func(w *World) error {
		for fd := 3; fd < 1024; fd++ {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d/file", fd)); err == nil && strings.Contains(string(b), w.Secret) {
				return nil
			}
		}
		return errors.New("no descriptor leads there")
	}},
	{name: "see a file of the host's /tmp", do: func(w *World) error {
		_, err := os.Stat(w.Mark)
		return err
	}},

	// What must work.
	{name: "write in the workspace", works: true, do: writes(at(workspace, "/made"))},
	{name: "rename in the workspace", works: true, do: func(w *World) error {
		if err := writes(at(workspace, "/x1"))(w); err != nil {
			return err
		}
		return os.Rename(w.Workspace+"/x1", w.Workspace+"/x2")
	}},
	{name: "link between directories of the workspace", works: true, do: func(w *World) error {
		_ = os.MkdirAll(w.Workspace+"/d1", 0o755)
		_ = os.Remove(w.Workspace + "/d1/l")
		if err := writes(at(workspace, "/d0"))(w); err != nil {
			return err
		}
		return os.Link(w.Workspace+"/d0", w.Workspace+"/d1/l")
	}},
	{name: "write git objects", works: true, do: writes(at(workspace, "/.git/index"))},
	{name: "write in the home", works: true, do: writes(at(home, "/.cache"))},
	{name: "write in /tmp", works: true, do: writes(func(*World) string { return fmt.Sprintf("/tmp/boundarytest-%d", os.Getpid()) })},
	{name: "read a readable file", works: true, do: func(w *World) error { _, err := os.ReadFile(w.ReadOnly + "/file"); return err }},
	{name: "write to /dev/null", works: true, do: writes(func(*World) string { return "/dev/null" })},
	{name: "run a program", works: true, do: func(*World) error { return exec.Command("/bin/sh", "-c", "true").Run() }},
	{name: "serve on loopback", works: true, do: func(*World) error {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		go func() {
			if c, err := l.Accept(); err == nil {
				c.Close()
			}
		}()
		c, err := net.DialTimeout("tcp", l.Addr().String(), 5*time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	}},
	{name: "use a unix socket of its own", works: true, do: func(*World) error {
		l, err := net.Listen("unix", fmt.Sprintf("/tmp/bt%d", os.Getpid()))
		if err != nil {
			return err
		}
		defer l.Close()
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			return err
		}
		return c.Close()
	}},
	{name: "make a pty", works: true, do: func(*World) error {
		f, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		return f.Close()
	}, noControl: "the host's may be closed"},

	// Network.
	{name: "reach a server on the host's loopback", do: dials("tcp", func(w *World) string { return w.TCP })},
	{name: "reach a server on the host's own address", do: dials("tcp", func(w *World) string { return w.Own })},
	{name: "reach a UDP server on the host", do: func(w *World) error {
		answer, err := talk(net.Dialer{}, "udp", w.UDP)
		if err == nil && answer != w.Secret {
			err = errors.New("another answer")
		}
		return err
	}},
	{name: "see another interface than loopback", do: func(*World) error {
		list, err := net.Interfaces()
		if err == nil && len(list) == 1 && list[0].Flags&net.FlagLoopback != 0 {
			err = errors.New("loopback only")
		}
		return err
	}},
	{name: "reach an abstract socket of the host", do: dials("unix", func(w *World) string { return w.Abstract })},

	// Processes and kernel.
	{name: "see an outside process", do: func(w *World) error {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.PID))
		if err != nil {
			return err
		}
		if !strings.Contains(string(b), "600") {
			return errors.New("another process")
		}
		return nil
	}},
	{name: "signal an outside process", do: func(w *World) error {
		// The same number may be somebody else inside, who then is no
		// sleep with this argument.
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.PID)); err == nil && !strings.Contains(string(b), "600") {
			return errors.New("another process")
		}
		return syscall.Kill(w.PID, 0)
	}},
	{name: "use the keyring of the user", do: refusedCall(syscall.SYS_KEYCTL, 0, ^uintptr(3), 1)}, // KEYCTL_GET_KEYRING_ID
	{name: "set up an io_uring", do: refusedCall(425, 1, 0)},
	{name: "open a file by handle", do: refusedCall(nameToHandleAt, 0, 0, 0, 0, 0)},
	{name: "type into a terminal", do: refusedCall(syscall.SYS_IOCTL, ^uintptr(0), 0x5412, 0)},                     // TIOCSTI
	{name: "type into a terminal, high bits set", do: refusedCall(syscall.SYS_IOCTL, ^uintptr(0), 0x100005412, 0)}, // CVE-2019-10063
	{name: "open a packet socket", do: refusedCall(syscall.SYS_SOCKET, syscall.AF_PACKET, ^uintptr(0), 0)},
	// No kernel has this protocol: without the filter that is what it says.
	{name: "open a raw socket", do: refusedCall(syscall.SYS_SOCKET, syscall.AF_INET, syscall.SOCK_RAW, 999)},
	{name: "open a raw socket for IPv6", do: refusedCall(syscall.SYS_SOCKET, syscall.AF_INET6, syscall.SOCK_RAW, 999)},
	{name: "open a netlink socket of the packet filter", do: refusedCall(syscall.SYS_SOCKET, syscall.AF_NETLINK, syscall.SOCK_RAW, syscall.NETLINK_NETFILTER)},
	{name: "use a System V segment of the host", do: shmAttach},
	{name: "make a user namespace", do: func(*World) error {
		cmd := exec.Command("/bin/true")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
		return cmd.Run()
	}},
	{name: "gain privileges by a set-user-id program", do: func(*World) error {
		b, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return err
		}
		if strings.Contains(string(b), "NoNewPrivs:\t1") {
			return errors.New("no_new_privs is set")
		}
		return nil
	}},
	{name: "have capabilities in the bounding set", do: func(*World) error {
		b, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return err
		}
		if strings.Contains(string(b), "CapBnd:\t0000000000000000") {
			return errors.New("empty")
		}
		return nil
	}},
	{name: "read pid 1's environment", noControl: "pid 1 of the host is root's", do: func(*World) error {
		_, err := os.ReadFile("/proc/1/environ")
		return err
	}},
	{name: "find the launcher's arguments at pid 1", noControl: "pid 1 of the host has its own", do: func(*World) error {
		b, err := os.ReadFile("/proc/1/cmdline")
		if err != nil {
			return err
		}
		if strings.HasPrefix(string(b), "cofferdam\x00") {
			return errors.New("these are the init's own")
		}
		return nil
	}},
	{name: "raise the number of open files", noControl: "the host's limit may be the highest", do: func(*World) error {
		var l syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &l); err != nil {
			return err
		}
		l.Max, l.Cur = 1<<20, 1<<20
		return syscall.Setrlimit(syscall.RLIMIT_CORE, &l)
	}},
	{name: "write a kernel knob", noControl: "root's on the host", do: writes(func(*World) string { return "/proc/sys/user/max_user_namespaces" })},
	{name: "change the host name", noControl: "root's on the host", do: func(*World) error { return syscall.Sethostname([]byte("x")) }},
}
