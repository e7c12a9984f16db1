//go:build linux

package fsat

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Whiteout reports whether the entry name of the open directory is what overlayfs
// writes for a deletion: the character device 0/0, which has no driver.
func Whiteout(dir int, name string) (bool, error) {
	var x unix.Statx_t
	if err := unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &x); err != nil {
		return false, err
	}
	return x.Mode&unix.S_IFMT == unix.S_IFCHR && x.Rdev_major == 0 && x.Rdev_minor == 0, nil
}

// Attribute reads an extended attribute of an open file or directory; ok is false if
// it has none of that name. One of more than 256 bytes is an error.
func Attribute(fd int, name string) (value string, ok bool, err error) {
	var buf [256]byte
	n, err := unix.Fgetxattr(fd, name, buf[:])
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		return "", false, nil
	case err != nil:
		return "", false, err
	}
	return string(buf[:n]), true, nil
}

// Used is what the entry name of the open directory takes on its file system, in
// bytes. It is not its size: a file may have holes.
func Used(dir int, name string) (int64, error) {
	var x unix.Statx_t
	if err := unix.Statx(dir, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_BLOCKS, &x); err != nil {
		return 0, err
	}
	return int64(x.Blocks) * 512, nil
}

// Now is the clock from which the kernel takes the times of files. It lags behind
// time.Now by some milliseconds, so only this one says what a file is older than.
func Now() (time.Time, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &t); err != nil {
		return time.Time{}, err
	}
	return time.Unix(t.Unix()).UTC(), nil
}

// RemoveAll removes the entry name of the open directory with all that is below it.
// Names may be any bytes, directories nested as deep as the file system lets them, and
// their modes such that their owner can't enter. Nothing outside is touched: no
// symlink is followed and no path is walked.
//
// Each directory that is found below the top is moved up to it and emptied there. So
// two levels are open at a time, and each entry is touched a fixed number of times.
func RemoveAll(dir int, name string) error {
	if err := remove(dir, name); err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	} else if !errors.Is(err, unix.EISDIR) {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	top, err := enter(dir, name)
	if err == nil {
		err = empty(top)
		unix.Close(top)
	}
	if err == nil {
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// remove unlinks what is no directory; a directory is EISDIR.
func remove(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.EPERM) { // POSIX's answer for a directory
		if st, serr := StatAt(dir, name); serr == nil && st.Type == Dir {
			return unix.EISDIR
		}
	}
	return err
}

// enter opens a directory of ours for all that is to be done in it, whatever its mode.
func enter(dir int, name string) (int, error) {
	path, err := open1(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, beneath)
	if err == nil {
		if st, serr := StatFd(path); serr == nil && st.Mode&0o700 == 0o700 {
			return path, nil
		}
		unix.Close(path)
	}
	if path, err = open1(dir, name, unix.O_PATH|unix.O_DIRECTORY, beneath); err != nil {
		return -1, err
	}
	defer unix.Close(path)
	self := fmt.Sprintf("/proc/self/fd/%d", path)
	if err := unix.Chmod(self, 0o700); err != nil {
		return -1, err
	}
	return unix.Open(self, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// empty removes all that is in the open directory.
func empty(top int) error {
	buf := make([]byte, 32<<10)
	moved := 0
	for {
		names, err := some(top, buf)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, name := range names {
			err := remove(top, name)
			if errors.Is(err, unix.EISDIR) {
				err = flatten(top, name, buf, &moved)
			}
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
}

// flatten removes the directory name of top, whose own directories come to lie in top.
func flatten(top int, name string, buf []byte, moved *int) error {
	dir, err := enter(top, name)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	for {
		names, err := some(dir, buf)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return unix.Unlinkat(top, name, unix.AT_REMOVEDIR)
		}
		for _, n := range names {
			err := remove(dir, n)
			if errors.Is(err, unix.EISDIR) {
				err = lift(dir, n, top, moved)
			}
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
}

// lift moves a directory up to top, under a name that nothing there has.
func lift(dir int, name string, top int, moved *int) error {
	for opened := false; ; {
		*moved++
		err := unix.Renameat2(dir, name, top, ".removed-"+strconv.Itoa(*moved), unix.RENAME_NOREPLACE)
		switch {
		case errors.Is(err, unix.EEXIST):
		case errors.Is(err, unix.EACCES) && !opened:
			// Who moves a directory elsewhere writes in it: its ".." changes.
			fd, err := enter(dir, name)
			if err != nil {
				return err
			}
			unix.Close(fd)
			opened = true
		default:
			return err
		}
	}
}

// some are the names of a few entries of the open directory, none if it is empty.
func some(dir int, buf []byte) ([]string, error) {
	if _, err := unix.Seek(dir, 0, 0); err != nil {
		return nil, err
	}
	var names []string
	for {
		n, err := unix.Getdents(dir, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 || len(names) > 0 {
			return names, nil
		}
		if err := each(buf[:n], func(name []byte, _ Type) { names = append(names, string(name)) }); err != nil {
			return nil, err
		}
	}
}

// RemoveBelow is RemoveAll for an entry of the directory at path.
func RemoveBelow(path, name string) error {
	dir, err := OpenRoot(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return RemoveAll(dir, name)
}

// CopyFile copies the regular file name of one open directory to a new one of the same
// name in another, with its mode but for set-ID bits and its modification time. Where
// the file system can it shares the content (shared).
func CopyFile(from int, name string, to int) (shared bool, err error) {
	src, st, err := OpenFile(from, name)
	if err != nil {
		return false, err
	}
	defer src.Close()
	dst, err := Create(to, name, st.Mode)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		shared = true
	} else if _, err := io.Copy(dst, src); err != nil { // copy_file_range, where it works
		return false, err
	}
	var x unix.Stat_t
	if err := unix.Fstat(int(src.Fd()), &x); err != nil {
		return shared, err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, x.Mtim}
	return shared, unix.UtimesNanoAt(to, name, times, unix.AT_SYMLINK_NOFOLLOW)
}
