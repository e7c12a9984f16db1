package boundarytest

import (
	"errors"
	"os"
	"syscall"
	"testing"
	"unsafe"
)

// hostThings makes what package net has no name for.
func (w *World) hostThings(t testing.TB) {
	id, _, e := syscall.Syscall(syscall.SYS_SHMGET, 0, 4096, 0o1600) // IPC_PRIVATE, IPC_CREAT
	if e != 0 {
		t.Fatal("shmget:", e)
	}
	w.Shm = int(id)
	t.Cleanup(func() { _, _, _ = syscall.Syscall(syscall.SYS_SHMCTL, id, 0, 0) }) // IPC_RMID
	p, _, e := syscall.Syscall(syscall.SYS_SHMAT, id, 0, 0)
	if e != 0 {
		t.Fatal("shmat:", e)
	}
	copy(unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), p)), 4096), w.Secret)
	_, _, _ = syscall.Syscall(syscall.SYS_SHMDT, p, 0, 0)

	mark, err := os.CreateTemp("/tmp", "boundarytest-")
	check(t, err)
	check(t, mark.Close())
	w.Mark = mark.Name()
	t.Cleanup(func() { os.Remove(w.Mark) })
}

// landlockABI is what this kernel has; 0 is none (landlock_create_ruleset(2)).
func landlockABI() int {
	const createRuleset, version = 444, 1
	abi, _, e := syscall.Syscall(createRuleset, 0, 0, version)
	if e != 0 {
		return 0
	}
	return int(abi)
}

func shmAttach(w *World) error {
	p, _, e := syscall.Syscall(syscall.SYS_SHMAT, uintptr(w.Shm), 0, 0)
	if e != 0 {
		return e
	}
	if got := unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), p)), 4096); string(got[:len(w.Secret)]) != w.Secret {
		return errors.New("another segment")
	}
	return nil
}
