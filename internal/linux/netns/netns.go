// Package netns writes down the network of the inside: a network namespace whose
// only interface is loopback, alone or with sockets and rules by which everything
// that is sent inside comes to a gateway outside. The calls are for the child; the
// launcher's part is to read the kernel's answers (Request.Confirm) and to ask where
// a connection was meant to go (Destination).
package netns

import (
	"golang.org/x/sys/unix"

	"cofferdam/internal/linux/call"
)

// ifreqFlags is struct ifreq of netdevice(7) with its flags.
type ifreqFlags struct {
	name  [unix.IFNAMSIZ]byte
	flags uint16
	_     [22]byte
}

// LoopbackUp brings lo up, so that servers inside can be reached from inside.
func LoopbackUp() []call.Call {
	req := &ifreqFlags{flags: unix.IFF_UP | unix.IFF_RUNNING}
	copy(req.name[:], "lo")
	return []call.Call{
		call.New("network", "bring lo up", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0).Into(call.Socket),
		call.New("network", "bring lo up", unix.SYS_IOCTL, call.Socket, unix.SIOCSIFFLAGS, call.Ptr(req)),
	}
}
