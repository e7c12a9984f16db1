package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// CoverProc makes this a machine that allows no new procfs: it puts /dev/null over
// the files of /proc and leaves no other procfs in sight, since the kernel allows a
// new one as long as a single whole one is mounted anywhere (mount_too_revealing,
// Linux 4.2 and later). The process must be alone in a new user and mount
// namespace, with CAP_SYS_ADMIN there.
//
// A mount that came from outside can't be unmounted, and one that lies where the user
// may not go can't be covered either. So the process moves into a root directory that
// is put together anew from what is in the old one, without the others.
func CoverProc(files ...string) error {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return err
	}
	root, err := os.MkdirTemp("", "cofferdam-root-")
	if err != nil {
		return err
	}
	parent, err := os.OpenRoot(os.TempDir())
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount on %s: %w", root, err)
	}
	if err := fill(root, "/", append(otherProcs(string(info)), root)); err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	if err := parent.Remove(filepath.Base(root)); err != nil {
		return err
	}
	for _, file := range files {
		if err := syscall.Mount("/dev/null", file, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount on %s: %w", file, err)
		}
	}
	return os.Chdir(cwd)
}

// otherProcs returns where /proc/self/mountinfo shows a procfs, /proc aside.
func otherProcs(info string) []string {
	var at []string
	for line := range strings.Lines(info) {
		mount, super, _ := strings.Cut(line, " - ")
		f := strings.Fields(mount)
		if len(f) > 4 && strings.HasPrefix(super, "proc ") && f[4] != "/proc" {
			at = append(at, strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4]))
		}
	}
	return at
}

// fill puts what is in dir under the new root, apart from the paths of without.
func fill(root, dir string, without []string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil // what is in it is out of reach anyway
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		from, to := filepath.Join(dir, e.Name()), filepath.Join(root, dir, e.Name())
		i, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		if e.Type() == fs.ModeSymlink {
			target, err := os.Readlink(from)
			if err == nil {
				err = os.Symlink(target, to)
			}
			if err != nil {
				return err
			}
			continue
		}
		if !e.IsDir() {
			err = os.WriteFile(to, nil, 0o600)
		} else if err = os.Mkdir(to, 0o700); err == nil {
			err = os.Chmod(to, i.Mode()&(fs.ModePerm|fs.ModeSticky))
		}
		if err != nil {
			return err
		}
		if slices.Contains(without, from) {
			continue
		}
		if slices.ContainsFunc(without, func(p string) bool { return strings.HasPrefix(p, from+"/") }) {
			if err := fill(root, from, without); err != nil {
				return err
			}
			continue
		}
		err = syscall.Mount(from, to, "", syscall.MS_BIND|syscall.MS_REC, "")
		if err != nil && !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("mount %s on %s: %w", from, to, err)
		}
	}
	return nil
}
