package apply

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"cofferdam/internal/linux/fsat"
	"cofferdam/internal/linux/unixsock"
	"cofferdam/internal/workspace/change"
)

// State is what a journal tells about its run.
type State string

const (
	Ended   State = "ended"   // nothing is open
	Running State = "running" // somebody works on it right now
	// Unbegun: interrupted before the project was changed. Recover tidies up.
	Unbegun State = "unbegun"
	// Interrupted: some steps are done, some are not. Recover finishes them or
	// takes them back.
	Interrupted State = "interrupted"
	// Carried: interrupted when all was done. Recover tidies up; Undo takes it back.
	Carried State = "carried"
)

// Look says in which state the run in dir is. A directory without a journal is
// Unbegun.
func Look(dir string) (State, error) {
	s, lock, err := read(dir)
	switch {
	case errors.Is(err, unixsock.ErrLocked):
		return Running, nil
	case errors.Is(err, errNoBeginning):
		return Unbegun, nil
	case err != nil:
		return "", err
	}
	lock.Close()
	switch {
	case s.ended:
		return Ended, nil
	case s.carried:
		return Carried, nil
	case s.started:
		return Interrupted, nil
	}
	return Unbegun, nil
}

// errNoBeginning: whoever made the directory was killed before the first line.
var errNoBeginning = errors.New("nothing was begun")

// read reads the journal in dir and locks it.
func read(dir string) (*story, *os.File, error) {
	f, err := os.OpenFile(dir+"/"+journalFile, os.O_RDWR|os.O_APPEND|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(dir); err != nil {
			return nil, nil, err
		}
		return nil, nil, errNoBeginning
	}
	if err != nil {
		return nil, nil, err
	}
	if err := unixsock.TryLock(f, false); err != nil {
		f.Close()
		return nil, nil, err
	}
	s, err := readStory(f)
	if err == nil && s.begin.Version == 0 {
		err = errNoBeginning
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return s, f, nil
}

// Way is what becomes of an interrupted run.
type Way string

const (
	Finish   Way = "finish"
	TakeBack Way = "take back"
)

// Recover ends the interrupted run in dir, of which Look tells. Its report has an
// outcome for each path whose step had been written down: Done, or Back if it is as
// it was before; a path at which somebody has made an edit since is a Conflict and
// stays as it is. It may be interrupted itself, and tried again, also the other way.
// What is all done already (Carried) is only tidied up.
func Recover(dir string, way Way) (*Report, error) { return recoverRun(dir, way, noHooks()) }

func recoverRun(dir string, way Way, h hooks) (*Report, error) {
	s, f, err := read(dir)
	if errors.Is(err, errNoBeginning) {
		return &Report{}, os.RemoveAll(dir)
	}
	if err != nil {
		return nil, err
	}
	e := &engine{path: dir, hooks: h, s: s, j: &journal{f: f, size: s.whole}}
	defer e.close()
	if s.ended {
		return e.report(), nil
	}
	if err := e.reopen(); err != nil {
		return nil, err
	}
	defer e.p.close()
	switch {
	case !s.started:
		return &Report{}, errors.Join(e.dissolve(), e.j.sync(record{End: true}))
	case s.carried:
		// An outcome that is not in the journal ended as it should have.
	case way == TakeBack:
		err = e.takeBack()
	default:
		e.goOn()
	}
	if err != nil {
		return nil, err
	}
	err = e.finish()
	return e.report(), err
}

// reopen opens what the interrupted run had open.
func (e *engine) reopen() (err error) {
	// What was written of a last line is no line.
	if err = e.j.f.Truncate(e.s.whole); err != nil {
		return err
	}
	if e.dir, err = os.OpenRoot(e.path); err != nil {
		return err
	}
	if e.slots, err = e.dir.Open(slotsDir); err != nil {
		return err
	}
	e.stage, e.name = e.slots, e.s.begin.Stage
	if e.p, err = openProject(e.s.begin.Root); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			e.p.close()
		}
	}()
	top, err := fsat.StatFd(e.p.fd)
	if err != nil {
		return err
	}
	// Device numbers change when a machine starts again.
	if was := e.s.begin.Dir; top.Ino != was.Ino || top.Born != was.Born {
		return fmt.Errorf("%s is another directory than the one that was being changed", e.s.begin.Root)
	}
	if e.name == "" {
		return nil
	}
	if err = e.openStage(); fsat.Gone(err) && (!e.s.started || e.s.carried) {
		e.name = "" // not made yet, or emptied and removed
		return nil
	}
	return err
}

