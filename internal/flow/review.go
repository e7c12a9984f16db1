package flow

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cofferdam/internal/event"
	"cofferdam/internal/linux/fsat"
	"cofferdam/internal/plan"
	"cofferdam/internal/session"
	"cofferdam/internal/workspace/apply"
	"cofferdam/internal/workspace/change"
	"cofferdam/internal/workspace/risk"
)

// changeSource finds the changes of a session.
type changeSource func(*session.Store, session.Info) (set change.Set, old, new change.Side, err error)

// Changes are what a session has changed and what has not been carried over, with
// what there is to say about it.
type Changes struct {
	Session   session.Info
	Workspace string
	// Set is what can be carried over.
	Set      change.Set
	Old, New change.Side
	// Risks has one for each entry of the set.
	Risks []risk.Risk
	// Edited are paths that were edited in the project after the run had begun.
	Edited map[string]bool
	// Hidden counts changes that are never carried over: git's own memory, devices.
	Hidden int
	// whole is the set before Only: what is carried over may need directories that
	// were not named.
	whole []change.Entry
	risks map[string]risk.Risk
	plan  *plan.Plan
	judge *risk.Judge // knows the plan's guarded names
}

// NoChangesError: there is nothing to look at.
type NoChangesError struct{ Session, Text string }

func (e *NoChangesError) Error() string { return e.Text }

// ChangesOf finds what a session has changed. key "" is the latest session of the
// project, in which the caller is, that has something. With paths only what they
// name and what is below.
func ChangesOf(ctx context.Context, key string, paths []string, c Caller) (*Changes, error) {
	store, err := session.Open(c.Environ)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	out, err := findChanges(store, changesOf, key, c)
	if err != nil {
		return nil, err
	}
	if err := out.Only(paths, c); err != nil {
		return nil, err
	}
	return out, ctx.Err()
}

// Only leaves what the paths name, as seen from the caller, and what is below; none
// is all.
func (c *Changes) Only(paths []string, caller Caller) error {
	named, err := inProject(c.Workspace, paths, caller)
	if err == nil && len(named) > 0 {
		c.onlyAt(func(i int) bool { return under(c.Set.Entries[i].Path, named) })
	}
	return err
}

func findChanges(store *session.Store, from changeSource, key string, c Caller) (*Changes, error) {
	if key != "" {
		info, err := store.Find(key)
		if err != nil {
			return nil, err
		}
		return readChanges(store, from, info)
	}
	list, err := projectSessions(store, c)
	if err != nil {
		return nil, err
	}
	var none *NoChangesError
	var noCopy *NoCopyError
	for _, i := range list {
		out, err := readChanges(store, from, i)
		switch {
		case errors.As(err, &none), errors.As(err, &noCopy):
			continue
		case err != nil:
			return nil, err
		case len(out.Set.Entries) > 0:
			return out, nil
		}
	}
	return nil, &NoChangesError{Text: "no session of this project has changes that are not in it"}
}

// projectSessions are the sessions of the project in which the caller is, the latest
// first.
func projectSessions(store *session.Store, c Caller) ([]session.Info, error) {
	dir, err := filepath.EvalSymlinks(c.Dir)
	if err != nil {
		return nil, &UsageError{Text: "the working directory: " + err.Error(), Hint: "name the session"}
	}
	list, err := store.List()
	if err != nil {
		return nil, err
	}
	list = slices.DeleteFunc(list, func(i session.Info) bool {
		return i.State.Workspace == "" || !within(dir, i.State.Workspace)
	})
	slices.Reverse(list)
	return list, nil
}

func readChanges(store *session.Store, from changeSource, i session.Info) (*Changes, error) {
	set, old, new, err := from(store, i)
	if err != nil {
		return nil, err
	}
	p, err := store.Plan(i)
	if err != nil {
		return nil, err
	}
	out := &Changes{plan: p, Session: i, Workspace: i.State.Workspace, Set: set, Old: old, New: new, Edited: map[string]bool{}}
	if out.judge, err = risk.New(p.Guards, p.Workspace); err != nil {
		return nil, err
	}
	out.Risks = out.judge.Of(&out.Set, old, new)
	n := len(out.Set.Entries)
	out.onlyAt(func(i int) bool { return out.Risks[i].Class != risk.Never })
	out.Hidden = n - len(out.Set.Entries)
	out.whole, out.risks = out.Set.Entries, map[string]risk.Risk{}
	for i, e := range out.whole {
		out.risks[e.Path] = out.Risks[i]
	}
	return out, out.findEdits(beginning(store, i))
}

func (c *Changes) onlyAt(keep func(int) bool) {
	var entries []change.Entry
	var risks []risk.Risk
	for i, e := range c.Set.Entries {
		if keep(i) {
			entries, risks = append(entries, e), append(risks, c.Risks[i])
		}
	}
	c.Set.Entries, c.Risks = entries, risks
}

