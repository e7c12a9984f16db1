package copy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"

	"cofferdam/internal/linux/fsat"
	"cofferdam/internal/workspace/change"
)

// Bounds. What goes beyond is told, and nobody takes the rest for all there is.
const (
	// maxPath is the longest path that is looked at, in bytes: what a program can
	// name (PATH_MAX). The way to each directory is walked anew, which makes deep ones
	// dear.
	maxPath = 4096
	// maxEntries is how many entries a set has at most.
	maxEntries = 1 << 20
	// maxCompared is the longest file of which it is found out whether its content is
	// the same. A longer one that was touched counts as changed.
	maxCompared = 4 << 30
)

// opaque is how overlayfs marks a directory that hides the one below it, and of which
// nothing shows through. What the inside itself sets under such a name, the kernel
// writes under another (escaped since Linux 6.7) or refuses.
const opaque = "user.overlay.opaque"

// Changes are all differences between the project and the copy in the session's folder,
// with both sides to read from. For an overlay its cost follows the changes.
func (c Copy) Changes(session, project string) (set change.Set, old, new change.Side, err error) {
	root, err := c.open(project)
	if err != nil {
		return set, nil, nil, err
	}
	defer fsat.Close(root)
	up, _ := Layers(session)
	if c.Kind == Full {
		up = Tree(session)
	}
	layer, err := fsat.OpenRoot(up)
	if err != nil {
		return set, nil, nil, err
	}
	defer fsat.Close(layer)
	is, err := identity(layer)
	if err != nil {
		return set, nil, nil, err
	}
	f := &finder{old: root, new: layer, buf: make([]byte, 64<<10)}
	switch c.Kind {
	case Overlay:
		f.overlay()
	case Full:
		had, err := readNames(session)
		if err != nil {
			return set, nil, nil, err
		}
		f.full(had)
	default:
		return set, nil, nil, fmt.Errorf("a copy of kind %q", c.Kind)
	}
	f.set.Sort()
	return f.set, side{project, c.Project}, side{up, is}, nil
}

// side reads from a directory, if it is still the one that was looked at.
type side struct {
	dir string
	is  Identity
}

func (s side) Open(path string) (io.ReadCloser, error) {
	root, err := Copy{Project: s.is}.open(s.dir)
	if err != nil {
		return nil, err
	}
	defer fsat.Close(root)
	f, _, err := fsat.OpenFile(root, path)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return f, nil
}

// finder compares two trees.
type finder struct {
	old, new int // the roots
	set      change.Set
	buf      []byte
	block    []byte // for reading files
	more     bool   // it has told that there is more than a set may have
}

// place is a directory of the upper layer.
type place struct {
	path string
	// merged: the project has one there, too.
	merged bool
	// hidden: a directory above hides the project's, so nothing of it shows through.
	// Only the topmost is marked.
	hidden bool
}

// overlay walks the upper layer.
func (f *finder) overlay() {
	todo := []place{{merged: true}}
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = append(todo[:len(todo)-1], f.directory(p)...)
	}
}

