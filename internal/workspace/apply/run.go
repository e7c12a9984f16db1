package apply

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"cofferdam/internal/event"
	"cofferdam/internal/linux/fsat"
	"cofferdam/internal/workspace/change"
)

// stagePrefix is how the private directory in a project begins, where the journal
// lies on another file system.
const stagePrefix = ".cofferdam-apply-"

// engine carries deeds out. It is for one goroutine.
type engine struct {
	p     *project
	path  string   // dir, as it was given
	dir   *os.Root // dir
	slots *os.File // dir/slots
	stage *os.File // slots, or the private directory in the project
	name  string   // of the latter, "" if there is none
	j     *journal
	s     *story
	hooks
}

// hooks are for tests.
type hooks struct {
	// at is called before and after each call that changes something; tests end
	// the process there.
	at func(string)
	// inside: stage in the project even if dir is on the same file system.
	inside bool
}

func noHooks() hooks { return hooks{at: func(string) {}} }

// Run carries steps out in the project root. dir must not exist, and its parent
// must: it lies outside the project, where nobody else writes. Without a
// report nothing was done. With a report and an error, what it says was done, and
// the journal has no end: Recover gives it one. Once the project is being changed
// it goes through to the end: ctx counts until then.
func Run(ctx context.Context, root, dir string, steps []Step) (*Report, error) {
	return run(ctx, root, dir, steps, noHooks())
}

func run(ctx context.Context, root, dir string, steps []Step, h hooks) (*Report, error) {
	if err := check(steps); err != nil {
		return nil, err
	}
	p, err := openProject(root)
	if err != nil {
		return nil, err
	}
	defer p.close()
	report := &Report{Outcomes: p.check(steps)}
	var which []int
	for i, o := range report.Outcomes {
		if o.Verdict == Done {
			which = append(which, i)
		}
	}
	if err := apart(root, dir); err != nil {
		return nil, err
	}
	e := &engine{p: p, path: dir, hooks: h, s: &story{is: map[int]isRecord{}, back: map[int]id{}}}
	defer e.close()
	if err := e.create(root); err != nil {
		return nil, err
	}
	e.s.ops = opsOf(steps, which)
	if err := e.prepare(ctx, steps); err != nil {
		err = fmt.Errorf("nothing was changed: %w", err)
		if clean := e.dissolve(); clean != nil {
			return nil, errors.Join(err, clean)
		}
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	for _, o := range e.s.ops {
		if _, ended := e.s.is[o.n]; !ended { // staging may have ended it
			e.ends(o, e.carry(o))
		}
	}
	err = e.finish()
	for _, o := range e.s.ops {
		merge(&report.Outcomes[o.step], e.outcome(o))
	}
	return report, err
}

// apart refuses a journal that the project, and so the inside, could write.
func apart(root, dir string) error {
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return err
	}
	up, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if err != nil {
		return err
	}
	if up == real || strings.HasPrefix(up, strings.TrimSuffix(real, "/")+"/") {
		return fmt.Errorf("%s lies in the project", dir)
	}
	return nil
}

// merge adds one deed's outcome to its step's: the worst counts.
func merge(to *Outcome, o Outcome) {
	if to.Verdict == Done {
		to.Verdict, to.Why = o.Verdict, o.Why
	}
	if o.Kept != "" {
		to.Kept = o.Kept
	}
}

func (e *engine) outcome(o op) Outcome {
	is := e.s.is[o.n]
	out := Outcome{Path: o.path, Verdict: is.Verdict, Why: is.Why}
	if is.Kept {
		out.Kept = filepath.Join(e.path, slotsDir, slot(o.n))
	}
	return out
}

func slot(n int) string { return strconv.Itoa(n) }

// create makes dir with the beginning of a journal.
func (e *engine) create(root string) (err error) {
	if err := os.Mkdir(e.path, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(e.path))
		}
	}()
	if e.dir, err = os.OpenRoot(e.path); err != nil {
		return err
	}
	if err = e.dir.Mkdir(slotsDir, 0o700); err != nil {
		return err
	}
	if e.slots, err = e.dir.Open(slotsDir); err != nil {
		return err
	}
	e.stage = e.slots
	if e.j, err = createJournal(e.dir); err != nil {
		return err
	}
	top, err := fsat.StatFd(e.p.fd)
	if err != nil {
		return err
	}
	here, err := fsat.StatFd(int(e.slots.Fd()))
	if err != nil {
		return err
	}
	if e.inside || here.Mount != top.Mount || here.Mount == 0 || here.Dev != top.Dev || here.Encrypted != top.Encrypted {
		e.name = stagePrefix + strings.ToLower(rand.Text())
	}
	e.at("begin")
	err = e.j.sync(record{Begin: &begin{Version: 1, Root: event.Escape(root), Dir: idOf(top), Stage: e.name}})
	if err != nil {
		return err
	}
	for _, d := range []string{e.path, filepath.Dir(e.path)} {
		if err = syncPath(d); err != nil {
			return err
		}
	}
	if e.name != "" {
		e.at("make " + e.name)
		if err = fsat.MakeDir(e.p.fd, e.name, 0o700); err != nil {
			return err
		}
		if err = e.openStage(); err != nil {
			return errors.Join(err, e.removeStage())
		}
	}
	return nil
}

func (e *engine) openStage() error {
	fd, err := fsat.OpenDir(e.p.fd, e.name)
	if err == nil {
		e.stage = os.NewFile(uintptr(fd), e.name)
	}
	return err
}

