package apply

import (
	"errors"
	"fmt"
	"os"
	"path"

	"cofferdam/internal/linux/fsat"
	"cofferdam/internal/workspace/change"
)

// ends writes down how a deed ended. If it can't be written, Recover finds out by
// looking: what lies in the slot tells.
func (e *engine) ends(o op, is isRecord) {
	is.N = o.n
	e.s.is[o.n] = is
	e.at("ended " + string(o.do) + " " + o.path)
	_ = e.j.write(record{Is: &is})
}

func ended(v Verdict, why string) isRecord { return isRecord{Verdict: v, Why: why} }

// carry does one deed, if what it expects is there.
func (e *engine) carry(o op) isRecord {
	dir, name, err := e.p.parent(o.path)
	if err != nil {
		return notThere(err)
	}
	defer fsat.Close(dir)
	if why := e.inTheWay(dir, name, o); why != "" {
		return ended(Conflict, why)
	}
	stage, in := int(e.stage.Fd()), slot(o.n)
	e.at("before " + string(o.do) + " " + o.path)
	switch o.do {
	case mode:
		err = e.chmod(dir, name, o.from.Mode, o.to.Mode)
	case drop:
		err = fsat.Unlink(dir, name, true)
	case put:
		err = fsat.RenameNew(stage, in, dir, name)
	case take:
		err = fsat.RenameNew(dir, name, stage, in)
	case swap:
		err = fsat.Exchange(stage, in, dir, name)
	}
	e.at("after " + string(o.do) + " " + o.path)
	switch {
	case err != nil:
		return refusal(err, o)
	case o.do == take || o.do == swap:
		return e.compare(dir, name, o)
	}
	return ended(Done, "")
}

// notThere is why the directory of an entry can't be opened.
func notThere(err error) isRecord {
	switch {
	case errors.Is(err, errOtherMount), errors.Is(err, errOtherName):
		return ended(Refused, err.Error())
	case fsat.Gone(err):
		return ended(Conflict, "the directory that it lies in is gone, or is none any more")
	}
	return ended(Failed, reason(err))
}

// refusal is why the kernel did not do it.
func refusal(err error, o op) isRecord {
	switch {
	case errors.Is(err, errMeanwhile):
		return ended(Conflict, err.Error())
	case errors.Is(err, fsat.EEXIST) && o.do == put:
		return ended(Conflict, "it was created meanwhile")
	case errors.Is(err, fsat.ENOTEMPTY), errors.Is(err, fsat.EEXIST) && o.do == drop:
		return ended(Conflict, "there is something new in the directory")
	case fsat.Gone(err):
		return ended(Conflict, "it was deleted meanwhile")
	case errors.Is(err, fsat.EXDEV):
		return ended(Refused, errOtherMount.Error())
	case errors.Is(err, fsat.EINVAL) && o.do != mode:
		return ended(Refused, "this file system can't exchange two files, nor rename without replacing")
	}
	return ended(Failed, reason(err))
}

// inTheWay compares what can be seen without reading, right before the deed: most
// conflicts are found here, and nothing has to be put back. It proves nothing.
func (e *engine) inTheWay(dir int, name string, o op) string {
	now, _, err := stateOf(dir, name)
	if err != nil {
		return "" // the deed will say
	}
	if now != nil && isFile(o.from) && now.Type == change.File && now.Size == o.from.Size {
		now.Sum = o.from.Sum
	}
	switch {
	case !change.Same(now, o.from):
		return difference(o.from, now)
	case o.do == swap && isDir(o.from) && !empty(dir, name):
		return "there is something new in the directory"
	}
	return ""
}

func empty(dir int, name string) bool {
	fd, err := fsat.OpenDir(dir, name)
	if err != nil {
		return false
	}
	defer fsat.Close(fd)
	found := false
	err = fsat.Entries(fd, make([]byte, 4<<10), func([]byte, fsat.Type) { found = true })
	return err == nil && !found
}

var errMeanwhile = errors.New("its mode was changed meanwhile")

// chmod changes the mode of the one directory that is looked at.
func (e *engine) chmod(dir int, name string, from, to uint32) error {
	fd, err := fsat.OpenAny(dir, name)
	if err != nil {
		return err
	}
	defer fsat.Close(fd)
	st, err := fsat.StatFd(fd)
	if err != nil {
		return err
	}
	if st.Type != fsat.Dir || st.Mode != from {
		return errMeanwhile
	}
	return fsat.Chmod(fd, to)
}

// compare looks at what came out. In the slot nobody can exchange it.
func (e *engine) compare(dir int, name string, o op) isRecord {
	got, why := e.holds(o, o.from)
	if got {
		return ended(Done, "")
	}
	kept, err := e.putBack(dir, name, o)
	if err != nil {
		return isRecord{Verdict: Failed, Why: "it is not what was expected (" + why + "), and could not be put back: " + reason(err), Kept: true}
	}
	return isRecord{Verdict: Conflict, Why: why, Kept: kept}
}