// directory compares one directory of the upper layer, and returns those in it.
func (f *finder) directory(p place) (below []place) {
	dir, err := fsat.OpenDir(f.new, p.path)
	if err != nil {
		f.untold(p.path, "its directory can't be read: "+err.Error())
		return nil
	}
	defer fsat.Close(dir)
	hides, err := hidesProject(dir)
	if err != nil {
		f.untold(p.path, err.Error())
		return nil
	}
	hides = hides || p.hidden
	project := -1
	if p.merged {
		project, err = fsat.OpenDir(f.old, p.path)
		if err != nil && !fsat.Gone(err) {
			f.untold(p.path, "the project's directory can't be read: "+err.Error())
			return nil
		}
		if err == nil {
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
		gone, err := deleted(dir, name, now)
		switch {
		case err != nil:
			f.untold(path, err.Error())
		case gone && there:
			f.delete(path, was)
		case gone:
		case now.Type == fsat.Dir:
			merged := there && was.Type == fsat.Dir
			below = append(below, place{path, merged, hides})
			f.dir(path, was, there, now)
		default:
			f.entry(project, dir, name, path, was, there, now)
		}
	}
	if hides && project >= 0 {
		for _, name := range f.names(project, p.path) {
			if path := join(p.path, name); !seen[name] {
				if was, there, ok := f.stat(project, name, path); ok && there {
					f.delete(path, was)
				}
			}
		}
	}
	return below
}

// hidesProject says of an open directory of the upper layer whether nothing of the
// project's shows through it.
func hidesProject(dir int) (bool, error) {
	for _, name := range []string{"user.overlay.redirect", "user.overlay.metacopy"} {
		// Never written in a mount like ours. With one, it is no longer known what the
		// inside saw here.
		if _, there, err := fsat.Attribute(dir, name); there || err != nil {
			return false, fmt.Errorf("its directory has the attribute %s, or can't be asked (%v)", name, err)
		}
	}
	switch v, there, err := fsat.Attribute(dir, opaque); {
	case err != nil:
		return false, fmt.Errorf("its directory can't be asked for %s: %w", opaque, err)
	case there && v != "y":
		return false, fmt.Errorf("its directory has the attribute %s=%q", opaque, v)
	default:
		return there, nil
	}
}

// deleted says whether an entry of the upper layer stands for a deletion.
func deleted(dir int, name string, now fsat.Stat) (bool, error) {
	if now.Type != fsat.Char {
		return false, nil
	}
	return fsat.Whiteout(dir, name)
}

// stat looks at what the project has; without a directory there it has nothing.
func (f *finder) stat(project int, name, path string) (st fsat.Stat, there, ok bool) {
	if project < 0 {
		return st, false, true
	}
	st, err := fsat.StatAt(project, name)
	switch {
	case err == nil:
		return st, true, true
	case fsat.Gone(err):
		return st, false, true
	}
	f.untold(path, "what the project has there can't be looked at: "+err.Error())
	return st, false, false
}

// dir compares a directory of the copy.
func (f *finder) dir(path string, was fsat.Stat, there bool, now fsat.Stat) {
	switch {
	case !there:
		f.add(change.Entry{Path: path, New: state(now)})
	case was.Type != fsat.Dir:
		f.add(change.Entry{Path: path, Old: f.link(f.old, path, was), New: state(now)})
	case was.Mode != now.Mode:
		f.add(change.Entry{Path: path, Old: state(was), New: state(now)})
	}
}

// entry compares what is no directory in the copy.
func (f *finder) entry(project, dir int, name, path string, was fsat.Stat, there bool, now fsat.Stat) {
	e := change.Entry{Path: path, New: f.link(f.new, path, now)}
	switch {
	case !there:
	case was.Type == fsat.Dir:
		f.delete(path, was)
		// The directory's own entry is the one that says what there is now.
		for i := len(f.set.Entries) - 1; i >= 0; i-- {
			if f.set.Entries[i].Path == path {
				f.set.Entries[i].New = e.New
				break
			}
		}
		return
	default:
		e.Old = f.link(f.old, path, was)
	}
	if e.Old != nil && was.Type == fsat.File && now.Type == fsat.File && was.Size == now.Size && now.Size <= maxCompared {
		if a, b, err := f.sums(project, dir, name); err == nil {
			e.Old.Sum, e.New.Sum = a, b
		}
	}
	switch {
	case e.Old != nil && e.Old.Type == change.Other && e.New.Type == change.Other:
		if was.Type != now.Type || was.Mode != now.Mode {
			f.untold(path, "it is a special file of another kind than in the project")
		}
	case !change.Same(e.Old, e.New):
		f.add(e)
	}
}

// sums hashes both files of the same size.
func (f *finder) sums(project, dir int, name string) (a, b string, err error) {
	if a, err = f.sum(project, name); err == nil {
		b, err = f.sum(dir, name)
	}
	return a, b, err
}

func (f *finder) sum(dir int, name string) (string, error) {
	file, st, err := fsat.OpenFile(dir, name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := sha256.New()
	n, err := f.read(h, io.LimitReader(file, st.Size+1))
	if err == nil && n != st.Size {
		err = errors.New("it is changing")
	}
	return hex.EncodeToString(h.Sum(nil)), err
}

func (f *finder) read(h hash.Hash, r io.Reader) (int64, error) {
	if f.block == nil {
		f.block = make([]byte, 128<<10)
	}
	return io.CopyBuffer(h, r, f.block)
}

// delete adds an entry of the project that is gone, with all that is below it.
func (f *finder) delete(path string, was fsat.Stat) {
	f.add(change.Entry{Path: path, Old: f.link(f.old, path, was)})
	if was.Type != fsat.Dir {
		return
	}
	todo := []string{path}
	for len(todo) > 0 && !f.more {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		dir, err := fsat.OpenDir(f.old, p)
		if err != nil {
			if !fsat.Gone(err) {
				f.untold(p, "the project's directory can't be read: "+err.Error())
			}
			continue
		}
		for _, name := range f.names(dir, p) {
			at := join(p, name)
			st, there, ok := f.stat(dir, name, at)
			if !ok || !there {
				continue
			}
			f.add(change.Entry{Path: at, Old: f.link(f.old, at, st)})
			if st.Type == fsat.Dir {
				todo = append(todo, at)
			}
		}
		fsat.Close(dir)
	}
}

// names are the entries of an open directory.
func (f *finder) names(dir int, path string) []string {
	var list []string
	err := fsat.Entries(dir, f.buf, func(name []byte, _ fsat.Type) {
		if len(list) <= maxEntries {
			list = append(list, string(name))
		}
	})
	if err != nil {
		f.untold(path, "its directory can't be read: "+err.Error())
	}
	if len(list) > maxEntries {
		f.untold(path, fmt.Sprintf("it has more than %d entries", maxEntries))
		return nil
	}
	return list
}

func (f *finder) add(e change.Entry) {
	if len(f.set.Entries) >= maxEntries {
		if !f.more {
			f.more = true
			f.untold("", fmt.Sprintf("there are more than %d changes", maxEntries))
		}
		return
	}
	f.set.Entries = append(f.set.Entries, e)
}

// maxUntold is how many places are named; more say nothing more.
const maxUntold = 1000

func (f *finder) untold(path, why string) {
	if len(f.set.Untold) < maxUntold || path == "" {
		f.set.Untold = append(f.set.Untold, change.Untold{Path: path, Why: why})
	}
}

// link is the state of an entry, with the text of a symlink.
func (f *finder) link(root int, path string, st fsat.Stat) *change.State {
	s := state(st)
	if s.Type == change.Symlink {
		text, err := fsat.Readlink(root, path)
		if err != nil {
			f.untold(path, err.Error())
		}
		s.Link = text
	}
	return s
}

func state(st fsat.Stat) *change.State {
	s := &change.State{Mode: st.Mode}
	switch st.Type {
	case fsat.File:
		s.Type, s.Size = change.File, st.Size
	case fsat.Dir:
		s.Type = change.Directory
	case fsat.Symlink:
		s.Type, s.Mode = change.Symlink, 0o777
	default:
		s.Type = change.Other
	}
	return s
}

func join(dir, name string) string { return strings.TrimPrefix(dir+"/"+name, "/") }
