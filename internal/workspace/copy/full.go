package copy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"cofferdam/internal/linux/fsat"
)

// Cost is what a full copy of a project takes.
type Cost struct {
	Entries int
	Bytes   int64
}

// TooLargeError: a full copy would have more entries than a set of changes may have.
type TooLargeError struct{ Entries int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the project has more than %d entries", e.Entries)
}

// Estimate says what a full copy would cost.
func Estimate(ctx context.Context, project string) (Cost, error) {
	var c Cost
	root, err := fsat.OpenRoot(project)
	if err != nil {
		return c, err
	}
	defer fsat.Close(root)
	err = walk(ctx, root, func(_ int, _, _ string, st fsat.Stat) error {
		c.Entries++
		if st.Type == fsat.File {
			c.Bytes += st.Size
		}
		return nil
	})
	return c, err
}

// walk calls each for every entry below root, a directory before what is in it, with
// the directory that has it. What can't be read is left out.
func walk(ctx context.Context, root int, each func(dir int, path, name string, st fsat.Stat) error) error {
	buf := make([]byte, 64<<10)
	todo, n := []string{""}, 0
	for len(todo) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		dir, err := fsat.OpenDir(root, at)
		if err != nil {
			continue
		}
		var list []string
		_ = fsat.Entries(dir, buf, func(name []byte, _ fsat.Type) { list = append(list, string(name)) })
		for _, name := range list {
			if n++; n > maxEntries {
				fsat.Close(dir)
				return &TooLargeError{maxEntries}
			}
			st, err := fsat.StatAt(dir, name)
			path := join(at, name)
			if err != nil || len(path) > maxPath {
				continue
			}
			if err := each(dir, path, name, st); err != nil {
				fsat.Close(dir)
				return &os.PathError{Op: "copy", Path: path, Err: err}
			}
			if st.Type == fsat.Dir {
				todo = append(todo, path)
			}
		}
		fsat.Close(dir)
	}
	return nil
}

// MakeFull copies all of project into the session's folder. What the person can't read,
// and special files, are left out; hard links become files of their own.
func MakeFull(ctx context.Context, session, project string) (Copy, error) {
	c, mode, err := begin(session, project)
	if err != nil {
		return c, err
	}
	c.Kind = Full
	if err := os.Mkdir(Tree(session), 0o700); err != nil {
		return c, err
	}
	from, err := c.open(project)
	if err != nil {
		return c, err
	}
	defer fsat.Close(from)
	to, err := fsat.OpenRoot(Tree(session))
	if err != nil {
		return c, err
	}
	defer fsat.Close(to)
	modes, err := fill(ctx, from, to)
	if err != nil {
		return c, err
	}
	had := map[string]int64{}
	err = walk(ctx, to, func(_ int, path, _ string, st fsat.Stat) error {
		had[path] = st.Ctime
		return nil
	})
	if err != nil {
		return c, err
	}
	// Not before: one that may not be written could not be filled.
	for _, d := range modes {
		if err := setMode(to, d); err != nil {
			return c, err
		}
		if st, err := fsat.StatAt(to, d.path); err == nil {
			had[d.path] = st.Ctime
		}
	}
	if err := fsat.Chmod(to, uint32(mode)); err != nil {
		return c, err
	}
	return c, writeNames(session, had)
}

// mode is that of a directory.
type mode struct {
	path string
	mode uint32
}

func setMode(root int, d mode) error {
	fd, err := fsat.OpenDir(root, d.path)
	if err != nil {
		return err
	}
	defer fsat.Close(fd)
	return fsat.Chmod(fd, d.mode)
}

