//go:build linux

package fusemask

import (
	"encoding/binary"
	"syscall"
)

// The numbers below are those of include/uapi/linux/fuse.h. The kernel is the
// other side; it speaks in the byte order of the machine.

const (
	protocolMajor = 7
	// protocolMinor is the newest minor whose messages we know. It is older
	// than every kernel that has mount_setattr (5.12 speaks 7.33), so no
	// compatibility size is ever used.
	protocolMinor = 31

	inHeaderSize  = 40
	outHeaderSize = 16
	attrSize      = 88
	entryOutSize  = 40 + attrSize
	attrOutSize   = 16 + attrSize
	initOutSize   = 64
	statfsOutSize = 80
	maxReplySize  = outHeaderSize + entryOutSize

	// requestSize holds the largest request: setxattr with a value of
	// XATTR_SIZE_MAX (64 KiB). With a smaller buffer the kernel would answer
	// that one itself (E2BIG) and we would not hear of the attempt. The
	// kernel refuses to read into less than 8 KiB.
	requestSize = 64<<10 + 4096

	rootNode = 1
	// firstMask is the node of mask 0.
	firstMask = 2

	// forever is a cache time in seconds. The attributes of a mask never
	// change, so the kernel needs to ask for them once.
	forever = 365 * 24 * 3600
)

const (
	opLookup      = 1
	opForget      = 2
	opGetattr     = 3
	opReadlink    = 5
	opOpen        = 14
	opStatfs      = 17
	opRelease     = 18
	opGetxattr    = 22
	opFlush       = 25
	opInit        = 26
	opOpendir     = 27
	opReleasedir  = 29
	opAccess      = 34
	opInterrupt   = 36
	opDestroy     = 38
	opNotifyReply = 41
	opBatchForget = 42
	opStatx       = 52
)

// request describes what a refused request is called and where in its body a
// name stands.
type request struct {
	action string
	// name is the offset of a NUL-terminated directory entry; -1 for none.
	name int
	// write: the act would have changed something.
	write bool
}

// requests is every request that can be refused. What is not here is refused
// too, under the name "unknown".
var requests = [...]request{
	opLookup:    {action: "lookup", name: 0},
	opGetattr:   {action: "getattr", name: -1},
	4:           {action: "setattr", name: -1, write: true},
	opReadlink:  {action: "readlink", name: -1},
	6:           {action: "symlink", name: 0, write: true},
	8:           {action: "mknod", name: 16, write: true},
	9:           {action: "mkdir", name: 8, write: true},
	10:          {action: "unlink", name: 0, write: true},
	11:          {action: "rmdir", name: 0, write: true},
	12:          {action: "rename", name: 8, write: true},
	13:          {action: "link", name: 8, write: true},
	opOpen:      {action: "open", name: -1},
	15:          {action: "read", name: -1},
	16:          {action: "write", name: -1, write: true},
	opStatfs:    {action: "statfs", name: -1},
	20:          {action: "fsync", name: -1},
	21:          {action: "setxattr", name: -1, write: true},
	opGetxattr:  {action: "getxattr", name: -1},
	23:          {action: "listxattr", name: -1},
	24:          {action: "removexattr", name: -1, write: true},
	opOpendir:   {action: "readdir", name: -1},
	28:          {action: "readdir", name: -1},
	30:          {action: "fsync", name: -1},
	31:          {action: "lock", name: -1},
	32:          {action: "lock", name: -1},
	33:          {action: "lock", name: -1},
	opAccess:    {action: "access", name: -1},
	35:          {action: "create", name: 16, write: true},
	37:          {action: "bmap", name: -1},
	39:          {action: "ioctl", name: -1},
	40:          {action: "poll", name: -1},
	43:          {action: "fallocate", name: -1, write: true},
	44:          {action: "readdir", name: -1},
	45:          {action: "rename", name: 16, write: true},
	46:          {action: "seek", name: -1},
	47:          {action: "copy", name: -1, write: true},
	48:          {action: "map", name: -1},
	51:          {action: "create", name: -1, write: true},
	opStatx + 1: {},
}

// inHeader is struct fuse_in_header.
type inHeader struct {
	length uint32
	opcode uint32
	unique uint64
	node   uint64
	uid    uint32
	gid    uint32
	pid    uint32
}

// decodeHeader splits a request. ok is false if the bytes can't be one.
func decodeHeader(b []byte) (h inHeader, body []byte, ok bool) {
	if len(b) < inHeaderSize {
		return inHeader{}, nil, false
	}
	e := binary.NativeEndian
	h = inHeader{
		length: e.Uint32(b[0:]),
		opcode: e.Uint32(b[4:]),
		unique: e.Uint64(b[8:]),
		node:   e.Uint64(b[16:]),
		uid:    e.Uint32(b[24:]),
		gid:    e.Uint32(b[28:]),
		pid:    e.Uint32(b[32:]),
	}
	if uint64(h.length) != uint64(len(b)) {
		return inHeader{}, nil, false
	}
	return h, b[inHeaderSize:], true
}

// cstring returns the bytes from offset up to the first NUL, or nil.
func cstring(body []byte, offset int) []byte {
	if offset < 0 || offset > len(body) {
		return nil
	}
	b := body[offset:]
	for i, c := range b {
		if c == 0 {
			return b[:i]
		}
	}
	return nil
}

// number parses a decimal child name of the root: no sign, no leading zero,
// so that each mask has one name only. It is -1 for anything else.
func number(name []byte) int {
	if len(name) == 0 || len(name) > 7 || (name[0] == '0' && len(name) > 1) {
		return -1
	}
	n := 0
	for _, c := range name {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

func putHeader(out []byte, unique uint64, size int, errno syscall.Errno) {
	e := binary.NativeEndian
	e.PutUint32(out[0:], uint32(size))
	e.PutUint32(out[4:], uint32(-int32(errno)))
	e.PutUint64(out[8:], unique)
}

// putAttr writes struct fuse_attr. out is zeroed.
func putAttr(out []byte, node uint64, directory bool, h *inHeader) {
	e := binary.NativeEndian
	mode, links := uint32(syscall.S_IFREG|0o444), uint32(1)
	if directory {
		mode, links = syscall.S_IFDIR|0o555, 2
	}
	e.PutUint64(out[0:], node) // ino
	e.PutUint32(out[60:], mode)
	e.PutUint32(out[64:], links)
	// The owner is whoever asks. An owner without a mapping in the user
	// namespace would make the kernel refuse writing by itself, unreported.
	e.PutUint32(out[68:], h.uid)
	e.PutUint32(out[72:], h.gid)
	e.PutUint32(out[80:], 4096) // blksize
}
