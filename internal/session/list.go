package session

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"cofferdam/internal/event"
	"cofferdam/internal/linux/unixsock"
	"cofferdam/internal/plan"
)

// Status of a stored session.
type Status string

const (
	Live        Status = "live"        // its lock is held
	Ended       Status = "ended"       // it said so itself
	Interrupted Status = "interrupted" // nobody holds it and it never ended: its supervisor was killed
	Damaged     Status = "damaged"     // its files can't be read
)

// Info is one stored session.
type Info struct {
	ID     string `json:"id"`
	Dir    string `json:"dir"`
	Status Status `json:"status"`
	State  State  `json:"state"`
	// Problem says why Status is Damaged.
	Problem string `json:"problem,omitempty"`
}

// List returns all sessions, the oldest first. A damaged one is listed as
// such and hides no other.
func (s *Store) List() ([]Info, error) {
	if s.root == nil {
		return nil, nil
	}
	d, err := s.root.Open(".")
	if err != nil {
		return nil, &Error{Op: "list", Path: s.dir, Err: err}
	}
	entries, err := d.ReadDir(-1)
	d.Close()
	if err != nil {
		return nil, &Error{Op: "list", Path: s.dir, Err: err}
	}
	var out []Info
	for _, e := range entries {
		if isID(e.Name()) {
			if i, ok := s.info(e.Name()); ok {
				out = append(out, i)
			}
		}
	}
	slices.SortFunc(out, byAge)
	return out, nil
}

func byAge(a, b Info) int {
	return cmp.Or(strings.Compare(a.ID[:idTime], b.ID[:idTime]), a.State.Created.Compare(b.State.Created), strings.Compare(a.ID, b.ID))
}