func (e *engine) report() *Report {
	r := &Report{}
	index := map[string]int{}
	for _, o := range e.s.ops {
		i, ok := index[o.path]
		if !ok {
			i = len(r.Outcomes)
			index[o.path] = i
			r.Outcomes = append(r.Outcomes, Outcome{Path: o.path, Verdict: Done})
		}
		if e.s.started {
			merge(&r.Outcomes[i], e.outcome(o))
		}
	}
	return r
}

// dissolve removes a stage of which nothing has gone into the project.
func (e *engine) dissolve() error {
	if e.stage == nil {
		return nil
	}
	var errs []error
	names, err := entries(int(e.stage.Fd()))
	errs = append(errs, err)
	for _, n := range names {
		errs = append(errs, e.discard(int(e.stage.Fd()), n))
	}
	if e.name != "" {
		errs = append(errs, e.removeStage())
	}
	return errors.Join(errs...)
}

func entries(fd int) ([]string, error) {
	dir, err := fsat.OpenDir(fd, "") // an offset of its own
	if err != nil {
		return nil, err
	}
	defer fsat.Close(dir)
	var out []string
	err = fsat.Entries(dir, make([]byte, 32<<10), func(n []byte, _ fsat.Type) { out = append(out, string(n)) })
	return out, err
}

// where says how far a deed has come, by looking.
type where int

const (
	before where = iota
	after
	// between: it was done, and was being put back: what lies in the slot is to go
	// into the project again.
	between
)

func (e *engine) where(o op) (where, error) {
	st, err := fsat.StatAt(int(e.stage.Fd()), slot(o.n))
	if err != nil && !fsat.Gone(err) {
		return before, err
	}
	gone := err != nil
	pick := func(done bool) (where, error) {
		if done {
			return after, nil
		}
		return before, nil
	}
	switch o.do {
	case put:
		return pick(gone)
	case take:
		return pick(!gone)
	case swap:
		mark, marked := e.s.back[o.n]
		switch {
		case gone || idOf(st).same(o.staged):
			if !gone && marked {
				if same, _ := e.holds(o, o.to); !same {
					return between, nil // edited where it was for a moment
				}
			}
			return before, nil
		case marked && !idOf(st).same(mark):
			return between, nil // somebody's edit came out
		}
		return after, nil
	}
	var now *change.State
	dir, name, err := e.p.parent(o.path)
	if err == nil {
		defer fsat.Close(dir)
		now, _, err = stateOf(dir, name)
	}
	if err != nil && !fsat.Gone(err) {
		return before, err
	}
	switch {
	case o.do == drop:
		return pick(now == nil)
	case change.Same(now, o.to):
		return after, nil
	case change.Same(now, o.from):
		return before, nil
	}
	// It has not been made or is removed, or a later deed has changed it once more:
	// then this one's end is written down. Or somebody else did something.
	return pick(e.s.is[o.n].Verdict == Done)
}

// same leaves the device out: its number changes when a machine starts again.
func (a id) same(b id) bool { return a.Ino == b.Ino && a.Born == b.Born }

// goOn does what is not done yet.
func (e *engine) goOn() {
	for _, o := range e.s.ops {
		if !e.stays(o) {
			e.ends(o, e.resume(o))
		}
	}
}

func (e *engine) resume(o op) isRecord {
	at, err := e.where(o)
	switch {
	case err != nil:
		return ended(Failed, reason(err))
	case at == before:
		return e.carry(o)
	case o.do != take && o.do != swap:
		return ended(Done, "")
	}
	if at == after {
		if got, _ := e.holds(o, o.from); got {
			return ended(Done, "") // where its directory has been removed, too
		}
	}
	dir, name, err := e.p.parent(o.path)
	if err != nil {
		is := notThere(err)
		is.Kept = true
		return is
	}
	defer fsat.Close(dir)
	if at == between {
		return e.again(dir, name, o)
	}
	return e.compare(dir, name, o)
}

