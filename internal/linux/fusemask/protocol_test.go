//go:build linux

package fusemask

import (
	"encoding/binary"
	"os"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// message is a request of uid 1000, thread 42.
func message[B string | []byte](op uint32, node uint64, body B) []byte {
	b := make([]byte, inHeaderSize, inHeaderSize+len(body))
	e := binary.NativeEndian
	e.PutUint32(b[0:], uint32(inHeaderSize+len(body)))
	e.PutUint32(b[4:], op)
	e.PutUint64(b[8:], 77)
	e.PutUint64(b[16:], node)
	e.PutUint32(b[24:], 1000)
	e.PutUint32(b[32:], 42)
	return append(b, body...)
}

var testMasks = []Mask{{"/home/u/.ssh", true, 3}, {"/home/u/.netrc", false, 4}}

func TestAnswer(t *testing.T) {
	access := func(mask uint32) []byte { return binary.NativeEndian.AppendUint32(nil, mask) }
	tests := []struct {
		name  string
		req   []byte
		errno syscall.Errno
		size  int
		told  string // action and name of the attempt
		write bool
	}{
		{"root lookup", message(opLookup, rootNode, "1\x00"), 0, entryOutSize, "", false},
		{"root lookup, no such mask", message(opLookup, rootNode, "2\x00"), unix.ENOENT, 0, "", false},
		{"root lookup, second spelling", message(opLookup, rootNode, "01\x00"), unix.ENOENT, 0, "", false},
		{"root lookup, no end", message(opLookup, rootNode, []byte{'1'}), unix.ENOENT, 0, "", false},
		{"root opendir", message(opOpendir, rootNode, []byte{0, 0, 0, 0, 0, 0, 0, 0}), unix.EACCES, 0, "", false},
		{"root getattr", message(opGetattr, rootNode, ""), 0, attrOutSize, "", false},
		{"mask getattr", message(opGetattr, 2, ""), 0, attrOutSize, "", false},
		{"getattr beyond", message(opGetattr, 4, ""), unix.EACCES, 0, "", false},
		{"getattr node 0", message(opGetattr, 0, ""), unix.EACCES, 0, "", false},
		{"lookup below", message(opLookup, 2, "id\x1b\xff\x00"), unix.EACCES, 0, "lookup id\x1b\xff", false},
		{"mkdir below", message(9, 2, "\x00\x00\x00\x00\x00\x00\x00\x00d\x00"), unix.EACCES, 0, "mkdir d", true},
		{"mkdir, no name", message(9, 2, []byte{0}), unix.EACCES, 0, "mkdir ", true},
		{"open", message(opOpen, 3, []byte{0, 0, 0, 0, 0, 0, 0, 0}), unix.EACCES, 0, "open ", false},
		{"open to write", message(opOpen, 3, []byte{1, 0, 0, 0, 0, 0, 0, 0}), unix.EACCES, 0, "open ", true},
		{"open, no body", message(opOpen, 3, ""), unix.EACCES, 0, "open ", false},
		{"access r", message(opAccess, 3, access(4)), unix.EACCES, 0, "access ", false},
		{"access w", message(opAccess, 3, access(2)), unix.EACCES, 0, "access ", true},
		{"exists", message(opAccess, 3, access(0)), 0, 0, "", false},
		{"access, no body", message(opAccess, 3, ""), unix.EACCES, 0, "access ", false},
		{"statx", message(opStatx, 3, ""), unix.ENOSYS, 0, "", false},
		{"unknown", message(4711, 3, ""), unix.EACCES, 0, "unknown ", false},
		{"gap in the table", message(7, 3, ""), unix.EACCES, 0, "unknown ", false},
		{"init of another major", message(opInit, 0, []byte{8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}), unix.EPROTO, 0, "", false},
	}
	s := New(testMasks)
	for _, tt := range tests {
		var out [maxReplySize]byte
		var at Attempt
		n, tell := s.answer(tt.req, &out, &at)
		if n != outHeaderSize+tt.size {
			t.Errorf("%s: reply has %d bytes, want %d", tt.name, n, outHeaderSize+tt.size)
		}
		if got := syscall.Errno(-int32(binary.NativeEndian.Uint32(out[4:]))); got != tt.errno {
			t.Errorf("%s: errno %v, want %v", tt.name, got, tt.errno)
		}
		told := ""
		if tell {
			told = at.Action + " " + string(at.Name)
			if at.InnerPID != 42 || at.UID != 1000 || at.Rule < 3 || at.Mask == "" {
				t.Errorf("%s: attempt %+v", tt.name, at)
			}
		}
		if told != tt.told || tell && at.Write != tt.write {
			t.Errorf("%s: told %q write=%v, want %q write=%v", tt.name, told, at.Write, tt.told, tt.write)
		}
	}
}

// ENOSYS means "never ask again, allow" for open, opendir and access; EACCES is
// the only word for whatever touches a mask.
func TestOnlyStatxIsUnimplemented(t *testing.T) {
	s := New(testMasks)
	for op := range uint32(5000) {
		for node := range uint64(5) {
			var out [maxReplySize]byte
			var at Attempt
			n, _ := s.answer(message(op, node, make([]byte, 64)), &out, &at)
			if n == 0 {
				continue
			}
			errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(out[4:])))
			if errno == unix.ENOSYS && op != opStatx {
				t.Errorf("opcode %d node %d: ENOSYS", op, node)
			}
			if errno == 0 && (op == opOpen || op == opOpendir || op == 35 || op == 15 || op == 28 || op == 44 || op == 51) {
				t.Errorf("opcode %d node %d: let through", op, node)
			}
			if errno == 0 && op == opLookup && node != rootNode {
				t.Errorf("lookup in node %d: found", node)
			}
		}
	}
}

