package flow

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cofferdam/internal/linux/unixsock"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// remember writes rules to the person's own policy, and says where. An error is for the
// person: nothing has been written then.
func (r *run) remember(rules []plan.NetRule) (file string, err error) {
	if r.source.File != "" {
		return "", fmt.Errorf("this run's policy is %s, as --policy says, and your own is not in use", r.source.File)
	}
	file = r.source.UserFile
	return file, extend(r.source, rules, func(dir string) bool { return insideWrites(r.plan, dir) })
}

// insideWrites says whether the inside may write a directory of the host. What keeps it
// from a file there does not count: a file that is replaced on the host loses what is
// mounted on it in other namespaces (since Linux 3.18).
func insideWrites(p *plan.Plan, dir string) bool {
	for _, m := range p.Mounts {
		if m.Write && (m.Kind == plan.Bind || m.Kind == plan.Home) && m.Source != "" && within(dir, m.Source) {
			return true
		}
	}
	return within(dir, p.Workspace)
}

// maxPolicy is what a policy file may have at most; package policy says no to more.
const maxPolicy = 1 << 20

// extend adds rules to the user's file of a source. The file is whole at each moment,
// and what replaces it has been read by the loader of the next run. A symlink stays
// one: what it leads to is replaced.
func extend(src policy.Source, rules []plan.NetRule, hostile func(dir string) bool) error {
	file, err := filepath.EvalSymlinks(src.UserFile)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(src.UserFile); err == nil {
			return fmt.Errorf("%s is a symlink to nothing", src.UserFile)
		}
		above := filepath.Dir(src.UserFile)
		if err := os.MkdirAll(above, 0o700); err != nil {
			return err
		}
		if above, err = filepath.EvalSymlinks(above); err != nil {
			return err
		}
		file = filepath.Join(above, filepath.Base(src.UserFile))
	} else if err != nil {
		return err
	}
	dir, name := filepath.Dir(file), filepath.Base(file)
	if hostile(dir) {
		return fmt.Errorf("%s is where the inside may write", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	lock, err := root.Open(".")
	if err != nil {
		return err
	}
	defer lock.Close()
	// Two sessions may be answered at once. It waits for others of this program only.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := unixsock.Lock(ctx, lock); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	before, mode, err := readPolicy(root, name)
	if err != nil {
		return err
	}
	after := before
	for _, rule := range rules {
		if after, err = policy.Remember(file, after, rule); err != nil {
			return oneProblem(err)
		}
	}
	if bytes.Equal(before, after) {
		return nil
	}
	// Nobody else writes this name while the lock is held: one that is there is of a
	// run that was killed.
	temp := "." + name + ".new"
	_ = root.Remove(temp)
	if err := writePolicy(root, temp, after, mode); err != nil {
		_ = root.Remove(temp)
		return err
	}
	trial := src
	trial.UserFile = filepath.Join(dir, temp)
	_, err = policy.Load(trial)
	if err == nil {
		// Not over what somebody has saved meanwhile.
		var now []byte
		if now, _, err = readPolicy(root, name); err == nil && !bytes.Equal(now, before) {
			err = errors.New("it was changed by somebody else at the same time")
		}
	}
	if err == nil {
		err = root.Rename(temp, name)
	}
	if err != nil {
		_ = root.Remove(temp)
		return errors.New(strings.ReplaceAll(oneProblem(err).Error(), temp, name))
	}
	return nil
}

// readPolicy reads a file that need not be there.
func readPolicy(root *os.Root, name string) (data []byte, mode fs.FileMode, err error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0o600, nil
	}
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return nil, 0, fmt.Errorf("%s is no regular file", name)
	case !ok || int(st.Uid) != os.Geteuid():
		return nil, 0, fmt.Errorf("%s belongs to another user", name)
	case info.Mode().Perm()&0o200 == 0:
		return nil, 0, fmt.Errorf("%s is read-only", name)
	case st.Nlink > 1:
		return nil, 0, fmt.Errorf("%s has other names, which would keep what it says now", name)
	}
	data, err = io.ReadAll(io.LimitReader(f, maxPolicy+1))
	return data, info.Mode().Perm(), err
}

func writePolicy(root *os.Root, name string, data []byte, mode fs.FileMode) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

// oneProblem is the first of what is wrong with a policy, on one line.
func oneProblem(err error) error {
	var ps policy.Problems
	if errors.As(err, &ps) && len(ps) > 0 {
		return errors.New(strings.TrimPrefix(Problem(ps[0]).Place()+": "+ps[0].Text, ": "))
	}
	return err
}
