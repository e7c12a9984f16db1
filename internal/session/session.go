// Package session keeps one folder per run: the plan, the events, what is
// needed to join the run from another process, and how it ended. It decides
// nothing and starts nothing.
//
//	$XDG_STATE_HOME/cofferdam/sessions/
//	  .lock                     held while a named session is created
//	  .recovery                 held while interrupted sessions are finished
//	  .apply-HASH               held while something is carried over into a project; not by us
//	  open/ID                   the mark of a session that has not ended
//	  open/.new-ID-PID/         being made; renamed to ../ID when complete
//	  20260301-120000-k3f9/
//	    plan.json               the plan, written once
//	    baseline.json           what the workspace was before; not by us
//	    copy.json, copy/        the copy of the workspace, if it has one; not by us
//	    state.json              State; replaced, never changed in place
//	    events.jsonl            append only, see package event
//	    lock                    flock held by the supervisor: it lives
//	    control.sock            see control.go
//	    applied/                journals of what was carried over into the project; not by us
//	    approvals.sock          who answers questions connects here; not by us
//
// A session lives exactly as long as its lock is held. A process number says
// nothing: it may be another process by now.
package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cofferdam/internal/linux/unixsock"
	"cofferdam/internal/plan"
)

// Names of the files in a session's folder.
const (
	PlanFile     = "plan.json"
	entryFile    = "entry.json" // plan.Plan.Entry
	BaselineFile = "baseline.json"
	EventsFile   = "events.jsonl"
	// CopyFile says of what and since when there is a copy of the workspace in the
	// folder, if there is one; not by us.
	CopyFile   = "copy.json"
	stateFile  = "state.json"
	lockFile   = "lock"
	socketFile = "control.sock"
	// answersFile is the socket of those who answer questions; not by us.
	answersFile = "approvals.sock"
	// PlaceholdersFile has what stands for the plan's credentials inside, for commands
	// that enter. It is written before the session is live.
	PlaceholdersFile = "placeholders.json"
)

// maxFile bounds what is read back of a stored JSON file.
const maxFile = 64 << 20

// Error is a session folder or the directory of them that can't be used.
type Error struct {
	Op   string // "create session", "open"
	Path string
	Err  error
	Hint string
}

func (e *Error) Error() string { return e.Op + " " + e.Path + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Store is the directory of all sessions of this user. It is not for use from
// several goroutines; several processes may use the directory at once.
type Store struct {
	dir  string   // .../cofferdam/sessions
	root *os.Root // nil as long as the directory does not exist
}

// Dir is the directory that holds the sessions, from the environment.
func Dir(env []string) (string, error) {
	state, home := lookup(env, "XDG_STATE_HOME"), lookup(env, "HOME")
	switch {
	case filepath.IsAbs(state):
	case filepath.IsAbs(home):
		state = filepath.Join(home, ".local", "state")
	default:
		return "", &Error{Op: "find", Path: "the state directory", Err: errors.New("neither XDG_STATE_HOME nor HOME is an absolute path"),
			Hint: "set HOME, or XDG_STATE_HOME to a directory of your own"}
	}
	return filepath.Join(state, "cofferdam", "sessions"), nil
}

func lookup(env []string, name string) string {
	value := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value = v
		}
	}
	return value
}

// Open opens the store of this user without making anything. It refuses a
// directory that others could write or exchange.
func Open(env []string) (*Store, error) {
	dir, err := Dir(env)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir}
	err = s.open()
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close closes the store. Sessions stay as they are.
func (s *Store) Close() error {
	if s.root == nil {
		return nil
	}
	return s.root.Close()
}

func (s *Store) open() error {
	// The state home may be a symlink or have strange owners above it; ours
	// are the last two. Each is checked on the open directory, then the next
	// is opened relative to it, so that nothing can be exchanged in between.
	home := filepath.Dir(filepath.Dir(s.dir))
	root, err := os.OpenRoot(home)
	if err != nil {
		return &Error{Op: "open", Path: home, Err: err}
	}
	if err := check(root, home, true); err != nil {
		root.Close()
		return err
	}
	path := home
	for _, name := range []string{"cofferdam", "sessions"} {
		path = filepath.Join(path, name)
		info, err := root.Lstat(name)
		if err == nil && !info.IsDir() {
			err = syscall.ENOTDIR // a symlink too
		}
		var next *os.Root
		if err == nil {
			next, err = root.OpenRoot(name)
		}
		root.Close()
		if err != nil {
			return &Error{Op: "open", Path: path, Err: err}
		}
		root = next
		if err := check(root, path, false); err != nil {
			root.Close()
			return err
		}
	}
	s.root = root
	return nil
}

