//go:build linux

package fusemask

import (
	"bytes"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// nsGetTGIDFromPIDNS is NS_GET_TGID_FROM_PIDNS (6.11): the process, numbered
// for the caller, of a thread numbered for the namespace of the descriptor.
const nsGetTGIDFromPIDNS = 0x8004b707 // _IOR(0xb7, 0x7, int)

// scanLimit bounds the search of old kernels: the box chooses how often we
// search, so one search must stay cheap. Beyond it pids are unknown.
const scanLimit = 1024

// pidTable translates the pids of the box. Its zero value knows nothing.
type pidTable struct {
	namespace *os.File
	noIoctl   bool

	// The last hit of a search, re-checked before use.
	inner, found int
	buf          [4096]byte
}

// outer returns the process on our side; 0 if unknown.
func (p *pidTable) outer(inner int) int {
	if p.namespace == nil || inner <= 0 {
		return 0
	}
	if !p.noIoctl {
		pid, _, errno := unix.Syscall(unix.SYS_IOCTL, p.namespace.Fd(), nsGetTGIDFromPIDNS, uintptr(inner))
		switch errno {
		case 0:
			return int(pid)
		case unix.ENOTTY, unix.EINVAL:
			p.noIoctl = true
		default:
			return 0
		}
	}
	return p.search(inner)
}

// search looks through /proc for a process with this number in the namespace.
// It finds processes by their main thread only.
func (p *pidTable) search(inner int) int {
	var ns unix.Stat_t
	if err := unix.Fstat(int(p.namespace.Fd()), &ns); err != nil {
		return 0
	}
	if p.inner == inner && p.matches(p.found, inner, &ns) {
		return p.found
	}
	dir, err := os.Open("/proc")
	if err != nil {
		return 0
	}
	defer dir.Close()
	names, err := dir.Readdirnames(2 * scanLimit)
	if err != nil {
		return 0
	}
	tried := 0
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if tried++; tried > scanLimit {
			return 0
		}
		if p.matches(pid, inner, &ns) {
			p.inner, p.found = inner, pid
			return pid
		}
	}
	return 0
}

// matches: is pid numbered inner in the namespace ns? A number alone proves
// nothing, every box has a process 1.
func (p *pidTable) matches(pid, inner int, ns *unix.Stat_t) bool {
	dir := "/proc/" + strconv.Itoa(pid)
	f, err := os.Open(dir + "/status")
	if err != nil {
		return false
	}
	n, err := f.Read(p.buf[:])
	f.Close()
	if err != nil || lastNSpid(p.buf[:n]) != inner {
		return false
	}
	var st syscall.Stat_t
	if err := syscall.Stat(dir+"/ns/pid", &st); err != nil {
		return false
	}
	return st.Ino == ns.Ino && st.Dev == ns.Dev
}

// lastNSpid is the innermost number of the NSpid line of a status file; -1 if
// there is none.
func lastNSpid(status []byte) int {
	_, rest, ok := bytes.Cut(status, []byte("\nNSpid:"))
	if !ok {
		return -1
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) == 0 {
		return -1
	}
	n, err := strconv.Atoi(string(fields[len(fields)-1]))
	if err != nil {
		return -1
	}
	return n
}
