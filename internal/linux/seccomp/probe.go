//go:build linux

package seccomp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Answer to whether the kernel can do something. The zero value is "could not
// tell", never to be read as yes.
type Answer struct {
	Known bool
	Yes   bool
	// Errno is what the kernel answered, where it was not a plain yes.
	Errno unix.Errno
}

func (a Answer) String() string {
	switch {
	case !a.Known:
		return "unknown (" + a.Errno.Error() + ")"
	case a.Yes:
		return "yes"
	}
	return "no (" + a.Errno.Error() + ")"
}

// Support is what this kernel can do, found out by asking it to.
type Support struct {
	Filter       Answer // a filter can be installed (no_new_privs given)
	Errno        Answer // SECCOMP_RET_ERRNO
	KillProcess  Answer // SECCOMP_RET_KILL_PROCESS, 4.14
	Notify       Answer // SECCOMP_RET_USER_NOTIF and a listener, 5.0
	WaitKillable Answer // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, 5.19
}

// Available asks the kernel. It changes nothing in this process.
func Available() Support {
	s := Support{
		Filter:       flagsKnown(0),
		Errno:        actionKnown(unix.SECCOMP_RET_ERRNO),
		KillProcess:  actionKnown(unix.SECCOMP_RET_KILL_PROCESS),
		Notify:       actionKnown(unix.SECCOMP_RET_USER_NOTIF),
		WaitKillable: flagsKnown(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV),
	}
	// The action alone is no use without a listener, which an outer filter may
	// refuse: inside a sandbox of ours, for one.
	if s.Notify.Known && s.Notify.Yes {
		s.Notify = flagsKnown(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	}
	return s
}

// flagsKnown tries to install a filter that is not there. The kernel looks at
// the flags first (EINVAL), then for the filter (EFAULT).
func flagsKnown(flags uintptr) Answer {
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, 0)
	switch e {
	case unix.EFAULT:
		return Answer{Known: true, Yes: true}
	case unix.EINVAL, unix.ENOSYS:
		return Answer{Known: true, Errno: e}
	}
	return Answer{Errno: e}
}

func actionKnown(action uint32) Answer {
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action)))
	switch e {
	case 0:
		return Answer{Known: true, Yes: true}
	case unix.EOPNOTSUPP:
		return Answer{Known: true, Errno: e}
	case unix.EINVAL, unix.ENOSYS:
		// The question itself is of 4.14. What is older than that is there.
		return Answer{Known: action == unix.SECCOMP_RET_KILL_PROCESS || action == unix.SECCOMP_RET_USER_NOTIF, Errno: e}
	}
	return Answer{Errno: e}
}
