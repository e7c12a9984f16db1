package e2e

import (
	"os"
	"syscall"

	"cofferdam/internal/testenv"
)

// credential returns whom to run the agents as: an account that is nobody's if
// we are root, so that a bare attack meets nothing that belongs to a person;
// nil, for ourselves, otherwise.
func credential() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	uid, gid, err := testenv.Unprivileged()
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
