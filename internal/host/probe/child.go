//go:build linux

package probe

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"cofferdam/internal/host"
	"cofferdam/internal/linux/fusemask"
	"cofferdam/internal/linux/mount"
	"cofferdam/internal/linux/netns"

	"golang.org/x/sys/unix"
)

const (
	// childWord is the hidden first argument of a trial.
	childWord = "__probe"
	// nothing is the trial that only starts.
	nothing = "nothing"
)

// Child carries out a trial if args (without the program's name) ask for one,
// as Full's children do. main calls it before anything else and exits with
// exit if handled. It answers on standard output and needs nothing else.
func Child(args []string) (handled bool, exit int) {
	if len(args) < 2 || args[0] != childWord {
		return false, 0
	}
	if len(args) == 4 && args[1] == host.Overlay {
		if json.NewEncoder(os.Stdout).Encode(tryLayers(args[2], args[3])) != nil {
			return true, 1
		}
		return true, 0
	}
	if len(args) != 2 {
		return false, 0
	}
	if args[1] == nothing {
		return true, 0
	}
	for _, t := range trials {
		if t.name == args[1] {
			if json.NewEncoder(os.Stdout).Encode(t.try()) != nil {
				return true, 1
			}
			return true, 0
		}
	}
	return true, 2
}

// trial is one mechanism used for real.
type trial struct {
	name  string
	flags uintptr // clone flags of the child
	// notRoot: for root, the child is nobody in its user namespace.
	notRoot bool
	try     func() result
	args    []string // of the child
}

const (
	newUser = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	newPID  = newUser | syscall.CLONE_NEWPID
	newNet  = newUser | syscall.CLONE_NEWNET
)

// trials: user namespaces first, the others need them.
var trials = []trial{
	{name: host.UserNamespaces, flags: newUser, try: tryUserns},
	{name: host.MountAPI, flags: newUser, try: tryMountAPI},
	{name: host.ProcMount, flags: newPID, try: tryProc},
	{name: host.NetNamespace, flags: newNet, try: tryNet},
	{name: host.Seccomp, flags: 0, try: trySeccomp},
	{name: host.SeccompNotify, flags: 0, try: tryNotify},
	{name: host.Landlock, flags: 0, try: tryLandlock},
	{name: host.Fuse, flags: newUser, try: tryFuse},
	{name: host.Overlay, flags: newUser, try: tryOverlay},
	// Before 6.14 pid_max is global, and global root may write it even from
	// a user namespace. Nobody may not.
	{name: host.PidMax, flags: newPID, notRoot: true, try: tryPidMax},
	{name: host.ClonePidfd, flags: 0, try: pidfd},
	{name: host.Nftables, flags: newNet, try: tryNftables},
	{name: host.AnyIP, flags: newNet, try: tryAnyIP},
}

// scratch mounts an empty tmpfs over a directory that every system has. Only
// this child's namespace sees it.
func scratch() (string, result, bool) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", failed("make mounts private in a user namespace", err), false
	}
	for _, dir := range []string{"/tmp", "/run", "/dev", "/etc"} {
		err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m")
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return "", failed("mount tmpfs in a user namespace", err), false
		}
		return dir, result{}, true
	}
	return "", result{Answer: host.Unknown, Op: "no directory to mount on"}, false
}

func tryUserns() result {
	if _, r, ok := scratch(); !ok {
		return r
	}
	return yes("clone(CLONE_NEWUSER) and a tmpfs mounted inside")
}

func tryMountAPI() result {
	dir, r, ok := scratch()
	if !ok {
		return r
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return failed("open_tree(OPEN_TREE_CLONE)", err)
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return failed("mount_setattr(AT_RECURSIVE)", err)
	}
	to, err := unix.Openat2(unix.AT_FDCWD, dir, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return failed("openat2", err)
	}
	if err := unix.MoveMount(tree, "", to, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return failed("move_mount", err)
	}
	if err := unix.Mkdir(dir+"/cofferdam-probe", 0o700); err != unix.EROFS && err != unix.EACCES {
		unix.Rmdir(dir + "/cofferdam-probe")
		return result{Answer: host.Unknown, Op: fmt.Sprintf("mkdir in a read-only tree: %v", err)}
	}
	return yes("open_tree, mount_setattr, openat2, move_mount")
}

