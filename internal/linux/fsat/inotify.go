//go:build linux

package fsat

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Change is one thing that inotify saw.
type Change struct {
	Watch int    // which directory; 0 on overflow
	Name  string // in that directory; "" for the directory itself
	Dir   bool   // the entry is a directory
	New   bool   // created, or moved here: nothing is known below it
	Moved bool   // the watched directory itself has moved or gone
	Lost  bool   // the kernel's queue overflowed: look at everything
}

// Notifier is one inotify instance.
type Notifier struct{ f *os.File }

// NewNotifier opens one; EMFILE when the user has no instances left.
func NewNotifier() (*Notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	return &Notifier{os.NewFile(uintptr(fd), "inotify")}, nil // non-blocking: the runtime polls, Close wakes Read
}

// Add watches the directory rel below dir. inotify takes only paths, so the
// opened descriptor is named through /proc and no component is looked up twice.
func (n *Notifier) Add(dir int, rel string) (int, error) {
	fd, err := open(dir, rel, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	c, err := n.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var wd int
	var werr error
	err = c.Control(func(ifd uintptr) {
		wd, werr = unix.InotifyAddWatch(int(ifd), fmt.Sprintf("/proc/self/fd/%d", fd),
			unix.IN_CREATE|unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_ATTRIB|unix.IN_MOVE_SELF|unix.IN_DELETE_SELF|unix.IN_ONLYDIR|unix.IN_EXCL_UNLINK)
	})
	if err == nil {
		err = werr
	}
	return wd, err
}

// Read blocks for the next changes; os.ErrClosed after Close.
func (n *Notifier) Read() ([]Change, error) {
	var buf [16 << 10]byte
	got, err := n.f.Read(buf[:])
	if err != nil {
		return nil, err
	}
	var out []Change
	// struct inotify_event: wd s32, mask u32, cookie u32, len u32, name.
	for b := buf[:got]; len(b) >= 16; {
		wd := int(int32(binary.NativeEndian.Uint32(b)))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := int(binary.NativeEndian.Uint32(b[12:]))
		if 16+size > len(b) {
			return out, unix.EBADMSG
		}
		name := b[16 : 16+size]
		b = b[16+size:]
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			out = append(out, Change{Lost: true})
		case mask&(unix.IN_MOVE_SELF|unix.IN_DELETE_SELF|unix.IN_IGNORED|unix.IN_UNMOUNT) != 0:
			out = append(out, Change{Watch: wd, Moved: true})
		case len(name) > 0:
			out = append(out, Change{Watch: wd, Name: string(name), Dir: mask&unix.IN_ISDIR != 0,
				New: mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0})
		}
	}
	return out, nil
}

// Close ends the instance and wakes Read.
func (n *Notifier) Close() error { return n.f.Close() }
