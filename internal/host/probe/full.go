//go:build linux

package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"cofferdam/internal/host"
	"cofferdam/internal/linux/cgroup"

	"golang.org/x/sys/unix"
)

// patience is how long one trial may take.
const patience = 5 * time.Second

// Full returns Quick's facts with every mechanism tried for real, each in a
// child of its own, so that a trial changes nothing here. It takes some tens
// of milliseconds. The program must call Child first thing in main.
func Full(ctx context.Context, envHome string) host.Facts {
	f := Quick(envHome)
	var all []string
	for _, m := range f.Mechanisms {
		all = append(all, m.Name)
	}
	Try(ctx, &f, all...)
	return f
}

// Try puts into f what a trial of the named mechanisms says, as Full does, for a run
// that needs more than Quick can know.
func Try(ctx context.Context, f *host.Facts, names ...string) {
	userns := sync.OnceValue(func() result { return run(ctx, trials[0]) })
	for i := range f.Mechanisms {
		m := &f.Mechanisms[i]
		if !slices.Contains(names, m.Name) {
			continue
		}
		r, tried := result{}, true
		switch m.Name {
		case host.UserNamespaces:
			r = userns()
		case host.CgroupV2, host.CgroupV1:
			r = tryGroup(ctx, cgroup.Kind(m.Name))
		default:
			r, tried = tryNamed(ctx, m.Name, userns)
		}
		if tried {
			*m = r.mechanism(m.Name, f)
		}
	}
}

// TryOverlay puts into f what a trial of an overlay over project says, with its layers
// in the empty directory dir, whose owner removes what is left there.
func TryOverlay(ctx context.Context, f *host.Facts, project, dir string) {
	t := trial{name: host.Overlay, flags: newUser, args: []string{project, dir}}
	r := run(ctx, trials[0])
	if r.Answer == host.Yes {
		r = run(ctx, t)
	} else {
		r.Op, r.Stage = "needs user namespaces: "+r.Op, host.UserNamespaces
	}
	f.SetMechanism(r.mechanism(host.Overlay, f))
}

func tryNamed(ctx context.Context, name string, userns func() result) (result, bool) {
	for _, t := range trials {
		if t.name != name {
			continue
		}
		if t.flags&syscall.CLONE_NEWUSER != 0 {
			if u := userns(); u.Answer != host.Yes {
				return result{Answer: u.Answer, Op: "needs user namespaces: " + u.Op, Errno: u.Errno, Stage: host.UserNamespaces}, true
			}
		}
		return run(ctx, t), true
	}
	return result{}, false
}

// command is a child that does one trial.
func (t trial) command(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{childWord, t.name}, t.args...)...)
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

// tryGroup makes a group with every ceiling, as a run would, and with version 2
// starts a child in it: that needs rights over what is above the group and us.
func tryGroup(ctx context.Context, k cgroup.Kind) result {
	g, err := cgroup.Create(k, "probe-"+strconv.Itoa(os.Getpid()), cgroup.Spec{Memory: 64 << 20, Processes: 64, MilliCPU: 1000})
	if err != nil {
		r := result{Answer: host.Unknown, Op: err.Error()}
		if cgroup.Refused(err) {
			r.Answer = host.No
		}
		if errno := unix.Errno(0); errors.As(err, &errno) {
			r.Op, r.Errno = strings.TrimSuffix(r.Op, ": "+errno.Error()), errno
		}
		return r
	}
	where := strings.Join(g.Paths(), " ")
	if dir := g.Door().Dir(); dir != nil {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "/proc/self/exe", childWord, nothing)
		cmd.Env, cmd.SysProcAttr = []string{}, &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
		err = cmd.Run()
	}
	if gone := g.Remove(); err == nil && gone != nil {
		return result{Answer: host.Unknown, Op: "remove " + where + ": " + gone.Error()}
	}
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return failed("clone(CLONE_INTO_CGROUP) into "+where, errno)
	} else if err != nil {
		return result{Answer: host.Unknown, Op: "clone(CLONE_INTO_CGROUP) into " + where + ": " + err.Error()}
	}
	return yes("made, limited and removed " + where)
}
