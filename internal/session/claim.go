package session

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"cofferdam/internal/linux/unixsock"
)

// Claim is an interrupted session in the hands of one process that finishes it.
type Claim struct {
	x *Session
}

// Claim takes over an interrupted session; ok is false if somebody else has it,
// or it is not interrupted any more. Who only looks whether a session lives holds
// its lock too, for a moment: that is waited for.
func (s *Store) Claim(ctx context.Context, i Info) (c *Claim, ok bool, err error) {
	root, err := s.folder(i)
	if err != nil {
		return nil, false, err
	}
	x := &Session{ID: i.ID, Dir: i.Dir, root: root, store: s.root}
	f, err := root.OpenFile(lockFile, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		_ = x.Close()
		return nil, false, err
	}
	x.lock = f
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := unixsock.Lock(ctx, f); err != nil {
		_ = x.Close()
		if errors.Is(err, unixsock.ErrLocked) {
			err = nil
		}
		return nil, false, err
	}
	if err := decode(root, stateFile, &x.state); err != nil || x.state.Ended != nil {
		_ = x.Close()
		return nil, false, err
	}
	return &Claim{x}, true, nil
}

// Settle marks the session as ended.
func (c *Claim) Settle() error {
	_ = c.x.root.Remove(socketFile)            // nobody answers there any more
	_ = c.x.root.Remove(answersFile)           // nor there
	_ = c.x.root.Remove(BaselineFile + ".new") // killed while it was written
	now := time.Now().UTC()
	c.x.state.Ended = &now
	c.x.state.Exit = &Exit{Status: -1, Error: "interrupted: its supervisor was killed"}
	err := c.x.save()
	if err == nil {
		err = c.x.unmark() // a session that is not known to have ended keeps its mark
	}
	return errors.Join(err, c.x.Close())
}

// Release leaves the session as it was, for the next one to try.
func (c *Claim) Release() { _ = c.x.Close() }
