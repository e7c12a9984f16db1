// Package mount writes down file trees as lists of system calls, with the mount
// API of Linux 5.2 (open_tree, move_mount, fsopen), mount_setattr (5.12) and
// openat2 (5.6). Every target is opened without following a symlink and mounted on
// by descriptor, so that nobody can turn a mount elsewhere by exchanging a path
// component (CVE-2021-30465, CVE-2026-87766 are of that kind). It makes no system
// call itself and knows no policy.
package mount

import (
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cofferdam/internal/linux/call"
)

const (
	stage         = "mounts"
	mountAttrSize = 32 // MOUNT_ATTR_SIZE_VER0
)

// Attr is what a mount forbids.
type Attr uint64

const (
	ReadOnly Attr = unix.MOUNT_ATTR_RDONLY
	NoSUID   Attr = unix.MOUNT_ATTR_NOSUID
	NoDev    Attr = unix.MOUNT_ATTR_NODEV
	NoExec   Attr = unix.MOUNT_ATTR_NOEXEC
)

// outside opens a path of the host; inside opens one below a root, which it never
// leaves. Neither follows any link; the last component may be one, and is then
// opened itself.
var (
	outside = unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	// Not O_PATH, which fsconfig takes since Linux 6.15 only.
	directory = unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	inside = unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_BENEATH,
	}
)

func openIn(verb string, root int, target string) call.Call {
	name := rel(target)
	if name == "" {
		name = "."
	}
	return call.New(stage, verb, unix.SYS_OPENAT2, root, name, call.Ptr(&inside), unix.SizeofOpenHow).On(target)
}

// Attach puts the mount in slot tree at target below root.
func Attach(verb string, root, tree int, target string) []call.Call {
	return []call.Call{
		openIn(verb, root, target).Into(call.Target),
		move(verb, tree, target),
	}
}

// move attaches slot tree to the place in slot Target.
func move(verb string, tree int, target string) call.Call {
	return call.New(stage, verb, unix.SYS_MOVE_MOUNT, tree, "", call.Target, "",
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH).On(target)
}

// setAttr changes the mount in slot tree, with all mounts below it if recursive,
// and takes it out of every propagation.
func setAttr(verb, object string, tree int, attr Attr, recursive bool) call.Call {
	flags := unix.AT_EMPTY_PATH
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return call.New(stage, verb, unix.SYS_MOUNT_SETATTR, tree, "", flags,
		call.Ptr(&unix.MountAttr{Attr_set: uint64(attr), Propagation: unix.MS_PRIVATE}), mountAttrSize).On(object)
}

// Bind makes source, a path of the host with all symlinks resolved, appear at
// target below root, with the mounts below it. If optional, a source or target
// that has gone is left out.
func Bind(root int, source, target string, attr Attr, optional bool) []call.Call {
	open := call.New(stage, "bind", unix.SYS_OPENAT2, unix.AT_FDCWD, source, call.Ptr(&outside), unix.SizeofOpenHow).On(source)
	return bind("bind", open, root, target, attr, true, optional)
}

// Rebind mounts what is at path below root onto itself: with ReadOnly to
// protect it, without to pin it (a mount point can be neither renamed nor
// removed). Mounts below path are carried along.
func Rebind(root int, target string, attr Attr, optional bool) []call.Call {
	verb := "pin"
	if attr&ReadOnly != 0 {
		verb = "protect"
	}
	return bind(verb, openIn(verb, root, target), root, target, attr, true, optional)
}

// From makes an entry of the mount in slot from appear at target below root.
func From(verb string, from int, entry string, root int, target string, attr Attr) []call.Call {
	return bind(verb, openIn(verb, from, entry), root, target, attr, false, false)
}

func bind(verb string, open call.Call, root int, target string, attr Attr, recursive, optional bool) []call.Call {
	clone := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH
	if recursive {
		clone |= unix.AT_RECURSIVE
	}
	list := []call.Call{
		open.Into(call.Source),
		call.New(stage, verb, unix.SYS_OPEN_TREE, call.Source, "", clone).On(target).Into(call.Tree),
		setAttr(verb, target, call.Tree, attr, recursive),
		openIn(verb, root, target).Into(call.Target),
		move(verb, call.Tree, target),
	}
	if optional {
		// Only the look-ups may fail: what is there must be mounted.
		list[0] = list[0].OrSkip(4)
		list[3] = list[3].OrSkip(1)
	}
	return list
}

