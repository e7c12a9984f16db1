package system

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Without something that the boundary is made of, nothing runs, and the person
// is told what is missing and what to do.
func TestFailsClosed(t *testing.T) {
	for _, c := range []struct {
		name string
		rig  rigging
		says string
	}{
		{"no user namespaces", rigging{Limits: []string{"max_user_namespaces"}}, "user namespace"},
		{"no mount namespaces", rigging{Limits: []string{"max_mnt_namespaces"}}, "mount"},
		{"no network namespaces", rigging{Limits: []string{"max_net_namespaces"}}, "net"},
		{"no pid namespaces", rigging{Limits: []string{"max_pid_namespaces"}}, "pid"},
		{"no ipc namespaces", rigging{Limits: []string{"max_ipc_namespaces"}}, "ipc"},
		{"user namespaces refused", rigging{Refuse: []refusal{
			{Call: unix.SYS_CLONE, Errno: syscall.EPERM, Flag: unix.CLONE_NEWUSER},
			{Call: unix.SYS_UNSHARE, Errno: syscall.EPERM, Flag: unix.CLONE_NEWUSER},
			{Call: unix.SYS_CLONE3, Errno: syscall.ENOSYS},
		}}, "user"},
		{"no Landlock", rigging{Refuse: []refusal{{Call: unix.SYS_LANDLOCK_CREATE_RULESET, Errno: syscall.ENOSYS}}}, "andlock"},
		{"Landlock off", rigging{Refuse: []refusal{{Call: unix.SYS_LANDLOCK_CREATE_RULESET, Errno: syscall.EOPNOTSUPP}}}, "andlock"},
		{"no seccomp", rigging{Refuse: []refusal{{Call: unix.SYS_SECCOMP, Errno: syscall.EINVAL}}}, "seccomp"},
		{"no mount", rigging{Refuse: []refusal{{Call: unix.SYS_MOUNT, Errno: syscall.EPERM}, {Call: unix.SYS_FSMOUNT, Errno: syscall.EPERM}, {Call: unix.SYS_OPEN_TREE, Errno: syscall.EPERM}}}, "mount"},
		{"no pivot_root", rigging{Refuse: []refusal{{Call: unix.SYS_PIVOT_ROOT, Errno: syscall.EPERM}}}, "root"},
		{"/proc is covered", rigging{Proc: []string{"/proc/meminfo", "/proc/uptime"}}, "/proc"},
		{"root", rigging{Root: true}, "root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			r := s.rigged(t, c.rig, binary, "run", "--", "touch", "made")
			r.complains(t, 69, c.says)
			if s.exists("made") {
				t.Error("the command ran")
			}
			t.Logf("%d: %s", r.status, r.err)
		})
	}
}

// With fewer open files than it takes, the child could not even say what failed.
func TestFewOpenFiles(t *testing.T) {
	s := newSite(t)
	limited := func(n int) result {
		cmd := s.command()
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$@"`, n), "sh", binary, "run", "--", "touch", "made"}
		return finish(t, cmd)
	}
	limited(150).complains(t, 69, "open files", "ulimit")
	if s.exists("made") {
		t.Error("the command ran")
	}
	limited(256).wants(t, 0)
	if !s.exists("made") {
		t.Error("the command did not run")
	}
	// What is for the inside only may be less.
	s.write(t, s.home+"/policy.jsonc", `{"resources": {"openFiles": 64}}`)
	if r := s.sh(t, "ulimit -n", "--policy", s.home+"/policy.jsonc"); r.out != "64\n" {
		t.Errorf("status %d, printed %q, errors %q", r.status, r.out, r.err)
	}
}

// The control for all of the above: the helper alone breaks nothing.
func TestRigBreaksNothing(t *testing.T) {
	s := newSite(t)
	for _, rig := range []rigging{
		{Empty: []string{"/var/tmp"}},
		{Proc: []string{}},
		{Refuse: []refusal{{Call: unix.SYS_SWAPON, Errno: syscall.ENOSYS}, {Call: unix.SYS_CLONE, Errno: syscall.EPERM, Flag: 1 << 31}}},
	} {
		r := s.rigged(t, rig, binary, "run", "--", "echo", "fine")
		r.wants(t, 0)
		if r.out != "fine\n" {
			t.Errorf("printed %q, errors %q", r.out, r.err)
		}
	}
}

// A file of the project can't switch anything off.
func TestProjectCantWiden(t *testing.T) {
	s := newSite(t)
	s.write(t, s.home+"/secret.txt", "the secret\n")
	for _, c := range []struct{ name, file, content string }{
		{"policy", ".cofferdam/policy.jsonc", `{"filesystem": {"allowRead": ["~/secret.txt"]}}`},
		{"variables", ".env", "COFFERDAM=0\nCOFFERDAM_DISABLE=1\nCOFFERDAM_BOUNDARY=none\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.write(t, c.file, c.content)
			if r := s.sh(t, "cat '"+s.home+"/secret.txt'"); r.status == 0 || strings.Contains(r.out, "secret") {
				t.Errorf("status %d, printed %q", r.status, r.out)
			}
		})
	}
	cmd := s.command("run", "--", "cat", s.home+"/secret.txt")
	cmd.Env = append(cmd.Env, "COFFERDAM=0", "COFFERDAM_DISABLE=1", "COFFERDAM_BOUNDARY=none", "COFFERDAM_POLICY=/dev/null")
	if r := finish(t, cmd); r.status == 0 {
		t.Errorf("variables: printed %q", r.out)
	}
	// The control: the same file opens it once the person has said so.
	s.run(t, "policy", "trust").wants(t, 0)
	if r := s.sh(t, "cat '"+s.home+"/secret.txt'"); r.out != "the secret\n" {
		t.Errorf("control: status %d, printed %q, errors %q", r.status, r.out, r.err)
	}
}