// check refuses a directory that is not ours or that others may write.
// Someone else's is accepted above ours if we can't be robbed of our entries:
// not writable for others, or sticky.
func check(root *os.Root, path string, above bool) error {
	info, err := root.Stat(".")
	if err != nil {
		return &Error{Op: "open", Path: path, Err: err}
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return &Error{Op: "open", Path: path, Err: errors.New("no owner known")}
	}
	uid := os.Geteuid()
	if int(st.Uid) != uid && (!above || st.Uid != 0) {
		return &Error{Op: "use", Path: path, Err: fmt.Errorf("it belongs to user %d, not to you (%d)", st.Uid, uid),
			Hint: "set XDG_STATE_HOME to a directory of your own; under sudo, HOME may still be the caller's"}
	}
	if info.Mode().Perm()&0o022 != 0 && (!above || info.Mode()&fs.ModeSticky == 0) {
		return &Error{Op: "use", Path: path, Err: fmt.Errorf("others may write it (mode %04o)", info.Mode().Perm()),
			Hint: "chmod go-w " + path}
	}
	return nil
}

// make makes the directories of the store.
func (s *Store) make() error {
	if s.root != nil {
		return nil
	}
	home := filepath.Dir(filepath.Dir(s.dir))
	if err := os.MkdirAll(home, 0o700); err != nil {
		return &Error{Op: "make", Path: home, Err: err, Hint: "set XDG_STATE_HOME to a directory that you can write"}
	}
	for _, d := range []string{filepath.Dir(s.dir), s.dir} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return &Error{Op: "make", Path: d, Err: err, Hint: "set XDG_STATE_HOME to a directory that you can write"}
		}
	}
	return s.open()
}

// State is what state.json says.
type State struct {
	Version   int      `json:"version"` // 1
	ID        string   `json:"id"`
	Name      string   `json:"name,omitempty"`
	Boundary  string   `json:"boundary"`
	Workspace string   `json:"workspace"`
	Command   []string `json:"command"`
	// Copy: the inside writes to a copy of the workspace.
	Copy bool `json:"copy,omitempty"`
	// Supervisor is the process that holds the lock, Inside the boundary's
	// first process on the host (0 until it runs). Both are for people.
	Supervisor Process    `json:"supervisor"`
	Inside     int        `json:"inside,omitempty"`
	BootID     string     `json:"bootID"`
	Created    time.Time  `json:"created"`
	Ended      *time.Time `json:"ended,omitempty"`
	Exit       *Exit      `json:"exit,omitempty"`
}

// Process is a process that can be told from a later one with its number.
type Process struct {
	PID int `json:"pid"`
	// Start is field 22 of /proc/PID/stat: clock ticks after boot.
	Start uint64 `json:"start"`
}

// Exit is how a session ended.
type Exit struct {
	Status int    `json:"status"`
	Error  string `json:"error,omitempty"` // why there was no command to end
	// Events and Head are how long the event stream was and the hash of its
	// last line: a stream that was shortened later is found out.
	Events int64  `json:"events"`
	Head   string `json:"head,omitempty"`
}

// Session is a live session that this process supervises.
type Session struct {
	ID     string
	Dir    string   // absolute
	Events *os.File // for event.NewWriter; closed by Close

	root  *os.Root
	lock  *os.File
	state State
	store *os.Root // the store's, for the mark
}

