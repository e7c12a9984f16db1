package flow

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
)

// makeHome makes the private home of a workspace, and fills a new one with the
// seeds of the profiles: so a login is asked for once, not for each project.
func makeHome(p *prepared) error {
	dir := p.plan.PrivateHome
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("make the private home: %w", err)
	}
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		st, err := os.Lstat(dir)
		if err != nil || !st.IsDir() {
			return fmt.Errorf("the private home %s is not a directory", dir)
		}
		if st.Mode().Perm()&0o700 != 0o700 { // chmod(1) inside
			if err := os.Chmod(dir, 0o700); err != nil {
				return fmt.Errorf("open the private home: %w", err)
			}
		}
	} else if err != nil {
		return fmt.Errorf("make the private home: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the private home: %w", err)
	}
	defer root.Close()
	real, err := os.OpenRoot(p.facts.Home)
	if err != nil {
		return nil // no home, no seeds
	}
	defer real.Close()
	for _, s := range p.policy.Seeds {
		if err := copySeed(real, root, s.Path); err != nil {
			return fmt.Errorf("copy %s into the private home: %w", s.Path, err)
		}
	}
	return nil
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
