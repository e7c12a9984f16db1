package native

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"cofferdam/internal/plan"
)

// prepareHome makes the mount points that the plan wants below the private home.
// That directory is the product's own, but what is in it was written by earlier
// runs and is hostile: os.Root keeps every step inside, and what is in the way
// (a link, a file where a directory must be) is moved aside, not followed.
func prepareHome(p *plan.Plan) error {
	if p.PrivateHome == "" {
		return nil
	}
	var root *os.Root
	for _, m := range p.Mounts {
		rel, inside := strings.CutPrefix(m.Target, p.Identity.Home+"/")
		if !m.Create || !inside || !onPrivateHome(p, m.Target) {
			continue
		}
		if root == nil {
			var err error
			if root, err = os.OpenRoot(p.PrivateHome); err != nil {
				return fmt.Errorf("private home: %w", err)
			}
			defer root.Close()
		}
		if m.Kind == plan.Symlink {
			if err := makeLink(root, rel, m.Source); err != nil {
				return fmt.Errorf("link %s in the private home: %w", m.Target, err)
			}
			continue
		}
		dir := m.Directory || m.Kind == plan.Tmpfs || m.Kind == plan.Dir
		if err := makePoint(root, rel, dir); err != nil {
			return fmt.Errorf("mount point %s in the private home: %w", m.Target, err)
		}
	}
	return nil
}

// onPrivateHome: the nearest mount above target is the private home itself.
func onPrivateHome(p *plan.Plan, target string) bool {
	best := ""
	source := ""
	for _, m := range p.Mounts {
		if m.Target != target && (m.Target == "/" || strings.HasPrefix(target, m.Target+"/")) && len(m.Target) > len(best) {
			best, source = m.Target, m.Source
		}
	}
	return source == p.PrivateHome
}

// makeLink makes a symlink at rel, unless it is there already.
func makeLink(root *os.Root, rel, text string) error {
	if dir := path.Dir(rel); dir != "." {
		if err := makePoint(root, dir, true); err != nil {
			return err
		}
	}
	if have, err := root.Readlink(rel); err == nil && have == text {
		return nil
	}
	if _, err := root.Lstat(rel); err == nil {
		if err := moveAside(root, rel); err != nil {
			return err
		}
	}
	return root.Symlink(text, rel)
}

// moveAside frees a name.
func moveAside(root *os.Root, name string) error {
	return root.Rename(name, fmt.Sprintf("%s.cofferdam-aside-%d", name, os.Getpid()))
}

// makePoint makes an empty directory or file at rel, and directories above it.
func makePoint(root *os.Root, rel string, dir bool) error {
	parts := strings.Split(rel, "/")
	for i := range parts {
		name := path.Join(parts[:i+1]...)
		wantDir := dir || i < len(parts)-1
		for try := 0; ; try++ {
			st, err := root.Lstat(name)
			if err == nil && (wantDir && st.IsDir() || !wantDir && st.Mode().IsRegular()) {
				if wantDir && st.Mode().Perm()&0o700 != 0o700 {
					// Closed by an earlier run; it belongs to the same user.
					if err := root.Chmod(name, st.Mode().Perm()|0o700); err != nil {
						return err
					}
				}
				break
			}
			if try > 2 {
				return errors.New("something else keeps coming back there")
			}
			if err == nil {
				if err := moveAside(root, name); err != nil {
					return err
				}
			} else if !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if wantDir {
				err = root.Mkdir(name, 0o700)
			} else {
				var f *os.File
				if f, err = root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err == nil {
					f.Close()
				}
			}
			if err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	return nil
}
