package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cofferdam/internal/linux/unixsock"
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

// beginning reports whether the session is being put together right now.
func beginning(names []string, id string) bool {
	return slices.ContainsFunc(names, func(n string) bool {
		return strings.HasPrefix(n, tempPrefix+id+"-") && !abandoned(n)
	})
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

// Unfinished lists the sessions that nobody supervises any more and that never
// ended, and those of which that can't be known (Damaged). Until done is called no
// other process gets an answer: who starts meanwhile must not take what such a
// session has left for the person's own.
func (s *Store) Unfinished(ctx context.Context) (list []Info, done func(), err error) {
	done = func() {}
	if s.root == nil {
		return nil, done, nil
	}
	if names, err := s.marks(); err != nil || len(names) == 0 {
		return nil, done, err // the usual start
	}
	f, err := s.root.OpenFile(".recovery", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, done, &Error{Op: "lock", Path: s.dir, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, recoveryTime)
	defer cancel()
	if err := unixsock.Lock(ctx, f); err != nil {
		f.Close()
		return nil, done, &Error{Op: "lock", Path: s.dir, Err: err, Hint: "another cofferdam is cleaning up after an interrupted session and does not finish"}
	}
	if list, err = s.unfinished(); err != nil {
		f.Close()
		return nil, done, err
	}
	return list, func() { f.Close() }, nil
}

// recoveryTime bounds the wait for others: a sweep of a large tree takes seconds.
const recoveryTime = time.Minute

// marks are the names in openDir.
func (s *Store) marks() ([]string, error) {
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
	return names, nil
}

func (s *Store) unfinished() ([]Info, error) {
	names, err := s.marks()
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, id := range names {
		if abandoned(id) {
			_ = s.root.RemoveAll(path.Join(openDir, id))
		}
		if !isID(id) {
			continue
		}
		switch i, ok := s.info(id); {
		case !ok && beginning(names, id):
			// Marked, and about to get its name.
		case !ok, i.Status == Ended:
			// Killed between two steps of its beginning or its end.
			_ = s.root.Remove(path.Join(openDir, id))
		case i.Status != Live:
			out = append(out, i)
		}
	}
	return out, nil
}
