//go:build linux

package seccomp

import (
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

// int80 makes a 32-bit call (getpid is 20 there, a 64-bit writev) from a
// 64-bit program, the way round a filter that forgets the architecture. ok is
// false if the processor faults: the kernel has no 32-bit calls.
func int80() (result uintptr, ok bool) {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		fail("mmap", err)
	}
	copy(page, []byte{
		0xb8, 20, 0, 0, 0, // mov eax, 20
		0xcd, 0x80, // int 0x80
		0xc3, // ret
	})
	if err := unix.Mprotect(page, unix.PROT_READ|unix.PROT_EXEC); err != nil {
		fail("mprotect", err)
	}
	// A func value points to a word that points to code; results are in RAX.
	code := &page[0]
	value := unsafe.Pointer(&code)
	debug.SetPanicOnFault(true)
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return (*(*func() uintptr)(unsafe.Pointer(&value)))(), true
}
