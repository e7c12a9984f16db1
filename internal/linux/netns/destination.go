package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNotRedirected: the connection was made to the listener itself.
var ErrNotRedirected = errors.New("the connection is for the gateway's own listener, not for an address")

// Destination says what a redirected connection was for before the kernel turned it
// to the listener that accepted it (SO_ORIGINAL_DST, and its twin of the same number
// for IPv6). It may be called in any network namespace. It never returns a loopback
// address: those are not redirected, and who names one has found the listener
// (ErrNotRedirected). A link-local address keeps its zone, as a number.
func Destination(c syscall.RawConn) (netip.AddrPort, error) {
	var to netip.AddrPort
	var cause error
	err := c.Control(func(fd uintptr) { to, cause = destination(int(fd)) })
	if err == nil {
		err = cause
	}
	if err != nil {
		return netip.AddrPort{}, err
	}
	return to, nil
}

// Local is Destination for a connection that was not turned: the listener is on every
// address, and the route of AnyIP makes every address local, so it is the one that the
// socket has.
func Local(c syscall.RawConn) (netip.AddrPort, error) {
	var to netip.AddrPort
	var cause error
	err := c.Control(func(fd uintptr) {
		self, err := unix.Getsockname(int(fd))
		a, ok := self.(*unix.SockaddrInet4)
		switch {
		case err != nil:
			cause = os.NewSyscallError("getsockname", err)
		case !ok:
			cause = fmt.Errorf("no destination of a %T", self)
		default:
			to = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
		}
	})
	if err == nil {
		err = cause
	}
	switch {
	case err != nil:
		return netip.AddrPort{}, err
	case to.Addr().IsLoopback() || to.Addr().IsUnspecified():
		return netip.AddrPort{}, ErrNotRedirected
	}
	return to, nil
}

func destination(fd int) (netip.AddrPort, error) {
	self, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, os.NewSyscallError("getsockname", err)
	}
	var to netip.AddrPort
	switch self.(type) {
	case *unix.SockaddrInet4:
		// The structure with room for a sockaddr_in, which the kernel fills.
		v, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, unix.SO_ORIGINAL_DST)
		if err != nil {
			return to, os.NewSyscallError("getsockopt SO_ORIGINAL_DST", err)
		}
		b := v.Multiaddr // family, port, address
		to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
	case *unix.SockaddrInet6:
		v, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, unix.SO_ORIGINAL_DST)
		if err != nil {
			return to, os.NewSyscallError("getsockopt IP6T_SO_ORIGINAL_DST", err)
		}
		a := netip.AddrFrom16(v.Addr.Addr)
		if v.Addr.Scope_id != 0 {
			a = a.WithZone(strconv.FormatUint(uint64(v.Addr.Scope_id), 10))
		}
		to = netip.AddrPortFrom(a, networkOrder(v.Addr.Port))
	default:
		return to, fmt.Errorf("no original destination of a %T", self)
	}
	if to.Addr().Unmap().IsLoopback() {
		return netip.AddrPort{}, ErrNotRedirected
	}
	return to, nil
}
