//go:build linux

// Package fsat is file access below one directory whose content is hostile:
// every call starts from a descriptor, follows no symlink and can't leave the
// directory, whatever is renamed or replaced meanwhile. It knows no policy.
//
// A path may be longer than PATH_MAX (the inside can nest as deep as it
// likes): it is walked in pieces.
package fsat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Type is the kind of an entry, as getdents64 and stat report it.
type Type uint8

// The values are those of d_type (readdir(3)).
const (
	Unknown Type = unix.DT_UNKNOWN
	Fifo    Type = unix.DT_FIFO
	Char    Type = unix.DT_CHR
	Dir     Type = unix.DT_DIR
	Block   Type = unix.DT_BLK
	File    Type = unix.DT_REG
	Symlink Type = unix.DT_LNK
	Socket  Type = unix.DT_SOCK
)

// Stat is what identifies one inode at one moment. Born is 0 where the file
// system does not keep it.
type Stat struct {
	Dev, Ino    uint64
	Born, Ctime int64 // nanoseconds
	Size        int64
	Mode        uint32 // permission bits
	Links       uint32 // names that this inode has
	GID         uint32
	Type        Type
	// Mount is the mount that it was reached through, 0 if the kernel does not say
	// (before 5.8). Encrypted: it is below a directory with fscrypt's keys.
	Mount     uint64
	Encrypted bool
}

// OpenRoot opens a trusted directory; the path itself may hold symlinks, its
// last component may not be one.
func OpenRoot(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open directory", Path: path, Err: err}
	}
	return fd, nil
}

// Close closes a descriptor of this package.
func Close(fd int) { unix.Close(fd) }

// piece is how much of a path goes to the kernel at once (PATH_MAX is 4096).
const piece = 3500

// open is openat2 below dir. The kernel answers EAGAIN only when it could not
// prove that nothing moved; a few more tries are enough in practice.
func open(dir int, rel string, flags uint64) (int, error) {
	return openHow(dir, rel, flags, beneath)
}

// How paths are walked.
const (
	beneath   = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	sameMount = beneath | unix.RESOLVE_NO_XDEV
)

func openHow(dir int, rel string, flags, resolve uint64) (int, error) {
	if rel == "" {
		rel = "."
	}
	base := dir
	for len(rel) > piece {
		cut := strings.LastIndexByte(rel[:piece], '/')
		if cut <= 0 {
			return -1, unix.ENAMETOOLONG
		}
		next, err := open1(base, rel[:cut], unix.O_PATH|unix.O_DIRECTORY, resolve)
		if base != dir {
			unix.Close(base)
		}
		if err != nil {
			return -1, err
		}
		base, rel = next, rel[cut+1:]
	}
	fd, err := open1(base, rel, flags, resolve)
	if base != dir {
		unix.Close(base)
	}
	return fd, err
}

func open1(dir int, rel string, flags, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: resolve}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, rel, &how)
		if (err == unix.EAGAIN && try < 16) || err == unix.EINTR {
			continue
		}
		return fd, err
	}
}

// OpenDir opens a directory for reading its entries; "" is dir itself.
func OpenDir(dir int, rel string) (int, error) {
	return open(dir, rel, unix.O_RDONLY|unix.O_DIRECTORY)
}