// Create makes the folder of a new session. name may be empty; otherwise no
// live session may have it. The folder appears complete and locked, or not at
// all.
func (s *Store) Create(ctx context.Context, p *plan.Plan, name string) (*Session, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if err := s.make(); err != nil {
		return nil, err
	}
	if name != "" {
		unlock, err := s.reserve(ctx, name)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	// Two that start in the same second may pick the same id; the rename at
	// the end decides, and the other tries again.
	for range 10 {
		x, err := s.create(p, name)
		if err == nil {
			return x, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, &Error{Op: "create session in", Path: s.dir, Err: err}
		}
	}
	return nil, &Error{Op: "create session in", Path: s.dir, Err: errors.New("every name is taken")}
}

func (s *Store) create(p *plan.Plan, name string) (*Session, error) {
	now := time.Now().UTC()
	id := now.Format(idLayout) + "-" + random(4)
	temp, err := s.begin(id)
	if err != nil {
		return nil, err
	}
	x := &Session{ID: id, Dir: filepath.Join(s.dir, id), state: State{
		Version: 1, ID: id, Name: name, Boundary: p.Boundary, Workspace: p.Workspace, Command: p.Command, Copy: p.Copy != "",
		Created: now, BootID: bootID(), Supervisor: Process{os.Getpid(), startTime(os.Getpid())},
	}}
	if err := x.fill(s.root, temp, p); err != nil {
		x.Close()
		s.root.RemoveAll(temp)
		return nil, err
	}
	return x, nil
}

// fill writes the first files into the folder temp and gives it its name.
func (x *Session) fill(store *os.Root, temp string, p *plan.Plan) error {
	var err error
	if x.root, err = store.OpenRoot(temp); err != nil {
		return err
	}
	const anew = os.O_CREATE | os.O_EXCL
	if x.lock, err = x.root.OpenFile(lockFile, os.O_RDWR|anew, 0o600); err != nil {
		return err
	}
	if err = unixsock.TryLock(x.lock, false); err != nil {
		return err
	}
	if x.Events, err = x.root.OpenFile(EventsFile, os.O_WRONLY|os.O_APPEND|anew, 0o600); err != nil {
		return err
	}
	// The folder has no name yet, so nobody sees a file before it is whole.
	if err = create(x.root, PlanFile, p); err != nil {
		return err
	}
	if err = create(x.root, entryFile, p.Entry()); err != nil {
		return err
	}
	if err = create(x.root, stateFile, x.state); err != nil {
		return err
	}
	if err = x.mark(store); err != nil {
		return err
	}
	// An empty directory of the same name would be replaced, but nothing
	// leaves one: ids are made here only.
	return store.Rename(temp, x.ID)
}

// Folder opens the session's folder, for a socket in it.
func (x *Session) Folder() (*os.File, error) {
	f, err := x.root.Open(".")
	if err != nil {
		return nil, &Error{Op: "open", Path: x.Dir, Err: err}
	}
	return f, nil
}

// Started records the boundary's first process.
func (x *Session) Started(pid int) error {
	x.state.Inside = pid
	return x.save()
}

// End records how the session ended. The lock stays held until Close.
func (x *Session) End(exit Exit) error {
	now := time.Now().UTC()
	x.state.Ended, x.state.Exit = &now, &exit
	for _, name := range []string{socketFile, answersFile} {
		_ = x.root.Remove(name) // nothing answers there any more
	}
	if err := x.save(); err != nil {
		return err
	}
	return x.unmark()
}

// Close gives up the lock and closes the files. Without End before, the
// session counts as interrupted.
func (x *Session) Close() error {
	var errs []error
	// The lock last: what sees it free must see the rest done.
	if x.Events != nil {
		errs = append(errs, x.Events.Close())
	}
	if x.root != nil {
		errs = append(errs, x.root.Close())
	}
	if x.lock != nil {
		errs = append(errs, x.lock.Close())
	}
	return errors.Join(errs...)
}

// Write stores v as the file name, which must be one of this package's
// constants. It is there whole or not at all.
func (x *Session) Write(name string, v any) error {
	temp := name + ".new"
	err := create(x.root, temp, v)
	if errors.Is(err, fs.ErrExist) { // of a save that failed half-way
		if err = x.root.Remove(temp); err == nil {
			err = create(x.root, temp, v)
		}
	}
	if err != nil {
		return err
	}
	return x.root.Rename(temp, name)
}

func (x *Session) save() error { return x.Write(stateFile, x.state) }

// create makes a file that holds v as JSON, or nothing if v is nil.
func create(root *os.Root, name string, v any) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if v != nil {
		enc := json.NewEncoder(f)
		enc.SetEscapeHTML(false)
		err = enc.Encode(v)
	}
	return errors.Join(err, f.Close())
}

// decode reads a stored file strictly: bounded, regular, one value, no unknown
// keys.
func decode(root *os.Root, name string, v any) error {
	// O_NONBLOCK: a FIFO in its place must not hang us.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file", name)
	}
	if info.Size() > maxFile {
		return fmt.Errorf("%s: %d bytes is too long", name, info.Size())
	}
	d := json.NewDecoder(io.LimitReader(f, maxFile))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%s: more than one value", name)
	}
	return nil
}

// NameError is a name that a session can't have.
type NameError struct{ Name, Why string }

func (e *NameError) Error() string { return "session name " + strconv.Quote(e.Name) + ": " + e.Why }

// CheckName says whether a session may have this name; "" is none.
func CheckName(name string) error {
	if name == "" {
		return nil
	}
	if len(name) > 64 {
		return &NameError{name[:64], "longer than 64 characters"}
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || !strings.ContainsRune("0123456789-_.", r)) {
			return &NameError{name, "use letters, digits, '-', '_' and '.', a letter first"}
		}
	}
	return nil
}

// reserve waits for the store's lock and makes sure that no live session has
// the name. The lock must be held until the new session can be seen.
func (s *Store) reserve(ctx context.Context, name string) (unlock func(), err error) {
	f, err := s.root.OpenFile(".lock", os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, &Error{Op: "lock", Path: s.dir, Err: err}
	}
	// Creating takes milliseconds; who holds it longer hangs.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := unixsock.Lock(ctx, f); err != nil {
		f.Close()
		return nil, &Error{Op: "lock", Path: s.dir, Err: err, Hint: "another cofferdam is creating a session and does not finish"}
	}
	list, err := s.live()
	if err != nil {
		f.Close()
		return nil, err
	}
	for _, i := range list {
		if i.State.Name == name {
			f.Close()
			return nil, &NameError{name, "session " + i.ID + " is running under it"}
		}
	}
	return func() { f.Close() }, nil
}

// random returns n characters that are easy to read and type. Nobody must be
// unable to guess them: Mkdir decides whose a name is.
func random(n int) string {
	const letters = "23456789abcdefghjkmnpqrstuvwxyz"
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[rand.IntN(len(letters))]
	}
	return string(b)
}

func bootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// startTime is field 22 of /proc/PID/stat; 0 if it can't be known.
func startTime(pid int) uint64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	return parseStart(b)
}

// parseStart counts fields from the last ")": the name before it is the
// process's own choice and may hold anything.
func parseStart(stat []byte) uint64 {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0
	}
	fields := strings.Fields(string(stat[i+1:]))
	if len(fields) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(fields[19], 10, 64)
	return n
}
