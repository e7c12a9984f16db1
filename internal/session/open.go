package session

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// openDir has an empty file for each session that has not ended. To find the
// sessions whose supervisor was killed, nothing else has to be looked at: the
// start of a run must not get slower with each run before it.
const openDir = "open"

// begin makes the folder in which a session is put together before it gets its
// name. It says whose it is: what a killed process has left is removed by the next.
func (s *Store) begin(id string) (string, error) {
	if err := s.root.Mkdir(openDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	temp := path.Join(openDir, fmt.Sprintf("%s%s-%d", tempPrefix, id, os.Getpid()))
	return temp, s.root.Mkdir(temp, 0o700)
}

const tempPrefix = ".new-"

// abandoned reports whether a folder of begin belongs to no process any more.
func abandoned(name string) bool {
	i := strings.LastIndexByte(name, '-')
	pid, err := strconv.Atoi(name[i+1:])
	return strings.HasPrefix(name, tempPrefix) && err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// mark says that the session has begun; unmark that it has ended.
func (x *Session) mark(store *os.Root) error {
	x.store = store
	return create(store, path.Join(openDir, x.ID), nil)
}

func (x *Session) unmark() error {
	if x.store == nil {
		return nil
	}
	if err := x.store.Remove(path.Join(openDir, x.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Interrupted lists the sessions that nobody supervises any more and that never
// ended.
func (s *Store) Interrupted() ([]Info, error) {
	if s.root == nil {
		return nil, nil
	}
	d, err := s.root.Open(openDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{Op: "list", Path: s.dir, Err: err}
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return nil, &Error{Op: "list", Path: s.dir, Err: err}
	}
	slices.Sort(names)
	var out []Info
	for _, id := range names {
		if abandoned(id) {
			_ = s.root.RemoveAll(path.Join(openDir, id))
		}
		if !isID(id) {
			continue
		}
		switch i, ok := s.info(id); {
		case !ok, i.Status == Ended:
			// Killed between two steps of its beginning or its end.
			_ = s.root.Remove(path.Join(openDir, id))
		case i.Status == Interrupted:
			out = append(out, i)
		}
	}
	return out, nil
}