// OpenAny opens whatever is there, without the right to read it: opening has
// no effect on FIFOs, sockets, devices or leases.
func OpenAny(dir int, rel string) (int, error) {
	// O_PATH|O_NOFOLLOW returns the link itself, but RESOLVE_NO_SYMLINKS
	// refuses it, so the last component is opened from its parent.
	parent, name, err := OpenParent(dir, rel)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	return unix.Openat(parent, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// OpenParent opens the directory that holds rel and returns the last name.
func OpenParent(dir int, rel string) (int, string, error) { return openParent(dir, rel, beneath) }

// OpenParentHere is OpenParent that enters no other mount (EXDEV).
func OpenParentHere(dir int, rel string) (int, string, error) {
	return openParent(dir, rel, sameMount)
}

func openParent(dir int, rel string, resolve uint64) (int, string, error) {
	up, name := "", rel
	if i := strings.LastIndexByte(rel, '/'); i >= 0 {
		up, name = rel[:i], rel[i+1:]
	}
	if name == "" || name == "." || name == ".." {
		return -1, "", unix.EINVAL
	}
	fd, err := openHow(dir, up, unix.O_PATH|unix.O_DIRECTORY, resolve)
	return fd, name, err
}

// Read returns the content of the regular file rel with its identity. A file
// over max bytes is ErrTooLarge; anything not regular is ErrNotRegular. It
// never blocks: not on a FIFO, not on a lease.
func Read(dir int, rel string, max int64) ([]byte, Stat, error) {
	f, st, err := OpenFile(dir, rel)
	if err != nil {
		return nil, st, err
	}
	defer f.Close()
	if st.Size > max {
		return nil, st, ErrTooLarge
	}
	buf := make([]byte, 0, st.Size+1)
	for {
		if int64(len(buf)) > max {
			return nil, st, ErrTooLarge // it grew while we read
		}
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := unix.Read(int(f.Fd()), buf[len(buf):cap(buf)])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, st, err
		}
		if n == 0 {
			return buf, st, nil
		}
		buf = buf[:len(buf)+n]
	}
}

var (
	ErrTooLarge   = errors.New("file is too large")
	ErrNotRegular = errors.New("not a regular file")
)

// OpenFile opens a regular file for reading. The kind is judged on the same
// open inode that is then read, through /proc/self/fd.
func OpenFile(dir int, rel string) (*os.File, Stat, error) {
	path, err := OpenAny(dir, rel)
	if err != nil {
		return nil, Stat{}, err
	}
	defer unix.Close(path)
	st, err := StatFd(path)
	if err != nil {
		return nil, st, err
	}
	if st.Type != File {
		return nil, st, ErrNotRegular
	}
	// O_NONBLOCK: with a lease held on the file, open answers EWOULDBLOCK
	// instead of waiting lease-break-time (fcntl(2)).
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", path), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, err
	}
	return os.NewFile(uintptr(fd), rel), st, nil
}

// StatFd identifies an open descriptor, also an O_PATH one.
func StatFd(fd int) (Stat, error) { return statx(fd, "", unix.AT_EMPTY_PATH) }

// StatAt identifies the entry rel itself, never what a symlink points to.
func StatAt(dir int, rel string) (Stat, error) {
	if rel == "" {
		return StatFd(dir)
	}
	if strings.IndexByte(rel, '/') < 0 {
		return statx(dir, rel, unix.AT_SYMLINK_NOFOLLOW)
	}
	parent, name, err := OpenParent(dir, rel)
	if err != nil {
		return Stat{}, err
	}
	defer unix.Close(parent)
	return statx(parent, name, unix.AT_SYMLINK_NOFOLLOW)
}

func statx(fd int, name string, flags int) (Stat, error) {
	var x unix.Statx_t
	const mask = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID
	if err := unix.Statx(fd, name, flags|unix.AT_NO_AUTOMOUNT, mask, &x); err != nil {
		return Stat{}, err
	}
	s := Stat{
		Dev: unix.Mkdev(x.Dev_major, x.Dev_minor), Ino: x.Ino,
		Ctime: x.Ctime.Sec*1e9 + int64(x.Ctime.Nsec),
		Size:  int64(x.Size), Mode: uint32(x.Mode) & 0o7777, Links: x.Nlink, GID: x.Gid,
		Type:      Type(x.Mode & unix.S_IFMT >> 12), // S_IFMT>>12 is d_type (dirent.h, IFTODT)
		Encrypted: x.Attributes&unix.STATX_ATTR_ENCRYPTED != 0,
	}
	if x.Mask&unix.STATX_MNT_ID != 0 {
		s.Mount = x.Mnt_id
	}
	if x.Mask&unix.STATX_BTIME != 0 {
		s.Born = x.Btime.Sec*1e9 + int64(x.Btime.Nsec)
	}
	return s, nil
}

// Entries calls do for every entry of the open directory but "." and "..".
// name is only valid during the call. buf is the kernel's buffer.
func Entries(fd int, buf []byte, do func(name []byte, t Type)) error {
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
		if err := each(buf[:n], do); err != nil {
			return err
		}
	}
}

// each takes apart what getdents64 has written.
func each(buf []byte, do func(name []byte, t Type)) error {
	// struct linux_dirent64: ino u64, off u64, reclen u16, type u8, name.
	for at := 0; at+19 < len(buf); {
		reclen := int(binary.NativeEndian.Uint16(buf[at+16:]))
		if reclen < 20 || at+reclen > len(buf) {
			return unix.EBADMSG
		}
		name := buf[at+19 : at+reclen]
		t := Type(buf[at+18])
		at += reclen
		for i, c := range name {
			if c == 0 {
				name = name[:i]
				break
			}
		}
		if name[0] == '.' && (len(name) == 1 || len(name) == 2 && name[1] == '.') {
			continue
		}
		do(name, t)
	}
	return nil
}

