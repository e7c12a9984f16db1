// Package apply carries changes over into a project, and takes them back. It
// decides nothing: what is wanted is a list of steps, made by whoever knows why
// (apply, its undo, rollback).
//
// The project may be written by others meanwhile, also by hostile ones. Each step
// says what it expects in its place; only that is replaced or removed. A step is
// one rename, so each name has at every moment the old or the new content:
//
//	stage       content to a file in a private directory, compared with what is
//	            wanted, and synced: a full disk ends it here, with nothing done
//	journal     what will be done, synced
//	carry out   rename a new entry to its name, which must be free; exchange it
//	            with the old one; or take the old one out
//	compare     what came out with what was expected. If it is something else, it
//	            is put back: a conflict. Nobody's edit is lost
//
// What came out is kept beside the journal: Undo makes steps of it. Whoever is
// killed in between leaves a journal that Look finds and Recover finishes or takes
// back.
//
//	dir/               made by Run, on whatever file system
//	  journal          lines of JSON; locked as long as somebody works on it
//	  slots/N          what was taken out by deed N
//
// The private directory is dir/slots if it is on the project's file system, else
// .cofferdam-apply-* in the project for as long as it takes.
package apply

import (
	"cofferdam/internal/workspace/change"
)

// Step is what shall be done with one path.
type Step struct {
	// Path is relative to the project, "/"-separated, in the kernel's bytes.
	Path string
	// Expect is what must be in its place; nil is nothing. A file needs its Sum.
	Expect *change.State
	// Want is what shall be there; nil is nothing. A file needs its Sum, and what
	// Content gives is compared with it: what was shown is what comes.
	Want *change.State
	// Content has the file that is wanted, by Path.
	Content change.Side
	// SetID lets a wanted file be set-user-ID or set-group-ID. Without it such a
	// step is refused.
	SetID bool
}

// Verdict is how a step ended.
type Verdict string

const (
	Done    Verdict = "done"    // it is as wanted
	Already Verdict = "already" // it was as wanted before; nothing was done
	// Conflict: something else than expected is there, or came to be there
	// meanwhile. It was left as it is.
	Conflict Verdict = "conflict"
	// Refused: this is never done, whatever is there.
	Refused Verdict = "refused"
	// Failed: the system said no. What was there is still there.
	Failed Verdict = "failed"
	// Back: it was done and is taken back (Recover only).
	Back Verdict = "back"
)

// Outcome is what became of one step.
type Outcome struct {
	Path    string
	Verdict Verdict
	// Why is in words, unless it is done. It holds no text from the project.
	Why string
	// Kept is where a version lies that is neither in the project nor known to
	// anybody: two edits came at once. Absolute.
	Kept string
}

// Report is what became of all steps, in their order.
type Report struct {
	Outcomes []Outcome
}

// All says whether every step is as wanted.
func (r *Report) All() bool {
	for _, o := range r.Outcomes {
		if o.Verdict != Done && o.Verdict != Already {
			return false
		}
	}
	return true
}

// Steps makes steps of changes: from the old to the new, whose content new has.
// Who wants the way back gives Reverse(entries) and the old side.
func Steps(entries []change.Entry, content change.Side) []Step {
	steps := make([]Step, len(entries))
	for i, e := range entries {
		steps[i] = Step{Path: e.Path, Expect: e.Old, Want: e.New, Content: content}
	}
	return steps
}

// Reverse exchanges old and new.
func Reverse(entries []change.Entry) []change.Entry {
	out := make([]change.Entry, len(entries))
	for i, e := range entries {
		out[i] = change.Entry{Path: e.Path, Old: e.New, New: e.Old}
	}
	return out
}
