package system

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"cofferdam/internal/testenv"
)

// rigged is the first argument of this test binary as a helper that breaks
// something for itself and then executes a program.
const rigged = "rigged"

// rigging is what is broken. All but Refuse needs a user namespace of its own,
// in which the helper may do such things.
type rigging struct {
	Empty  []string  // directories over which an empty tmpfs is mounted
	Plain  []string  // directories over which a file system without attributes is mounted
	Hosts  string    // what /etc/hosts says
	Small  string    // a directory over which a full tmpfs is mounted
	Root   bool      // be user 0
	Limits []string  // files of /proc/sys/user that are set to 0
	Proc   []string  // what is covered in the only procfs; empty but not nil: nothing is
	Refuse []refusal // system calls that fail
}

// refusal lets a system call fail with Errno, as a kernel or a container that
// does not have it does. If Flag is not 0: only if argument 0 has it.
type refusal struct {
	Call  uintptr
	Errno syscall.Errno
	Flag  uint32
	Third uint32 // if not 0: only if argument 2 is this
	Hang  bool   // instead, it never returns
}

func (r rigging) namespace() bool {
	return len(r.Empty) > 0 || len(r.Plain) > 0 || r.Hosts != "" || r.Small != "" || r.Root || len(r.Limits) > 0 || r.Proc != nil
}

// rigged runs a command in a rigging.
func (s *site) rigged(t *testing.T, r rigging, command ...string) result {
	t.Helper()
	got := finish(t, s.rig(t, r, command...))
	if got.status == rigFailed {
		testenv.Skip(t, testenv.UserNamespaces, got.err)
	}
	return got
}

// rig is a command in a rigging, not started.
func (s *site) rig(t *testing.T, r rigging, command ...string) *exec.Cmd {
	t.Helper()
	spec, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.command(append([]string{rigged, string(spec)}, command...)...)
	cmd.Path = "/proc/self/exe" // lies where only root can go
	if r.namespace() {
		id := os.Getuid()
		inside := id
		if r.Root {
			inside = 0
		}
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: inside, HostID: id, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_RESOURCE}
	}
	return cmd
}

const rigFailed = 99

// rig is the helper.
func rig(args []string) int {
	var r rigging
	if err := json.Unmarshal([]byte(args[0]), &r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return rigFailed
	}
	runtime.LockOSThread()
	if err := r.apply(); err != nil {
		fmt.Fprintln(os.Stderr, "rig:", err)
		return rigFailed
	}
	program, err := exec.LookPath(args[1])
	if err == nil {
		err = syscall.Exec(program, args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "rig:", err)
	return rigFailed
}

func (r rigging) apply() error {
	if r.namespace() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
	}
	for _, dir := range r.Empty {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=1777"); err != nil {
			return fmt.Errorf("mount on %s: %w", dir, err)
		}
	}
	for _, dir := range r.Plain {
		if err := unix.Mount("ramfs", dir, "ramfs", 0, "mode=700"); err != nil {
			return fmt.Errorf("mount on %s: %w", dir, err)
		}
	}
	if r.Hosts != "" {
		// A file of a tmpfs: the temporary directory may be one that goes away.
		if err := unix.Mount("tmpfs", "/mnt", "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount on /mnt: %w", err)
		}
		if err := os.WriteFile("/mnt/hosts", []byte(r.Hosts), 0o644); err != nil {
			return err
		}
		if err := unix.Mount("/mnt/hosts", "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount on /etc/hosts: %w", err)
		}
	}
	if r.Small != "" {
		if err := unix.Mount("tmpfs", r.Small, "tmpfs", 0, "mode=700,size=16k"); err != nil {
			return fmt.Errorf("mount on %s: %w", r.Small, err)
		}
		fill, err := os.Create(r.Small + "/fill")
		if err != nil {
			return err
		}
		for err == nil {
			_, err = fill.Write(make([]byte, 4096))
		}
		fill.Close()
	}
	if r.Proc != nil {
		if err := testenv.CoverProc(r.Proc...); err != nil {
			return fmt.Errorf("cover /proc: %w", err)
		}
	}
	for _, file := range r.Limits {
		if err := os.WriteFile("/proc/sys/user/"+file, []byte("0"), 0); err != nil {
			return err
		}
	}
	// What the helper could do must not help the program.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if len(r.Refuse) > 0 {
		return refuse(r.Refuse)
	}
	return nil
}

// refuse installs a filter of system calls for this thread and what it executes.
func refuse(list []refusal) error {
	stmt := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	jump := func(op uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: yes, Jf: no, K: k}
	}
	const load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	var prog []unix.SockFilter
	var flags uintptr
	for _, r := range list {
		fail := stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ERRNO|uint32(r.Errno))
		if r.Hang {
			flags, fail.K = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, unix.SECCOMP_RET_USER_NOTIF
		}
		prog = append(prog, stmt(load, 0)) // the number
		if r.Third != 0 {
			prog = append(prog, jump(unix.BPF_JEQ, uint32(r.Call), 0, 3), stmt(load, 32), jump(unix.BPF_JEQ, r.Third, 0, 1), fail)
			continue
		}
		if r.Flag == 0 {
			prog = append(prog, jump(unix.BPF_JEQ, uint32(r.Call), 0, 1), fail)
			continue
		}
		prog = append(prog, jump(unix.BPF_JEQ, uint32(r.Call), 0, 3), stmt(load, 16), jump(unix.BPF_JSET, r.Flag, 0, 1), fail)
	}
	prog = append(prog, stmt(unix.BPF_RET|unix.BPF_K, unix.SECCOMP_RET_ALLOW))
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	p := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	listener, _, errno := syscall.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&p)))
	if errno != 0 {
		return fmt.Errorf("install the filter: %w", errno)
	}
	if flags == 0 {
		return nil
	}
	// Open, so that there is somebody to wait for.
	_, err := unix.FcntlInt(listener, unix.F_SETFD, 0)
	return err
}