func tryProc() result {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return failed("make mounts private in a user namespace", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return failed("mount proc in a new pid namespace", err)
	}
	if self, err := os.Readlink("/proc/self"); err != nil || self != "1" {
		return result{Answer: host.Unknown, Op: fmt.Sprintf("/proc/self is %q", self)}
	}
	return yes("a fresh procfs")
}

func tryNet() result {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed("socket(AF_INET)", err)
	}
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return failed("lo", err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return failed("bring lo up in a network namespace", err)
	}
	return yes("a network namespace with lo up")
}

// tryNftables sends a connection to an address of nobody, and looks where it comes
// and what it was for. IPv6 has to work too where it is there.
func tryNftables() result {
	if r := tryNet(); r.Answer != host.Yes {
		return r
	}
	if r := tryRedirect(unix.AF_INET); r.Answer != host.Yes {
		return r
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()})
		unix.Close(fd)
	}
	switch err {
	case nil:
	case unix.EAFNOSUPPORT, unix.EADDRNOTAVAIL:
		return yes("a connection was redirected, and said where to (IPv4; no IPv6 here)")
	default:
		return failed("bind ::1", err)
	}
	if r := tryRedirect(unix.AF_INET6); r.Answer != host.Yes {
		return r
	}
	return yes("a connection was redirected, and said where to (IPv4, IPv6)")
}

func tryRedirect(family int) result {
	// Addresses for documentation (RFC 5737, RFC 3849).
	want := netip.MustParseAddrPort("192.0.2.1:443")
	var self, to unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, &unix.SockaddrInet4{Addr: want.Addr().As4(), Port: 443}
	if family == unix.AF_INET6 {
		want = netip.MustParseAddrPort("[2001:db8::1]:443")
		self, to = &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}, &unix.SockaddrInet6{Addr: want.Addr().As16(), Port: 443}
	}
	l, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return failed("socket", err)
	}
	if err := unix.Bind(l, self); err != nil {
		return failed("bind to loopback", err)
	}
	if err := unix.Listen(l, 1); err != nil {
		return failed("listen on loopback", err)
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		return failed("getsockname", err)
	}
	port := 0
	switch a := at.(type) {
	case *unix.SockaddrInet4:
		port = a.Port
	case *unix.SockaddrInet6:
		port = a.Port
	}
	for _, q := range []struct {
		protocol int
		netns.Request
	}{{unix.NETLINK_ROUTE, netns.Route(family)}, {unix.NETLINK_NETFILTER, netns.Redirect(family, uint16(port))}} {
		if r := sendRequest(q.protocol, q.Request); r.Answer != host.Yes {
			return r
		}
	}
	c, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed("socket", err)
	}
	if err := unix.Connect(c, to); err != nil {
		return failed("connect to "+want.String()+" through a redirect rule", err)
	}
	// It is made, here or elsewhere; here it is when the last packet of the handshake
	// has been dealt with, which may be on another processor.
	ready := []unix.PollFd{{Fd: int32(l), Events: unix.POLLIN}}
	if _, err := unix.Poll(ready, 1000); err != nil && err != unix.EINTR {
		return failed("poll", err)
	}
	fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err == unix.EAGAIN {
		return no("a connection was not redirected")
	}
	if err != nil {
		return failed("accept a redirected connection", err)
	}
	f := os.NewFile(uintptr(fd), "accepted")
	raw, err := f.SyscallConn()
	if err != nil {
		return result{Answer: host.Unknown, Op: err.Error()}
	}
	got, err := netns.Destination(raw)
	if err != nil || got != want {
		return no(fmt.Sprintf("a redirected connection to %s says that it is to %s (%v)", want, got, err))
	}
	return yes("redirected")
}

