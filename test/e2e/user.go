package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// testUser is who runs the agents if the tests run as root: nobody's account,
// so that a bare attack meets nothing that belongs to a person.
const testUser = "cofferdam-test"

// credential returns whom to run as: the test user if we are root (it is made
// if it does not exist), nil for ourselves. The error is a *Missing.
func credential() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(testUser)
	if err != nil {
		out, adderr := exec.Command("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", testUser).CombinedOutput()
		if adderr != nil {
			return nil, &Missing{"testuser", fmt.Errorf("useradd %s: %v: %s", testUser, adderr, out)}
		}
		if u, err = user.Lookup(testUser); err != nil {
			return nil, &Missing{"testuser", err}
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, &Missing{"testuser", err}
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, &Missing{"testuser", err}
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
