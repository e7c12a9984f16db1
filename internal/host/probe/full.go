//go:build linux

package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cofferdam/internal/host"

	"golang.org/x/sys/unix"
)

// patience is how long one trial may take.
const patience = 5 * time.Second

// Full returns Quick's facts with every mechanism tried for real, each in a
// child of its own, so that a trial changes nothing here. It takes some tens
// of milliseconds. The program must call Child first thing in main.
func Full(ctx context.Context, envHome string) host.Facts {
	f := Quick(envHome)
	userns := run(ctx, trials[0])
	for i := range f.Mechanisms {
		m := &f.Mechanisms[i]
		r, tried := result{}, true
		switch m.Name {
		case host.UserNamespaces:
			r = userns
		case host.CgroupV2:
			r = tryCgroup2(ctx)
		case host.CgroupV1:
			r = tryCgroup1()
		default:
			r, tried = tryNamed(ctx, m.Name, userns)
		}
		if tried {
			*m = r.mechanism(m.Name, &f)
		}
	}
	return f
}

func tryNamed(ctx context.Context, name string, userns result) (result, bool) {
	for _, t := range trials {
		if t.name != name {
			continue
		}
		if t.flags&syscall.CLONE_NEWUSER != 0 && userns.Answer != host.Yes {
			return result{Answer: userns.Answer, Op: "needs user namespaces: " + userns.Op, Errno: userns.Errno, Stage: host.UserNamespaces}, true
		}
		return run(ctx, t), true
	}
	return result{}, false
}

// command is a child that does one trial.
func (t trial) command(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", childWord, t.name)
	cmd.Dir = "/"
	cmd.Env = []string{} // the child needs nothing, and is given no secrets
	attr := &syscall.SysProcAttr{Cloneflags: t.flags}
	if t.flags&syscall.CLONE_NEWUSER != 0 {
		own := func(id int) []syscall.SysProcIDMap {
			return []syscall.SysProcIDMap{{ContainerID: id, HostID: id, Size: 1}}
		}
		attr.UidMappings, attr.GidMappings = own(os.Getuid()), own(os.Getgid())
		// The map of the real start: own uid. Exec would drop the
		// capabilities, so keep those that a trial needs. Overlay makes a
		// work directory of mode 000 and then looks into it: DAC_OVERRIDE.
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_CHOWN}
		if t.notRoot && os.Getuid() == 0 {
			nobody := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 65534, Size: 1}}
			attr.UidMappings, attr.GidMappings, attr.AmbientCaps = nobody, nobody, nil
			attr.Credential = &syscall.Credential{NoSetGroups: true}
		}
	}
	cmd.SysProcAttr = attr
	return cmd
}

func run(ctx context.Context, t trial) result {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := t.command(ctx).Output()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return result{Answer: host.Unknown, Op: "no answer from the trial: " + ctx.Err().Error()}
	case errors.As(err, &exit):
		return result{Answer: host.Unknown, Op: "the trial ended with " + exit.String()}
	case err != nil:
		return t.notStarted(ctx, err)
	}
	var r result
	if err := json.Unmarshal(out, &r); err != nil {
		return result{Answer: host.Unknown, Op: fmt.Sprintf("the trial said %.80q", out)}
	}
	return r
}

// notStarted finds the step that failed: the error of a start is one number
// for clone, the uid maps, the capabilities and exec.
func (t trial) notStarted(ctx context.Context, err error) result {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return result{Answer: host.Unknown, Op: err.Error()}
	}
	if t.flags == 0 {
		return result{Answer: host.Unknown, Op: "start a child", Errno: errno}
	}
	plain := exec.CommandContext(ctx, "/proc/self/exe", childWord, nothing)
	plain.Env = []string{}
	if plain.Run() != nil {
		return result{Answer: host.Unknown, Op: "start a child", Errno: errno}
	}
	bare := exec.CommandContext(ctx, "/proc/self/exe", childWord, nothing)
	bare.Env, bare.SysProcAttr = []string{}, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	if e := bare.Run(); e != nil {
		if errors.As(e, &errno) {
			return failed("clone(CLONE_NEWUSER)", errno)
		}
		return result{Answer: host.Unknown, Op: "clone(CLONE_NEWUSER): " + e.Error()}
	}
	bare = exec.CommandContext(ctx, "/proc/self/exe", childWord, nothing)
	bare.Env, bare.SysProcAttr = []string{}, &syscall.SysProcAttr{Cloneflags: t.flags}
	if e := bare.Run(); e != nil && errors.As(e, &errno) {
		return failed("clone("+flagNames(t.flags)+")", errno)
	}
	return failed("write the uid map or keep capabilities in a user namespace", errno)
}

func flagNames(flags uintptr) string {
	var names []string
	for _, f := range []struct {
		bit  uintptr
		name string
	}{
		{syscall.CLONE_NEWUSER, "CLONE_NEWUSER"}, {syscall.CLONE_NEWNS, "CLONE_NEWNS"},
		{syscall.CLONE_NEWPID, "CLONE_NEWPID"}, {syscall.CLONE_NEWNET, "CLONE_NEWNET"},
	} {
		if flags&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return strings.Join(names, "|")
}

// tryCgroup2 makes a cgroup below our own and starts a child in it.
func tryCgroup2(ctx context.Context) result {
	m := machine{}
	own := m.read(ownCgroups)
	if r := m.quickCgroup2(own); r.Answer == host.No {
		return r
	}
	parent := m.cgroup2(own)
	dir := filepath.Join(parent, "cofferdam-probe-"+strconv.Itoa(os.Getpid()))
	if err := unix.Mkdir(dir, 0o755); err != nil {
		return failed("mkdir "+dir, err)
	}
	defer unix.Rmdir(dir)
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failed("open "+dir, err)
	}
	defer unix.Close(fd)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", childWord, nothing)
	cmd.Env, cmd.SysProcAttr = []string{}, &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	if err := cmd.Run(); err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return failed("clone(CLONE_INTO_CGROUP)", errno)
		}
		return result{Answer: host.Unknown, Op: "clone(CLONE_INTO_CGROUP): " + err.Error()}
	}
	return yes("mkdir and CLONE_INTO_CGROUP below " + parent)
}

// tryCgroup1 makes a cgroup in the memory and pids hierarchies and limits it.
func tryCgroup1() result {
	m := machine{}
	for _, c := range []struct{ controller, file, value string }{
		{"memory", "memory.limit_in_bytes", "67108864"}, {"pids", "pids.max", "64"},
	} {
		parent := m.cgroup1(m.read(ownCgroups), c.controller)
		if parent == "" {
			return no("no " + c.controller + " hierarchy of cgroup v1 is mounted")
		}
		dir := filepath.Join(parent, "cofferdam-probe-"+strconv.Itoa(os.Getpid()))
		if err := unix.Mkdir(dir, 0o755); err != nil {
			return failed("mkdir "+dir, err)
		}
		err := os.WriteFile(dir+"/"+c.file, []byte(c.value), 0)
		unix.Rmdir(dir)
		var errno syscall.Errno
		if errors.As(err, &errno) {
			return failed("write "+c.file, errno)
		} else if err != nil {
			return failed("write "+c.file, err)
		}
	}
	return yes("memory and pids limits can be set")
}
