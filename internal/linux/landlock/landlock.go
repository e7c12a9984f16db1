// Package landlock writes down a Landlock domain: a second lock, of another part
// of the kernel, on what the mount plan already says. By default it handles the
// rights to change files, and scopes signals and abstract unix sockets; reading
// stays with the mounts, since every handled right to read costs about 1 µs per
// open(2). It makes no system call itself.
//
// See landlock(7). ABI 1 is Linux 5.13, 2 is 5.19 (refer), 3 is 6.2 (truncate),
// 5 is 6.10 (ioctl of devices), 6 is 6.12 (scopes).
package landlock

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"cofferdam/internal/linux/call"
)

// Access is a set of LANDLOCK_ACCESS_FS_* rights.
type Access uint64

const (
	// WriteFile is what a pipe or /proc needs.
	WriteFile Access = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	// Device is what a device node needs.
	Device = WriteFile | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	// Change is everything that changes a tree of files, except to make
	// device nodes, which nobody inside is ever allowed.
	Change = WriteFile |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM | refer
	// LANDLOCK_ACCESS_FS_REFER (ABI 2): rename or link between directories.
	// Without it every such rename would be refused, handled or not.
	refer Access = unix.LANDLOCK_ACCESS_FS_REFER

	handled = Change | Device | unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
)

// MinABI is the oldest that we use: without refer, git and every editor that
// saves by rename would break.
const MinABI = 2

// Rule allows Access below Path, a path as seen inside.
type Rule struct {
	Path   string
	Access Access
	// File: Path is not a directory, so rights that only directories have are
	// left out (the kernel refuses them).
	File bool
}

// rulesetAttr is struct landlock_ruleset_attr up to ABI 6.
type rulesetAttr struct {
	accessFS uint64
	_        uint64 // accessNet: local servers are wanted inside
	scoped   uint64
}

// ruleset is what the kernel of that ABI is asked to handle, and how long the
// structure is for it.
func ruleset(abi int) (*rulesetAttr, uintptr) {
	attr := &rulesetAttr{accessFS: uint64(handled & known(abi))}
	if abi < 6 {
		return attr, unsafe.Sizeof(attr.accessFS)
	}
	attr.scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	return attr, unsafe.Sizeof(*attr)
}

// known is what a kernel of that ABI has a name for; it refuses the rest.
func known(abi int) Access {
	rights := ^Access(0)
	if abi < 3 {
		rights &^= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi < 5 {
		rights &^= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	return rights
}

// pathBeneath is struct landlock_path_beneath_attr, which is packed: 12 bytes.
type pathBeneath struct {
	allowed uint64
	fd      int32
}

// unlinked opens a path that must have no symlink in it: for a command that enters a
// boundary, who is already inside may have exchanged a directory for a link to "/".
var unlinked = unix.OpenHow{
	Flags:   unix.O_PATH | unix.O_CLOEXEC,
	Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
}

// rights are those of a rule that the kernel takes.
func (r Rule) rights(abi int) Access {
	access := r.Access & known(abi)
	if r.File {
		access &= Device
	}
	return access
}

// Restrict puts the calling process, and all that come from it, in a domain
// with these rules. It needs no_new_privs and abi >= MinABI.
func Restrict(abi int, rules []Rule) []call.Call {
	const stage = "landlock"
	attr, size := ruleset(abi)
	list := []call.Call{
		call.New(stage, "make the ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, call.Ptr(attr), size, 0).Into(call.Ruleset),
	}
	for _, r := range rules {
		access := r.rights(abi)
		list = append(list,
			call.New(stage, "open", unix.SYS_OPENAT2, unix.AT_FDCWD, r.Path, call.Ptr(&unlinked), unix.SizeofOpenHow).On(r.Path).Into(call.Source),
			call.New(stage, "allow writing below", unix.SYS_LANDLOCK_ADD_RULE, call.Ruleset, unix.LANDLOCK_RULE_PATH_BENEATH,
				call.Ptr(&pathBeneath{allowed: uint64(access), fd: call.Source}), 0).On(r.Path),
		)
	}
	return append(list,
		call.New(stage, "restrict", unix.SYS_LANDLOCK_RESTRICT_SELF, call.Ruleset, 0))
}
