//go:build linux

package probe

import (
	"os"
	"strings"
	"syscall"

	"cofferdam/internal/host"

	"golang.org/x/sys/unix"
)

// Stages of the start path that RemedyFor knows besides the names of
// mechanisms.
const (
	StageNamespaces = "namespaces" // clone and the uid maps
	StageMounts     = "mounts"
)

// situation is everything a remedy depends on.
type situation struct {
	stage     string
	errno     syscall.Errno
	container string
	distro    string // ID and ID_LIKE of os-release, with spaces around each
	root      bool
	exe       string

	unprivilegedClone string // kernel.unprivileged_userns_clone, "" if absent
	maxUserns         string // user.max_user_namespaces
	appArmorUserns    string // kernel.apparmor_restrict_unprivileged_userns
	lsm               string // /sys/kernel/security/lsm, "" if unreadable
	selinux           bool   // enforcing
	fuseDevice        bool   // /dev/fuse is there
}

// RemedyFor says what a person can do when stage failed with errno on this
// machine; "" if we know nothing useful. stage is the name of a mechanism or
// one of the Stage constants. It reads a few files: it is meant for the moment
// after a failure, not for the good path.
func RemedyFor(stage string, errno syscall.Errno, f host.Facts) string {
	return remedy(machine{}.situation(stage, errno, f))
}

// situation reads what the remedies of this stage look at; Quick runs it for
// each missing mechanism.
func (m machine) situation(stage string, errno syscall.Errno, f host.Facts) situation {
	s := situation{stage: stage, errno: errno, container: f.Container, root: f.UID == 0}
	var err error
	if s.exe, err = os.Executable(); err != nil {
		s.exe = "/usr/local/bin/cofferdam"
	}
	switch stage {
	case host.CgroupV2, host.CgroupV1, host.ClonePidfd, host.Seccomp, host.SeccompNotify, host.Nftables, host.AnyIP:
	case host.Landlock:
		s.lsm = m.word("/sys/kernel/security/lsm")
		s.distro = distro(m.read("/etc/os-release"))
	default:
		s.unprivilegedClone = m.word("/proc/sys/kernel/unprivileged_userns_clone")
		s.maxUserns = m.word("/proc/sys/user/max_user_namespaces")
		s.appArmorUserns = m.word("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
		s.selinux = m.word("/sys/fs/selinux/enforce") == "1"
		s.fuseDevice = m.exists("/dev/fuse")
	}
	return s
}

// distro returns " debian ", " ubuntu debian " and so on.
func distro(osRelease string) string {
	words := " "
	for _, key := range []string{"ID=", "ID_LIKE="} {
		for line := range strings.Lines(osRelease) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), key); ok {
				if v = strings.Trim(v, `"'`); v != "" {
					words += v + " "
				}
			}
		}
	}
	return words
}

// remedy takes the first line of the table that fits.
func remedy(s situation) string {
	for _, r := range remedies {
		if strings.Contains(" "+r.stages+" ", " "+s.stage+" ") && r.when(&s) {
			return s.words().Replace(r.text)
		}
	}
	return ""
}

// words fills in what differs from machine to machine.
func (s *situation) words() *strings.Replacer {
	lsm := "landlock,<the modules of /sys/kernel/security/lsm>"
	if s.lsm != "" {
		lsm = "landlock," + s.lsm
	}
	grub := "grub-mkconfig -o /boot/grub/grub.cfg"
	switch {
	case strings.Contains(s.distro, " debian "): // and Ubuntu, by ID_LIKE
		grub = "sudo update-grub"
	case strings.Contains(s.distro, " fedora "):
		grub = "sudo grub2-mkconfig -o /boot/grub2/grub.cfg"
	}
	return strings.NewReplacer("EXE", s.exe, "LSM", lsm, "GRUB)", grub+")")
}

const (
	namespaceStages = StageNamespaces + " " + host.UserNamespaces + " " + host.NetNamespace + " " + host.PidMax
	mountStages     = StageMounts + " " + host.MountAPI + " " + host.Overlay + " " + host.Fuse
	refusedStages   = namespaceStages + " " + mountStages + " " + host.ProcMount
)

func is(errnos ...syscall.Errno) func(*situation) bool {
	return func(s *situation) bool {
		for _, e := range errnos {
			if s.errno == e {
				return true
			}
		}
		return false
	}
}

func in(engines ...string) func(*situation) bool {
	return func(s *situation) bool {
		for _, e := range engines {
			if s.container == e {
				return true
			}
		}
		return false
	}
}