// Cover mounts the file at source of the host on the file at target below root,
// unreadable as a device: nodev makes open(2) fail with EACCES.
func Cover(root int, source, target string) []call.Call {
	const verb = "mask"
	return []call.Call{
		openIn(verb, root, target).Into(call.Target),
		call.New(stage, verb, unix.SYS_OPEN_TREE, unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).On(target).Into(call.Tree),
		setAttr(verb, target, call.Tree, ReadOnly|NoSUID|NoDev|NoExec, false),
		move(verb, call.Tree, target),
	}
}

// Detach takes away the mount at target below root, with all that is mounted on
// it, and then the directory. The working directory is the root afterwards.
func Detach(root int, target string) []call.Call {
	const verb = "detach"
	return []call.Call{
		call.New(stage, verb, unix.SYS_FCHDIR, root).On(target),
		call.New(stage, verb, unix.SYS_UMOUNT2, rel(target), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW).On(target),
		call.New(stage, verb, unix.SYS_UNLINKAT, root, rel(target), unix.AT_REMOVEDIR).On(target),
	}
}

// Option is one parameter of a new file system.
type Option struct{ Key, Value string }

// New makes a file system with fsopen and leaves its mount in slot into,
// attached to nothing.
func New(object, fstype string, options []Option, attr Attr, into int) []call.Call {
	verb := "mount " + fstype
	list := make([]call.Call, 0, 3+len(options))
	list = append(list, call.New(stage, verb, unix.SYS_FSOPEN, fstype, unix.FSOPEN_CLOEXEC).On(object).Into(call.Context))
	for _, o := range options {
		list = append(list, call.New(stage, verb, unix.SYS_FSCONFIG, call.Context, unix.FSCONFIG_SET_STRING, o.Key, o.Value, 0).On(object))
	}
	return append(list,
		call.New(stage, verb, unix.SYS_FSCONFIG, call.Context, unix.FSCONFIG_CMD_CREATE, 0, 0, 0).On(object),
		call.New(stage, verb, unix.SYS_FSMOUNT, call.Context, unix.FSMOUNT_CLOEXEC, int(attr)).On(object).Into(into),
	)
}

// OverlayFS is the kernel's name of it.
const OverlayFS = "overlay"

// Layers are the directories of an overlay, on the host.
type Layers struct{ Lower, Upper, Work string }

// Overlay makes an overlay in slot into, attached to nothing: what is written there goes
// to the upper directory, and nothing ever to the lower one. Each layer is opened without
// following a symlink and given by descriptor, which takes Linux 6.13; byPath gives its
// name in /proc instead, by which the kernel finds the same open directory (5.11).
//
// Other file systems that are mounted below the lower directory are not in it.
func Overlay(l Layers, byPath bool, attr Attr, into int) []call.Call {
	const verb = "mount " + OverlayFS
	var list []call.Call
	layers := []struct {
		dir, key, old string
		slot          int
	}{{l.Lower, "lowerdir+", "lowerdir", call.Lower}, {l.Upper, "upperdir", "upperdir", call.Upper}, {l.Work, "workdir", "workdir", call.Work}}
	for _, d := range layers {
		list = append(list, call.New(stage, verb, unix.SYS_OPENAT2, unix.AT_FDCWD, d.dir, call.Ptr(&directory), unix.SizeofOpenHow).On(d.dir).Into(d.slot))
	}
	list = append(list,
		call.New(stage, verb, unix.SYS_FSOPEN, OverlayFS, unix.FSOPEN_CLOEXEC).On(l.Lower).Into(call.Context),
		call.New(stage, verb, unix.SYS_FSCONFIG, call.Context, unix.FSCONFIG_SET_STRING, "source", "cofferdam", 0).On(l.Lower),
		// The marks in user.overlay.*, which needs no privilege outside.
		call.New(stage, verb, unix.SYS_FSCONFIG, call.Context, unix.FSCONFIG_SET_FLAG, "userxattr", 0, 0).On(l.Lower))
	for _, d := range layers {
		if byPath {
			list = append(list, call.New(stage, verb, unix.SYS_FSCONFIG, call.Context, unix.FSCONFIG_SET_STRING, d.old, "/proc/self/fd/"+strconv.Itoa(d.slot), 0).On(d.dir))
			continue
		}
		list = append(list, call.New(stage, verb, unix.SYS_FSCONFIG, call.Context, unix.FSCONFIG_SET_FD, d.key, 0, d.slot).On(d.dir))
	}
	return append(list,
		call.New(stage, verb, unix.SYS_FSCONFIG, call.Context, unix.FSCONFIG_CMD_CREATE, 0, 0, 0).On(l.Lower),
		call.New(stage, verb, unix.SYS_FSMOUNT, call.Context, unix.FSMOUNT_CLOEXEC, int(attr)).On(l.Lower).Into(into),
	)
}