// again gives an edit back that came out when an exchange was undone.
func (e *engine) again(dir int, name string, o op) isRecord {
	e.at("before again " + o.path)
	err := fsat.Exchange(int(e.stage.Fd()), slot(o.n), dir, name)
	e.at("after again " + o.path)
	if err != nil {
		return isRecord{Verdict: Failed, Why: reason(err), Kept: true}
	}
	return isRecord{Verdict: Conflict, Why: "it was edited meanwhile", Kept: true}
}

// takeBack undoes what is done, the last first.
func (e *engine) takeBack() error {
	var swaps []op
	for _, o := range e.s.ops {
		if o.do != swap || e.stays(o) {
			continue
		}
		at, err := e.where(o)
		if err != nil {
			return fmt.Errorf("%s of deed %d: %w", o.do, o.n, err)
		}
		if _, marked := e.s.back[o.n]; at == after && !marked {
			swaps = append(swaps, o)
		}
	}
	if err := e.mark(swaps...); err != nil {
		return err
	}
	for _, o := range slices.Backward(e.s.ops) {
		if !e.stays(o) {
			e.ends(o, e.inverse(o))
		}
	}
	return nil
}

// stays says that a deed could not be done, which is the end of it. What is written
// down as done or back may be otherwise by now: an attempt to go the other way may
// have been interrupted before it wrote.
func (e *engine) stays(o op) bool {
	is, ended := e.s.is[o.n]
	return ended && is.Verdict != Done && is.Verdict != Back
}

func (e *engine) inverse(o op) isRecord {
	at, err := e.where(o)
	if err != nil {
		return isRecord{Verdict: Failed, Why: reason(err), Kept: true}
	}
	if at == before {
		return ended(Back, "")
	}
	dir, name, err := e.p.parent(o.path)
	if err != nil {
		is := notThere(err)
		is.Kept = o.do == take || o.do == swap
		return is
	}
	defer fsat.Close(dir)
	if at == between {
		return e.again(dir, name, o)
	}
	e.at("before undo " + string(o.do) + " " + o.path)
	switch o.do {
	case swap:
		return e.undoSwap(dir, name, o)
	case put:
		return e.undoPut(dir, name, o)
	case take:
		err = fsat.RenameNew(int(e.stage.Fd()), slot(o.n), dir, name)
		if errors.Is(err, fsat.EEXIST) {
			return isRecord{Verdict: Conflict, Why: "it was created meanwhile", Kept: true}
		}
	case drop:
		err = e.undoDrop(dir, name, o)
	case mode:
		err = e.chmod(dir, name, o.to.Mode, o.from.Mode)
	}
	switch {
	case errors.Is(err, errMeanwhile):
		return ended(Conflict, err.Error())
	case fsat.Gone(err) && o.do == mode:
		return ended(Conflict, "it was deleted meanwhile")
	case err != nil:
		return isRecord{Verdict: Failed, Why: reason(err), Kept: o.do == take}
	}
	return ended(Back, "")
}

func (e *engine) undoSwap(dir int, name string, o op) isRecord {
	if isDir(o.to) && !empty(dir, name) {
		return isRecord{Verdict: Conflict, Why: "there is something new in the directory", Kept: true}
	}
	kept, err := e.exchangeBack(dir, name, o)
	switch {
	case err != nil:
		return isRecord{Verdict: Failed, Why: reason(err), Kept: true}
	case kept:
		return isRecord{Verdict: Conflict, Why: "it was edited meanwhile", Kept: true}
	}
	return ended(Back, "")
}

// undoPut takes out what was put in, if it is still that.
func (e *engine) undoPut(dir int, name string, o op) isRecord {
	st, err := fsat.StatAt(dir, name)
	if err != nil || !idOf(st).same(o.staged) {
		return ended(Conflict, "it was changed meanwhile")
	}
	if isDir(o.to) && !empty(dir, name) {
		return ended(Conflict, "there is something new in the directory")
	}
	fd, in := int(e.stage.Fd()), slot(o.n)
	if err := fsat.RenameNew(dir, name, fd, in); err != nil {
		return ended(Conflict, reason(err))
	}
	if e.isStaged(o) {
		return ended(Back, "")
	}
	e.at("before back " + o.path)
	err = fsat.RenameNew(fd, in, dir, name)
	return isRecord{Verdict: Conflict, Why: "it was edited meanwhile", Kept: err != nil}
}

