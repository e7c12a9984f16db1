package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"cofferdam/internal/linux/fsat"
	"cofferdam/internal/workspace/change"
)

// project is the tree that steps are carried out in, by descriptor.
type project struct {
	fd   int
	path string
	// plain are directories in which names are compared byte by byte. That can't
	// change while something is in them.
	plain map[string]bool
}

func openProject(path string) (*project, error) {
	fd, err := fsat.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &project{fd: fd, path: path, plain: map[string]bool{}}, nil
}

func (p *project) close() { fsat.Close(p.fd) }

var (
	errOtherMount = errors.New("it lies on another file system than the project")
	errOtherName  = errors.New("a name that this file system takes for the same is there")
)

// parent opens the directory that holds path, and makes sure that no name on the
// way stands for another one: on a file system that folds case, .GIT is .git.
func (p *project) parent(path string) (int, string, error) {
	if err := p.exact(path); err != nil {
		return -1, "", err
	}
	fd, name, err := fsat.OpenParentHere(p.fd, path)
	if errors.Is(err, fsat.EXDEV) {
		err = errOtherMount
	}
	return fd, name, err
}

// exact is errOtherName if a component of path is found under another name.
func (p *project) exact(path string) error {
	above := ""
	for {
		name, rest, more := strings.Cut(path, "/")
		if !p.plain[above] {
			fd, err := fsat.OpenDir(p.fd, above)
			if fsat.Gone(err) {
				return nil // whoever opens it is told
			}
			if err != nil {
				return fmt.Errorf("read its directory: %w", err)
			}
			folds := fsat.Folds(fd)
			if folds {
				err = listed(fd, name)
			}
			fsat.Close(fd)
			if err != nil {
				return err
			}
			p.plain[above] = !folds
		}
		if !more {
			return nil
		}
		above, path = join(above, name), rest
	}
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// listed is errOtherName if name is found in the directory, but under another name.
func listed(fd int, name string) error {
	if _, err := fsat.StatAt(fd, name); fsat.Gone(err) {
		return nil
	}
	found := false
	err := fsat.Entries(fd, make([]byte, 32<<10), func(n []byte, _ fsat.Type) { found = found || string(n) == name })
	if err == nil && !found {
		err = errOtherName
	}
	return err
}

// stateOf reads the state of an entry; nil if nothing is there. A file's content is
// read only if its size is one of those that matter, so that a huge file costs
// nothing; -1 is any size.
func stateOf(dir int, name string, sizes ...int64) (*change.State, id, error) {
	st, err := fsat.StatAt(dir, name)
	if fsat.Gone(err) {
		return nil, id{}, nil
	}
	if err != nil {
		return nil, id{}, err
	}
	out := &change.State{Type: typeOf(st.Type), Mode: st.Mode}
	is := idOf(st)
	switch st.Type {
	case fsat.Symlink:
		out.Link, err = fsat.Readlink(dir, name)
	case fsat.File:
		out.Size = st.Size
		for _, want := range sizes {
			if want == st.Size || want < 0 {
				out.Size, out.Sum, err = sum(dir, name)
				break
			}
		}
	}
	if fsat.Gone(err) {
		return nil, id{}, nil
	}
	if err != nil {
		return nil, id{}, err
	}
	return out, is, nil
}

func idOf(st fsat.Stat) id { return id{st.Dev, st.Ino, st.Born} }

func typeOf(t fsat.Type) change.Type {
	switch t {
	case fsat.File:
		return change.File
	case fsat.Dir:
		return change.Directory
	case fsat.Symlink:
		return change.Symlink
	}
	return change.Other
}

func sum(dir int, name string) (int64, string, error) {
	f, _, err := fsat.OpenFile(dir, name)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return n, hex.EncodeToString(h.Sum(nil)), err
}

func sizes(states ...*change.State) []int64 {
	var out []int64
	for _, s := range states {
		if isFile(s) {
			out = append(out, s.Size)
		}
	}
	return out
}

// Check says what would become of each step at this moment, and changes nothing.
// Done means that nothing is in the way. What is found by then may be otherwise
// when Run comes: it looks again.
func Check(root string, steps []Step) ([]Outcome, error) {
	if err := check(steps); err != nil {
		return nil, err
	}
	p, err := openProject(root)
	if err != nil {
		return nil, err
	}
	defer p.close()
	return p.check(steps), nil
}

func (p *project) check(steps []Step) []Outcome {
	byPath := make(map[string]Step, len(steps))
	for _, s := range steps {
		byPath[s.Path] = s
	}
	out := make([]Outcome, len(steps))
	for i, s := range steps {
		out[i] = Outcome{Path: s.Path}
		out[i].Verdict, out[i].Why = p.verdict(s, byPath)
	}
	return out
}

func (p *project) verdict(s Step, all map[string]Step) (Verdict, string) {
	if why := s.never(); why != "" {
		return Refused, why
	}
	dir, name, err := p.parent(s.Path)
	switch {
	case errors.Is(err, errOtherMount), errors.Is(err, errOtherName):
		return Refused, err.Error()
	case fsat.Gone(err):
		if s.Want == nil && s.Expect != nil {
			return Already, ""
		}
		if s.Expect == nil && becomesDir(path.Dir(s.Path), all) {
			return Done, ""
		}
		return Conflict, "the directory that it lies in is gone, or is none any more"
	case err != nil:
		return Failed, reason(err)
	}
	defer fsat.Close(dir)
	now, _, err := stateOf(dir, name, sizes(s.Expect, s.Want)...)
	switch {
	case err != nil:
		return Failed, reason(err)
	case change.Same(now, s.Want):
		return Already, ""
	case !change.Same(now, s.Expect):
		return Conflict, difference(s.Expect, now)
	case isDir(now) && !isDir(s.Want) && more(dir, name, s.Path, all):
		return Conflict, "there is something new in the directory"
	}
	return Done, ""
}

// becomesDir says that a step makes dir a directory.
func becomesDir(dir string, all map[string]Step) bool {
	s, ok := all[dir]
	return ok && isDir(s.Want)
}

// more says that a directory which shall go holds what no step removes.
func more(dir int, name, at string, all map[string]Step) bool {
	fd, err := fsat.OpenDir(dir, name)
	if err != nil {
		return false // rmdir will say
	}
	defer fsat.Close(fd)
	found := false
	_ = fsat.Entries(fd, make([]byte, 32<<10), func(n []byte, _ fsat.Type) {
		s, ok := all[at+"/"+string(n)]
		found = found || !ok || s.Want != nil
	})
	return found
}

// difference is what is otherwise than expected, in words.
func difference(expected, now *change.State) string {
	switch {
	case now == nil:
		return "it was deleted meanwhile"
	case expected == nil:
		return "it was created meanwhile"
	case now.Type != expected.Type:
		return "it is a " + string(now.Type) + " now"
	case now.Type == change.Symlink:
		return "the symlink was changed meanwhile"
	case now.Type == change.File && (now.Size != expected.Size || now.Sum != expected.Sum):
		return "it was edited meanwhile"
	}
	return fmt.Sprintf("its mode is %04o, not %04o", now.Mode, expected.Mode)
}

// reason is an error without paths, which are told elsewhere.
func reason(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err.Error()
		}
		err = next
	}
}
