package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"cofferdam/internal/approval"
)

// credentials are what the kernel says of the other end (SO_PEERCRED, unix(7)).
func credentials(c *net.UnixConn) (*syscall.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var u *syscall.Ucred
	var cause error
	err = raw.Control(func(fd uintptr) {
		u, cause = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	return u, errors.Join(err, cause)
}

// outside says who has connected, if it is the user of this process and lives in the
// same namespaces: what is inside of a boundary has others. The folder of the socket
// is out of reach in there already, so this holds when that has failed. It has to be
// seen; what can't be is refused. That the number of a process was given to another in
// between can't be told, but whoever was inside of one that connected has gone by then.
func outside(c *net.UnixConn) (approval.Peer, error) {
	u, err := credentials(c)
	if err != nil {
		return approval.Peer{}, fmt.Errorf("nobody knows who asks: %w", err)
	}
	p := approval.Peer{UID: int(u.Uid), PID: int(u.Pid)}
	if p.UID != os.Geteuid() {
		return p, errors.New("this session belongs to another user")
	}
	for _, kind := range []string{"user", "pid"} {
		mine, err := os.Readlink("/proc/self/ns/" + kind)
		var theirs string
		if err == nil {
			theirs, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.PID, kind))
		}
		if err != nil || p.PID <= 0 {
			return p, errors.New("it can't be seen that you are outside of the boundary, so you may not answer")
		}
		if mine != theirs {
			return p, errors.New("you are in another namespace than the session's supervisor: what is inside of a boundary may not answer")
		}
	}
	return p, nil
}