// tryAnyIP connects to an address of nobody, which the route makes one of ours, and looks
// whether the connection comes to a listener on every address and says what it was for.
func tryAnyIP() result {
	if r := tryNet(); r.Answer != host.Yes {
		return r
	}
	if r := sendRequest(unix.NETLINK_ROUTE, netns.Route(unix.AF_INET)); r.Answer != host.Yes {
		return r
	}
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return failed("socket", err)
	}
	if err := unix.Bind(l, &unix.SockaddrInet4{}); err != nil {
		return failed("bind to every address", err)
	}
	if err := unix.Listen(l, 1); err != nil {
		return failed("listen on every address", err)
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		return failed("getsockname", err)
	}
	want := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(at.(*unix.SockaddrInet4).Port))
	c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed("socket", err)
	}
	if err := unix.Connect(c, &unix.SockaddrInet4{Addr: want.Addr().As4(), Port: int(want.Port())}); err != nil {
		return failed("connect to "+want.Addr().String()+", a local address by a route", err)
	}
	ready := []unix.PollFd{{Fd: int32(l), Events: unix.POLLIN}}
	if _, err := unix.Poll(ready, 1000); err != nil && err != unix.EINTR {
		return failed("poll", err)
	}
	fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return failed("accept a connection to a local address by a route", err)
	}
	raw, err := os.NewFile(uintptr(fd), "accepted").SyscallConn()
	if err != nil {
		return result{Answer: host.Unknown, Op: err.Error()}
	}
	if got, err := netns.Local(raw); err != nil || got != want {
		return no(fmt.Sprintf("a connection to %s says that it is to %s (%v)", want, got, err))
	}
	return yes("a connection to any address came here, and said where to (IPv4)")
}

// sendRequest asks the kernel for a change of this network namespace.
func sendRequest(protocol int, r netns.Request) result {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return failed("netlink socket to "+r.Op, err)
	}
	defer unix.Close(fd)
	for _, b := range [][]byte{r.Bytes, r.Check} {
		if b == nil {
			continue
		}
		if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return failed(r.Op, err)
		}
	}
	if err := r.Confirm(fd); err != nil {
		if refused, ok := errors.AsType[*netns.Refused](err); ok {
			return failed(refused.Op, refused.Errno)
		}
		return failed(r.Op, err)
	}
	return yes(r.Op)
}

// filter answers action for one system call and allows the rest.
func filter(nr uint32, action uint32) []unix.SockFilter {
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 0, Jf: 1, K: nr},
		{Code: unix.BPF_RET | unix.BPF_K, K: action},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
}

// install puts a filter on the calling thread, which is never unlocked.
func install(prog []unix.SockFilter, flags uintptr) (int, error) {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	p := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(prog)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func trySeccomp() result {
	if _, err := install(filter(unix.SYS_SYNC, unix.SECCOMP_RET_ERRNO|uint32(unix.EXDEV)), 0); err != nil {
		return failed("seccomp(SET_MODE_FILTER)", err)
	}
	// sync can't fail by itself, so an error proves the filter.
	if _, _, errno := unix.RawSyscall(unix.SYS_SYNC, 0, 0, 0); errno != unix.EXDEV {
		return no("a filter was installed and did nothing")
	}
	return yes("a filter was installed and refused a call")
}

func tryNotify() result {
	type installed struct {
		fd  int
		err error
	}
	ready, called := make(chan installed), make(chan unix.Errno, 1)
	go func() {
		fd, err := install(filter(unix.SYS_SYNC, unix.SECCOMP_RET_USER_NOTIF), unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
		ready <- installed{fd, err}
		if err == nil {
			_, _, errno := unix.Syscall(unix.SYS_SYNC, 0, 0, 0)
			called <- errno
		}
	}()
	in := <-ready
	if in.err != nil {
		return failed("seccomp(FILTER_FLAG_NEW_LISTENER)", in.err)
	}
	const recv, send = 0xc0502100, 0xc0182101 // SECCOMP_IOCTL_NOTIF_RECV and _SEND, 5.0
	var notif [80]byte                        // struct seccomp_notif, zeroed as required
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(in.fd), recv, uintptr(unsafe.Pointer(&notif))); errno != 0 {
		return failed("SECCOMP_IOCTL_NOTIF_RECV", errno)
	}
	answer := struct {
		id    uint64
		value int64
		err   int32
		flags uint32
	}{id: *(*uint64)(unsafe.Pointer(&notif)), err: -int32(unix.EXDEV)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(in.fd), send, uintptr(unsafe.Pointer(&answer))); errno != 0 {
		return failed("SECCOMP_IOCTL_NOTIF_SEND", errno)
	}
	if errno := <-called; errno != unix.EXDEV {
		return no("a call was answered and the answer was not used")
	}
	return yes("a call was noticed and answered")
}

func tryLandlock() result {
	abi := landlockABI()
	if abi.Answer != host.Yes {
		return abi
	}
	const file = "/proc/self/exe"
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return result{Answer: host.Unknown, Op: "open " + file, Errno: err.(unix.Errno)}
	}
	unix.Close(fd)
	runtime.LockOSThread()
	attr := unix.LandlockRulesetAttr{Handled_access_fs: unix.LANDLOCK_ACCESS_FS_READ_FILE}
	rules, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), 8, 0) // 8: the size of ABI 1
	if errno != 0 {
		return failed("landlock_create_ruleset", errno)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return failed("no_new_privs", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, rules, 0, 0); errno != 0 {
		return failed("landlock_restrict_self", errno)
	}
	if _, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != unix.EACCES {
		return no("restricted, and a file can be read still")
	}
	return abi
}