// fill copies what is in one directory into another, and returns the modes that the
// new directories shall have, those farther down first.
func fill(ctx context.Context, from, to int) ([]mode, error) {
	var modes []mode
	err := walk(ctx, from, func(dir int, path, name string, st fsat.Stat) error {
		parent, _, err := fsat.OpenParent(to, path)
		if fsat.Gone(err) {
			return nil // the directory above was left out
		}
		if err != nil {
			return err
		}
		defer fsat.Close(parent)
		switch st.Type {
		case fsat.Dir:
			if err = fsat.MakeDir(parent, name, 0o700); err == nil && st.Mode != 0o700 {
				modes = append(modes, mode{path, st.Mode})
			}
		case fsat.File:
			_, err = fsat.CopyFile(dir, name, parent)
		case fsat.Symlink:
			var text string
			if text, err = fsat.Readlink(dir, name); err == nil {
				err = fsat.MakeSymlink(text, parent, name)
			}
		}
		if errors.Is(err, fs.ErrPermission) || fsat.Gone(err) {
			return nil // closed to the person, or gone meanwhile
		}
		return err
	})
	slices.Reverse(modes)
	return modes, err
}

// writeNames stores what there was: the change time of each entry, which the inside
// can't set back.
func writeNames(session string, had map[string]int64) error {
	f, err := os.OpenFile(filepath.Join(session, Dir, names), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	list := make([]named, 0, len(had))
	var last int64
	for path, ctime := range had {
		list = append(list, named{[]byte(path), ctime})
		last = max(last, ctime)
	}
	if err := errors.Join(json.NewEncoder(f).Encode(list), f.Close()); err != nil {
		return err
	}
	// What is written from now on must have a later time. The clock goes on every few
	// milliseconds.
	for {
		now, err := fsat.Now()
		if err != nil || now.UnixNano() > last {
			return err
		}
	}
}

// named is one entry; the path as bytes, since it need not be UTF-8.
type named struct {
	Path  []byte `json:"path"`
	Ctime int64  `json:"ctime"`
}

func readNames(session string) (map[string]int64, error) {
	f, err := os.Open(filepath.Join(session, Dir, names))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []named
	if err := json.NewDecoder(f).Decode(&list); err != nil {
		return nil, fmt.Errorf("%s: %w", names, err)
	}
	had := make(map[string]int64, len(list))
	for _, n := range list {
		had[string(n.Path)] = n.Ctime
	}
	return had, nil
}

// full compares a full copy with the project. What the inside has not touched is no
// change, whatever became of the project's since.
func (f *finder) full(had map[string]int64) {
	todo := []place{{merged: true}}
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = append(todo[:len(todo)-1], f.level(p, had)...)
	}
}

// level compares one directory of a full copy, and returns those in it.
func (f *finder) level(p place, had map[string]int64) (below []place) {
	dir, err := fsat.OpenDir(f.new, p.path)
	if err != nil {
		f.untold(p.path, "its directory can't be read: "+err.Error())
		return nil
	}
	defer fsat.Close(dir)
	project := -1
	if p.merged {
		if project, err = fsat.OpenDir(f.old, p.path); err == nil {
			defer fsat.Close(project)
		}
	}
	seen := map[string]bool{}
	for _, name := range f.names(dir, p.path) {
		path := join(p.path, name)
		if len(path) > maxPath {
			f.untold(p.path, "it is nested too deep")
			return below
		}
		seen[name] = true
		now, err := fsat.StatAt(dir, name)
		if err != nil {
			f.untold(path, err.Error())
			continue
		}
		was, there, ok := f.stat(project, name, path)
		if !ok {
			continue
		}
		if now.Type == fsat.Dir {
			below = append(below, place{path: path, merged: there && was.Type == fsat.Dir})
		}
		if ctime, known := had[path]; known && ctime == now.Ctime {
			continue
		}
		if now.Type == fsat.Dir {
			f.dir(path, was, there, now)
		} else {
			f.entry(project, dir, name, path, was, there, now)
		}
	}
	if project >= 0 {
		f.missing(project, p.path, seen, had)
	}
	return below
}

// missing adds what the project has and the copy has no more. What the copy never had
// came into the project meanwhile, or was left out.
func (f *finder) missing(project int, at string, seen map[string]bool, had map[string]int64) {
	for _, name := range f.names(project, at) {
		path := join(at, name)
		if _, known := had[path]; seen[name] || !known {
			continue
		}
		if was, there, ok := f.stat(project, name, path); ok && there {
			f.delete(path, was)
		}
	}
}
