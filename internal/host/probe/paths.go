//go:build linux

package probe

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cofferdam/internal/host"

	"golang.org/x/sys/unix"
)

// Paths looks at each absolute path. What can't be looked at is KindUnknown,
// never absent: a deny rule for it must not be dropped.
func Paths(list []string) map[string]host.Path {
	out := make(map[string]host.Path, len(list))
	seen := newWays()
	for _, p := range list {
		if _, done := out[p]; !done {
			out[p] = look(p, seen)
		}
	}
	return out
}

func look(path string, seen *ways) host.Path {
	if !strings.HasPrefix(path, "/") || strings.IndexByte(path, 0) >= 0 {
		return host.Path{Kind: host.KindUnknown, RealKind: host.KindUnknown}
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		k := missing(err)
		out := host.Path{Kind: k, RealKind: k}
		switch {
		case k != host.KindAbsent:
		case filepath.Clean(path) == path && seen.isStraight(filepath.Dir(path)):
			out.At = path
		default:
			out.Links, out.At = seen.way(path)
		}
		return out
	}
	out := host.Path{Kind: kindOf(st.Mode), UID: int(st.Uid), Mode: st.Mode & 0o7777}
	if out.Kind != host.KindSymlink && filepath.Clean(path) == path && seen.isStraight(filepath.Dir(path)) {
		out.Real, out.RealKind, out.Closed = path, out.Kind, closed(path, st)
		return out
	}
	real, rst, err := resolveErr(path)
	if err != nil {
		// A link to nothing, or to where we can't look.
		if out.RealKind = missing(err); out.RealKind == host.KindAbsent {
			out.Links, out.At = seen.way(path)
		}
		return out
	}
	if real != path {
		out.Links, _ = seen.way(path)
	}
	out.Real, out.RealKind, out.UID, out.Mode = real, kindOf(rst.Mode), int(rst.Uid), rst.Mode&0o7777
	out.Closed = closed(real, rst)
	return out
}

// ways remembers what was on the way of the paths of one list: most are in a few
// directories.
type ways struct {
	straight map[string]bool   // of a directory: there is no symlink on its way, of what is there
	links    map[string]string // of a path: what the symlink there says, "" if it is none
}

func newWays() *ways { return &ways{map[string]bool{}, map[string]string{}} }

// isStraight wants a clean path.
func (s *ways) isStraight(dir string) bool {
	if dir == "/" {
		return true
	}
	yes, known := s.straight[dir]
	if known {
		return yes
	}
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	if err == nil && kindOf(st.Mode) != host.KindSymlink || missing(err) == host.KindAbsent {
		yes = s.isStraight(filepath.Dir(dir))
	}
	s.straight[dir] = yes
	return yes
}

// way follows the symlinks of a path one by one and says where it ends, whether
// something is there or not; "" if that can't be told.
func (s *ways) way(path string) (links []string, end string) {
	end = "/"
	for rest := strings.Split(path, "/"); len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			end = filepath.Dir(end)
			continue
		}
		end = filepath.Join(end, name)
		text, known := s.link(end)
		if known && text == "" {
			continue
		}
		if !known || len(links) == 40 { // MAXSYMLINKS of the kernel
			return links, ""
		}
		links = append(links, end)
		if end = filepath.Dir(end); strings.HasPrefix(text, "/") {
			end = "/"
		}
		rest = append(strings.Split(text, "/"), rest...)
	}
	return links, end
}

// link is what the symlink at a path says, "" if there is none; known is false if that
// can't be told.
func (s *ways) link(path string) (text string, known bool) {
	if text, known = s.links[path]; known {
		return text, true
	}
	var buf [unix.PathMax]byte
	n, err := unix.Readlink(path, buf[:])
	switch {
	case err == nil:
		text = string(buf[:n]) // never empty: the kernel makes no such link
	case err != unix.EINVAL && missing(err) != host.KindAbsent:
		return "", false
	}
	s.links[path] = text
	return text, true
}

// closed tries whether a path of somebody else can be read, entered or written.
// Access lists and groups are the kernel's to weigh.
func closed(path string, st unix.Stat_t) bool {
	if st.Mode&0o7 != 0 || int(st.Uid) == os.Getuid() {
		return false
	}
	for _, how := range []uint32{unix.R_OK, unix.W_OK, unix.X_OK} {
		if err := unix.Access(path, how); err != unix.EACCES {
			return false
		}
	}
	return true
}

// missing: only these two errors prove that nothing is there.
func missing(err error) string {
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return host.KindAbsent
	}
	return host.KindUnknown
}

func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return host.KindDir
	case unix.S_IFREG:
		return host.KindFile
	case unix.S_IFLNK:
		return host.KindSymlink
	case unix.S_IFSOCK:
		return host.KindSocket
	case unix.S_IFIFO:
		return host.KindFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		return host.KindDevice
	}
	return host.KindUnknown
}

// resolve is resolveErr for those who only want a good answer.
func resolve(path string) (string, unix.Stat_t) {
	if !strings.HasPrefix(path, "/") {
		return "", unix.Stat_t{}
	}
	real, st, err := resolveErr(path)
	if err != nil {
		return "", unix.Stat_t{}
	}
	return real, st
}

// resolveErr lets the kernel follow the links and asks it where it came out:
// three calls whatever the depth, and name and stat belong to the same file.
// O_PATH opens nothing: no device is touched, no reader of a FIFO wakes.
func resolveErr(path string) (string, unix.Stat_t, error) {
	var st, again unix.Stat_t
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", st, err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return "", st, err
	}
	var buf [unix.PathMax]byte
	n, err := unix.Readlink("/proc/self/fd/"+strconv.Itoa(fd), buf[:])
	if err != nil {
		if err == unix.ENOENT || err == unix.ENOTDIR { // no /proc: says nothing of the path
			err = unix.EIO
		}
		return "", st, err
	}
	real := string(buf[:n])
	// The kernel marks what has no name any more ("... (deleted)") and what
	// is outside our root ("(unreachable)..."), but a file may be called so.
	if !strings.HasPrefix(real, "/") || unix.Lstat(real, &again) != nil || again.Ino != st.Ino || again.Dev != st.Dev {
		return "", st, unix.ESTALE
	}
	return real, st, nil
}
