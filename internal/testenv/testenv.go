// Package testenv is what tests need of the machine: an unprivileged user to be,
// and one honest way to skip. It is imported by tests only.
package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// User is the account that tests of the unprivileged case become.
const User = "cofferdam-test"

// Main runs the tests of a package as an unprivileged user. As root it makes the
// user if there is none and runs the test binary again under it; otherwise it runs
// the tests as they are. What it returns is for os.Exit in TestMain.
func Main(m *testing.M) int {
	if _, err := required(os.Getenv("REQUIRE"), Root); err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		return 1
	}
	if os.Getuid() != 0 {
		return m.Run()
	}
	code, err := asUser()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		return 1
	}
	return code
}

// Unprivileged returns the test user's ids, and makes the user if need be. It
// needs root.
func Unprivileged() (uid, gid int, err error) {
	u, err := user.Lookup(User)
	if err != nil {
		var unknown user.UnknownUserError
		if !errors.As(err, &unknown) {
			return 0, 0, err
		}
		out, err := exec.Command("useradd", "--create-home", "--shell", "/bin/bash", User).CombinedOutput()
		// Another package's tests may have made it at the same moment.
		if u2, err2 := user.Lookup(User); err2 == nil {
			u = u2
		} else {
			return 0, 0, fmt.Errorf("useradd %s: %v: %s", User, err, out)
		}
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return uid, gid, errors.Join(err1, err2)
}

func asUser() (int, error) {
	uid, gid, err := Unprivileged()
	if err != nil {
		return 0, err
	}
	tmp, err := os.MkdirTemp("", "cofferdam-test-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(tmp)
	if err := errors.Join(os.Chown(tmp, uid, gid), os.Chmod(tmp, 0o755)); err != nil {
		return 0, err
	}
	// Files of the go command that only root can write.
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool {
		return strings.HasPrefix(a, "-test.testlogfile=") || strings.HasPrefix(a, "-test.gocoverdir=")
	})
	// The binary lies in a directory that only root can enter.
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = []string{"HOME=" + tmp, "TMPDIR=" + tmp, "USER=" + User, "LOGNAME=" + User}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.Contains([]string{"HOME", "TMPDIR", "USER", "LOGNAME"}, name) && !strings.HasPrefix(name, "XDG_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// Need names something of the machine that a test can't do without.
type Need string

// What tests ask for. REQUIRE=userns,fuse,... makes a missing one a failure.
const (
	UserNamespaces Need = "userns"
	Fuse           Need = "fuse"
	Root           Need = "root"
	CgroupV1       Need = "cgroup-v1"
	CgroupV2       Need = "cgroup-v2"
	Agents         Need = "agents"
	Toolchains     Need = "toolchains"
	Bubblewrap     Need = "bwrap"
	Git            Need = "git"
	Seccomp        Need = "seccomp"
	SeccompNotify  Need = "seccomp-notify"
	IA32           Need = "ia32"
	AMD64          Need = "amd64"
	Nftables       Need = "nftables"
	OverlayFD      Need = "overlay-fd" // layers by descriptor: Linux 6.13
)

var needs = []Need{UserNamespaces, Fuse, Root, CgroupV1, CgroupV2, Agents, Toolchains, Bubblewrap, Git, Seccomp, SeccompNotify, IA32, AMD64, Nftables, OverlayFD}

// required says whether REQUIRE lists the need. A name in it that nobody skips for
// is an error: misspelt, it would hide a skip.
func required(list string, need Need) (bool, error) {
	if !slices.Contains(needs, need) {
		return false, fmt.Errorf("%q is no need that testenv knows", need)
	}
	found := false
	for name := range strings.SplitSeq(list, ",") {
		name = strings.TrimSpace(name)
		switch {
		case name == "":
		case !slices.Contains(needs, Need(name)):
			return false, fmt.Errorf("REQUIRE names %q, which is none of %q", name, needs)
		case Need(name) == need:
			found = true
		}
	}
	return found, nil
}

// Skip ends the test because what it needs is not here: as skipped, or as failed
// if REQUIRE in the environment lists the need.
func Skip(t testing.TB, need Need, because string) {
	t.Helper()
	must, err := required(os.Getenv("REQUIRE"), need)
	if err != nil {
		t.Fatal(err)
	}
	if must {
		t.Fatalf("REQUIRE asks for %s, which is not here: %s", need, because)
	}
	t.Skipf("needs %s: %s", need, because)
}
