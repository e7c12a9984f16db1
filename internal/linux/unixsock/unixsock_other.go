//go:build !linux

// Package unixsock exists for Linux only.
package unixsock

import (
	"context"
	"errors"
	"os"
	"time"
)

// MaxFiles is how many files one message can carry.
const MaxFiles = 16

var errNotHere = errors.New("local sockets with files are not implemented on this system")

// ErrLocked: another open file holds the lock.
var ErrLocked = errors.New("locked")

type (
	// Listener accepts connections.
	Listener struct{}
	// Conn is one connection.
	Conn struct{}
	// Peer is the process at the other end.
	Peer struct{ PID, UID, GID int }
)

func Listen(*os.File, string) (*Listener, error)      { return nil, errNotHere }
func (*Listener) Accept() (*Conn, error)              { return nil, errNotHere }
func (*Listener) Close() error                        { return errNotHere }
func Dial(*os.File, string) (*Conn, error)            { return nil, errNotHere }
func Pair() (*Conn, *Conn, error)                     { return nil, nil, errNotHere }
func (*Conn) Peer() (Peer, error)                     { return Peer{}, errNotHere }
func (*Conn) Send([]byte, []*os.File) error           { return errNotHere }
func (*Conn) Receive([]byte) (int, []*os.File, error) { return 0, nil, errNotHere }
func (*Conn) SetDeadline(time.Time) error             { return errNotHere }
func (*Conn) Close() error                            { return errNotHere }
func TryLock(*os.File, bool) error                    { return errNotHere }
func Lock(context.Context, *os.File) error            { return errNotHere }
