package session

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cofferdam/internal/linux/unixsock"
)

func unfinished(t *testing.T, s *Store) ([]Info, func()) {
	t.Helper()
	list, done, err := s.Unfinished(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list, done
}

// Two that start at once: the second begins when the first has finished what was
// left, and not while it is at it.
func TestUnfinishedIsForOneAtATime(t *testing.T) {
	s, env := testStore(t)
	mustCreate(t, s, "").Close()
	other, err := Open(env)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	list, done := unfinished(t, s)
	if len(list) != 1 || list[0].Status != Interrupted {
		t.Fatalf("%+v", list)
	}
	c, ok, err := s.Claim(t.Context(), list[0])
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if list, _, err := other.Unfinished(soon); !errors.Is(err, unixsock.ErrLocked) {
		t.Errorf("the other one goes on: %+v %v", list, err)
	}
	if err := c.Settle(); err != nil {
		t.Fatal(err)
	}
	done()
	list, done = unfinished(t, other)
	done()
	if len(list) != 0 {
		t.Errorf("left: %+v", list)
	}
}

// Somebody who looks at a session does not keep it from being finished.
func TestClaimWaitsForReaders(t *testing.T) {
	s, _ := testStore(t)
	mustCreate(t, s, "").Close()
	list, done := unfinished(t, s)
	defer done()
	reader, err := os.Open(filepath.Join(list[0].Dir, lockFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := unixsock.TryLock(reader, true); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(30*time.Millisecond, func() { reader.Close() })
	c, ok, err := s.Claim(t.Context(), list[0])
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	c.Release()
}

// A session that can't be read may have left something too.
func TestUnfinishedTellsOfDamage(t *testing.T) {
	s, _ := testStore(t)
	x := mustCreate(t, s, "")
	x.Close()
	if err := os.WriteFile(filepath.Join(x.Dir, stateFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	list, done := unfinished(t, s)
	done()
	if len(list) != 1 || list[0].Status != Damaged || list[0].Problem == "" {
		t.Errorf("%+v", list)
	}
}

// What could not be marked as ended is found again.
func TestSettleThatFails(t *testing.T) {
	s, _ := testStore(t)
	x := mustCreate(t, s, "")
	x.Close()
	c, ok, err := s.Claim(t.Context(), one(t, s, x.ID))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if err := os.MkdirAll(filepath.Join(x.Dir, stateFile+".new", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := c.Settle(); err == nil {
		t.Error("no error")
	}
	list, done := unfinished(t, s)
	done()
	if len(list) != 1 {
		t.Errorf("%+v", list)
	}
}
