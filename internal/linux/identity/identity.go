// Package identity writes down who the inside is and what it may never become:
// the uid and gid map of the new user namespace, and the loss of every
// capability. It makes no system call itself.
package identity

import (
	"fmt"

	"golang.org/x/sys/unix"

	"cofferdam/internal/linux/call"
)

// Map gives the new user namespace one user and one group: the caller's own,
// under their own numbers. An unprivileged process may write just this map, and
// the group's only after it has given up setgroups(2) (user_namespaces(7),
// CVE-2014-8989).
func Map(uid, gid int) []call.Call {
	var list []call.Call
	for _, f := range []struct{ path, text string }{
		{"/proc/self/setgroups", "deny"},
		{"/proc/self/gid_map", fmt.Sprintf("%d %d 1", gid, gid)},
		{"/proc/self/uid_map", fmt.Sprintf("%d %d 1", uid, uid)},
	} {
		list = append(list, call.Write("identity", unix.AT_FDCWD, f.path, f.text)...)
	}
	return list
}

// Hostname sets the host name of the new uts namespace.
func Hostname(name string) call.Call {
	return call.New("identity", "set the host name", unix.SYS_SETHOSTNAME, name, len(name)).On(name)
}

// newer is how many capabilities above those known here are dropped too. The
// kernel answers EINVAL for the first that it does not know, which ends the row.
const newer = 63 - unix.CAP_LAST_CAP

// DropBounding empties the bounding set, so that no file capability can give
// anything back, and locks the rules by which uid 0 would get capabilities at
// execve. It must come before DropAll: it needs CAP_SETPCAP.
func DropBounding() []call.Call {
	const secure = 1<<0 | 1<<1 | // NOROOT and locked
		1<<2 | 1<<3 | // NO_SETUID_FIXUP and locked
		1<<5 | // KEEP_CAPS locked (off)
		1<<6 | 1<<7 // NO_CAP_AMBIENT_RAISE and locked
	return []call.Call{
		call.New("capabilities", "lock the rules of uid 0", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, secure),
		call.New("capabilities", "clear ambient capabilities", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0),
		call.New("capabilities", "empty the bounding set", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, 0).Repeat(unix.CAP_LAST_CAP + 1),
		call.New("capabilities", "empty the bounding set", unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, unix.CAP_LAST_CAP+1).Repeat(newer).OrSkipIf(unix.EINVAL, 0),
	}
}

// DropAll gives up the effective, permitted and inheritable sets.
func DropAll() call.Call {
	head := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{}
	return call.New("capabilities", "drop all", unix.SYS_CAPSET, call.Ptr(head), call.Ptr(data))
}

// NoNewPrivileges makes set-user-id programs and file capabilities plain files
// for this process and all that come from it. Landlock and seccomp need it.
func NoNewPrivileges() call.Call {
	return call.New("capabilities", "no_new_privs", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// NotDumpable closes /proc/PID/{mem,environ,fd,...} of this process to everybody
// without capabilities in the first user namespace, until the next execve.
func NotDumpable() call.Call {
	return call.New("identity", "not dumpable", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}
