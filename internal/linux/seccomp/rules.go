//go:build linux

package seccomp

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Rule refuses one system call, always or for some arguments.
type Rule struct {
	Group  Group
	Call   string       // the kernel's name of it
	Number [archs]int32 // on AMD64 and ARM64; none where it does not exist
	// Reason completes "refused, because it ..." for a person.
	Reason string
	// When must hold in full for the rule to apply; empty means always. A
	// call with several rules is refused if one of them applies.
	When []Condition
}

// none stands where an architecture does not have the call.
const none = -1

// Group is what the refused calls of a kind are about.
type Group string

const (
	Mounts     Group = "mounts"
	Namespaces Group = "namespaces"
	Kernel     Group = "kernel code and power"
	Secrets    Group = "keys and other processes"
	Surface    Group = "attack surface"
	Clock      Group = "clock"
	Network    Group = "network"
	Terminal   Group = "terminal"
	Filter     Group = "this filter"
	Legacy     Group = "legacy"
)

// Condition looks at the low 32 bits of one argument: it holds if the masked
// value is one of Values, or, with Not, if it is none of them.
//
// Only the low half, always: every argument judged here is an int or an
// unsigned int for the kernel, or a flag word with all its flags in the low
// half. The kernel ignores the upper half, so a filter that compares 64 bits
// is passed by setting one of the bits above (CVE-2019-10063, flatpak's
// TIOCSTI rule).
type Condition struct {
	Arg    int
	Mask   uint32
	Not    bool
	Values []uint32
}

func (c Condition) holds(args [6]uint64) bool {
	return slices.Contains(c.Values, uint32(args[c.Arg])&c.Mask) != c.Not
}

const all = 0xffffffff // mask: the value as it is

// Flags and numbers that x/sys does not have, or not for every architecture.
const (
	tiocsti   = 0x5412 // asm-generic/ioctls.h, the same on both
	tioclinux = 0x541c
	tiocsetd  = 0x5423

	sockTypeMask = 0xf // linux/net.h: what is above are SOCK_NONBLOCK and SOCK_CLOEXEC

	newNamespace = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

	// harmlessUnshare gives a thread its own table of something it has anyway.
	harmlessUnshare = unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SYSVSEM

	// harmlessPersonality: uname says i686 (PER_LINUX32, setarch) or 2.6
	// (UNAME26); no address randomisation for the children, which gdb, setarch
	// -R and ThreadSanitizer ask for and setuid programs ignore. Not in it:
	// READ_IMPLIES_EXEC, MMAP_PAGE_ZERO, ADDR_COMPAT_LAYOUT, which make a bug in
	// a program or in the kernel easier to use.
	harmlessPersonality = 0x0008 | 0x0020000 | 0x0040000
)

// Rules returns the list, grouped. Numbers: amd64, arm64.
//
// Left open on purpose, as programs need them and other layers hold them:
//   - ptrace, process_vm_readv, kcmp, pidfd_getfd, process_madvise: debuggers,
//     strace and profilers. They reach what the pid namespace shows and the
//     Landlock domain lets be traced, and that is inside.
//   - clone3: its flags are behind a pointer, out of a filter's sight. With
//     user.max_user_namespaces=0 inside and no capabilities it makes no
//     namespace. Answering ENOSYS instead would cost old programs nothing and
//     new ones a fallback, and gain nothing.
//   - statmount, listmount: what /proc/self/mountinfo says anyway.
//   - set_mempolicy, get_mempolicy: a program's own placement; numactl, x265
//     and numerical libraries call them at start.
//   - seccomp, landlock_*: a program may tighten its own cage.
//   - file attributes, mknod, chown: judged by the file system's own rules.
func Rules() []Rule { return slices.Clone(rules) }

var rules = []Rule{
	// A new mount shows what a mask hides. The kernel wants CAP_SYS_ADMIN for
	// most of these; the filter holds also when a hole gives that away.
	{Mounts, "mount", [archs]int32{165, 40}, "attaches a file system", nil},
	{Mounts, "umount2", [archs]int32{166, 39}, "detaches a file system", nil},
	{Mounts, "pivot_root", [archs]int32{155, 41}, "changes the root of the file tree", nil},
	{Mounts, "chroot", [archs]int32{161, 51}, "changes the root of the file tree", nil},
	{Mounts, "open_tree", [archs]int32{428, 428}, "copies a mount", nil},
	{Mounts, "open_tree_attr", [archs]int32{467, 467}, "copies a mount and changes its flags", nil},
	{Mounts, "move_mount", [archs]int32{429, 429}, "attaches a mount", nil},
	{Mounts, "fsopen", [archs]int32{430, 430}, "makes a file system instance", nil},
	{Mounts, "fsconfig", [archs]int32{431, 431}, "configures a file system instance", nil},
	{Mounts, "fsmount", [archs]int32{432, 432}, "makes a mount of a file system instance", nil},
	{Mounts, "fspick", [archs]int32{433, 433}, "reconfigures a mounted file system", nil},
	{Mounts, "mount_setattr", [archs]int32{442, 442}, "changes the flags of a mount, such as read-only", nil},
	// Handles name files by inode number, past every directory that hides
	// them (the "shocker" escape from early containers).
	{Mounts, "name_to_handle_at", [archs]int32{303, 264}, "names a file past its directories", nil},
	{Mounts, "open_by_handle_at", [archs]int32{304, 265}, "opens a file past its directories", nil},
	{Mounts, "fanotify_init", [archs]int32{300, 262}, "watches a whole file system", nil},
	{Mounts, "quotactl", [archs]int32{179, 60}, "reads or changes disk quotas", nil},
	{Mounts, "quotactl_fd", [archs]int32{443, 443}, "reads or changes disk quotas", nil},

	// A user namespace hands out a full set of capabilities within it, and
	// with them the kernel code behind mount, netlink and packet sockets:
	// the first step of most local privilege escalations of the last ten years.
	{Namespaces, "setns", [archs]int32{308, 268}, "enters another namespace", nil},
	{Namespaces, "listns", [archs]int32{470, 470}, "lists namespaces", nil},
	{Namespaces, "unshare", [archs]int32{272, 97}, "makes a namespace",
		// Whatever is not known to be harmless, CLONE_NEWTIME (0x80) included.
		[]Condition{{Arg: 0, Mask: all &^ harmlessUnshare, Not: true, Values: []uint32{0}}}},
	{Namespaces, "clone", [archs]int32{56, 220}, "makes a namespace",
		// Without CLONE_NEWTIME: in clone its bit belongs to the exit signal.
		[]Condition{{Arg: 0, Mask: newNamespace, Not: true, Values: []uint32{0}}}},

	{Kernel, "init_module", [archs]int32{175, 105}, "loads code into the kernel", nil},
	{Kernel, "finit_module", [archs]int32{313, 273}, "loads code into the kernel", nil},
	{Kernel, "delete_module", [archs]int32{176, 106}, "removes code from the kernel", nil},
	{Kernel, "kexec_load", [archs]int32{246, 104}, "loads another kernel", nil},
	{Kernel, "kexec_file_load", [archs]int32{320, 294}, "loads another kernel", nil},
	{Kernel, "bpf", [archs]int32{321, 280}, "loads programs into the kernel", nil},
	{Kernel, "reboot", [archs]int32{169, 142}, "stops or restarts the machine", nil},
	{Kernel, "swapon", [archs]int32{167, 224}, "changes the machine's swap space", nil},
	{Kernel, "swapoff", [archs]int32{168, 225}, "changes the machine's swap space", nil},
	{Kernel, "acct", [archs]int32{163, 89}, "makes the kernel write accounting records", nil},
	{Kernel, "syslog", [archs]int32{103, 116}, "reads or clears the kernel's log", nil},
	{Kernel, "iopl", [archs]int32{172, none}, "reaches hardware directly", nil},
	{Kernel, "ioperm", [archs]int32{173, none}, "reaches hardware directly", nil},
	{Kernel, "lsm_set_self_attr", [archs]int32{460, 460}, "changes the security label of the process", nil},

	// The session keyring is inherited and belongs to the user, not to a
	// namespace: it may hold keys of the host (Kerberos, fscrypt, eCryptfs).
	{Secrets, "add_key", [archs]int32{248, 217}, "stores a key in the user's keyring", nil},
	{Secrets, "request_key", [archs]int32{249, 218}, "asks for a key of the user's keyring", nil},
	{Secrets, "keyctl", [archs]int32{250, 219}, "reads or changes the user's keyring", nil},
	{Secrets, "perf_event_open", [archs]int32{298, 241}, "observes other processes and the kernel", nil},
	// The read side stays open: delve, strace and py-spy work with it. No
	// ordinary program writes this way.
	{Secrets, "process_vm_writev", [archs]int32{311, 271}, "writes another process's memory", nil},
	{Secrets, "move_pages", [archs]int32{279, 239}, "moves another process's memory", nil},
	{Secrets, "migrate_pages", [archs]int32{256, 238}, "moves another process's memory", nil},

	// Rings run requests (open, connect, send) on the kernel's side, where no
	// filter sees them.
	{Surface, "io_uring_setup", [archs]int32{425, 425}, "runs system calls past this filter", nil},
	{Surface, "io_uring_enter", [archs]int32{426, 426}, "runs system calls past this filter", nil},
	{Surface, "io_uring_register", [archs]int32{427, 427}, "runs system calls past this filter", nil},
	// Stops the kernel in the middle of a copy for as long as one likes: the
	// tool of choice for turning a kernel race into an exploit.
	{Surface, "userfaultfd", [archs]int32{323, 282}, "handles page faults of the kernel", nil},
	{Surface, "mbind", [archs]int32{237, 235}, "places memory on a NUMA node", nil}, // CVE-2023-4611
	{Surface, "set_mempolicy_home_node", [archs]int32{450, 450}, "places memory on a NUMA node", nil},
	{Surface, "modify_ldt", [archs]int32{154, none}, "changes the processor's segment table", nil}, // CVE-2015-5157
	{Surface, "personality", [archs]int32{135, 92}, "weakens the memory layout of programs",
		[]Condition{
			{Arg: 0, Mask: all, Not: true, Values: []uint32{0xffffffff}}, // asks, changes nothing
			{Arg: 0, Mask: all &^ harmlessPersonality, Not: true, Values: []uint32{0}},
		}},
	{Surface, "vhangup", [archs]int32{153, 58}, "hangs up the terminal", nil},

	{Clock, "settimeofday", [archs]int32{164, 170}, "sets the machine's clock", nil},
	{Clock, "clock_settime", [archs]int32{227, 112}, "sets the machine's clock", nil},
	{Clock, "adjtimex", [archs]int32{159, 171}, "tunes the machine's clock", nil},
	{Clock, "clock_adjtime", [archs]int32{305, 266}, "tunes the machine's clock", nil},

	// Each address family is a kernel module with its own history, loaded on
	// first use, and some (vsock, packet) do not care about network namespaces
	// or reach the machine below.
	{Network, "socket", [archs]int32{41, 198}, "uses an address family other than Unix, IPv4, IPv6 or route netlink",
		[]Condition{{Arg: 0, Mask: all, Not: true,
			Values: []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}}}},
	// Reading addresses and routes (getifaddrs, Go, node) is NETLINK_ROUTE;
	// the others configure firewalls, IPsec, audit, crypto.
	{Network, "socket", [archs]int32{41, 198}, "uses a netlink protocol other than route",
		[]Condition{
			{Arg: 0, Mask: all, Values: []uint32{unix.AF_NETLINK}},
			{Arg: 2, Mask: all, Not: true, Values: []uint32{unix.NETLINK_ROUTE}},
		}},
	// Netlink is spared: SOCK_RAW is its usual type and means nothing there.
	{Network, "socket", [archs]int32{41, 198}, "sends raw packets",
		[]Condition{
			{Arg: 0, Mask: all, Not: true, Values: []uint32{unix.AF_NETLINK}},
			{Arg: 1, Mask: sockTypeMask, Values: []uint32{unix.SOCK_RAW, unix.SOCK_PACKET}},
		}},
	// SCTP, DCCP, L2TP, SMC and UDP-Lite are modules too, loaded by the asking.
	{Network, "socket", [archs]int32{41, 198}, "uses a transport other than TCP, UDP or ping",
		[]Condition{
			{Arg: 0, Mask: all, Values: []uint32{unix.AF_INET, unix.AF_INET6}},
			{Arg: 2, Mask: all, Not: true, Values: []uint32{0, unix.IPPROTO_TCP, unix.IPPROTO_UDP,
				unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, unix.IPPROTO_MPTCP}},
		}},
	// Protocol 0 is the type's own: SOCK_DCCP alone loads DCCP, and
	// SOCK_SEQPACKET is SCTP where that is loaded.
	{Network, "socket", [archs]int32{41, 198}, "uses a socket type other than stream or datagram",
		[]Condition{
			{Arg: 0, Mask: all, Values: []uint32{unix.AF_INET, unix.AF_INET6}},
			{Arg: 1, Mask: sockTypeMask, Not: true, Values: []uint32{unix.SOCK_STREAM, unix.SOCK_DGRAM}},
		}},
	{Network, "socketpair", [archs]int32{53, 199}, "uses an address family other than Unix",
		[]Condition{{Arg: 0, Mask: all, Not: true, Values: []uint32{unix.AF_UNIX}}}},

	{Terminal, "ioctl", [archs]int32{16, 29}, "types into the terminal (TIOCSTI, TIOCLINUX)",
		[]Condition{{Arg: 1, Mask: all, Values: []uint32{tiocsti, tioclinux}}}},
	{Terminal, "ioctl", [archs]int32{16, 29}, "loads a line discipline (TIOCSETD)", // CVE-2017-2636, CVE-2023-6546
		[]Condition{{Arg: 1, Mask: all, Values: []uint32{tiocsetd}}}},

	// If two filters ask a supervisor about the same call, the kernel asks only
	// the newer filter's, and that one may answer "continue". The kernel allows
	// one listener per chain of filters, but frees the place when the listener
	// is closed: a sandbox that outlives its supervisor could then answer its
	// own questions.
	{Filter, "seccomp", [archs]int32{317, 277}, "answers for the supervisor of this filter",
		[]Condition{
			{Arg: 0, Mask: all, Values: []uint32{unix.SECCOMP_SET_MODE_FILTER}},
			{Arg: 1, Mask: unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, Not: true, Values: []uint32{0}},
		}},

	// Old and rarely exercised; nothing alive calls them.
	{Legacy, "lookup_dcookie", [archs]int32{212, 18}, "is an old profiling interface", nil},
	{Legacy, "nfsservctl", [archs]int32{180, 42}, "controls an old NFS server", nil},
	{Legacy, "sysfs", [archs]int32{139, none}, "is an old interface to file system types", nil},
	{Legacy, "ustat", [archs]int32{136, none}, "is an old interface to devices", nil},
	{Legacy, "uselib", [archs]int32{134, none}, "is an old program loader", nil},
}

// Lookup returns the rule of Rules that refuses the call, for a report. Args
// are the six argument registers.
func Lookup(arch Arch, nr int, args [6]uint64) (Rule, bool) {
	if arch >= archs {
		return Rule{}, false
	}
next:
	for _, r := range rules {
		if r.Number[arch] == none || int(r.Number[arch]) != nr {
			continue
		}
		for _, c := range r.When {
			if !c.holds(args) {
				continue next
			}
		}
		return r, true
	}
	return Rule{}, false
}
