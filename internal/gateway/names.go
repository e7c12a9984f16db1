package gateway

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
)

// pool are the addresses that stand for names inside: 198.18.0.0/15 (RFC 2544), which
// no host on the Internet has.
var pool = netip.MustParsePrefix("198.18.0.0/15")

const (
	poolSize = 1 << 17
	// maxNames may be asked for in a session: a program that makes names up, below a
	// wildcard, can't fill the memory.
	maxNames = 1 << 15
)

// names gives each name an address that stands for it, and only for it, until the
// end of the session: an address that a program kept never leads to another host.
type names struct {
	max int

	mu     sync.Mutex
	byName map[string]netip.Addr
	byAddr map[netip.Addr]string
}

func newNames(max int) *names {
	return &names{max: max, byName: map[string]netip.Addr{}, byAddr: map[netip.Addr]string{}}
}

// address returns what stands for a name. The address depends on the name, so that it
// is mostly the same in the next session. ok is false if there are too many names.
func (n *names) address(name string) (a netip.Addr, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.byName[name]; ok {
		return a, true
	}
	if len(n.byName) >= n.max {
		return netip.Addr{}, false
	}
	sum := sha256.Sum256([]byte(name))
	base := pool.Addr().As4()
	for i := binary.BigEndian.Uint32(sum[:]); ; i++ {
		offset := i % poolSize
		if offset == 0 || offset == poolSize-1 {
			continue // the network's own address, and its broadcast address
		}
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+offset)
		a := netip.AddrFrom4(b)
		if _, taken := n.byAddr[a]; !taken {
			n.byName[name], n.byAddr[a] = a, name
			return a, true
		}
	}
}

// name returns what an address stands for.
func (n *names) name(a netip.Addr) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	name, ok := n.byAddr[a]
	return name, ok
}
