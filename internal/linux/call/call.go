// Package call holds system calls as values: what the child of a boundary will
// do between clone and execve, written down before it is done. A list of calls
// can be printed, compared and tested; stage runs it. Nothing here makes a
// system call.
//
// File descriptors are named by fixed numbers, slots: a call whose result is a
// descriptor says which slot it goes to, so that every later call, and every
// structure in memory, can hold the number as a constant.
package call

import (
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Call is one system call.
type Call struct {
	NR   uintptr
	Args [6]uintptr
	// Slot, when not 0, is the descriptor number that the result is moved to.
	Slot int
	// Check: Want is the only good result (a read of one byte).
	Check bool
	Want  uintptr
	// Optional calls may fail; SkipOnError more calls are then left out.
	Optional    bool
	SkipOnError int
	// Fork marks a clone whose child goes on at the start of the second list
	// of the program.
	Fork bool

	// Stage and Object name the call to a person: "mounts", "bind /usr".
	Stage  string
	Object string
	// Rule is the plan rule that the call serves, 0 if none.
	Rule int

	// keep holds what Args point to, so that it is not collected.
	keep []unsafe.Pointer
}

// New makes a call. An argument is an int kind, a string (passed as a
// NUL-terminated copy), a []byte or a pointer made with Ptr.
func New(stage, object string, nr uintptr, args ...any) Call {
	c := Call{NR: nr, Stage: stage, Object: object}
	if len(args) > len(c.Args) {
		panic("call.New: a system call has at most six arguments")
	}
	for i, a := range args {
		switch v := a.(type) {
		case int:
			c.Args[i] = uintptr(v)
		case uint32:
			c.Args[i] = uintptr(v)
		case uint64:
			c.Args[i] = uintptr(v)
		case uintptr:
			c.Args[i] = v
		case string:
			c.Args[i] = c.hold(cstring(v))
		case []byte:
			c.Args[i] = c.hold(unsafe.Pointer(unsafe.SliceData(v)))
		case Pointer:
			c.Args[i] = c.hold(v.p)
		default:
			panic(fmt.Sprintf("call.New: argument %d has type %T", i, a))
		}
	}
	return c
}

// Pointer is an argument that points to a Go value on the heap.
type Pointer struct{ p unsafe.Pointer }

// Ptr passes v by address. v must hold no Go pointers of its own but those
// that other arguments of the same list keep alive.
func Ptr[T any](v *T) Pointer { return Pointer{unsafe.Pointer(v)} }

// Hold keeps p alive as long as the call.
func (c *Call) Hold(p ...Pointer) {
	for _, x := range p {
		c.keep = append(c.keep, x.p)
	}
}

func (c *Call) hold(p unsafe.Pointer) uintptr {
	c.keep = append(c.keep, p)
	return uintptr(p)
}

// Bytes returns a NUL-terminated copy of s that escapes to the heap.
func Bytes(s string) *byte { return (*byte)(cstring(s)) }

func cstring(s string) unsafe.Pointer {
	if strings.IndexByte(s, 0) >= 0 {
		// Callers check names long before; a string that would be cut
		// here must never reach the kernel.
		panic("call: NUL in a string argument")
	}
	b := make([]byte, len(s)+1)
	copy(b, s)
	return unsafe.Pointer(&b[0])
}

// Into returns c with its result moved to slot.
func (c Call) Into(slot int) Call { c.Slot = slot; return c }

// OrSkip returns c as optional: when it fails, so many calls after it are left
// out as well.
func (c Call) OrSkip(more int) Call { c.Optional, c.SkipOnError = true, more; return c }

// Wanting returns c with the only result that is good.
func (c Call) Wanting(r uintptr) Call { c.Check, c.Want = true, r; return c }

// For returns c tagged with the plan rule it serves.
func (c Call) For(rule int) Call { c.Rule = rule; return c }

// Alive keeps the memory of a list of calls until this point.
func Alive(list []Call) { runtime.KeepAlive(list) }

// String is the call for a listing: "mounts: bind /usr".
func (c Call) String() string { return c.Stage + ": " + c.Object }

// Slots: descriptor numbers in the child. They lie in one block, so that all
// else can be closed with two calls; the launcher keeps its own descriptors
// below First.
const (
	First    = 200
	Errors   = First + iota - 1 // pipe to the launcher: which call failed
	Status                      // pipe to the launcher: how the command ended
	Lifeline                    // pipe from the launcher: closed when it is gone
	Gate                        // pipe from the launcher: one byte lets the child go on
	Channel                     // socket to the launcher: descriptors go out here
	In                          // the command's standard input, output, error
	Out
	Err
	Root    // the new root
	Source  // what is being mounted
	Tree    // its clone
	Target  // where it goes
	Context // fsopen
	Masks   // tmpfs with the empty file and directory
	Fuse    // /dev/fuse
	FuseFS  // its mount
	Scratch // tmpfs of /tmp, /var/tmp and /dev/shm
	Ptmx
	Pts
	Ruleset // Landlock
	Listener
	Socket
	NsUser
	NsMnt
	NsPid
	NsNet
	NsIpc
	NsUts
	NsCgroup
	Last
)

// Write returns the three calls that write text to a file below dirfd.
func Write(stage string, dirfd int, path, text string) []Call {
	obj := "write " + path
	return []Call{
		New(stage, obj, unix.SYS_OPENAT, dirfd, path, unix.O_WRONLY|unix.O_CLOEXEC).Into(Socket),
		New(stage, obj, unix.SYS_WRITE, Socket, text, len(text)).Wanting(uintptr(len(text))),
	}
}