// tryFuse serves a mask to itself. The server is this process, and the only
// one with the descriptor: when it ends, so does the connection.
func tryFuse() result {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("open /dev/fuse", err)
	}
	name, _ := unix.BytePtrFromString(fusemask.Filesystem)
	fs, _, errno := unix.Syscall(unix.SYS_FSOPEN, uintptr(unsafe.Pointer(name)), unix.FSOPEN_CLOEXEC, 0)
	if errno != 0 {
		return failed("fsopen fuse", errno)
	}
	for _, o := range fusemask.Options(dev, os.Getuid(), os.Getgid()) {
		if err := unix.FsconfigSetString(int(fs), o.Key, o.Value); err != nil {
			return failed("fsconfig fuse "+o.Key, err)
		}
	}
	if err := unix.FsconfigCreate(int(fs)); err != nil {
		return failed("mount fuse in a user namespace", err)
	}
	seen := make(chan string, 1)
	s := fusemask.New([]fusemask.Mask{{Path: "/probe", Directory: true}})
	go s.Serve(os.NewFile(uintptr(dev), "fuse"), func(a fusemask.Attempt) {
		select {
		case seen <- string(a.Name):
		default:
		}
	})
	m, _, errno := unix.Syscall(unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, fusemask.MountAttributes)
	if errno != 0 {
		return failed("fsmount fuse", errno)
	}
	// Before Linux 6.15 nothing can be cloned from a mount that is attached nowhere.
	dir, r, ok := scratch()
	if !ok {
		return r
	}
	if err := unix.MoveMount(int(m), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return failed("attach a fuse mount", err)
	}
	t, err := unix.OpenTree(unix.AT_FDCWD, dir+"/0", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return failed("open_tree of a fuse node", err)
	}
	if _, err := unix.Openat(t, "secret", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != unix.EACCES {
		return result{Answer: host.No, Op: fmt.Sprintf("a masked file answers %v", err)}
	}
	select {
	case n := <-seen:
		if n == "secret" {
			return yes("a mask was mounted, refused an open and told of it")
		}
	default:
	}
	return no("a mask refused an open and told nobody")
}

// tryOverlay mounts one over an empty directory of its own. What a run needs besides,
// the file system of the layers, is for TryOverlay.
func tryOverlay() result {
	dir, r, ok := scratch()
	if !ok {
		return r
	}
	for _, d := range []string{"/project", "/layers"} {
		if err := unix.Mkdir(dir+d, 0o755); err != nil {
			return failed("mkdir", err)
		}
	}
	return tryLayers(dir+"/project", dir+"/layers")
}

