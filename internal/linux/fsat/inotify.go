//go:build linux

package fsat

import (
	"encoding/binary"
	"errors"
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

// Notifier is one inotify instance. One goroutine at a time calls its Wait and Read.
//
// Who makes changes pays for waking whoever waits for them: on a virtual machine that
// costs more than to make a file. So nobody waits all the time: the instance is in an
// epoll instance of its own that tells of one change and then no more until Wait is
// called again, and only that one is in the runtime's. Read takes what has come
// meanwhile.
type Notifier struct {
	f    *os.File // the runtime does not poll it
	poll *os.File // the runtime polls it
	buf  []byte
}

// NewNotifier opens one; EMFILE when the user has no instances left.
func NewNotifier() (*Notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	n := &Notifier{f: os.NewFile(uintptr(fd), "inotify")}
	// After NewFile, which would give one that does not block to the runtime to poll.
	if err := unix.SetNonblock(fd, true); err != nil {
		n.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		n.Close()
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err = unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{}); err == nil {
		err = unix.SetNonblock(ep, true)
	}
	n.poll = os.NewFile(uintptr(ep), "epoll")
	if err != nil {
		n.Close()
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return n, nil
}

// Add watches the directory rel below dir for new entries; with written also for what
// is done to an entry that is there. inotify takes only paths, so the
// opened descriptor is named through /proc and no component is looked up twice.
func (n *Notifier) Add(dir int, rel string, written bool) (int, error) {
	fd, err := open(dir, rel, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	c, err := n.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	mask := uint32(unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MOVE_SELF | unix.IN_DELETE_SELF | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK)
	if written {
		mask |= unix.IN_CLOSE_WRITE | unix.IN_ATTRIB
	}
	var wd int
	var werr error
	err = c.Control(func(ifd uintptr) {
		wd, werr = unix.InotifyAddWatch(int(ifd), fmt.Sprintf("/proc/self/fd/%d", fd), mask)
	})
	if err == nil {
		err = werr
	}
	return wd, err
}

// Wait blocks until there is something to read; os.ErrClosed after Close.
func (n *Notifier) Wait() error {
	poll, err := n.poll.SyscallConn()
	if err != nil {
		return err
	}
	f, err := n.f.SyscallConn()
	if err != nil {
		return err
	}
	var werr error
	arm := func(ep uintptr) {
		err := f.Control(func(fd uintptr) {
			werr = unix.EpollCtl(int(ep), unix.EPOLL_CTL_MOD, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT})
		})
		if werr == nil {
			werr = err
		}
	}
	if err := poll.Control(arm); err != nil {
		return err
	}
	if werr != nil {
		return werr
	}
	err = poll.Read(func(ep uintptr) (done bool) {
		var got [1]unix.EpollEvent
		k := 0
		for {
			if k, werr = unix.EpollWait(int(ep), got[:], 0); werr != unix.EINTR {
				return k > 0 || werr != nil
			}
		}
	})
	if err != nil {
		return err
	}
	return werr
}

// readsAtOnce bounds one Read: more than the kernel's queue holds, in names of usual
// length (fs.inotify.max_queued_events is 16,384).
const readsAtOnce = 64

// Read passes on what has changed since the last time, and does not wait. It returns how
// much that was; os.ErrClosed after Close.
func (n *Notifier) Read(each func(Change)) (count int, err error) {
	if n.buf == nil {
		n.buf = make([]byte, 16<<10)
	}
	for range readsAtOnce {
		got, err := n.f.Read(n.buf)
		if errors.Is(err, unix.EAGAIN) {
			return count, nil
		}
		if err != nil {
			return count, err
		}
		k, err := parseChanges(n.buf[:got], each)
		if count += k; err != nil {
			return count, err
		}
	}
	return count, nil
}

// parseChanges reads struct inotify_event: wd s32, mask u32, cookie u32, len u32, name.
func parseChanges(b []byte, each func(Change)) (count int, err error) {
	for ; len(b) >= 16; count++ {
		wd := int(int32(binary.NativeEndian.Uint32(b)))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := uint64(binary.NativeEndian.Uint32(b[12:]))
		if 16+size > uint64(len(b)) {
			return count, unix.EBADMSG
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
			each(Change{Lost: true})
		case mask&(unix.IN_MOVE_SELF|unix.IN_DELETE_SELF|unix.IN_IGNORED|unix.IN_UNMOUNT) != 0:
			each(Change{Watch: wd, Moved: true})
		case len(name) > 0:
			each(Change{Watch: wd, Name: string(name), Dir: mask&unix.IN_ISDIR != 0,
				New: mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0})
		}
	}
	return count, nil
}

// Close ends the instance and wakes Wait.
func (n *Notifier) Close() error {
	var err error
	if n.poll != nil {
		err = n.poll.Close()
	}
	return errors.Join(err, n.f.Close())
}
