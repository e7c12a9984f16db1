package flow

import (
	"cofferdam/internal/session"
	"cofferdam/internal/workspace/change"
	workcopy "cofferdam/internal/workspace/copy"
)

// changesOf are the changes that a session has made and that can be looked at: those in
// its copy. old is the project as it is now, new the copy.
func changesOf(store *session.Store, i session.Info) (set change.Set, old, new change.Side, err error) {
	if !workcopy.Exists(i.Dir) {
		return set, nil, nil, &NoCopyError{ID: i.ID, Applies: i.State.Copy}
	}
	c, err := copyOf(store, i)
	if err != nil {
		return set, nil, nil, err
	}
	return c.Changes(i.Dir, i.State.Workspace)
}

// copyOf is what a session remembers of its copy.
func copyOf(store *session.Store, i session.Info) (c workcopy.Copy, err error) {
	return c, store.Read(i, session.CopyFile, &c)
}