// findEdits finds what was edited in the project since the run began: its change time
// is not before that, and nobody can set it back. What an apply of ours has left, and
// is still so, is no edit.
func (c *Changes) findEdits(began time.Time) error {
	root, err := fsat.OpenRoot(c.Workspace)
	if err != nil {
		return &NoChangesError{Session: c.Session.ID, Text: "the project of session " + c.Session.ID + " can't be opened: " + err.Error()}
	}
	defer fsat.Close(root)
	left, err := leftStates(c.Session.Dir)
	if err != nil {
		return &session.Error{Op: "read", Path: appliedDir(c.Session.Dir), Err: err}
	}
	since := began.UnixNano()
	for _, e := range c.Set.Entries {
		if e.Old == nil || e.Old.Type == change.Directory {
			continue
		}
		st, err := fsat.StatAt(root, e.Path)
		was, ours := left[e.Path]
		c.Edited[e.Path] = (err != nil || st.Ctime >= since) && !(ours && change.Same(was, e.Old))
	}
	return nil
}

// beginning is when a session began to have a project of its own, by the clock of the
// files if that is known.
func beginning(store *session.Store, i session.Info) time.Time {
	if c, err := copyOf(store, i); err == nil && !c.Since.IsZero() {
		return c.Since
	}
	return i.State.Created
}

// inProject turns names of the command line into paths of the project.
func inProject(workspace string, paths []string, c Caller) ([]string, error) {
	dir, err := filepath.EvalSymlinks(c.Dir)
	if err != nil && len(paths) > 0 {
		return nil, &UsageError{Text: "the working directory: " + err.Error(), Hint: "go to the project"}
	}
	var out []string
	for _, p := range paths {
		abs := p
		if !filepath.IsAbs(p) {
			abs = filepath.Join(dir, p)
		}
		rel, err := filepath.Rel(workspace, abs)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			return nil, &UsageError{Text: p + " is not in " + workspace, Hint: "name paths of the project, as seen from here"}
		}
		out = append(out, rel)
	}
	return out, nil
}

// under says whether a path is named, or below what is named. "." is all.
func under(path string, named []string) bool {
	return slices.ContainsFunc(named, func(n string) bool { return n == "." || within(path, n) })
}

// The journals of a session's applies: applied/1, and applied/1.undo if it was taken
// back, applied/2 and so on.
func appliedDir(folder string) string { return filepath.Join(folder, "applied") }

const undoSuffix = ".undo"

// applies lists the journals in the order in which they were made.
func applies(folder string) ([]string, error) {
	entries, err := os.ReadDir(appliedDir(folder))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if _, ok := applyNumber(e.Name()); ok {
			out = append(out, e.Name())
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		x, _ := applyNumber(a)
		y, _ := applyNumber(b)
		if x != y {
			return x - y
		}
		return len(a) - len(b) // the undo comes after
	})
	return out, nil
}

func applyNumber(name string) (int, bool) {
	n, err := strconv.Atoi(strings.TrimSuffix(name, undoSuffix))
	return n, err == nil && n > 0
}

func leftStates(folder string) (map[string]*change.State, error) {
	names, err := applies(folder)
	if err != nil {
		return nil, err
	}
	all := map[string]*change.State{}
	for _, n := range names {
		left, err := apply.Left(filepath.Join(appliedDir(folder), n))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", n, err)
		}
		for p, s := range left {
			all[p] = s
		}
	}
	return all, nil
}

// withSum reads what nobody has read yet: the engine wants to know what it replaces.
func withSum(s *change.State, side change.Side, path string) (*change.State, error) {
	if s == nil || s.Type != change.File || s.Sum != "" {
		return s, nil
	}
	f, err := side.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	t := *s
	if t.Size, err = io.Copy(h, f); err != nil {
		return nil, err
	}
	t.Sum = hex.EncodeToString(h.Sum(nil))
	return &t, nil
}

// Change is one entry, for programs.
type Change struct {
	Path string        `json:"path"` // as events have it: a byte that is no text is \xNN
	Old  *change.State `json:"old,omitempty"`
	New  *change.State `json:"new,omitempty"`
	risk.Risk
	// Edited: somebody has edited it in the project meanwhile.
	Edited bool `json:"edited,omitempty"`
}

// List is the changes, for programs.
func (c *Changes) List() []Change {
	out := make([]Change, len(c.Set.Entries))
	state := func(s *change.State) *change.State {
		if s == nil {
			return nil
		}
		t := *s
		t.Link = event.Escape(s.Link)
		return &t
	}
	for i, e := range c.Set.Entries {
		out[i] = Change{event.Escape(e.Path), state(e.Old), state(e.New), c.Risks[i], c.Edited[e.Path]}
	}
	return out
}
