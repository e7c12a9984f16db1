package flow

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"

	"cofferdam/internal/plan"
	"cofferdam/internal/session"
)

// makeHome makes the private home of a workspace, and fills a new one with the
// seeds of the profiles: so a login is asked for once, not for each project.
func makeHome(p *prepared) error {
	dir := p.plan.PrivateHome
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return &session.Error{Op: "make the private home", Path: dir, Err: bare(err)}
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		st, err := os.Lstat(dir)
		if err != nil || !st.IsDir() {
			return &session.Error{Op: "open the private home", Path: dir, Err: syscall.ENOTDIR}
		}
		if st.Mode().Perm()&0o700 != 0o700 { // chmod(1) inside
			if err := os.Chmod(dir, 0o700); err != nil {
				return &session.Error{Op: "open the private home", Path: dir, Err: bare(err)}
			}
		}
	} else if err != nil {
		return &session.Error{Op: "make the private home", Path: dir, Err: bare(err)}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return &session.Error{Op: "open the private home", Path: dir, Err: bare(err)}
	}
	defer root.Close()
	real, err := os.OpenRoot(p.facts.Home)
	if err != nil {
		return nil // no home, no seeds
	}
	defer real.Close()
	for _, s := range p.policy.Seeds {
		if slices.ContainsFunc(p.plan.Mounts, func(m plan.Mount) bool { return m.Masked && m.Target == filepath.Join(p.facts.Home, s.Path) }) {
			continue // it would be there as it is, below what covers it
		}
		if err := copySeed(real, root, s.Path); err != nil {
			return &session.Error{Op: "copy " + s.Path + " into the private home", Path: dir, Err: bare(err)}
		}
	}
	return nil
}

// bare is an error without the path that is said already.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// seedSize bounds a seed; a settings file has kilobytes.
const seedSize = 8 << 20

// copySeed copies one regular file, once: what the inside has made of it stays. So
// does whatever it has put in the way: no run shall fail by what another has left.
func copySeed(from, to *os.Root, name string) error {
	if _, err := to.Lstat(name); err == nil {
		return nil
	}
	src, err := from.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil // not there, or leads out of the home
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() > seedSize {
		return nil
	}
	if dir := path.Dir(name); dir != "." {
		if err := to.MkdirAll(dir, 0o700); err != nil {
			return nil
		}
	}
	dst, err := to.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil
	}
	_, err = io.Copy(dst, io.LimitReader(src, seedSize))
	return errors.Join(err, dst.Close())
}
