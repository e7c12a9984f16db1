package stage

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The init is a program of some hundred bytes: our own assembly, taken out of our
// own text and put behind an ELF header. Pid 1 executes it when it has nothing
// else left to do, so what stays inside holds no memory of the launcher at all.
//
// The file has mode 0111. The kernel makes a process that executes a file which
// it can't read undumpable from its first instruction on (execve(2),
// BINPRM_FLAGS_ENFORCE_NONDUMP): nobody inside can trace it or look into it.

// initSize is more than the code takes; what follows it is never reached.
const initSize = 512

// initCode is in init_*.s. It must not be called.
func initCode()

func initAddress() unsafe.Pointer

var _ = initCode // for its declaration

const (
	loadAddress = 0x400000
	headerSize  = 64 + 2*56
)

// initELF is the init as an executable file, for execve.
func initELF() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, headerSize+initSize)
	b = append(b, "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00"...) // 64 bit, little-endian, version 1
	b = le.AppendUint16(b, 2)                                                   // ET_EXEC
	b = le.AppendUint16(b, elfMachine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, loadAddress+headerSize) // entry
	b = le.AppendUint64(b, 64)                     // where the program headers are
	b = le.AppendUint64(b, 0)                      // no sections
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 2, 64, 0, 0} { // sizes and numbers of headers
		b = le.AppendUint16(b, v)
	}
	for _, h := range []struct {
		kind, flags          uint32
		address, size, align uint64
	}{
		{1, 5, loadAddress, headerSize + initSize, 0x1000}, // PT_LOAD, read and execute
		{0x6474e551, 6, 0, 0, 16},                          // PT_GNU_STACK, read and write
	} {
		b = le.AppendUint32(b, h.kind)
		b = le.AppendUint32(b, h.flags)
		for _, v := range []uint64{0, h.address, h.address, h.size, h.size, h.align} {
			b = le.AppendUint64(b, v)
		}
	}
	return append(b, unsafe.Slice((*byte)(initAddress()), initSize)...)
}

// initFile is the init in memory, ready for execveat(2). Where the kernel does not
// let memory be executed (vm.memfd_noexec=2) there is no boundary.
func initFile() (*os.File, error) {
	const name = "cofferdam-init"
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 there was no flag to ask for it
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, fmt.Errorf("memory for the init: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(initELF()); err != nil {
		f.Close()
		return nil, fmt.Errorf("write the init: %w", err)
	}
	if err := unix.Fchmod(fd, 0o111); err != nil {
		f.Close()
		return nil, fmt.Errorf("write the init: %w", err)
	}
	return f, nil
}