// live lists the sessions that are live, the oldest first. It looks at those that have
// not ended, and so takes the same time however many there have been.
func (s *Store) live() ([]Info, error) {
	if s.root == nil {
		return nil, nil
	}
	names, err := s.marks()
	if err != nil {
		return nil, err
	}
	var out []Info
	for _, id := range names {
		if !isID(id) {
			continue
		}
		if i, ok := s.info(id); ok && i.Status == Live {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, byAge)
	return out, nil
}

// An id is the second in which the session was made and four random
// characters: it sorts by time.
const (
	idLayout = "20060102-150405"
	idTime   = len(idLayout)
)

// isID tells session folders from everything else in the directory.
func isID(s string) bool {
	if len(s) != idTime+5 || s[idTime] != '-' {
		return false
	}
	_, err := time.Parse(idLayout, s[:idTime])
	return err == nil
}

// info reads one session; ok is false if it has gone.
func (s *Store) info(id string) (i Info, ok bool) {
	i = Info{ID: id, Dir: filepath.Join(s.dir, id)}
	root, err := s.root.OpenRoot(id)
	if errors.Is(err, fs.ErrNotExist) {
		return i, false
	}
	if err == nil {
		defer root.Close()
		i.Status, err = status(root, &i.State)
	}
	if err == nil && (i.State.Version != 1 || i.State.ID != id) {
		err = fmt.Errorf("%s: version %d of session %q", stateFile, i.State.Version, i.State.ID)
	}
	if err != nil {
		i.Status, i.State, i.Problem = Damaged, State{}, err.Error()
	}
	return i, true
}

func status(root *os.Root, st *State) (Status, error) {
	// The lock before the state: a session that ends in between is read as
	// live and ended, which is Live, and not as neither.
	live, err := locked(root)
	if err != nil {
		return "", err
	}
	if err := decode(root, stateFile, st); err != nil {
		return "", err
	}
	switch {
	case live:
		return Live, nil
	case st.Ended != nil:
		return Ended, nil
	}
	return Interrupted, nil
}

func locked(root *os.Root) (bool, error) {
	f, err := root.OpenFile(lockFile, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	// Shared, so that two that look at once don't take each other for the
	// session's supervisor.
	err = unixsock.TryLock(f, true)
	if errors.Is(err, unixsock.ErrLocked) {
		return true, nil
	}
	return false, err
}

// NotFoundError: no session goes by this name.
type NotFoundError struct {
	Key  string
	Live []Info // what there would have been
}

func (e *NotFoundError) Error() string {
	if e.Key == "" {
		return "there is no session yet"
	}
	return fmt.Sprintf("no session %q", e.Key)
}

// AmbiguousError: several sessions go by this prefix.
type AmbiguousError struct {
	Key     string
	Matches []Info
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%q fits %d sessions", e.Key, len(e.Matches))
}

// Find returns the session that key means, the first of these that exists:
// the one with this id; the live one with this name; the newest with this
// name; the only live one, else the only one, whose id or name starts with
// key. An empty key means the newest session.
func (s *Store) Find(key string) (Info, error) {
	// What is meant mostly, and is found without a look at each session there was.
	if s.root != nil && isID(key) {
		if i, ok := s.info(key); ok {
			return i, nil
		}
	}
	list, err := s.live()
	if err != nil {
		return Info{}, err
	}
	for _, i := range slices.Backward(list) {
		if key != "" && i.State.Name == key {
			return i, nil
		}
	}
	list, err = s.List()
	if err != nil {
		return Info{}, err
	}
	slices.Reverse(list) // the newest first
	return find(list, key)
}

func find(list []Info, key string) (Info, error) {
	var live, named, prefixed []Info
	for _, i := range list {
		switch {
		case i.ID == key || key == "":
			return i, nil
		case i.State.Name == key:
			named = append(named, i)
		case strings.HasPrefix(i.ID, key) || strings.HasPrefix(i.State.Name, key):
			prefixed = append(prefixed, i)
		}
		if i.Status == Live {
			live = append(live, i)
		}
	}
	onlyLive := func(list []Info) []Info {
		return slices.DeleteFunc(slices.Clone(list), func(i Info) bool { return i.Status != Live })
	}
	if len(named) > 0 {
		return append(onlyLive(named), named...)[0], nil
	}
	if l := onlyLive(prefixed); len(l) > 0 {
		prefixed = l
	}
	switch len(prefixed) {
	case 0:
		return Info{}, &NotFoundError{key, live}
	case 1:
		return prefixed[0], nil
	}
	return Info{}, &AmbiguousError{key, prefixed}
}

// Plan reads a session's plan.
func (s *Store) Plan(i Info) (*plan.Plan, error) {
	p := new(plan.Plan)
	return p, s.Read(i, PlanFile, p)
}

// Entry is the part of the plan that one more command needs (plan.Plan.Entry).
func (s *Store) Entry(i Info) (*plan.Plan, error) {
	p := &plan.Plan{}
	return p, s.Read(i, entryFile, p)
}

// Read decodes one of a session's JSON files into v, strictly.
func (s *Store) Read(i Info, name string, v any) error {
	root, err := s.folder(i)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := decode(root, name, v); err != nil {
		return &Error{Op: "read", Path: filepath.Join(i.Dir, name), Err: err}
	}
	return nil
}

// Events opens a session's event stream for reading.
func (s *Store) Events(i Info) (*os.File, error) {
	root, err := s.folder(i)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(EventsFile, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &Error{Op: "read", Path: filepath.Join(i.Dir, EventsFile), Err: err}
	}
	return f, nil
}

// Judge compares what a Reader found at the end of the stream with what the
// session recorded when it ended, and says in words what is wrong; "" if
// nothing is.
func (i Info) Judge(v event.Verdict) string {
	switch {
	case v.State == event.Broken:
		return fmt.Sprintf("the log was changed: line %d does not fit", v.Line)
	case v.State == event.Torn && i.Status != Live:
		return fmt.Sprintf("line %d was not written to its end", v.Line)
	case i.Status == Ended && i.State.Exit != nil && i.State.Exit.Head != v.Head:
		return fmt.Sprintf("the log was changed: it has %d events, the session ended with %d", v.Events, i.State.Exit.Events)
	case i.Status == Interrupted:
		return "the supervisor was killed: what happened at the very end is not in the log"
	}
	return ""
}

// Alive asks the lock again: for a reader that follows.
func (s *Store) Alive(i Info) bool {
	root, err := s.folder(i)
	if err != nil {
		return false
	}
	defer root.Close()
	live, err := locked(root)
	return err == nil && live
}

// Folder opens a session's folder, to connect to a socket in it.
func (s *Store) Folder(i Info) (*os.File, error) {
	root, err := s.folder(i)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.Open(".")
	if err != nil {
		return nil, &Error{Op: "open", Path: i.Dir, Err: err}
	}
	return f, nil
}

func (s *Store) folder(i Info) (*os.Root, error) {
	if s.root == nil || !isID(i.ID) {
		return nil, &NotFoundError{Key: i.ID}
	}
	root, err := s.root.OpenRoot(i.ID)
	if err != nil {
		return nil, &Error{Op: "open", Path: i.Dir, Err: err}
	}
	return root, nil
}

// Prune removes sessions that are not live and are older than age, all but
// the newest keep, and what a killed Create left. It returns what it removed.
func (s *Store) Prune(keep int, age time.Duration, now time.Time) ([]string, error) {
	list, err := s.List()
	if err != nil || s.root == nil {
		return nil, err
	}
	var gone []string
	var errs []error
	remove := func(id string) {
		if err := s.root.RemoveAll(id); err != nil {
			errs = append(errs, &Error{Op: "remove", Path: filepath.Join(s.dir, id), Err: err})
			return
		}
		gone = append(gone, id)
	}
	for n, i := range list {
		made, _ := time.Parse(idLayout, i.ID[:idTime])
		if i.Status != Live && n < len(list)-keep && now.Sub(made) > age && !s.Alive(i) {
			remove(i.ID)
		}
	}
	entries, err := fs.ReadDir(s.root.FS(), ".")
	if err != nil {
		return gone, errors.Join(append(errs, err)...)
	}
	for _, e := range entries {
		info, err := e.Info()
		// An hour: making a session takes milliseconds.
		if err == nil && strings.HasPrefix(e.Name(), ".new-") && now.Sub(info.ModTime()) > time.Hour {
			remove(e.Name())
		}
	}
	return gone, errors.Join(errs...)
}