func all(conditions ...func(*situation) bool) func(*situation) bool {
	return func(s *situation) bool {
		for _, c := range conditions {
			if !c(s) {
				return false
			}
		}
		return true
	}
}

func always(*situation) bool { return true }

var (
	refused = is(unix.EPERM, unix.EACCES, unix.ENOSYS)
	absent  = is(unix.ENOSYS, unix.EOPNOTSUPP, unix.EINVAL, unix.ENODEV)
	held    = func(s *situation) bool { return s.container != "" }
)

// remedies is read from the top: the switch that is known to be off, then the
// engine around us, then the system, then the kernel.
var remedies = []struct {
	stages string
	when   func(*situation) bool
	text   string
}{
	// Switches.
	{namespaceStages, all(is(unix.ENOSPC, unix.EUSERS), func(s *situation) bool { return s.maxUserns == "0" }),
		"user namespaces are switched off: sudo sysctl -w user.max_user_namespaces=15000 (keep it: echo user.max_user_namespaces=15000 | sudo tee /etc/sysctl.d/60-userns.conf)"},
	{namespaceStages, is(unix.ENOSPC, unix.EUSERS),
		"the limit of namespaces is reached, here or in a parent namespace (a sandbox around this one may forbid nesting): sudo sysctl -w user.max_user_namespaces=15000, and the same for max_net_, max_mnt_ and max_pid_namespaces"},
	{refusedStages, all(refused, func(s *situation) bool { return s.unprivilegedClone == "0" && !s.root }),
		"user namespaces are for root only here: sudo sysctl -w kernel.unprivileged_userns_clone=1 (keep it: echo kernel.unprivileged_userns_clone=1 | sudo tee /etc/sysctl.d/60-userns.conf)"},

	// procfs.
	{host.ProcMount, all(refused, in("docker")),
		"the engine covers parts of /proc: docker run --security-opt systempaths=unconfined"},
	{host.ProcMount, all(refused, in("podman")),
		"the engine covers parts of /proc: podman run --security-opt unmask=ALL"},
	{host.ProcMount, all(refused, in("kubernetes", "containerd")),
		"the engine covers parts of /proc: securityContext.procMount: Unmasked (with hostUsers: false)"},

	// The device, before the engine's seccomp profile: it is its own flag.
	{host.Fuse, all(held, func(s *situation) bool { return !s.fuseDevice || s.errno == unix.ENOENT }),
		"give the container the device: --device /dev/fuse (docker, podman)"},
	{host.Fuse, is(unix.ENOENT, unix.ENODEV, unix.ENXIO),
		"load the module: sudo modprobe fuse (keep it: echo fuse | sudo tee /etc/modules-load.d/fuse.conf); if there is none, the kernel lacks CONFIG_FUSE_FS"},
	{host.Fuse, all(is(unix.EPERM), in("docker", "podman")),
		"the device or the mount is refused by the engine: --device /dev/fuse --security-opt seccomp=unconfined --security-opt apparmor=unconfined"},
	{host.Fuse, is(unix.EACCES),
		"open the device to users: sudo chmod 0666 /dev/fuse (udev does so by default; keep it: echo 'KERNEL==\"fuse\", MODE=\"0666\"' | sudo tee /etc/udev/rules.d/99-fuse.rules)"},

	// The engine around us.
	{refusedStages, all(refused, in("docker")),
		"the engine refuses namespaces or mounts: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined"},
	{refusedStages, all(refused, in("podman")),
		"the engine refuses namespaces or mounts: podman run --security-opt seccomp=unconfined --security-opt unmask=ALL --security-opt label=disable"},
	{refusedStages, all(refused, in("kubernetes", "containerd")),
		"the pod refuses namespaces or mounts: securityContext.seccompProfile.type: Unconfined, appArmorProfile.type: Unconfined, procMount: Unmasked"},
	{refusedStages, all(refused, in("lxc")),
		"the container refuses namespaces: set security.nesting=true (lxc config set NAME security.nesting true)"},
	{refusedStages, all(refused, in("systemd-nspawn")),
		"the container refuses namespaces or mounts: systemd-nspawn --private-users=pick --system-call-filter=\"@mount @keyring\""},

	// The system.
	{refusedStages, all(is(unix.EPERM, unix.EACCES), func(s *situation) bool { return s.appArmorUserns == "1" }),
		"AppArmor takes the rights away inside a user namespace (Ubuntu 23.10 and later). Give cofferdam a profile:\n" +
			"  sudo tee /etc/apparmor.d/cofferdam <<'EOF'\n" + appArmorProfile + "EOF\n" +
			"  sudo apparmor_parser -r /etc/apparmor.d/cofferdam"},
	{refusedStages, all(is(unix.EACCES), func(s *situation) bool { return s.selinux }),
		"SELinux refuses it: sudo ausearch -m avc,user_avc -ts recent shows the rule; a confined login (see: id -Z) needs sudo semanage login -a -s unconfined_u NAME"},
	{host.ProcMount, refused,
		"something is mounted over a part of /proc (see: grep ' /proc/' /proc/self/mountinfo); unmount it, or start outside of the sandbox around this one"},
	{host.PidMax, is(unix.EACCES), "needs Linux 6.14 or newer, where each pid namespace has its own; without it processes are limited otherwise"},
	{refusedStages, is(unix.EPERM, unix.EACCES),
		"a security module, a seccomp filter or a sandbox around this one refuses it: try outside of it; sudo dmesg | tail names the module if it was one"},

	// Landlock and seccomp.
	{host.Landlock, is(unix.EOPNOTSUPP),
		"Landlock is built in and not switched on: add landlock to the list of modules at boot, lsm=LSM (GRUB_CMDLINE_LINUX in /etc/default/grub, then GRUB)"},
	{host.Landlock, all(is(unix.ENOSYS, unix.EPERM), held),
		"the engine's seccomp profile hides Landlock, or the kernel is older than 5.13: update the engine, or --security-opt seccomp=unconfined"},
	{host.Landlock, is(unix.ENOSYS),
		"the kernel has no Landlock: 5.13 or newer with CONFIG_SECURITY_LANDLOCK=y"},
	{host.Landlock, is(unix.EPERM),
		"a seccomp filter or a sandbox around this one refuses Landlock: start outside of it"},
	{host.Seccomp + " " + host.SeccompNotify, all(is(unix.EPERM, unix.ENOSYS), held),
		"the engine's seccomp profile refuses seccomp: --security-opt seccomp=unconfined"},
	{host.SeccompNotify, is(unix.EBUSY),
		"another supervisor listens already (one per process): start outside of the sandbox around this one"},
	{host.Seccomp, always, "the kernel lacks CONFIG_SECCOMP_FILTER=y"},
	{host.SeccompNotify, always, "needs Linux 5.0 or newer"},

	// nftables.
	{host.Nftables, all(is(unix.EPERM, unix.EACCES), held),
		"the engine refuses the packet filter inside a user namespace: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined"},
	{host.Nftables, is(unix.EPERM, unix.EACCES),
		"a security module, a seccomp filter or a sandbox around this one refuses it: try outside of it; sudo dmesg | tail names the module if it was one"},
	{host.Nftables, always,
		"the kernel lacks a part of nftables: sudo modprobe -a nf_tables nft_chain_nat nft_redir nf_conntrack (keep it: printf '%s\\n' nf_tables nft_chain_nat nft_redir | sudo tee /etc/modules-load.d/nftables.conf); in a container load them on the host; if there are none, the kernel lacks CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_REDIR"},

	{host.AnyIP, is(unix.EPERM, unix.EACCES),
		"a security module, a seccomp filter or a sandbox around this one refuses it: try outside of it"},

	// cgroups.
	{host.CgroupV2, held, "give the container its own writable cgroup: docker run --cgroupns=private with a writable /sys/fs/cgroup (--privileged), or set the limits on the container itself"},
	{host.CgroupV2, is(unix.EACCES, unix.EPERM, unix.EROFS),
		"no part of the cgroup tree is yours here: systemd-run --user --scope -p Delegate=yes EXE ..."},
	{host.CgroupV2, is(0),
		"boot with cgroup v2 alone: systemd.unified_cgroup_hierarchy=1, and systemd-run --user --scope -p Delegate=yes EXE ..."},

	// The kernel.
	{host.MountAPI + " " + StageMounts, absent, "needs Linux 5.12 or newer (mount_setattr)"},
	{namespaceStages, absent, "the kernel lacks a kind of namespace: CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS"},
	{host.Overlay, absent, "needs Linux 5.11 or newer with CONFIG_OVERLAY_FS: sudo modprobe overlay"},
	{host.Fuse, absent, "needs Linux 5.4 or newer with CONFIG_FUSE_FS"},
	{host.ClonePidfd, always, "needs Linux 5.3 or newer"},
}

const appArmorProfile = `abi <abi/4.0>,
include <tunables/global>
profile cofferdam EXE flags=(unconfined) {
  userns,
  include if exists <local/cofferdam>
}
`
