// Package copy keeps the copy of a project that a run works in, in the folder of its
// session, and finds what the run has changed there. What is in a copy was written by
// the inside and is hostile: it is read by descriptor (linux/fsat), never by path, and
// never mounted outside. It writes nothing into a project, and mounts nothing: the
// boundary does.
//
//	SESSION/copy/           0700
//	  upper/, work/         the layers of an overlay: only what has changed
//	  tree/, names.json     or else all of the project, and what there was
package copy

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cofferdam/internal/linux/fsat"
)

// Kind is how a copy is kept.
type Kind string

const (
	// Overlay: changes lie in a layer over the project, which shows through.
	Overlay Kind = "overlay"
	// Full: each file has been copied before the start.
	Full Kind = "full"
)

// The names in a session's folder.
const (
	Dir   = "copy"
	upper = "upper"
	work  = "work"
	tree  = "tree"
	names = "names.json"
)

// Copy is one, as a session's state remembers it.
type Copy struct {
	Kind Kind `json:"kind"`
	// Project identifies the directory that was copied: another one may have its name
	// by now.
	Project Identity `json:"project"`
	// Since is before the copy was begun, by the clock that files have their times
	// from. What in the project has a change time that is not before it was edited
	// outside meanwhile.
	Since time.Time `json:"since"`
}

// Identity is that of a directory, as long as the machine runs.
type Identity struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
	// Born tells a new directory with an old number; 0 where nobody knows.
	Born int64 `json:"born,omitempty"`
}

func identity(fd int) (Identity, error) {
	st, err := fsat.StatFd(fd)
	return Identity{Dev: st.Dev, Ino: st.Ino, Born: st.Born}, err
}

// Path is where the copy of a session is.
func Path(session string) string { return filepath.Join(session, Dir) }

// Layers are the directories of an overlay in the session's folder.
func Layers(session string) (up, below string) {
	return filepath.Join(session, Dir, upper), filepath.Join(session, Dir, work)
}

// Tree is the full copy in the session's folder.
func Tree(session string) string { return filepath.Join(session, Dir, tree) }

// Make makes the empty layers of an overlay over project in the session's folder, which
// nobody else can enter.
func Make(session, project string) (Copy, error) {
	c, mode, err := begin(session, project)
	if err != nil {
		return c, err
	}
	c.Kind = Overlay
	up, below := Layers(session)
	for dir, mode := range map[string]os.FileMode{up: mode, below: 0o700} {
		// The mode of the upper layer is that of the project's root inside.
		if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, mode)); err != nil {
			return c, err
		}
	}
	return c, nil
}

// begin makes the folder of a copy, and remembers what is copied and when.
func begin(session, project string) (c Copy, mode os.FileMode, err error) {
	if c.Since, err = fsat.Now(); err != nil {
		return c, 0, err
	}
	root, err := fsat.OpenRoot(project)
	if err != nil {
		return c, 0, err
	}
	defer fsat.Close(root)
	st, err := fsat.StatFd(root)
	if err != nil {
		return c, 0, err
	}
	c.Project = Identity{Dev: st.Dev, Ino: st.Ino, Born: st.Born}
	return c, fs.FileMode(st.Mode).Perm() | 0o700, os.Mkdir(Path(session), 0o700)
}

// Exists reports whether there is a copy in the session's folder.
func Exists(session string) bool {
	_, err := os.Lstat(Path(session))
	return err == nil
}

// Remove throws the copy in a session's folder away. Nobody may be in it any more.
func Remove(session string) error { return fsat.RemoveBelow(session, Dir) }

// Size is what the copy in a session's folder takes on the disk, in bytes. What can't
// be looked at, or is nested deeper than anybody needs, is not counted.
func Size(session string) (int64, error) {
	root, err := fsat.OpenRoot(Path(session))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer fsat.Close(root)
	var total int64
	buf := make([]byte, 32<<10)
	todo := []string{""}
	for len(todo) > 0 {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		fd, err := fsat.OpenDir(root, dir)
		if err != nil {
			continue // closed to us, as the work directory is
		}
		_ = fsat.Entries(fd, buf, func(name []byte, t fsat.Type) {
			n, err := fsat.Used(fd, string(name))
			if err == nil {
				total += n
			}
			if t == fsat.Dir && len(dir)+len(name) < maxPath && len(todo) < maxEntries {
				todo = append(todo, strings.TrimPrefix(dir+"/"+string(name), "/"))
			}
		})
		fsat.Close(fd)
	}
	return total, nil
}

// ReplacedError: where the project was is another directory.
type ReplacedError struct{ Project string }

func (e *ReplacedError) Error() string {
	return fmt.Sprintf("%s is not the directory any more that the copy was made of", e.Project)
}

// open opens the project, if it is the one that was copied.
func (c Copy) open(project string) (int, error) {
	fd, err := fsat.OpenRoot(project)
	if err != nil {
		return -1, err
	}
	is, err := identity(fd)
	if err == nil && is != c.Project {
		err = &ReplacedError{project}
	}
	if err != nil {
		fsat.Close(fd)
		return -1, err
	}
	return fd, nil
}