func syncPath(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (e *engine) close() {
	if e.stage != nil && e.stage != e.slots {
		e.stage.Close()
	}
	for _, f := range []*os.File{e.slots, e.journal()} {
		if f != nil {
			f.Close()
		}
	}
	if e.dir != nil {
		e.dir.Close()
	}
}

func (e *engine) journal() *os.File {
	if e.j == nil {
		return nil
	}
	return e.j.f
}

// stageAtOnce is how many files are written before they are synced together.
const stageAtOnce = 128

// reserved is about what one deed adds to the journal: two lines of its end, and
// its mark.
const reserved = 512

// prepare stages what comes in and writes down what will be done. After it the
// project may change.
func (e *engine) prepare(ctx context.Context, steps []Step) error {
	var open []*os.File
	var lines []record
	defer func() { closeAll(open) }()
	for i := range e.s.ops {
		o := &e.s.ops[i]
		if err := ctx.Err(); err != nil {
			return err
		}
		if o.stages() {
			f, err := e.bring(o, steps[o.step])
			if f != nil {
				open = append(open, f)
			}
			switch {
			case errors.Is(err, errContent):
				e.s.is[o.n] = isRecord{N: o.n, Verdict: Failed, Why: err.Error()}
			case err != nil:
				return err
			}
			if len(open) == stageAtOnce {
				if err := syncAll(open); err != nil {
					return err
				}
				closeAll(open)
				open = open[:0]
			}
		}
		lines = append(lines, recordOf(*o))
	}
	e.at("sync content")
	if err := syncAll(open); err != nil {
		return err
	}
	if err := e.stage.Sync(); err != nil {
		return err
	}
	lines = append(lines, record{Go: true})
	for _, o := range e.s.ops {
		if is, ended := e.s.is[o.n]; ended {
			lines = append(lines, record{Is: &is})
		}
	}
	e.at("write down")
	// Room for what is to come, so that a disk which is full by then does not matter.
	_ = fsat.Reserve(e.j.f, int64(len(e.s.ops)+8)*reserved)
	return e.j.sync(lines...)
}

func closeAll(list []*os.File) {
	for _, f := range list {
		f.Close()
	}
}

// syncAll syncs files, several at once: they share the file system's commits.
func syncAll(list []*os.File) error {
	const workers = 8
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			var err error
			for i := w; i < len(list) && err == nil; i += workers {
				err = list[i].Sync()
			}
			errs <- err
		}()
	}
	var all error
	for range workers {
		all = errors.Join(all, <-errs)
	}
	return all
}

// errContent: a content is not the one that was wanted.
var errContent = errors.New("its content has changed since it was looked at, or can't be read")

// bring makes what o puts into the project, in its slot. A file is returned open,
// to be synced.
func (e *engine) bring(o *op, s Step) (*os.File, error) {
	fd, name := int(e.stage.Fd()), slot(o.n)
	e.at("stage " + o.path)
	var f *os.File
	var err error
	switch o.to.Type {
	case change.Directory:
		err = fsat.MakeDir(fd, name, 0o700)
	case change.Symlink:
		err = fsat.MakeSymlink(o.to.Link, fd, name)
	default:
		if f, err = fsat.Create(fd, name, 0o600); err == nil {
			err = fill(f, s.Content, o)
		}
	}
	if err != nil {
		return f, err
	}
	e.group(o, fd, name)
	switch {
	case f != nil:
		err = syscall.Fchmod(int(f.Fd()), o.to.Mode)
	case o.to.Type == change.Directory:
		err = chmodAt(fd, name, o.to.Mode)
	}
	if err != nil {
		return f, err
	}
	st, err := fsat.StatAt(fd, name)
	if err != nil {
		return f, err
	}
	if o.to.Type != change.Symlink && st.Mode != o.to.Mode {
		return f, fmt.Errorf("mode %04o can't be set: it is %04o", o.to.Mode, st.Mode)
	}
	o.staged = idOf(st)
	return f, nil
}

// fill copies a content and compares it with what is wanted.
func fill(f *os.File, from change.Side, o *op) error {
	src, err := from.Open(o.path)
	if err != nil {
		return fmt.Errorf("%w: %v", errContent, reason(err))
	}
	defer src.Close()
	h := sha256.New()
	// One byte more than wanted is enough to know.
	in := &reading{r: io.LimitReader(src, o.to.Size+1)}
	n, err := io.Copy(io.MultiWriter(f, h), in)
	switch {
	case in.err != nil:
		return fmt.Errorf("%w: %v", errContent, reason(in.err))
	case err != nil:
		return err
	case n != o.to.Size || hex.EncodeToString(h.Sum(nil)) != o.to.Sum:
		return errContent
	}
	return nil
}

// reading keeps the error of a source, to be told from one of the destination.
type reading struct {
	r   io.Reader
	err error
}

func (r *reading) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// group gives what is staged to the group that it would have had if it had been
// written in its place: the old file's, or that of a directory which hands its
// group on. If we may not, it keeps ours.
func (e *engine) group(o *op, fd int, name string) {
	st, err := fsat.StatAt(e.p.fd, o.path)
	for up := o.path; err != nil && up != "."; {
		if up = path.Dir(up); up == "." {
			st, err = fsat.StatFd(e.p.fd)
		} else {
			st, err = fsat.StatAt(e.p.fd, up)
		}
		if err == nil && (st.Type != fsat.Dir || st.Mode&0o2000 == 0) {
			return
		}
	}
	own, own1 := fsat.StatAt(fd, name)
	if err == nil && own1 == nil && own.GID != st.GID {
		_ = fsat.SetGroup(fd, name, st.GID)
	}
}

// chmodAt sets the mode of an entry of a private directory.
func chmodAt(dir int, name string, mode uint32) error {
	fd, err := fsat.OpenAny(dir, name)
	if err != nil {
		return err
	}
	defer fsat.Close(fd)
	return fsat.Chmod(fd, mode)
}