// holds says whether the slot has exactly this, and if not, what is otherwise.
func (e *engine) holds(o op, want *change.State) (bool, string) {
	fd, in := int(e.stage.Fd()), slot(o.n)
	got, _, err := stateOf(fd, in, sizes(want)...)
	switch {
	case err != nil:
		return false, "it can't be read: " + reason(err)
	case !change.Same(got, want):
		return false, difference(want, got)
	case isDir(want) && !empty(fd, in):
		return false, "there is something new in the directory"
	}
	return true, ""
}

// putBack gives the project back what lies in the slot. kept: what is left in the
// slot is a version that nobody else has.
func (e *engine) putBack(dir int, name string, o op) (kept bool, err error) {
	fd, in := int(e.stage.Fd()), slot(o.n)
	if o.do == take {
		e.at("before back " + o.path)
		err := fsat.RenameNew(fd, in, dir, name)
		e.at("after back " + o.path)
		if errors.Is(err, fsat.EEXIST) {
			return true, nil // somebody has made a new one
		}
		return false, err
	}
	if err := e.mark(o); err != nil {
		return true, err
	}
	return e.exchangeBack(dir, name, o)
}

// mark writes down what lies in the slot before it is put back.
func (e *engine) mark(list ...op) error {
	var marks []backMark
	for _, o := range list {
		st, err := fsat.StatAt(int(e.stage.Fd()), slot(o.n))
		if err != nil {
			return err
		}
		marks = append(marks, backMark{o.n, idOf(st)})
		e.s.back[o.n] = idOf(st)
	}
	if len(marks) == 0 {
		return nil
	}
	e.at("mark")
	return e.j.sync(record{Back: marks})
}

// exchangeBack undoes an exchange. If what comes out then is not what was put in,
// somebody has edited it, and that is the newest: it goes back where it was, and
// the version before is kept.
func (e *engine) exchangeBack(dir int, name string, o op) (kept bool, err error) {
	fd, in := int(e.stage.Fd()), slot(o.n)
	e.at("before back " + o.path)
	err = fsat.Exchange(fd, in, dir, name)
	e.at("after back " + o.path)
	if fsat.Gone(err) { // somebody has deleted what was put in
		err = fsat.RenameNew(fd, in, dir, name)
		if errors.Is(err, fsat.EEXIST) {
			return true, nil
		}
		return false, err
	}
	if err != nil {
		return true, err
	}
	if e.isStaged(o) {
		return false, nil
	}
	e.at("before again " + o.path)
	err = fsat.Exchange(fd, in, dir, name)
	e.at("after again " + o.path)
	return true, err
}

// isStaged says whether the slot has what was staged, untouched.
func (e *engine) isStaged(o op) bool {
	st, err := fsat.StatAt(int(e.stage.Fd()), slot(o.n))
	if err != nil || !idOf(st).same(o.staged) {
		return false
	}
	same, _ := e.holds(o, o.to)
	return same
}

// finish syncs the directories that have changed, moves what was taken out beside
// the journal, and writes its end.
func (e *engine) finish() error {
	var errs []error
	done := map[string]bool{}
	for _, o := range e.s.ops {
		up := path.Dir(o.path)
		if done[up] {
			continue
		}
		done[up] = true
		dir, _, err := e.p.parent(o.path)
		if err == nil {
			err = fsat.SyncDir(dir)
			fsat.Close(dir)
		}
		if err != nil && !fsat.Gone(err) && !errors.Is(err, os.ErrPermission) && !errors.Is(err, errOtherMount) && !errors.Is(err, errOtherName) {
			errs = append(errs, fmt.Errorf("sync: %w", err))
		}
	}
	e.at("carried")
	// Once more all of them: with a full disk, single ones may be missing.
	var lines []record
	for _, o := range e.s.ops {
		if is, ended := e.s.is[o.n]; ended {
			lines = append(lines, record{Is: &is})
		}
	}
	if err := e.j.sync(append(lines, record{Carried: true})...); err != nil {
		return errors.Join(append(errs, err)...)
	}
	if err := e.settle(); err != nil {
		return errors.Join(append(errs, err)...) // the journal stays open, for Recover
	}
	e.at("end")
	return errors.Join(append(errs, e.j.sync(record{End: true}))...)
}

// needed says whether a slot has something that is kept: an old version for Undo,
// or one that nobody else has.
func (e *engine) needed(o op) bool {
	is := e.s.is[o.n]
	return is.Kept || is.Verdict == Done && (o.do == take || o.do == swap)
}

// settle empties the stage: what is needed goes to dir/slots, the rest away.
func (e *engine) settle() error {
	var errs []error
	for _, o := range e.s.ops {
		var err error
		switch {
		case !e.needed(o):
			err = e.discard(int(e.stage.Fd()), slot(o.n))
		case e.name != "":
			err = e.fetch(o)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 && e.name != "" {
		errs = append(errs, e.removeStage())
	}
	return errors.Join(errs...)
}

func (e *engine) discard(dir int, name string) error {
	e.at("discard " + name)
	err := fsat.Unlink(dir, name, false)
	if err != nil && !fsat.Gone(err) {
		err = fsat.Unlink(dir, name, true)
	}
	if fsat.Gone(err) {
		return nil
	}
	return err
}

func (e *engine) removeStage() error {
	e.at("remove " + e.name)
	err := fsat.Unlink(e.p.fd, e.name, true)
	if fsat.Gone(err) {
		return nil
	}
	return err
}