// undoDrop makes a directory again.
func (e *engine) undoDrop(dir int, name string, o op) error {
	fd, in := int(e.stage.Fd()), slot(o.n)
	if err := fsat.MakeDir(fd, in, 0o700); err != nil && !errors.Is(err, fsat.EEXIST) {
		return err
	}
	if err := chmodAt(fd, in, o.from.Mode); err != nil {
		return err
	}
	err := fsat.RenameNew(fd, in, dir, name)
	if errors.Is(err, fsat.EEXIST) {
		return nil // somebody has made it
	}
	return err
}

// fetch moves what was taken out from the private directory in the project to its
// place beside the journal. What is no file, symlink or empty directory stays.
func (e *engine) fetch(o op) error {
	from, to, name := int(e.stage.Fd()), int(e.slots.Fd()), slot(o.n)
	st, err := fsat.StatAt(from, name)
	if fsat.Gone(err) {
		return nil // moved already
	}
	if err != nil {
		return err
	}
	e.at("fetch " + o.path)
	switch st.Type {
	case fsat.Dir:
		if err = fsat.MakeDir(to, name, 0o700); errors.Is(err, fsat.EEXIST) {
			err = nil
		}
	case fsat.Symlink:
		var text string
		if text, err = fsat.Readlink(from, name); err == nil {
			err = fsat.MakeSymlink(text, to, name)
			if errors.Is(err, fsat.EEXIST) {
				err = nil
			}
		}
	case fsat.File:
		err = fetchFile(from, to, name, st.Mode)
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	e.at("fetched " + o.path)
	return fsat.Unlink(from, name, st.Type == fsat.Dir)
}

func fetchFile(from, to int, name string, mode uint32) error {
	src, _, err := fsat.OpenFile(from, name)
	if err != nil {
		return err
	}
	defer src.Close()
	part := name + ".part"
	if err := fsat.Unlink(to, part, false); err != nil && !fsat.Gone(err) {
		return err
	}
	dst, err := fsat.Create(to, part, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	if err == nil {
		err = dst.Sync()
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return err
	}
	err = fsat.RenameNew(to, part, to, name)
	if errors.Is(err, fsat.EEXIST) { // killed before the source was removed
		return fsat.Unlink(to, part, false)
	}
	return err
}

// Undo returns the steps that take the run in dir back, for another Run: what it
// did at each path, turned round. The contents are those that it has kept: dir must
// stay until that Run is over.
func Undo(dir string) ([]Step, error) {
	s, lock, err := read(dir)
	if errors.Is(err, errNoBeginning) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if !s.ended {
		return nil, errors.New("it was interrupted: it has to be finished or taken back first")
	}
	side := kept{dir: dir, slots: map[string]string{}}
	var steps []Step
	index := map[string]int{}
	for _, o := range s.ops {
		if s.is[o.n].Verdict != Done {
			continue
		}
		if i, ok := index[o.path]; ok {
			steps[i].Expect = o.to
		} else {
			index[o.path] = len(steps)
			steps = append(steps, Step{Path: o.path, Expect: o.to, Want: o.from, Content: side, SetID: true})
		}
		if o.do == take || o.do == swap {
			side.slots[o.path] = slot(o.n)
		}
	}
	return steps, nil
}

// kept is what a run has taken out.
type kept struct {
	dir   string
	slots map[string]string
}

func (k kept) Open(path string) (io.ReadCloser, error) {
	name, ok := k.slots[path]
	if !ok {
		return nil, fs.ErrNotExist
	}
	fd, err := fsat.OpenRoot(k.dir)
	if err != nil {
		return nil, err
	}
	defer fsat.Close(fd)
	f, _, err := fsat.OpenFile(fd, slotsDir+"/"+name)
	return f, err
}

// Left says in what state the run in dir has left each path that it changed; nil is
// that nothing is there.
func Left(dir string) (map[string]*change.State, error) {
	s, lock, err := read(dir)
	if errors.Is(err, errNoBeginning) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	out := map[string]*change.State{}
	for _, o := range s.ops {
		switch s.is[o.n].Verdict {
		case Done:
			out[o.path] = o.to
		case Back:
			out[o.path] = o.from
		}
	}
	return out, nil
}
