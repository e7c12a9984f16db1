// Package sockowner finds the process that has one end of a TCP connection in another
// network namespace, by what /proc shows of it. The answer is for a person to read: it
// may be old when it comes, several processes may share a socket, and a process
// chooses its name itself, so nothing may be decided by it.
package sockowner

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Process is one that has the socket open. Comm is hostile text.
type Process struct {
	PID  int
	Comm string
}

// Bounds of a search: the inside chooses how many processes and files there are.
const (
	maxTable = 8 << 20
	maxFiles = 1 << 16
	maxTime  = 200 * time.Millisecond
)

// Find looks for the owner of the socket with that local address, in the network
// namespace of process in. ok is false if there is none, or it can't be told.
func Find(in int, local netip.AddrPort) (p Process, ok bool) {
	inode := ""
	for _, table := range []string{"tcp", "tcp6"} {
		found, err := inodes(fmt.Sprintf("/proc/%d/net/%s", in, table), local)
		if err != nil && !os.IsNotExist(err) || len(found) > 1 || len(found) == 1 && inode != "" {
			return p, false
		}
		if len(found) == 1 {
			inode = found[0]
		}
	}
	if inode == "" {
		return p, false
	}
	return holder(in, "socket:["+inode+"]")
}

// inodes of the connections in a table of proc_net_tcp(5) that are made and have this
// local address. Several have, if they lead to different places.
func inodes(table string, local netip.AddrPort) ([]string, error) {
	f, err := os.Open(table)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []string
	lines := bufio.NewScanner(io.LimitReader(f, maxTable))
	for lines.Scan() {
		w := strings.Fields(lines.Text())
		if len(w) < 10 || w[3] != "01" {
			continue
		}
		if a, ok := address(w[1]); ok && a == local {
			out = append(out, w[9])
		}
	}
	return out, lines.Err()
}

// address reads "0100007F:1F90": words of 32 bits in this machine's order, which is
// little-endian wherever this program is built for.
func address(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, perr := strconv.ParseUint(port, 16, 16)
	if err != nil || perr != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), true
}

// holder finds a process of the namespace that has a file open.
func holder(in int, file string) (p Process, ok bool) {
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", in))
	if err != nil {
		return p, false
	}
	d, err := os.Open("/proc")
	if err != nil {
		return p, false
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	end, files := time.Now().Add(maxTime), 0
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, err := os.Readlink("/proc/" + name + "/ns/net"); err != nil || s != space {
			continue
		}
		dir, err := os.Open("/proc/" + name + "/fd")
		if err != nil {
			continue
		}
		fds, _ := dir.Readdirnames(maxFiles)
		dir.Close()
		for _, fd := range fds {
			if files++; files > maxFiles || time.Now().After(end) {
				return p, false
			}
			if to, err := os.Readlink("/proc/" + name + "/fd/" + fd); err == nil && to == file {
				comm, err := os.ReadFile("/proc/" + name + "/comm")
				return Process{pid, strings.TrimSuffix(string(comm), "\n")}, err == nil
			}
		}
	}
	return p, false
}
