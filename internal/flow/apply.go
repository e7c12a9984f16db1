package flow

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"cofferdam/internal/event"
	"cofferdam/internal/linux/unixsock"
	"cofferdam/internal/session"
	"cofferdam/internal/workspace/apply"
	"cofferdam/internal/workspace/change"
	"cofferdam/internal/workspace/risk"
)

// ApplyOptions is what the person asked for.
type ApplyOptions struct {
	Session string   // "" is the latest of this project that has something
	Paths   []string // what is meant, and all below; none is all
	// Yes carries what is flagged over, too. What is protected has to be named.
	Yes  bool
	Undo bool // take the last apply of the session back
	// Pick asks the person about each change, instead.
	Pick func(*Changes) ([]Choice, error)
}

// Choice is one change that shall be carried over.
type Choice struct {
	Path string
	// Content is what shall come in place of what the session has, if it is set: a
	// part of its hunks, or what was merged.
	Content []byte
	// Protected: the person was told why it is protected, and wants it.
	Protected bool
	// Edited: the person knows that the project's was edited, and wants this.
	Edited bool
}

// Applied is what became of it.
type Applied struct {
	Session   string `json:"session"`
	Workspace string `json:"workspace"`
	Undone    bool   `json:"undone,omitempty"`
	// Done are the paths that are as wanted now.
	Done []string `json:"done"`
	// Left were not asked for: they are flagged or protected, and not named.
	Left []Unapplied `json:"left,omitempty"`
	// Failed were asked for, and are as they were.
	Failed []Unapplied `json:"failed,omitempty"`
	// Recovered are earlier applies that had been interrupted and were taken back.
	Recovered []string `json:"recovered,omitempty"`
}

// Unapplied is one change that was not carried over.
type Unapplied struct {
	Path string `json:"path"`
	// Kind is "flagged", "protected", or how the engine calls it: "conflict",
	// "refused", "failed".
	Kind string `json:"kind"`
	Why  string `json:"why"`
	Kept string `json:"kept,omitempty"` // where another version of it lies
}

// Apply carries changes of a session over into its project, or takes that back.
func Apply(ctx context.Context, o ApplyOptions, c Caller) (*Applied, error) {
	store, err := session.Open(c.Environ)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return applyFrom(ctx, store, changesOf, o, c)
}

func applyFrom(ctx context.Context, store *session.Store, from changeSource, o ApplyOptions, c Caller) (*Applied, error) {
	if o.Undo {
		return undoApply(ctx, store, o, c)
	}
	ch, err := findChanges(store, from, o.Session, c)
	if err != nil {
		return nil, err
	}
	out, release, err := begin(store, ch.Session)
	if err != nil {
		return nil, err
	}
	defer release()
	if len(out.Recovered) > 0 { // the project is another one than was looked at
		if ch, err = readChanges(store, from, ch.Session); err != nil {
			return nil, err
		}
	}
	var choices []Choice
	if o.Pick != nil {
		choices, err = o.Pick(ch)
	} else {
		choices, err = choose(ch, o, out, c)
	}
	if err != nil {
		return nil, err
	}
	steps, err := stepsOf(ch, choices, out)
	if err != nil || len(steps) == 0 {
		return out, err
	}
	return out, carryOut(ctx, ch.Session, steps, false, out)
}

// begin makes sure that nobody writes in the project meanwhile: no run, no other
// apply. Applies that were interrupted are taken back first; what they carried over is
// still with their sessions.
func begin(store *session.Store, i session.Info) (*Applied, func(), error) {
	out := &Applied{Session: i.ID, Workspace: i.State.Workspace, Done: []string{}}
	if i.Status == session.Live {
		return nil, nil, &session.ControlError{ID: i.ID, Text: "it is still running"}
	}
	list, err := store.List()
	if err != nil {
		return nil, nil, err
	}
	for _, other := range list {
		if other.Status == session.Live && writes(other, i.State.Workspace) {
			return nil, nil, &session.ControlError{ID: other.ID, Text: "it is running and writes in " + i.State.Workspace + ": what is carried over now could be exchanged on the way. End it first"}
		}
	}
	lock, err := lockProject(i)
	if err != nil {
		return nil, nil, err
	}
	for _, other := range list {
		if other.State.Workspace != i.State.Workspace {
			continue
		}
		names, err := recoverApplies(other)
		if err != nil {
			lock.Close()
			return nil, nil, &session.Error{Op: "take back an interrupted apply in", Path: appliedDir(other.Dir), Err: err, Hint: "what it has taken out of the project lies there"}
		}
		out.Recovered = append(out.Recovered, names...)
	}
	return out, func() { lock.Close() }, nil
}

// writes says whether a live session may change the project.
func writes(i session.Info, workspace string) bool {
	if i.State.Copy {
		return false
	}
	return within(i.State.Workspace, workspace) || within(workspace, i.State.Workspace)
}

