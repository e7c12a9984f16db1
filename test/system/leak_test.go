package system

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// number is one that the environment may change.
func number(t *testing.T, name string, n int) int {
	if v := os.Getenv(name); v != "" {
		if _, err := fmt.Sscan(v, &n); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func TestStartsInARow(t *testing.T) {
	s := newSite(t)
	n := number(t, "SYSTEM_STARTS", 100)
	before := openFiles(t)
	for i := range n {
		if r := s.run(t, "run", "--", "true"); r.status != 0 || r.err != "" {
			t.Fatalf("start %d: status %d, %q", i, r.status, r.err)
		}
	}
	s.counted(t, n, before)
}

func TestStartsAtOnce(t *testing.T) {
	s := newSite(t)
	const n = 50
	before := openFiles(t)
	var all sync.WaitGroup
	problems := make([]string, n)
	for i := range n {
		all.Go(func() {
			cmd := s.command("run", "--", "sh", "-c", fmt.Sprintf("(setsid sleep 1000 &); echo %d", i))
			out, err := cmd.CombinedOutput()
			if err != nil || string(out) != fmt.Sprintf("%d\n", i) {
				problems[i] = fmt.Sprintf("%v, %q", err, out)
			}
		})
	}
	all.Wait()
	for i, p := range problems {
		if p != "" {
			t.Errorf("start %d: %s", i, p)
		}
	}
	s.counted(t, n, before)
}

// counted checks that n runs have left n session folders and nothing else.
func (s *site) counted(t *testing.T, n, descriptors int) {
	t.Helper()
	s.clean(t)
	if got := s.sessions(t); got != n {
		t.Errorf("%d sessions, want %d", got, n)
	}
	if got := len(names(t, s.state+"/homes")); got != 1 {
		t.Errorf("%d private homes, want 1", got)
	}
	if got := openFiles(t); got > descriptors {
		t.Errorf("%d descriptors are open, %d before", got, descriptors)
	}
	if got := len(names(t, s.workspace)); got != 0 {
		t.Errorf("%d files in the workspace", got)
	}
}

func openFiles(t *testing.T) int { return len(names(t, "/proc/self/fd")) }

// A supervisor's descriptors don't grow with what goes on in its session.
func TestSupervisorsDescriptors(t *testing.T) {
	s := newSite(t)
	b := s.start(t, "ready\n", "run", "--name", "long", "--", "sh", "-c", "echo ready; cat > /dev/null")
	fds := fmt.Sprintf("/proc/%d/fd", b.Process.Pid)
	s.run(t, "exec", "long", "--", "true").wants(t, 0)
	before := len(names(t, fds))
	for range 20 {
		s.run(t, "exec", "long", "--", "true").wants(t, 0)
	}
	waitFor(t, "the supervisor's descriptors to be as many as before", func() bool { return len(names(t, fds)) <= before })
	b.in.Close()
	if status := b.end(t); status != 0 {
		t.Errorf("status %d", status)
	}
}

// In directories that nobody else uses, so that any name shows.
func TestSharedDirectories(t *testing.T) {
	s := newSite(t)
	seen := func(r result) []string {
		r.wants(t, 0)
		return strings.Fields(r.out)
	}
	script := `"$@" >&2 && for d in /tmp /var/tmp /dev/shm /run; do for f in "$d"/* "$d"/.[!.]*; do [ -e "$f" ] && echo "$f"; done; done; exit 0`
	empty := rigging{Empty: []string{"/var/tmp", "/dev/shm"}}
	// The control: what is put there is seen.
	got := seen(s.rigged(t, empty, "sh", "-c", script, "sh", "touch", "/var/tmp/control", "/dev/shm/control"))
	if !strings.Contains(strings.Join(got, " "), "/var/tmp/control /dev/shm/control") {
		t.Fatalf("the control is not seen: %v", got)
	}
	before := seen(s.rigged(t, empty, "sh", "-c", script, "sh", "true"))
	after := seen(s.rigged(t, empty, "sh", "-c", script, "sh", binary, "run", "--", "sh", "-c", "touch /tmp/a /var/tmp/b /dev/shm/c"))
	mine := func(list []string) []string {
		var out []string
		for _, f := range list {
			if !strings.HasPrefix(f, "/tmp/") || strings.Contains(f, "/tmp/a") {
				out = append(out, f)
			}
		}
		return out
	}
	if d := difference(strings.Join(mine(before), "\n"), strings.Join(mine(after), "\n")); d != "" {
		t.Errorf("shared directories: %s", d)
	}
}

func TestTwoAtOnce(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	one := s.start(t, "ready\n", "run", "--name", "one", "--", "sh", "-c", "echo 1 > one; echo ready; cat >/dev/null; cat two")
	two := s.start(t, "ready\n", "run", "--name", "two", "--", "sh", "-c", "echo 2 > two; echo ready; cat >/dev/null; cat one")
	list := s.ps(t)
	if len(list) != 2 || list[0].State.Name != "one" || list[1].State.Name != "two" || list[0].Status != "live" {
		t.Errorf("ps: %+v", list)
	}
	if got := s.git(t, "status", "--porcelain", "--ignored"); got != "?? one\n?? two\n" {
		t.Errorf("git status on the host: %q", got)
	}
	// They share the files and not the processes.
	if r := s.run(t, "exec", "one", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"); !strings.Contains(r.out, "> one") || strings.Contains(r.out, "> two") {
		t.Errorf("processes in one: %q", r.out)
	}
	s.run(t, "run", "--name", "one", "--", "true").complains(t, 64, "one")
	one.in.Close()
	one.await(t, "2\n")
	if status := one.end(t); status != 0 {
		t.Errorf("one: status %d", status)
	}
	// The end of one does not touch the other.
	s.run(t, "exec", "two", "--", "sh", "-c", "exit 8").wants(t, 8)
	two.in.Close()
	two.await(t, "1\n")
	if status := two.end(t); status != 0 {
		t.Errorf("two: status %d", status)
	}
}

func TestExec(t *testing.T) {
	s := newSite(t)
	s.write(t, s.home+"/secret.txt", "the secret\n")
	s.write(t, ".env", "TOKEN=the secret\n")
	b := s.start(t, "ready\n", "run", "--name", "long", "--env", "GIVEN=yes", "--", "sh", "-c", "touch /tmp/shared; echo ready; cat > /dev/null")
	t.Run("status", func(t *testing.T) {
		s.run(t, "exec", "long", "--", "sh", "-c", "exit 42").wants(t, 42)
		s.run(t, "exec", "long", "--", "sh", "-c", "kill -KILL $$").wants(t, 137)
		s.run(t, "exec", "long", "--", "no-such-program").complains(t, 127)
		s.run(t, "exec", "nobody", "--", "true").complains(t, 66, "nobody")
	})
	t.Run("same inside", func(t *testing.T) {
		r := s.run(t, "exec", "long", "--", "sh", "-c", "ls /tmp/shared; echo $GIVEN; pwd; id -u")
		if want := fmt.Sprintf("/tmp/shared\nyes\n%s\n%d\n", s.workspace, os.Getuid()); r.out != want {
			t.Errorf("printed %q, want %q; errors %q", r.out, want, r.err)
		}
	})
	t.Run("still denied", func(t *testing.T) {
		for _, line := range []string{
			"cat '" + s.home + "/secret.txt'", "cat .env", "cat /etc/shadow", "echo x > /usr/x", "echo x > '" + s.state + "/x'",
			"mkdir /tmp/m && mount -t tmpfs none /tmp/m", "unshare -U true", "nsenter -t 1 -m true", "kill -0 " + fmt.Sprint(os.Getpid()),
		} {
			r := s.run(t, "exec", "long", "--", "sh", "-c", line)
			if r.status == 0 || strings.Contains(r.out, "secret") {
				t.Errorf("%s: status 0, printed %q", line, r.out)
			}
		}
		// The control: the same shell can do what is allowed.
		s.run(t, "exec", "long", "--", "sh", "-c", "echo x > allowed && cat allowed && rm allowed").wants(t, 0)
		r := s.run(t, "exec", "long", "--", "grep", "-E", "^(CapEff|CapBnd|NoNewPrivs|Seccomp):", "/proc/self/status")
		if want := "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"; r.out != want {
			t.Errorf("%q, want %q", r.out, want)
		}
	})
	// What is refused to who entered is in the record of the session.
	t.Run("recorded", func(t *testing.T) {
		recorded := func() bool {
			r := s.run(t, "logs", "--json", "long")
			r.wants(t, 0)
			return strings.Contains(r.out, `"subject":"chroot"`)
		}
		if recorded() {
			t.Fatal("recorded before it is tried")
		}
		if r := s.run(t, "exec", "long", "--", "sh", "-c", "PATH=$PATH:/usr/sbin:/sbin chroot / true"); r.status == 0 || !strings.Contains(r.err, "not permitted") {
			t.Errorf("chroot: status %d, errors %q", r.status, r.err)
		}
		waitFor(t, "the refusal in the record", recorded)
	})
	t.Run("terminal", func(t *testing.T) {
		x := s.terminal(t, framed(`"$COFFERDAM" exec long -- sh -c 'stty size; exec 3</dev/tty && echo controlling; exit 6'`))
		shown := x.await("settings same\r\nstatus 6\r\n")
		if !strings.Contains(shown, "33 99\r\ncontrolling\r\n") {
			t.Errorf("shown %q", shown)
		}
		x.end()
	})
	t.Run("SIGTERM", func(t *testing.T) {
		e := s.start(t, "ready\n", "exec", "long", "--", "sh", "-c", "echo ready; exec sleep 1000")
		if err := e.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if status := e.end(t); status != 143 {
			t.Errorf("status %d, want 143", status)
		}
	})
	// Whenever the one who entered is killed, his command ends, and the session
	// goes on.
	t.Run("killed", func(t *testing.T) {
		for n := range 20 {
			e := s.command("exec", "long", "--", "sh", "-c", "exec sleep 1234")
			if err := e.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(n) * 2 * time.Millisecond) // the moment is the point
			sig := syscall.SIGKILL
			if n%2 == 1 {
				sig = syscall.SIGINT
			}
			e.Process.Signal(sig)
			if status := ended(t, e); status != 128+int(sig) {
				t.Errorf("status %d, want %d", status, 128+int(sig))
			}
			waitFor(t, "the command of a killed exec to end", func() bool {
				reapOrphans(b.Process.Pid)
				return !strings.Contains(strings.Join(tree(os.Getpid()), "\n"), `sleep\x001234`)
			})
		}
		s.run(t, "exec", "long", "--", "sh", "-c", "exit 4").wants(t, 4)
	})
	dies := s.start(t, "ready\n", "exec", "long", "--", "sh", "-c", "echo ready; trap '' TERM; while :; do sleep 1000; done")
	b.in.Close()
	if status := b.end(t); status != 0 {
		t.Errorf("the session: status %d", status)
	}
	if status := dies.end(t); status != 137 {
		t.Errorf("a command that entered: status %d when its session ends, want 137", status)
	}
	s.run(t, "exec", "long", "--", "true").complains(t, 73, "not running", "cofferdam ps")
}

func TestJSON(t *testing.T) {
	s := newSite(t)
	s.sh(t, "exit 3", "--name", "done").wants(t, 3)
	t.Run("logs", func(t *testing.T) {
		r := s.run(t, "logs", "--json", "done")
		r.wants(t, 0)
		var kinds []string
		for line := range strings.Lines(r.out) {
			var e struct {
				Kind   string
				Status int
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			kinds = append(kinds, e.Kind)
			if e.Kind == "exit" && e.Status != 3 {
				t.Errorf("the event says status %d", e.Status)
			}
		}
		if got := strings.Join(kinds, " "); !strings.Contains(got, "start running exit end") {
			t.Errorf("events: %s", got)
		}
	})
	t.Run("errors", func(t *testing.T) {
		r := s.run(t, "run", "--json", "--policy", "/no/such/file", "--", "true")
		var e struct{ Error struct{ Code int } }
		if err := json.Unmarshal([]byte(r.err), &e); err != nil || e.Error.Code != r.status {
			t.Errorf("%v: status %d, %q", err, r.status, r.err)
		}
	})
	t.Run("dry run", func(t *testing.T) {
		before := s.sessions(t)
		r := s.run(t, "run", "--dry-run", "--json", "--", "touch", "made")
		r.wants(t, 0)
		var p struct{ Program, Workspace string }
		if err := json.Unmarshal([]byte(r.out), &p); err != nil || p.Workspace != s.workspace || p.Program == "" {
			t.Errorf("%v: %s", err, clip(r.out))
		}
		if s.exists("made") || s.sessions(t) != before {
			t.Error("something was started")
		}
		fresh := newSite(t)
		fresh.run(t, "run", "--dry-run", "--", "true").wants(t, 0)
		if got := names(t, fresh.state); !slices.Equal(got, []string{"registries.json", "tried-nftables"}) {
			t.Errorf("a dry run made %v", got)
		}
	})
}
