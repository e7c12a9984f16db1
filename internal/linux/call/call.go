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
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Op is what a child needs to know of a call: integers only, since it can't
// follow anything else.
type Op struct {
	NR   uintptr
	Args [6]uintptr
	// Want is the only good result, if Flags has Check (a read of one byte).
	Want uintptr
	// Slot, when not 0, is the descriptor number that the result is moved to.
	Slot uintptr
	// Skip more calls are left out when an Optional one fails, with the errno
	// Only if that is not 0.
	Skip, Only uintptr
	// Times: the call is made so often in all, with the second argument one
	// higher each time; 0 is once.
	Times uintptr
	Flags uintptr
}

// Flags of an Op.
const (
	Check = 1 << iota
	Optional
	// Fork marks a clone whose child goes on at the start of the second list
	// of the program.
	Fork
)

// Call is one system call.
type Call struct {
	Op

	// Stage, Verb and Object name the call to a person: "mounts", "bind",
	// "/usr".
	Stage, Verb, Object string
	// Rule is the plan rule that the call serves, 0 if none.
	Rule int

	// keep holds what Args point to, so that it is not collected.
	keep [3]unsafe.Pointer
	kept int
}

// New makes a call. An argument is an int kind, a string (passed as a
// NUL-terminated copy), a []byte or a pointer made with Ptr.
func New(stage, verb string, nr uintptr, args ...any) Call {
	c := Call{Op: Op{NR: nr}, Stage: stage, Verb: verb}
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

// Pointer is an argument that points to a Go value on the heap. The value may
// hold Go pointers itself: the garbage collector follows them.
type Pointer struct{ p unsafe.Pointer }

// Ptr passes v by address.
func Ptr[T any](v *T) Pointer { return Pointer{unsafe.Pointer(v)} }

func (c *Call) hold(p unsafe.Pointer) uintptr {
	c.keep[c.kept] = p
	c.kept++
	return uintptr(p)
}

// Bytes returns a NUL-terminated copy of s on the heap.
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

// On returns c with the object that it works on.
func (c Call) On(object string) Call { c.Object = object; return c }

// Into returns c with its result moved to slot.
func (c Call) Into(slot int) Call { c.Slot = uintptr(slot); return c }

// OrSkip returns c as optional: when it fails, so many calls after it are left
// out as well.
func (c Call) OrSkip(more int) Call {
	c.Flags |= Optional
	c.Skip = uintptr(more)
	return c
}

// OrSkipIf is OrSkip for one errno: with any other the call has failed.
func (c Call) OrSkipIf(only syscall.Errno, more int) Call {
	c.Only = uintptr(only)
	return c.OrSkip(more)
}

// Wanting returns c with the only result that is good.
func (c Call) Wanting(r uintptr) Call {
	c.Flags |= Check
	c.Want = r
	return c
}

// Repeat returns c made n times, with the second argument counting up.
func (c Call) Repeat(n int) Call { c.Times = uintptr(n); return c }

// Forking returns c as the clone of a second child.
func (c Call) Forking() Call { c.Flags |= Fork; return c }

// Alive keeps the memory of a list of calls until this point.
func Alive(list []Call) { runtime.KeepAlive(list) }

// String is the call for a listing: "mounts: bind /usr".
func (c Call) String() string {
	s := c.Stage + ": " + c.Verb
	if c.Object != "" {
		s += " " + c.Object
	}
	return s
}

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
	Init                        // what pid 1 executes at last
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
	Lower   // the layers of an overlay
	Upper
	Work
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

// Write returns the calls that write text to a file below dirfd. It is not copied: it
// may be a whole list of certificates.
func Write(stage string, dirfd int, path, text string) []Call {
	return []Call{
		New(stage, "open", unix.SYS_OPENAT, dirfd, path, unix.O_WRONLY|unix.O_CLOEXEC).On(path).Into(Socket),
		New(stage, "write", unix.SYS_WRITE, Socket, unsafe.Slice(unsafe.StringData(text), len(text)), len(text)).On(path).Wanting(uintptr(len(text))),
	}
}