// lockProject holds a lock for one project at a time, by a file in the sessions'
// directory whose name is made of the project's.
func lockProject(i session.Info) (*os.File, error) {
	sum := sha256.Sum256([]byte(i.State.Workspace))
	name := filepath.Join(filepath.Dir(i.Dir), ".apply-"+hex.EncodeToString(sum[:8]))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err == nil {
		if err = unixsock.TryLock(f, false); err != nil {
			f.Close()
		}
	}
	if err != nil {
		return nil, &session.Error{Op: "lock", Path: name, Err: err, Hint: "is another apply of this project running?"}
	}
	return f, nil
}

func recoverApplies(i session.Info) ([]string, error) {
	names, err := applies(i.Dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range names {
		dir := filepath.Join(appliedDir(i.Dir), n)
		state, err := apply.Look(dir)
		if err != nil {
			return nil, err
		}
		if state == apply.Ended {
			continue
		}
		r, err := apply.Recover(dir, apply.TakeBack)
		if err != nil {
			return nil, err
		}
		if state == apply.Interrupted {
			out = append(out, i.ID+"/"+n)
		}
		if state == apply.Unbegun || strings.HasSuffix(n, undoSuffix) {
			if err := forget(dir, r); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// forget removes a journal of which nothing is left to tell: an undo that was taken
// back is none.
func forget(dir string, r *apply.Report) error {
	for _, o := range r.Outcomes {
		if o.Kept != "" {
			return nil
		}
	}
	if _, err := os.Stat(dir); err != nil {
		return nil // it had not begun
	}
	steps, err := apply.Undo(dir)
	if err != nil || len(steps) > 0 {
		return err
	}
	return os.RemoveAll(dir)
}

// choose is what is carried over when nobody is asked.
func choose(ch *Changes, o ApplyOptions, out *Applied, c Caller) ([]Choice, error) {
	named, err := inProject(ch.Workspace, o.Paths, c)
	if err != nil {
		return nil, err
	}
	var list []Choice
	met := map[string]bool{}
	for i, e := range ch.Set.Entries {
		if len(named) > 0 && !under(e.Path, named) {
			continue
		}
		for _, n := range named {
			met[n] = met[n] || n == "." || within(e.Path, n)
		}
		r := ch.Risks[i]
		exact := slices.Contains(named, e.Path)
		switch {
		case ch.Edited[e.Path]:
			out.fail(e.Path, apply.Conflict, "it was edited in the project after the run had begun", "")
		case r.Class == risk.Protected && !exact && !ch.named(e.Path, named):
			out.Left = append(out.Left, Unapplied{event.Escape(e.Path), r.Class.String(), strings.Join(r.Reasons, "; "), ""})
		case r.Class == risk.Flagged && !exact && !o.Yes:
			out.Left = append(out.Left, Unapplied{event.Escape(e.Path), r.Class.String(), strings.Join(r.Reasons, "; "), ""})
		default:
			list = append(list, Choice{Path: e.Path, Protected: r.Class == risk.Protected})
		}
	}
	for _, n := range named {
		if !met[n] {
			return nil, &UsageError{Text: "no change in " + n, Hint: "cofferdam diff --stat " + ch.Session.ID + " lists them"}
		}
	}
	return list, nil
}

// named says whether a directory that is guarded itself is named, and the path in it.
// A symlink that leaves, or a set-ID program, is named by its own name only.
func (c *Changes) named(path string, named []string) bool {
	if !c.judge.Guarded(path) {
		return false
	}
	return slices.ContainsFunc(named, func(n string) bool { return n != "." && within(path, n) && c.judge.Guarded(n) })
}

func (a *Applied) fail(path string, kind apply.Verdict, why, kept string) {
	a.Failed = append(a.Failed, Unapplied{event.Escape(path), string(kind), why, kept})
}

// stepsOf makes steps of what was chosen. Directories that have to be made for it come
// along; a directory goes only if all goes that is in it.
func stepsOf(ch *Changes, choices []Choice, out *Applied) ([]apply.Step, error) {
	index := map[string]int{}
	for i, e := range ch.whole {
		index[e.Path] = i
	}
	chosen := map[string]Choice{}
	for _, c := range choices {
		i, ok := index[c.Path]
		if !ok {
			return nil, fmt.Errorf("%q is no change of session %s", c.Path, ch.Session.ID)
		}
		if ch.risks[c.Path].Class == risk.Protected && !c.Protected || ch.Edited[c.Path] && !c.Edited {
			return nil, fmt.Errorf("%q was chosen without a word", c.Path)
		}
		chosen[c.Path] = c
		for up := path.Dir(c.Path); up != "."; up = path.Dir(up) {
			j, changed := index[up]
			if _, has := chosen[up]; changed && !has && ch.whole[j].Old == nil && ch.whole[i].New != nil {
				chosen[up] = Choice{Path: up}
			}
		}
	}
	for _, e := range ch.whole { // what stays keeps its directories
		if _, has := chosen[e.Path]; has || e.Old == nil {
			continue
		}
		for up := path.Dir(e.Path); up != "."; up = path.Dir(up) {
			if j, changed := index[up]; changed && ch.whole[j].New == nil {
				delete(chosen, up)
			}
		}
	}
	var steps []apply.Step
	for _, e := range ch.whole {
		c, ok := chosen[e.Path]
		if !ok {
			continue
		}
		s, err := stepOf(ch, e, c)
		if err != nil {
			out.fail(e.Path, apply.Failed, "it can't be read: "+err.Error(), "")
			continue
		}
		s.SetID = ch.risks[e.Path].SetID && c.Protected
		steps = append(steps, s)
	}
	return steps, nil
}

func stepOf(ch *Changes, e change.Entry, c Choice) (s apply.Step, err error) {
	s = apply.Step{Path: e.Path, Content: ch.New}
	if s.Expect, err = withSum(e.Old, ch.Old, e.Path); err != nil {
		return s, err
	}
	if c.Content != nil && e.New != nil {
		t := *e.New
		sum := sha256.Sum256(c.Content)
		t.Size, t.Sum = int64(len(c.Content)), hex.EncodeToString(sum[:])
		s.Want, s.Content = &t, text(c.Content)
		return s, nil
	}
	s.Want, err = withSum(e.New, ch.New, e.Path)
	return s, err
}

// text is a side that has one content.
type text []byte

func (t text) Open(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(t)), nil }

// carryOut runs the engine and tells what became of it.
func carryOut(ctx context.Context, i session.Info, steps []apply.Step, undo bool, out *Applied) error {
	dir, err := nextApply(i.Dir, undo)
	if err != nil {
		return &session.Error{Op: "make", Path: appliedDir(i.Dir), Err: err}
	}
	r, err := apply.Run(ctx, i.State.Workspace, dir, steps)
	if r == nil {
		return &session.Error{Op: "apply with", Path: dir, Err: err}
	}
	for _, o := range r.Outcomes {
		switch o.Verdict {
		case apply.Done, apply.Already:
			out.Done = append(out.Done, event.Escape(o.Path))
		default:
			out.fail(o.Path, o.Verdict, o.Why, o.Kept)
		}
	}
	if err != nil {
		return &session.Error{Op: "finish", Path: dir, Err: err, Hint: "what is told as done is done; the next apply tidies up"}
	}
	return nil
}

// nextApply is the folder of the next journal; of an undo, that of the last one.
func nextApply(folder string, undo bool) (string, error) {
	dir := appliedDir(folder)
	if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
		return "", err
	}
	names, err := applies(folder)
	if err != nil {
		return "", err
	}
	n := 0
	for _, x := range names {
		n, _ = applyNumber(x)
	}
	if undo {
		last, err := lastApply(folder)
		return filepath.Join(dir, last+undoSuffix), err
	}
	return filepath.Join(dir, fmt.Sprint(n+1)), nil
}

// lastApply is the last one that was not taken back; "" if there is none.
func lastApply(folder string) (string, error) {
	names, err := applies(folder)
	if err != nil {
		return "", err
	}
	for _, n := range slices.Backward(names) {
		if strings.HasSuffix(n, undoSuffix) || slices.Contains(names, n+undoSuffix) {
			continue
		}
		steps, err := apply.Undo(filepath.Join(appliedDir(folder), n))
		if err != nil || len(steps) > 0 {
			return n, err
		}
	}
	return "", nil
}

func undoApply(ctx context.Context, store *session.Store, o ApplyOptions, c Caller) (*Applied, error) {
	i, err := undoSession(store, o.Session, c)
	if err != nil {
		return nil, err
	}
	out, release, err := begin(store, i)
	if err != nil {
		return nil, err
	}
	defer release()
	out.Undone = true
	last, err := lastApply(i.Dir)
	if err != nil {
		return nil, &session.Error{Op: "read", Path: appliedDir(i.Dir), Err: err}
	}
	if last == "" {
		return nil, &NoChangesError{Session: i.ID, Text: "nothing of session " + i.ID + " is applied that could be taken back"}
	}
	steps, err := apply.Undo(filepath.Join(appliedDir(i.Dir), last))
	if err != nil {
		return nil, &session.Error{Op: "read", Path: appliedDir(i.Dir), Err: err}
	}
	return out, carryOut(ctx, i, steps, true, out)
}

// undoSession is the session that is named, or the one of this project whose apply
// was the last.
func undoSession(store *session.Store, key string, c Caller) (session.Info, error) {
	if key != "" {
		return store.Find(key)
	}
	list, err := projectSessions(store, c)
	if err != nil {
		return session.Info{}, err
	}
	var last session.Info
	var when int64
	for _, i := range list {
		n, err := lastApply(i.Dir)
		if err != nil || n == "" {
			continue
		}
		if info, err := os.Stat(filepath.Join(appliedDir(i.Dir), n)); err == nil && info.ModTime().UnixNano() > when {
			last, when = i, info.ModTime().UnixNano()
		}
	}
	if when == 0 {
		return last, &NoChangesError{Text: "nothing was applied to this project that could be taken back"}
	}
	return last, nil
}