// Readlink returns the text of the symlink rel.
func Readlink(dir int, rel string) (string, error) {
	parent, name, err := OpenParent(dir, rel)
	if err != nil {
		return "", err
	}
	defer unix.Close(parent)
	buf := make([]byte, 4097)
	n, err := unix.Readlinkat(parent, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// RenameNew moves an entry to a name that must not exist yet (EEXIST).
func RenameNew(oldDir int, oldName string, newDir int, newName string) error {
	return unix.Renameat2(oldDir, oldName, newDir, newName, unix.RENAME_NOREPLACE)
}

// Exchange swaps two entries; at no moment is either name missing.
func Exchange(dir1 int, name1 string, dir2 int, name2 string) error {
	return unix.Renameat2(dir1, name1, dir2, name2, unix.RENAME_EXCHANGE)
}

// Unlink removes one name; a directory must be empty.
func Unlink(dir int, name string, directory bool) error {
	flags := 0
	if directory {
		flags = unix.AT_REMOVEDIR
	}
	return unix.Unlinkat(dir, name, flags)
}

// MakeDirs makes the directory rel and all above it below dir, 0700, and
// opens it. What is there already and is no directory is ENOTDIR or ELOOP.
func MakeDirs(dir int, rel string) (int, error) {
	fd, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil || rel == "" {
		return fd, err
	}
	for name := range strings.SplitSeq(rel, "/") {
		if err := unix.Mkdirat(fd, name, 0o700); err != nil && err != unix.EEXIST {
			unix.Close(fd)
			return -1, err
		}
		next, err := open1(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, beneath)
		unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

// MakeDir makes one directory.
func MakeDir(dir int, name string, mode uint32) error { return unix.Mkdirat(dir, name, mode) }

// Chmod sets the mode, with set-ID bits, of what an open descriptor is, also of an
// O_PATH one (fchmod takes none: through /proc no component is looked up twice).
func Chmod(fd int, mode uint32) error {
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode&0o7777)
}

// SetGroup gives an entry, never what a symlink points to, to a group.
func SetGroup(dir int, name string, gid uint32) error {
	return unix.Fchownat(dir, name, -1, int(gid), unix.AT_SYMLINK_NOFOLLOW)
}

// Reserve makes room for n more bytes at the end of a file, whose size it leaves.
func Reserve(f *os.File, n int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, st.Size(), n)
}

// SyncDir puts the entries of the open directory on the disk. The descriptor may
// be an O_PATH one.
func SyncDir(fd int) error {
	f, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(f)
	return unix.Fsync(f)
}

// Folds says whether two names that differ in case only, or in how Unicode writes
// them, are one name in the open directory. What could not be found out is yes.
func Folds(fd int) bool {
	f, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(f)
	var fs unix.Statfs_t
	if unix.Fstatfs(f, &fs) != nil || slices.Contains(folding, uint32(fs.Type)) {
		return true
	}
	flags, err := unix.IoctlGetInt(f, unix.FS_IOC_GETFLAGS)
	if err != nil {
		// A file system without flags has none that says it folds.
		return err != unix.ENOTTY && err != unix.EOPNOTSUPP && err != unix.EINVAL
	}
	return flags&casefold != 0
}

// casefold is FS_CASEFOLD_FL (linux/fs.h): of one directory, on ext4, f2fs and tmpfs.
const casefold = 0x40000000

// folding are file systems all of whose directories may fold (linux/magic.h and the
// file systems' own sources): FAT, exFAT, NTFS, ntfs3, HFS, HFS+, CIFS, SMB2, FUSE.
var folding = []uint32{0x4d44, 0x2011bab0, 0x5346544e, 0x7366746e, 0x4244, 0x482b, 0xff534d42, 0xfe534d42, 0x65735546}

// MakeSymlink makes a symlink with this text.
func MakeSymlink(text string, dir int, name string) error { return unix.Symlinkat(text, dir, name) }

// Create makes a new file (EEXIST if the name is taken by anything).
func Create(dir int, name string, mode uint32) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Fchmod(fd, mode&0o777); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Errors that callers branch on, so that they need no x/sys.
const (
	EXDEV     = unix.EXDEV
	EEXIST    = unix.EEXIST
	EINVAL    = unix.EINVAL
	ENOENT    = unix.ENOENT
	ENOTEMPTY = unix.ENOTEMPTY
	ELOOP     = unix.ELOOP
)

// Gone says that the entry, or a directory above it, is not there (any more)
// as what it was seen as.
func Gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// Taken says that a name is in use, or that a file stands where a directory
// is needed.
func Taken(err error) bool {
	return errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}
