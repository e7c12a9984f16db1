//go:build linux

// Package probe finds out what this machine can do and fills host.Facts. It
// decides nothing: that an answer is no is a fact, what follows from it is
// plan/compile's business.
//
// Quick is for the start path: it asks the kernel what can be asked without
// starting anything (0.12 ms) and leaves the rest unknown; the start itself
// tries it and names what failed with RemedyFor. Full is for doctor: each
// mechanism is used for real in a short-lived child (see Child).
package probe

import (
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"cofferdam/internal/host"

	"golang.org/x/sys/unix"
)

// machine is where files are read from; tests use another root.
type machine struct{ root string }

func (m machine) read(path string) string {
	fd, err := unix.Open(m.root+path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	// One read is enough for procfs; passwd files can be longer.
	var buf [16 << 10]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil || n <= 0 {
		return ""
	}
	if n < len(buf) {
		return string(buf[:n])
	}
	b, err := os.ReadFile(m.root + path)
	if err != nil {
		return ""
	}
	return string(b)
}

func (m machine) exists(path string) bool {
	return unix.Faccessat(unix.AT_FDCWD, m.root+path, unix.F_OK, 0) == nil
}

func (m machine) word(path string) string { return strings.TrimSpace(m.read(path)) }

// Quick returns what can be known without starting a process. envHome is the
// caller's HOME; see homeOf for how far it is believed. Paths and Found are
// left empty.
func Quick(envHome string) host.Facts {
	m := machine{}
	f := host.Facts{
		OS: "linux", Arch: runtime.GOARCH,
		UID: os.Getuid(), GID: os.Getgid(), CPUs: runtime.NumCPU(),
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		f.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		f.MemoryBytes = int64(uint64(info.Totalram) * uint64(info.Unit))
	}
	f.Groups, _ = unix.Getgroups()
	slices.Sort(f.Groups)
	name, home := passwdEntry(m.read("/etc/passwd"), f.UID)
	f.User = name
	if f.User == "" {
		f.User = strconv.Itoa(f.UID)
	}
	f.Home = homeOf(home, envHome, f.UID)
	f.Container = m.container()
	f.Mechanisms = m.quickMechanisms(&f)
	return f
}

// passwdEntry finds a uid in the text of /etc/passwd. The first entry counts,
// as in getpwuid.
func passwdEntry(passwd string, uid int) (name, home string) {
	want := strconv.Itoa(uid)
	for line := range strings.Lines(passwd) {
		fields := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(fields) >= 7 && fields[2] == want && fields[0] != "" && !strings.HasPrefix(line, "#") {
			return fields[0], fields[5]
		}
	}
	return "", ""
}

// homeOf decides what "~" means. The home in passwd wins if it is a directory:
// rules like "deny ~/.ssh" protect what lies there, and a HOME set by mistake
// (sudo, a project's .envrc) would turn them to another place and leave the
// real keys open. HOME is only believed where passwd has nothing for us (LDAP,
// containers with a bare uid), and then if it is a directory that we own.
// The answer has no symlinks; it is empty if there is no home.
func homeOf(passwd, env string, uid int) string {
	if real, st := resolve(passwd); real != "" && st.Mode&unix.S_IFMT == unix.S_IFDIR && real != "/" {
		return real
	}
	if real, st := resolve(env); real != "" && st.Mode&unix.S_IFMT == unix.S_IFDIR && int(st.Uid) == uid && real != "/" {
		return real
	}
	return ""
}

// outermost says that we are in the first pid, ipc and uts namespaces of the kernel,
// whose numbers are fixed (include/linux/proc_ns.h): engines give each container its
// own of at least one. Could not tell is no.
func (m machine) outermost() bool {
	for _, ns := range []string{"pid:[4026531836]", "ipc:[4026531839]", "uts:[4026531838]"} {
		name, _, _ := strings.Cut(ns, ":")
		if link, err := os.Readlink(m.root + "/proc/self/ns/" + name); err != nil || link != ns {
			return false
		}
	}
	return true
}

// container names the engine that holds us, "" for none that shows.
func (m machine) container() string {
	switch {
	case m.outermost():
		return "" // a machine made from an image keeps the image's /.dockerenv
	case m.exists("/.dockerenv"):
		return "docker"
	case m.exists("/run/.containerenv"):
		return "podman"
	}
	// systemd inside a container writes its kind here: lxc, systemd-nspawn.
	if kind := m.word("/run/systemd/container"); kind != "" {
		return kind
	}
	if m.exists("/var/run/secrets/kubernetes.io") {
		return "kubernetes"
	}
	// cgroup v1 and v2 without a cgroup namespace show the engine's path.
	cgroup := m.read("/proc/1/cgroup")
	for _, k := range []struct{ part, name string }{
		{"kubepods", "kubernetes"}, {"libpod", "podman"}, {"docker", "docker"}, {"/lxc", "lxc"}, {"containerd", "containerd"},
	} {
		if strings.Contains(cgroup, k.part) {
			return k.name
		}
	}
	return ""
}

func (m machine) quickMechanisms(f *host.Facts) []host.Mechanism {
	var list []host.Mechanism
	add := func(name string, r result) { list = append(list, r.mechanism(name, f)) }
	add(host.UserNamespaces, m.quickUserns())
	add(host.MountAPI, quickMountAPI())
	add(host.ProcMount, quickProc(f.Container))
	add(host.NetNamespace, untried)
	add(host.Seccomp, seccompAction(unix.SECCOMP_RET_ERRNO))
	add(host.SeccompNotify, seccompAction(unix.SECCOMP_RET_USER_NOTIF))
	add(host.Landlock, landlockABI())
	add(host.Fuse, quickFuse())
	add(host.Overlay, untried)
	add(host.PidMax, untried)
	add(host.CgroupV2, untried)
	add(host.CgroupV1, untried)
	add(host.ClonePidfd, pidfd())
	add(host.Nftables, untried)
	add(host.AnyIP, untried)
	return list
}

// result is one answer before it is put into words.
type result struct {
	Answer host.Answer
	Op     string
	Errno  unix.Errno
	Level  int
	// Stage is what the remedy is for, if not the mechanism itself.
	Stage string
}

var untried = result{Answer: host.Unknown, Op: "not tried"}

func yes(op string) result { return result{Answer: host.Yes, Op: op} }
func no(op string) result  { return result{Answer: host.No, Op: op} }

// failed judges an error. Exhaustion passes and says nothing about the machine.
func failed(op string, err error) result {
	errno, ok := err.(unix.Errno)
	if !ok {
		return result{Answer: host.Unknown, Op: op + ": " + err.Error()}
	}
	r := result{Answer: host.No, Op: op, Errno: errno}
	switch errno {
	case unix.EAGAIN, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.EINTR, unix.EIO, unix.ENOBUFS:
		r.Answer = host.Unknown
	}
	return r
}

func (r result) mechanism(name string, f *host.Facts) host.Mechanism {
	m := host.Mechanism{Name: name, Answer: r.Answer, Detail: r.Op, Level: r.Level}
	if r.Errno != 0 {
		m.Detail += ": " + r.Errno.Error()
	}
	if r.Answer == host.No {
		stage := name
		if r.Stage != "" {
			stage = r.Stage
		}
		m.Remedy = RemedyFor(stage, r.Errno, *f)
	}
	return m
}

// quickUserns reads the switches. They can say no; yes needs a clone.
func (m machine) quickUserns() result {
	switch {
	case !m.exists("/proc/self/ns/user"):
		return no("/proc/self/ns/user is absent")
	case m.word("/proc/sys/user/max_user_namespaces") == "0":
		return result{Answer: host.No, Op: "user.max_user_namespaces=0", Errno: unix.ENOSPC}
	case os.Getuid() != 0 && m.word("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return result{Answer: host.No, Op: "kernel.unprivileged_userns_clone=0", Errno: unix.EPERM}
	case m.word("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		// A profile may allow it for us.
		return result{Answer: host.Unknown, Op: "kernel.apparmor_restrict_unprivileged_userns=1"}
	}
	return untried
}

// quickMountAPI asks for each call with arguments that change nothing.
func quickMountAPI() result {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return failed("open_tree", err)
	}
	unix.Close(fd)
	fd, err = unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return failed("openat2", err)
	}
	unix.Close(fd)
	// A size below MOUNT_ATTR_SIZE_VER0 is EINVAL before anything else.
	var attr unix.MountAttr
	root := [2]byte{'/'}
	_, _, errno := unix.Syscall6(unix.SYS_MOUNT_SETATTR, ^uintptr(99), uintptr(unsafe.Pointer(&root)), 0, uintptr(unsafe.Pointer(&attr)), 0, 0)
	if errno != unix.EINVAL {
		return failed("mount_setattr", errno)
	}
	return yes("open_tree, openat2, mount_setattr exist")
}

// quickProc looks for what engines mount over procfs. The kernel refuses a
// fresh procfs in a user namespace if part of the present one is covered
// (mount_too_revealing); other reasons are left to the trial.
func quickProc(container string) result {
	if container == "" {
		return untried
	}
	for _, p := range []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sys", "/proc/sysrq-trigger", "/proc/bus", "/proc/irq"} {
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, p, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_TYPE, &st); err != nil {
			continue
		}
		if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			return result{Answer: host.No, Op: "something is mounted over " + p, Errno: unix.EPERM}
		}
	}
	return untried
}

func seccompAction(action uint32) result {
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	if errno != 0 {
		return failed("seccomp(GET_ACTION_AVAIL)", errno)
	}
	return yes("the kernel has the action")
}

func landlockABI() result {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return failed("landlock_create_ruleset", errno)
	}
	r := yes("ABI " + strconv.Itoa(int(abi)))
	r.Level = int(abi)
	return r
}

// quickFuse opens the device, which fails where it is absent, closed by mode
// or by the device cgroup. The mount itself comes with the namespaces: where
// these are to be had, the kernel has allowed it since 4.18.
func quickFuse() result {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("open /dev/fuse", err)
	}
	unix.Close(fd)
	return yes("/dev/fuse opens; not mounted")
}

func pidfd() result {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return failed("pidfd_open", err)
	}
	unix.Close(fd)
	return yes("pidfd_open")
}
