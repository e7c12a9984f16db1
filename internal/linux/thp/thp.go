// Package thp asks for transparent huge pages, where a program starts often and
// touches new memory all the time that it runs.
package thp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The runtime takes its heap from the kernel in chunks of 4 MiB that begin at a
// multiple of that (mheap.grow).
const chunk = 4 << 20

// anchor is where the heap is: an object that is never collected.
var anchor *[64]byte

// Heap puts the first chunk of the Go heap on huge pages: what the runtime's own
// start has touched at once (MADV_COLLAPSE, Linux 6.1), the rest when it is touched
// (MADV_HUGEPAGE). A start touches some hundred pages anew, and each is a fault; in a
// virtual machine whose page tables are shadowed, one costs 10 to 20 µs. It costs up
// to 4 MiB of memory.
//
// It is a wish: a kernel that can't, or whose pages are of another size, says so
// and nothing changes. (Of a half that nobody has touched it says EINVAL.)
func Heap() {
	anchor = new([64]byte)
	start := uintptr(unsafe.Pointer(anchor)) &^ (chunk - 1)
	_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, start, chunk, unix.MADV_HUGEPAGE)
	_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, chunk, unix.MADV_COLLAPSE)
}
