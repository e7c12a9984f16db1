// Package boundary is the contract between a run and the thing that holds it:
// native namespaces today, containers and virtual machines later. A boundary
// carries out a plan.Plan and never decides again: what it can't do, it
// refuses. Every implementation passes boundarytest.
package boundary

import (
	"context"
	"errors"
	"os"
	"syscall"

	"cofferdam/internal/plan"
)

// Streams are what the command's standard descriptors become. With a
// terminal, the boundary makes a pty of the inside and Streams are not passed
// in; without, each file is given to the command as it is.
type Streams struct {
	In, Out, Err *os.File
	// Terminal asks for a pty; Rows and Cols are its first size.
	Terminal   bool
	Rows, Cols uint16
	// Ready, if not nil, is called once the boundary stands, before the
	// command is executed. An error ends the start: nothing has run.
	Ready func() error
	// Gateway, if not nil, gets the sockets of a plan whose network has a
	// gateway, before Ready is called. It owns them. An error ends the start.
	Gateway func(Sockets) error
}

// Sockets were opened in the network namespace of the inside, and whoever holds
// them can accept from outside. They are bound to loopback addresses there; the
// lists have one for each address family that the machine has, IPv4 first.
type Sockets struct {
	// TCP are listeners to which every connection to an address that is not of
	// loopback comes; netns.Destination says what it was for.
	TCP []*os.File
	// DNS and DNSTCP get every packet and connection to port 53, whatever the address.
	DNS, DNSTCP []*os.File
	// HTTP and SOCKS are listeners for programs that know a proxy.
	HTTP, SOCKS []*os.File
}

// Denial is one refused act that the kernel let us see.
type Denial struct {
	Action  string // "open", "readdir", "bpf", ...
	Subject string // path or system call
	PID     int    // on the host; 0 if unknown
	Process string // /proc/PID/comm at that time; hostile text
	Rule    int    // plan rule ID, 0 if none
	Reason  string
	// Limit is the name of a ceiling that was reached; then Subject is empty and
	// Reason says what happened.
	Limit string
}

// Boundary starts plans.
type Boundary interface {
	Name() string
	// Start returns when the command has been executed inside, or an error
	// (*SetupError for a mechanism that failed, *ExecError when the command
	// itself can't be executed); on error nothing is left behind.
	// denied is called from one goroutine at a time and must not block.
	Start(ctx context.Context, p *plan.Plan, s Streams, denied func(Denial)) (Running, error)
}

// Running is one live boundary with one command in it.
type Running interface {
	// PID is the host's pid of the boundary's first process.
	PID() int
	// Terminal is the master of the command's pty; nil without terminal.
	// Owned by Running.
	Terminal() *os.File
	// Signal delivers to the command (not to its descendants).
	Signal(sig syscall.Signal) error
	// Kill ends every process inside. May be called at any time, twice too.
	Kill() error
	// Wait blocks until the command has ended and nothing inside is alive.
	// To be called once.
	Wait() (Exit, error)
	// Enter hands out what another process needs to start one more command
	// in this boundary; see native.Enter.
	Enter() ([]*os.File, error)
	// Adopt answers, from now on, for the system calls refused to a command
	// that entered, and reports them as denials of this boundary. listener is
	// the seccomp listener of that command; it stays the caller's.
	Adopt(listener *os.File) error
}

// Exit is how the command ended.
type Exit struct {
	Code   int            // exit code, if Signal is 0
	Signal syscall.Signal // the signal that ended it
}

// Status is the shell's convention: the code, or 128 plus the signal.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

// SetupError: a layer of the boundary could not be put up. Nothing has run.
type SetupError struct {
	Stage  string // "namespaces", "mounts", "landlock", ...
	Op     string // "mount tmpfs on /tmp"
	Errno  syscall.Errno
	Remedy string
}

func (e *SetupError) Error() string {
	return e.Stage + ": " + e.Op + ": " + e.Errno.Error()
}

// ExecError: the boundary stood, the command could not be executed.
type ExecError struct {
	Program string
	Errno   syscall.Errno
}

func (e *ExecError) Error() string { return e.Program + ": " + e.Errno.Error() }

// ErrNotHere is returned by stubs for other systems.
var ErrNotHere = errors.New("this boundary does not exist on this system")
