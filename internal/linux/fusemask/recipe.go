//go:build linux

package fusemask

import "strconv"

// Filesystem is the name for fsopen.
const Filesystem = "fuse"

// Option is one fsconfig(FSCONFIG_SET_STRING) call.
type Option struct{ Key, Value string }

// Options is what to set between fsopen and FSCONFIG_CMD_CREATE. fd is the
// number of the open /dev/fuse in the process that calls fsconfig; uid and gid
// are those of the box, as seen inside its user namespace.
//
// The whole recipe, for the forked child that holds CAP_SYS_ADMIN in the
// box's own user and mount namespaces:
//
//	f  = open("/dev/fuse", O_RDWR|O_CLOEXEC)      opened INSIDE the user namespace,
//	                                              else CREATE gives EINVAL
//	fs = fsopen("fuse", FSOPEN_CLOEXEC)           5.2; fuse proper 5.4
//	     fsconfig(fs, SET_STRING, key, value) ... for each Option
//	     fsconfig(fs, CMD_CREATE)                 unprivileged since 4.18
//	     sendmsg(SCM_RIGHTS, f)                   the supervisor calls Serve
//	     close(f)                                 see below
//	m  = fsmount(fs, FSMOUNT_CLOEXEC, NOSUID|NODEV|NOEXEC)   see MountAttributes
//	     for each mask N:
//	t  = open_tree(m, "N", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_SYMLINK_NOFOLLOW)
//	     move_mount(t, "", target, "", F_EMPTY_PATH|T_EMPTY_PATH)
//	     close(t) ...; close(m); close(fs)
//
// CREATE does not wait for the server; the first open_tree of a name does. So
// the fd must have been sent by then, and not before CREATE: a server that
// reads too early gets EPERM.
//
// Close f in EVERY process that is not the supervisor, by hand where no exec
// follows (O_CLOEXEC does nothing for a pid 1 that is a bare fork). While one
// copy is open anywhere, the death of the supervisor does not end the
// connection: processes that touch a mask would then wait for ever, and can't
// be killed. With no copy left they get ENOTCONN at once.
//
// m is never attached, so the root of the filesystem can't be reached from
// inside: each mask is a tree of its own and ".." leaves it by the mount point.
//
// The mounts must not be made read-only: the kernel would answer EROFS to
// writers without asking. Nothing can be written anyway. A recursive
// mount_setattr of the whole tree therefore comes before the masks.
func Options(fd, uid, gid int) []Option {
	return []Option{
		{"source", "cofferdam"},
		// Decimal text works for every kernel; FSCONFIG_SET_FD only for new
		// ones.
		{"fd", strconv.Itoa(fd)},
		{"rootmode", "40555"}, // octal: S_IFDIR|0555
		{"user_id", strconv.Itoa(uid)},
		{"group_id", strconv.Itoa(gid)},
		// No default_permissions: the kernel would refuse by mode bits and
		// not ask us. No allow_other: another user (there should be none)
		// gets EACCES from the kernel.
	}
}

// MountAttributes is the attribute argument of fsmount: MOUNT_ATTR_NOSUID |
// MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC. Noexec costs no report: a program
// below a mask is looked up first.
const MountAttributes = 0x2 | 0x4 | 0x8
