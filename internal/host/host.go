// Package host holds what this machine can do, as values. It finds nothing
// out itself (host/probe does) and decides nothing (plan/compile does).
package host

// Answer has three values on purpose: "could not tell" is never cached and
// never read as yes.
type Answer string

const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Mechanism is one thing of the kernel or the system that a boundary needs.
type Mechanism struct {
	Name   string `json:"name"` // one of the constants below
	Answer Answer `json:"answer"`
	// Detail says what was tried and what came back, e.g.
	// "clone(CLONE_NEWUSER): operation not permitted".
	Detail string `json:"detail,omitempty"`
	// Remedy is what the person can do; empty when the answer is yes.
	Remedy string `json:"remedy,omitempty"`
	// Level is a number where the mechanism has one (Landlock ABI).
	Level int `json:"level,omitempty"`
}

// Names of mechanisms.
const (
	UserNamespaces = "user-namespaces" // clone(CLONE_NEWUSER) and a mount inside
	MountAPI       = "mount-api"       // open_tree, mount_setattr (5.12), openat2 (5.6)
	ProcMount      = "proc-mount"      // a fresh procfs in a new pid namespace
	NetNamespace   = "net-namespace"
	Seccomp        = "seccomp"        // filter mode
	SeccompNotify  = "seccomp-notify" // SECCOMP_RET_USER_NOTIF
	Landlock       = "landlock"       // Level is the ABI
	Fuse           = "fuse"           // /dev/fuse can be opened and mounted in a user namespace
	Overlay        = "overlay"        // unprivileged overlayfs with userxattr; Level is 2 if it takes layers by descriptor
	PidMax         = "pid-max"        // kernel.pid_max per pid namespace (6.14)
	CgroupV2       = "cgroup-v2"      // a delegated, writable cgroup v2 subtree
	CgroupV1       = "cgroup-v1"      // writable v1 hierarchies (real root)
	ClonePidfd     = "pidfd"
	Nftables       = "nftables" // redirect rules in a network namespace of our own
	AnyIP          = "any-ip"   // a route there by which every IPv4 address is local
)

// Path is what is known of one host path that the policy names. Paths are
// looked at without following a final symlink.
type Path struct {
	Kind string `json:"kind"` // KindAbsent and so on
	// Real is the path with every symlink resolved; empty if absent.
	Real string `json:"real,omitempty"`
	// At is where it would be made, with every symlink on the way resolved: if
	// it is absent, or a symlink to nothing.
	At string `json:"at,omitempty"`
	// Links are the symlinks on the way from here to Real or At, each by its own
	// real path, in the order in which they are followed.
	Links []string `json:"links,omitempty"`
	// RealKind is the kind of Real.
	RealKind string `json:"realKind,omitempty"`
	UID      int    `json:"uid"`
	Mode     uint32 `json:"mode"` // permission bits of Real
	// Closed: the permissions of Real, which somebody else owns, let this user
	// neither read, enter nor write it. Tried, not computed (access(2)).
	Closed bool `json:"closed,omitempty"`
}

// Kinds of path.
const (
	KindAbsent  = "absent"
	KindDir     = "dir"
	KindFile    = "file"
	KindSymlink = "symlink"
	KindSocket  = "socket"
	KindFifo    = "fifo"
	KindDevice  = "device"
	KindUnknown = "unknown" // could not be looked at; never treated as absent
)

// Found is a name in the workspace that a pattern of the policy matches.
type Found struct {
	Path string `json:"path"` // absolute
	Kind string `json:"kind"`
	// Pattern is the pattern text, as given to the scan.
	Pattern string `json:"pattern"`
}

// Copying is what is known for a copy of the workspace.
type Copying struct {
	// Mounts are the places in the workspace where something else is mounted, which a
	// copy does not have.
	Mounts []string `json:"mounts,omitempty"`
	// GitDir is where git has what belongs to the workspace if that is outside of it,
	// as for a worktree and a submodule.
	GitDir string `json:"gitDir,omitempty"`
	// Entries and Bytes are what a full copy would copy; only if there is no overlay.
	Entries int   `json:"entries,omitempty"`
	Bytes   int64 `json:"bytes,omitempty"`
	// Problem says why not even that can be.
	Problem string `json:"problem,omitempty"`
}

// Asked is what one tool of the person has said of where it gets packages from.
type Asked struct {
	Tool       string     `json:"tool"`    // "npm"
	Command    string     `json:"command"` // for people: how it was asked
	Registries []Registry `json:"registries,omitempty"`
	// Settings let the tool inside, which has no configuration of the person's, ask
	// the same registries. None have a password in them.
	Settings []Setting `json:"settings,omitempty"`
	// Problem says why there are none.
	Problem string `json:"problem,omitempty"`
}

// Setting is a variable, or with File one that has the name of a file with the value.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	File  bool   `json:"file,omitempty"`
}

// Registry is a server that has packages.
type Registry struct {
	Host string `json:"host"` // a name in lower case, or an address
	Port string `json:"port"`
}

// Facts is everything that plan/compile may know of the machine. Same Policy
// and same Facts give the same Plan, byte for byte.
type Facts struct {
	OS     string `json:"os"`
	Arch   string `json:"arch"` // GOARCH
	Kernel string `json:"kernel"`

	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Groups []int  `json:"groups,omitempty"`
	User   string `json:"user"`
	// Home is the home directory with symlinks resolved.
	Home string `json:"home"`
	// Container is "docker", "podman", ... when we are inside one.
	Container string `json:"container,omitempty"`

	Mechanisms []Mechanism `json:"mechanisms"`

	// Paths has an entry for every literal path the policy names.
	Paths map[string]Path `json:"paths,omitempty"`
	// RootEntries are the names in "/", for rules that speak of all of it.
	RootEntries []string `json:"rootEntries,omitempty"`
	// Found has every match of the policy's glob patterns in the workspace
	// at the start, sorted by path, and then those in each of Searched.
	Found []Found `json:"found,omitempty"`
	// Searched are directories outside of the workspace in which the patterns
	// of denials were looked for; their text is that of the rules that open them.
	Searched []string `json:"searched,omitempty"`

	// Copying is nil if the workspace is not to be copied.
	Copying *Copying `json:"copying,omitempty"`

	// Asked has the tools of those profiles that are on.
	Asked []Asked `json:"asked,omitempty"`

	CPUs        int   `json:"cpus"`
	MemoryBytes int64 `json:"memoryBytes"`
}

// SetMechanism puts what is known of one mechanism in the place of what was.
func (f *Facts) SetMechanism(m Mechanism) {
	for i := range f.Mechanisms {
		if f.Mechanisms[i].Name == m.Name {
			f.Mechanisms[i] = m
			return
		}
	}
	f.Mechanisms = append(f.Mechanisms, m)
}

// Mechanism returns the named mechanism; one that was not looked at is
// Unknown.
func (f *Facts) Mechanism(name string) Mechanism {
	for _, m := range f.Mechanisms {
		if m.Name == name {
			return m
		}
	}
	return Mechanism{Name: name, Answer: Unknown, Detail: "not tried"}
}