// tryLayers mounts an overlay over project, which is not touched whatever happens, with
// its layers in the empty directory dir; and looks whether a removal, a change and a new
// name come to lie in the upper layer. What is removed and changed is in a layer of our
// own below, so that nothing is lost should it not be an overlay after all.
func tryLayers(project, dir string) result {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return failed("make mounts private in a user namespace", err)
	}
	for _, d := range []string{"/lower", "/upper", "/work", "/all", "/lower/replaced", "/lower/replaced/before"} {
		if err := unix.Mkdir(dir+d, 0o755); err != nil {
			return failed("mkdir", err)
		}
	}
	for _, f := range []string{"/lower/gone", "/lower/changed"} {
		if os.WriteFile(dir+f, []byte("x"), 0o600) != nil {
			return result{Answer: host.Unknown, Op: "write into the lower directory"}
		}
	}
	level, op := 2, "layers by descriptor"
	if err := attachOverlay([]string{dir + "/lower", project}, dir, true); err != nil {
		level, op = 1, "layers by path"
		if err := attachOverlay([]string{dir + "/lower", project}, dir, false); err != nil {
			return failed("mount overlay with userxattr in a user namespace", err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir+"/all", &fs); err != nil || fs.Type != unix.OVERLAYFS_SUPER_MAGIC {
		return no("overlay was mounted and is not there")
	}
	if err := unix.Unlink(dir + "/all/gone"); err != nil {
		return failed("unlink through overlay", err)
	}
	if err := unix.Chmod(dir+"/all/changed", 0o640); err != nil {
		return failed("change a mode through overlay", err)
	}
	if err := unix.Mkdir(dir+"/all/cofferdam-trial", 0o700); err != nil {
		return failed("mkdir through overlay", err)
	}
	for _, d := range []string{"/all/replaced/before", "/all/replaced"} {
		if err := unix.Rmdir(dir + d); err != nil {
			return failed("rmdir through overlay", err)
		}
	}
	if err := unix.Mkdir(dir+"/all/replaced", 0o700); err != nil {
		return failed("mkdir in the place of a removed directory", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir+"/upper/gone", &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
		return no("a removal left no whiteout")
	}
	if err := unix.Lstat(dir+"/upper/changed", &st); err != nil || st.Mode&0o777 != 0o640 {
		return no("a change did not come to lie in the upper layer")
	}
	if err := unix.Lstat(dir+"/upper/cofferdam-trial", &st); err != nil {
		return no("a new name did not come to lie in the upper layer")
	}
	// Without the attribute, what was removed would be there again.
	mark := make([]byte, 8)
	if n, err := unix.Getxattr(dir+"/upper/replaced", "user.overlay.opaque", mark); err != nil || string(mark[:n]) != "y" {
		return no("a directory was replaced, and the file system does not keep the mark of it (attributes in user.*)")
	}
	if err := unix.Access(dir+"/all/replaced/before", unix.F_OK); err != unix.ENOENT {
		return no("a removed directory shows through its replacement")
	}
	r := yes("mounted with " + op + "; a removal left a whiteout, a change a copy")
	r.Level = level
	return r
}

// attachOverlay mounts one at dir/all as a run does: linux/mount has the same calls.
func attachOverlay(lower []string, dir string, byDescriptor bool) error {
	name, _ := unix.BytePtrFromString(mount.OverlayFS)
	fs, _, errno := unix.Syscall(unix.SYS_FSOPEN, uintptr(unsafe.Pointer(name)), unix.FSOPEN_CLOEXEC, 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(fs))
	if err := unix.FsconfigSetFlag(int(fs), "userxattr"); err != nil {
		return err
	}
	set := func(key, old, path string) error {
		if !byDescriptor {
			return unix.FsconfigSetString(int(fs), old, path)
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.FsconfigSetFd(int(fs), key, fd)
	}
	if byDescriptor {
		for _, l := range lower {
			if err := set("lowerdir+", "", l); err != nil {
				return err
			}
		}
	} else {
		// In a name of the person's, ":" separates layers and "\" escapes.
		names := make([]string, len(lower))
		for i, l := range lower {
			fd, err := unix.Open(l, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			names[i] = "/proc/self/fd/" + strconv.Itoa(fd)
		}
		if err := set("", "lowerdir", strings.Join(names, ":")); err != nil {
			return err
		}
	}
	for _, l := range [][2]string{{"upperdir", "/upper"}, {"workdir", "/work"}} {
		if err := set(l[0], l[0], dir+l[1]); err != nil {
			return err
		}
	}
	if err := unix.FsconfigCreate(int(fs)); err != nil {
		return err
	}
	m, _, errno := unix.Syscall(unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(m))
	return unix.MoveMount(int(m), "", unix.AT_FDCWD, dir+"/all", unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// tryPidMax lowers the ceiling of its own pid namespace. See the note in the
// table: this must never run as global root.
func tryPidMax() result {
	const file, ceiling = "/proc/sys/kernel/pid_max", 400
	if os.Getpid() != 1 {
		return result{Answer: host.Unknown, Op: "not in a new pid namespace"}
	}
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("open "+file+" in a new pid namespace", err)
	}
	if _, err := unix.Write(fd, []byte(strconv.Itoa(ceiling))); err != nil {
		return failed("write "+file, err)
	}
	b, err := os.ReadFile(file)
	if err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(ceiling) {
		return no("a ceiling was written and is not there")
	}
	return yes("the pid namespace has its own ceiling")
}
