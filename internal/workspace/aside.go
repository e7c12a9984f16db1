package workspace

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path"
	"strconv"
	"syscall"

	"cofferdam/internal/linux/fsat"
)

// foldersLimit bounds how often one path is set aside in one session.
const foldersLimit = 1000

// setAside moves the entry to set-aside/PATH in the session folder, or to
// set-aside.2/PATH and so on where that is taken. Whatever goes wrong, the
// entry is in one of the two places, whole.
func (s *sweeper) setAside(a act) (to string, restored bool, err error) {
	parent, name, err := fsat.OpenParent(s.fd, a.path)
	if err != nil {
		return "", false, err
	}
	defer fsat.Close(parent)
	for n := max(s.number[a.path], 1); n <= foldersLimit; n++ {
		folder := "set-aside"
		if n > 1 {
			folder = fmt.Sprintf("set-aside.%d", n)
		}
		to = folder + "/" + a.path
		dest, err := fsat.MakeDirs(s.session, path.Dir(to))
		if fsat.Taken(err) {
			continue
		}
		if err != nil {
			return "", false, fmt.Errorf("make %s: %w", path.Dir(to), err)
		}
		if a.old != nil {
			restored = true
			err = swap(parent, name, dest, a.old)
		} else {
			err = move(parent, name, dest)
		}
		fsat.Close(dest)
		if errors.Is(err, fsat.EEXIST) {
			continue
		}
		s.number[a.path] = n
		return to, restored, err
	}
	return "", false, fmt.Errorf("it has been set aside %d times", foldersLimit)
}

// otherDisk says that an entry can't be renamed there: another file system, or
// one that does not know the flags (EINVAL).
func otherDisk(err error) bool {
	return errors.Is(err, fsat.EXDEV) || errors.Is(err, syscall.EINVAL)
}

// move renames, or copies and removes.
func move(parent int, name string, dest int) error {
	err := fsat.RenameNew(parent, name, dest, name)
	if !otherDisk(err) {
		return err
	}
	return moveCopy(parent, name, dest, name)
}

// swap puts the old content at name and the present entry at dest. On one file
// system it is one atomic exchange: name is at no moment missing.
func swap(parent int, name string, dest int, old *Entry) error {
	if err := writeNew(dest, name, old); err != nil {
		return err
	}
	err := fsat.Exchange(parent, name, dest, name)
	if err == nil {
		return nil
	}
	fsat.Unlink(dest, name, false)
	if !otherDisk(err) {
		return err
	}
	// Over a file system's border the exchange is made beside the file, and
	// undone if the copy does not come to be.
	temp := ".cofferdam-" + strconv.FormatUint(rand.Uint64(), 36)
	if err := writeNew(parent, temp, old); err != nil {
		return err
	}
	if err := fsat.Exchange(parent, name, parent, temp); err != nil {
		fsat.Unlink(parent, temp, false)
		return err
	}
	if err := moveCopy(parent, temp, dest, name); err != nil {
		if back := fsat.Exchange(parent, name, parent, temp); back == nil {
			fsat.Unlink(parent, temp, false)
		}
		return err
	}
	return nil
}

func writeNew(dir int, name string, old *Entry) error {
	f, err := fsat.Create(dir, name, old.Mode)
	if err != nil {
		return err
	}
	_, err = f.Write(old.Content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		fsat.Unlink(dir, name, false)
		return fmt.Errorf("write the old content: %w", err)
	}
	return nil
}

// moveCopy copies the entry, makes sure that the copy is on the disk, and only
// then removes the original, if it is still what was copied.
func moveCopy(src int, name string, dst int, to string) error {
	c := copier{bytes: copyLimit, entries: copyEntries, was: map[[2]uint64]fsat.Stat{}}
	if err := c.copy(src, name, dst, to); err != nil {
		if !errors.Is(err, fsat.EEXIST) || c.made {
			c.discard(dst, to)
		}
		return err
	}
	return c.remove(src, name)
}

type copier struct {
	bytes   int64
	entries int
	made    bool // something was created at the destination
	was     map[[2]uint64]fsat.Stat
}

func (c *copier) copy(src int, name string, dst int, to string) error {
	if c.entries--; c.entries < 0 {
		return fmt.Errorf("more than %d entries, on another file system than the session folder", copyEntries)
	}
	st, err := fsat.StatAt(src, name)
	if err != nil {
		return err
	}
	c.was[[2]uint64{st.Dev, st.Ino}] = st
	switch st.Type {
	case fsat.File:
		return c.copyFile(src, name, dst, to)
	case fsat.Symlink:
		text, err := fsat.Readlink(src, name)
		if err != nil {
			return err
		}
		if err := fsat.MakeSymlink(text, dst, to); err != nil {
			return err
		}
		c.made = true
		return nil
	case fsat.Dir:
		if err := fsat.MakeDir(dst, to, 0o700); err != nil {
			return err
		}
		c.made = true
		return c.copyDir(src, name, dst, to)
	}
	return nil // a FIFO, socket or device has no content to lose
}

func (c *copier) copyFile(src int, name string, dst int, to string) error {
	in, st, err := fsat.OpenFile(src, name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := fsat.Create(dst, to, st.Mode|0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	c.made = true
	n, err := io.Copy(out, io.LimitReader(in, c.bytes+1))
	if err != nil {
		return err
	}
	if c.bytes -= n; c.bytes < 0 {
		return fmt.Errorf("more than %d MiB, on another file system than the session folder", copyLimit>>20)
	}
	return out.Sync()
}

// names lists a directory before anything in it changes.
func names(fd int) ([]string, error) {
	var out []string
	err := fsat.Entries(fd, make([]byte, 16<<10), func(name []byte, _ fsat.Type) { out = append(out, string(name)) })
	return out, err
}

func (c *copier) copyDir(src int, name string, dst int, to string) error {
	from, err := fsat.OpenDir(src, name)
	if err != nil {
		return err
	}
	defer fsat.Close(from)
	into, err := fsat.OpenDir(dst, to)
	if err != nil {
		return err
	}
	defer fsat.Close(into)
	list, err := names(from)
	if err != nil {
		return err
	}
	for _, n := range list {
		if err := c.copy(from, n, into, n); err != nil {
			return err
		}
	}
	return nil
}

var errMoving = errors.New("it changed while it was copied; the copy is kept")

// remove takes away what was copied and nothing else.
func (c *copier) remove(dir int, name string) error {
	st, err := fsat.StatAt(dir, name)
	if err != nil {
		return err
	}
	was, ok := c.was[[2]uint64{st.Dev, st.Ino}]
	if !ok || st.Type != was.Type || st.Type != fsat.Dir && (st.Size != was.Size || st.Ctime != was.Ctime) {
		return errMoving
	}
	if st.Type == fsat.Dir {
		fd, err := fsat.OpenDir(dir, name)
		if err != nil {
			return err
		}
		list, err := names(fd)
		for _, n := range list {
			if err == nil {
				err = c.remove(fd, n)
			}
		}
		fsat.Close(fd)
		if err != nil {
			return err
		}
	}
	return fsat.Unlink(dir, name, st.Type == fsat.Dir)
}

// discard removes a copy that did not come to be; it lies in the session
// folder, so it is ours.
func (c *copier) discard(dir int, name string) {
	if !c.made {
		return
	}
	if fd, err := fsat.OpenDir(dir, name); err == nil {
		list, _ := names(fd)
		for _, n := range list {
			c.discard(fd, n)
		}
		fsat.Close(fd)
		fsat.Unlink(dir, name, true)
		return
	}
	fsat.Unlink(dir, name, false)
}
