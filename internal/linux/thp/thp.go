// Package thp asks for transparent huge pages, where a program starts often and
// touches new memory all the time that it runs.
package thp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The runtime takes its heap from the kernel in chunks of 4 MiB that begin at a
// multiple of that (mheap.grow), one after the other.
const chunk = 4 << 20

var (
	// begun is in the chunk that the heap has when Heap is called.
	begun *[64]byte
	// skipped is more than what is left of that chunk; it is never touched, so it
	// takes addresses and no memory.
	skipped []byte
)

// Heap moves what is allocated from now on into a new chunk of the heap, but for what
// the runtime has taken from the old one beforehand (at most 512 KiB for a processor),
// and asks for huge pages there before anything touches it. A program calls it once,
// first of all. The first chunk has been begun with small pages, and, since Go 1.26,
// anywhere in its 4 MiB: most starts would soon have left it. A start touches some hundred pages anew, and each is a fault; in a virtual
// machine whose page tables are shadowed, one costs 10 to 20 µs. It costs up to 4 MiB
// of memory.
//
// It is a wish: a kernel that can't, or whose pages are of another size, says so
// and nothing changes; nor does it if the runtime comes to take its heap otherwise.
func Heap() {
	begun = new([64]byte)
	skipped = make([]byte, chunk-uintptr(unsafe.Pointer(begun))%chunk)
	end := uintptr(unsafe.Pointer(unsafe.SliceData(skipped))) + uintptr(len(skipped))
	skipped = nil
	_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, end&^(chunk-1), chunk, unix.MADV_HUGEPAGE)
}