// Tmpfs makes an empty tmpfs in slot into. Size is in bytes, 0 for the kernel's
// default (half of the memory).
func Tmpfs(object string, size, inodes int64, mode uint32, attr Attr, into int) []call.Call {
	opts := make([]Option, 0, 4)
	opts = append(opts, Option{"source", "cofferdam"}, Option{"mode", "0" + strconv.FormatUint(uint64(mode), 8)})
	if size > 0 {
		opts = append(opts, Option{"size", strconv.FormatInt(size, 10)})
	}
	if inodes > 0 {
		opts = append(opts, Option{"nr_inodes", strconv.FormatInt(inodes, 10)})
	}
	return New(object, "tmpfs", opts, attr, into)
}

// Fuse opens /dev/fuse into slot device and makes its file system in slot into.
// Opened here, in the new user namespace: a file opened outside is refused.
func Fuse(device int, options []Option, into int) []call.Call {
	return append([]call.Call{
		call.New(stage, "open", unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC).On("/dev/fuse").Into(device),
	}, New("masks", "fuse", options, NoSUID|NoDev|NoExec, into)...)
}

// Dir makes one directory below the slot.
func Dir(root int, dir string, mode uint32) call.Call {
	return call.New(stage, "make", unix.SYS_MKDIRAT, root, rel(dir), mode).On(dir)
}

// File makes one empty file below the slot.
func File(root int, file string, mode uint32) call.Call {
	return call.New(stage, "make", unix.SYS_MKNODAT, root, rel(file), unix.S_IFREG|mode, 0).On(file)
}

// Symlink makes one symlink below the slot.
func Symlink(root int, text, link string) call.Call {
	return call.New(stage, "link", unix.SYS_SYMLINKAT, text, root, rel(link)).On(link)
}

// Chmod sets the mode of an entry below the slot, whatever the umask was.
func Chmod(root int, name string, mode uint32) call.Call {
	return call.New(stage, "chmod", unix.SYS_FCHMODAT, root, rel(name), mode).On(name)
}

// Seal makes the mount at target below root read-only, without those below it.
func Seal(root int, target string) []call.Call {
	return []call.Call{
		openIn("seal", root, target).Into(call.Target),
		setAttr("seal", target, call.Target, ReadOnly, false),
	}
}

// Over mounts the tree in slot over the old root. The old root stays what "/"
// means until Pivot: a look-up that starts at a process's root does not climb
// onto what is mounted over it.
func Over(tree int) call.Call {
	return call.New(stage, "attach the new root", unix.SYS_MOVE_MOUNT, tree, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// Pivot makes the mount in slot tree the root and lets go of the old one
// (pivot_root(2), the "." "." way, which needs no directory for the old root).
func Pivot(tree int) []call.Call {
	const verb = "pivot to the new root"
	return []call.Call{
		call.New(stage, verb, unix.SYS_FCHDIR, tree),
		call.New(stage, verb, unix.SYS_PIVOT_ROOT, ".", "."),
		call.New(stage, verb, unix.SYS_UMOUNT2, ".", unix.MNT_DETACH),
		call.New(stage, verb, unix.SYS_CHDIR, "/"),
	}
}

// Private takes the whole copied tree out of propagation, before anything else
// is mounted: what is mounted inside must never appear outside.
func Private() call.Call {
	return call.New(stage, "make the mount tree private", unix.SYS_MOUNT_SETATTR, unix.AT_FDCWD, "/", unix.AT_RECURSIVE,
		call.Ptr(&unix.MountAttr{Propagation: unix.MS_PRIVATE}), mountAttrSize)
}

func rel(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }
