package system

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// psEntry is what ps --json says of a session.
type psEntry struct {
	ID, Status string
	State      struct {
		Name string
		Exit *struct {
			Status int
			Error  string
		}
	}
}

func (s *site) ps(t testing.TB, flags ...string) []psEntry {
	t.Helper()
	r := s.run(t, append([]string{"ps", "--json"}, flags...)...)
	r.wants(t, 0)
	var list []psEntry
	if err := json.Unmarshal([]byte(r.out), &list); err != nil {
		t.Fatalf("ps --json: %v\n%s", err, r.out)
	}
	return list
}

// Whenever we are killed, the command ends, and nothing of us is in the
// workspace or on the machine. Only the session's folder waits, for the next
// run, which settles it.
func TestKilledAtAnyMoment(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	s.write(t, ".env", "TOKEN=secret\n")
	s.write(t, ".gitignore", ".env\n")
	s.git(t, "add", "-A")
	s.git(t, "commit", "-qm", "ignore")
	s.sh(t, "true").wants(t, 0) // makes what stays: the private home
	begin := time.Now()
	s.sh(t, "true").wants(t, 0)
	moments := time.Since(begin) * 3 / 2 // set-up, and some of the time after it
	s.killed = true
	before := hash(t, s.workspace)
	seed := uint64(1)
	random := rand.New(rand.NewPCG(seed, 0))
	rounds := 60
	if testing.Short() {
		rounds = 15
	}
	killed := 0
	for n := range rounds {
		delay := time.Duration(random.Int64N(int64(moments)))
		cmd := s.command("run", "--", "sh", "-c", "(setsid sleep 1000 &); echo inside; exec sleep 1000")
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout, cmd.Stderr = w, w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		time.Sleep(delay) // not to wait for something: the moment is the point
		cmd.Process.Signal(syscall.SIGKILL)
		// Nobody may hold the pipe any more.
		if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			t.Errorf("killed after %v: the output does not end: %v", delay, err)
		}
		if status := ended(t, cmd); status == 137 {
			killed++
		}
		if strings.Contains(string(out), "cofferdam: ") {
			t.Errorf("killed after %v: %q", delay, out)
		}
		s.afterKill(t, delay, before)
		if t.Failed() {
			t.Fatalf("round %d of seed %d, killed after %v", n, seed, delay)
		}
	}
	if killed != rounds {
		t.Errorf("%d of %d rounds were killed", killed, rounds)
	}
	interrupted := s.sessions(t) - 1
	if interrupted < rounds/10 {
		t.Errorf("only %d of %d rounds got as far as a session", interrupted, rounds)
	}
	s.settles(t)
	t.Logf("%d of %d rounds had a session", interrupted, rounds)
}

// Killed while it runs, the command having done things.
func TestKilledWhileRunning(t *testing.T) {
	s := newSite(t)
	s.repository(t)
	s.sh(t, "true").wants(t, 0)
	before := hash(t, s.workspace)
	for range 5 {
		b := s.start(t, "inside\n", "run", "--name", "victim", "--", "sh", "-c",
			"for n in 1 2 3 4 5; do (setsid sleep 1000 &); done; git --no-optional-locks status --short; touch /tmp/x /dev/shm/x; echo inside; sleep 1000")
		if got := s.git(t, "status", "--porcelain", "--ignored"); got != "" {
			t.Errorf("git status on the host during the run: %q", got)
		}
		b.Process.Kill()
		if status := b.end(t); status != 137 {
			t.Errorf("status %d", status)
		}
		s.afterKill(t, 0, before)
	}
	list := s.ps(t, "--all")
	// Each run has settled the one before.
	if n := len(slices.DeleteFunc(list, func(e psEntry) bool { return e.Status != "interrupted" })); n != 1 {
		t.Errorf("%d sessions are interrupted, want 1", n)
	}
	if r := s.run(t, "exec", "victim", "--", "true"); r.status != 73 {
		t.Errorf("exec into a killed session: status %d, %q", r.status, r.err)
	}
	s.settles(t)
}

// afterKill checks the machine; the session's folder may say that it is open.
func (s *site) afterKill(t *testing.T, delay time.Duration, before string) {
	t.Helper()
	if left := descendants(patience); len(left) > 0 {
		t.Errorf("killed after %v: processes are left:\n%s", delay, strings.Join(left, "\n"))
	}
	if now := hostMounts(t); now != s.mounts {
		t.Errorf("killed after %v: mounts:\n%s", delay, difference(s.mounts, now))
	}
	if left := names(t, s.tmp); len(left) > 0 {
		t.Errorf("killed after %v: temporary files: %v", delay, left)
	}
	if now := hash(t, s.workspace); now != before {
		t.Errorf("killed after %v: the workspace has changed", delay)
	}
	if got := s.git(t, "status", "--porcelain", "--ignored"); got != "" && got != "!! .env\n" {
		t.Errorf("killed after %v: git status: %q", delay, got)
	}
}

// unsettled are the sessions that are open.
func (s *site) unsettled(t *testing.T) []string { return names(t, s.state+"/sessions/open") }

// settles checks that the next run works and ends the interrupted sessions.
func (s *site) settles(t *testing.T) {
	t.Helper()
	r := s.sh(t, "echo next")
	r.wants(t, 0)
	if r.out != "next\n" {
		t.Errorf("the next run printed %q", r.out)
	}
	if open := s.unsettled(t); len(open) > 0 {
		t.Errorf("%d sessions are still open", len(open))
	}
	for _, e := range s.ps(t, "--all") {
		if e.Status != "ended" {
			t.Errorf("session %s is %s", e.ID, e.Status)
		}
	}
}

// A start that hangs ends with the person's signal, and nothing is left of it.
func TestSignalWhileStarting(t *testing.T) {
	s := newSite(t)
	cmd := s.rig(t, rigging{Refuse: []refusal{{Call: unix.SYS_PIVOT_ROOT, Hang: true}}}, binary, "run", "--", "touch", "made")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the call that hangs", func() bool {
		children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", cmd.Process.Pid))
		for _, file := range children {
			text, _ := os.ReadFile(file)
			for _, pid := range strings.Fields(string(text)) {
				call, _ := os.ReadFile("/proc/" + pid + "/syscall")
				if strings.HasPrefix(string(call), fmt.Sprint(unix.SYS_PIVOT_ROOT, " ")) {
					return true
				}
			}
		}
		return false
	})
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if status := ended(t, cmd); status != 130 {
		t.Errorf("status %d, %s", status, errs.String())
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
	if s.exists("made") {
		t.Error("the command ran")
	}
}