func TestAnswerAllocatesNothing(t *testing.T) {
	s := New(testMasks)
	req := message(opLookup, 2, "id_rsa\x00")
	var out [maxReplySize]byte
	var at Attempt
	if n := testing.AllocsPerRun(100, func() { s.answer(req, &out, &at) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzAnswer(f *testing.F) {
	for op := range uint32(55) {
		f.Add(message(op, 2, "name\x00other\x00"))
		f.Add(message(op, 1, "0\x00"))
	}
	f.Add([]byte{})
	f.Add(message(opBatchForget, 0, []byte{0xff, 0xff, 0xff, 0xff}))
	s := New(testMasks)
	f.Fuzz(func(t *testing.T, req []byte) {
		var out [maxReplySize]byte
		var at Attempt
		n, tell := s.answer(req, &out, &at)
		if n == 0 {
			if tell {
				t.Fatal("reported and not answered")
			}
			return
		}
		e := binary.NativeEndian
		if int(e.Uint32(out[0:])) != n || n > maxReplySize || e.Uint64(out[8:]) != e.Uint64(req[8:]) {
			t.Fatalf("bad reply header % x", out[:outHeaderSize])
		}
		errno := -int32(e.Uint32(out[4:]))
		if errno != 0 && n != outHeaderSize || tell && errno != int32(unix.EACCES) {
			t.Fatalf("errno %d, %d bytes, told %v", errno, n, tell)
		}
	})
}

func TestLastNSpid(t *testing.T) {
	for in, want := range map[string]int{
		"Name:\tNSpid:\t9\nPid:\t3\nNSpid:\t300\t7\nX:\n": 7,
		"Name:\tx\nNSpid:\t12\n":                          12,
		"Name:\tx\nNSpid:\t12\tx\n":                       -1,
		"Name:\tx\nNSpid:\t\n":                            -1,
		"Name:\tx\n":                                      -1,
		"":                                                -1,
	} {
		if got := lastNSpid([]byte(in)); got != want {
			t.Errorf("lastNSpid(%q) = %d, want %d", in, got, want)
		}
	}
}

// Both ways of translating a pid agree on our own.
func TestPIDsOfOwnNamespace(t *testing.T) {
	ns, err := os.Open("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	for _, p := range []*pidTable{{namespace: ns}, {namespace: ns, noIoctl: true}} {
		for range 2 { // the second time from memory
			if got := p.outer(os.Getpid()); got != os.Getpid() {
				t.Errorf("noIoctl=%v: %d, want %d", p.noIoctl, got, os.Getpid())
			}
		}
		if got := p.outer(1 << 30); got != 0 {
			t.Errorf("noIoctl=%v: a pid that can't be is %d", p.noIoctl, got)
		}
	}
	if got := (&pidTable{}).outer(1); got != 0 {
		t.Errorf("without namespace: %d", got)
	}
}

func TestConstants(t *testing.T) {
	if MountAttributes != unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC {
		t.Error("MountAttributes")
	}
	if got := Options(5, 1000, 100); got[1] != (Option{"fd", "5"}) || got[3].Value != "1000" || got[4].Value != strconv.Itoa(100) {
		t.Errorf("Options: %v", got)
	}
}
