// Package system runs the real program the way a person does, as an unprivileged
// user: what it exits with, what it refuses, and that nothing is left behind
// whatever happens to it.
package system

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/testenv"
)

// program is the real one, built without cgo, as it is released. Root builds it, with
// the cache that is warm, before the tests become the unprivileged user.
const program = "COFFERDAM_SYSTEM"

func TestMain(m *testing.M) {
	if os.Getenv(program) == "" {
		dir, err := os.MkdirTemp("/var/tmp", "system-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = errors.Join(os.Chmod(dir, 0o755), build(filepath.Join(dir, "cofferdam")))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		code := testenv.Main(m)
		os.RemoveAll(dir)
		os.Exit(code)
	}
	os.Exit(testenv.Main(m))
}

func build(out string) error {
	cmd := exec.Command("go", "build", "-o", out, "cofferdam/cmd/cofferdam")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %v: %s", err, text)
	}
	return os.Setenv(program, out)
}

// site is a home with a project in it.
type site struct {
	t                 *testing.T
	home, ws, program string
}

func newSite(t *testing.T) *site {
	t.Helper()
	home, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t, home, filepath.Join(home, "src", "project"), os.Getenv(program)}
	s.write(".env", "SECRET=canary\n")
	s.write("main.txt", "hello\n")
	s.host("git", "init", "-q")
	s.host("git", "config", "user.email", "a@example.org")
	s.host("git", "config", "user.name", "A")
	s.write(".gitignore", ".env\n")
	s.host("git", "add", "-A")
	s.host("git", "commit", "-qm", "first")
	return s
}

func (s *site) write(name, text string) {
	s.t.Helper()
	p := filepath.Join(s.ws, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) env() []string {
	return []string{"HOME=" + s.home, "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "GITHUB_TOKEN=canary-token"}
}

func (s *site) command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.program, args...)
	cmd.Dir, cmd.Env = s.ws, s.env()
	return cmd
}

// run returns the exit status and both outputs.
func (s *site) run(args ...string) (status int, out, errs string) {
	s.t.Helper()
	cmd := s.command(args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), o.String(), e.String()
}

func (s *site) host(name string, args ...string) string {
	s.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = s.ws, s.env()
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return string(out)
}

func (s *site) clean() {
	s.t.Helper()
	if got := s.host("git", "status", "--porcelain"); got != "" {
		s.t.Errorf("git status on the host: %q", got)
	}
}

// running counts the processes whose arguments hold mark.
func running(mark string) int {
	n := 0
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		if b, err := os.ReadFile("/proc/" + d.Name() + "/cmdline"); err == nil && strings.Contains(string(b), mark) {
			n++
		}
	}
	return n
}

func gone(t *testing.T, mark string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for running(mark) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("%d processes are left of %s", running(mark), mark)
		}
		time.Sleep(5 * time.Millisecond) // polling, not synchronisation
	}
}

func TestStatus(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		want int
		args []string
	}{
		{0, []string{"run", "--", "true"}},
		{42, []string{"run", "--", "sh", "-c", "exit 42"}},
		{137, []string{"run", "--", "sh", "-c", "kill -9 $$"}},
		{127, []string{"run", "--", "no-such-program"}},
		{126, []string{"run", "--", "./main.txt"}},
		{64, []string{"run"}},
		{64, []string{"run", "--no-such-flag", "--", "true"}},
		{64, []string{"no-such-command"}},
		{64, []string{"run", "--allow-domain", "a.example.org", "--", "true"}},
		{64, []string{"run", "--workspace", "/no/such/dir", "--", "true"}},
		{77, []string{"run", "--workspace", "/", "--", "true"}},
		{77, []string{"run", "--workspace", s.home, "--", "true"}},
		{124, []string{"run", "--timeout", "300ms", "--", "sleep", "60"}},
		{66, []string{"exec", "nobody", "--", "true"}},
		{0, []string{"run", "--dry-run", "--json", "--", "true"}},
	} {
		status, out, errs := s.run(c.args...)
		if status != c.want {
			t.Errorf("%q: status %d, want %d: %s%s", c.args, status, c.want, out, errs)
		}
		if c.want >= 64 && c.want < 126 && !strings.Contains(errs, "cofferdam: ") {
			t.Errorf("%q: no message: %q", c.args, errs)
		}
	}
	s.clean()
}

func TestBadPolicies(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	big := file("big", "")
	if err := os.Truncate(big, 100<<20); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, says string }{
		"misspelt key": {file("a", `{"filesystem": {"denyReads": []}}`), `did you mean "denyRead"`},
		"wrong type":   {file("b", `{"filesystem": {"denyRead": "x"}}`), "a list is wanted"},
		"not JSON":     {file("c", `{`), "ends in the middle"},
		"binary":       {file("d", "\x00\x01"), "NUL"},
		"FIFO":         {fifo, "a FIFO"},
		"directory":    {dir, "a directory"},
		"too big":      {big, "more than 1 MiB"},
		"missing":      {filepath.Join(dir, "missing"), "no such file"},
	} {
		status, _, errs := s.run("run", "--policy", c.path, "--", "touch", "ran")
		if status != 65 || !strings.Contains(errs, c.says) {
			t.Errorf("%s: status %d: %s", name, status, errs)
		}
	}
	if _, err := os.Stat(filepath.Join(s.ws, "ran")); err == nil {
		t.Error("the command ran under a policy that can't be read")
	}
	s.clean()
}

// A run that asks for a signal, at any moment, leaves nothing: no process, no
// mount, no file, and a workspace as it was.
func TestKilledAtAnyMoment(t *testing.T) {
	s := newSite(t)
	const mark = "86399"
	mounts := len(mountinfo(t))
	random := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		cmd := s.command("run", "--", "sh", "-c", "echo x > .git/commondir; sleep "+mark)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond) // the moment, not synchronisation
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	gone(t, mark)
	if n := len(mountinfo(t)); n != mounts {
		t.Errorf("%d mounts, there were %d", n, mounts)
	}
	// The next run finishes what the killed ones could not.
	if status, _, errs := s.run("run", "--", "true"); status != 0 {
		t.Errorf("the next run: %d: %s", status, errs)
	}
	if _, err := os.Stat(filepath.Join(s.ws, ".git", "commondir")); err == nil {
		t.Error("what was planted is still there")
	}
	s.clean()
}

func mountinfo(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}

func TestTermEndsTheTree(t *testing.T) {
	s := newSite(t)
	const mark = "86398"
	cmd := s.command("run", "--", "sh", "-c", "trap '' TERM; setsid sleep "+mark+" & echo ready; sleep "+mark)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 8)); n == 0 {
		t.Fatal(err)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Process.Signal(syscall.SIGTERM) // a second one does not wait for the grace period
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 143 {
		t.Errorf("status %d, want 143", code)
	}
	gone(t, mark)
}

func TestManyAtOnce(t *testing.T) {
	s := newSite(t)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			cmd := s.command("run", "--", "sh", "-c", "exit 3")
			_ = cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != 3 {
				t.Errorf("status %d", code)
			}
		})
	}
	wg.Wait()
	s.clean()
}

// Starts in a row leave no process, no mount and no file but their sessions.
func TestManyInARow(t *testing.T) {
	s := newSite(t)
	runs := 1000
	if testing.Short() {
		runs = 100
	}
	temp := t.TempDir()
	mounts := len(mountinfo(t))
	for range runs {
		cmd := s.command("run", "--", "/bin/true")
		cmd.Env = append(cmd.Env, "TMPDIR="+temp)
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) != 0 {
		t.Errorf("left in the temporary directory: %v %v", left, err)
	}
	if n := len(mountinfo(t)); n != mounts {
		t.Errorf("%d mounts, there were %d", n, mounts)
	}
	if n := running(s.program); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	s.clean()
}

func TestEnvironment(t *testing.T) {
	s := newSite(t)
	_, out, _ := s.run("run", "--env", "A=b", "--", "sh", "-c", "env; cat /proc/*/environ | tr '\\0' '\\n'")
	if strings.Contains(out, "canary-token") || !strings.Contains(out, "A=b\n") || !strings.Contains(out, "HOME="+s.home+"\n") {
		t.Errorf("environment inside: %s", out)
	}
	if _, out, _ := s.run("run", "--env", "GITHUB_TOKEN", "--", "env"); !strings.Contains(out, "GITHUB_TOKEN=canary-token") {
		t.Errorf("control: a variable that is let in is not there: %s", out)
	}
}

func TestLimits(t *testing.T) {
	s := newSite(t)
	file := filepath.Join(t.TempDir(), "p.jsonc")
	if err := os.WriteFile(file, []byte(`{"resources": {"processes": 50, "memory": "200MiB", "timeout": "30s"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	const mark = "86397"
	status, _, errs := s.run("run", "--policy", file, "--", "sh", "-c", "i=0; while [ $i -lt 200 ]; do sleep "+mark+" & i=$((i+1)); done; echo survived")
	if status == 0 || !strings.Contains(errs, "fork") {
		t.Errorf("a fork bomb: status %d: %s", status, errs)
	}
	gone(t, mark)
	status, _, errs = s.run("run", "--policy", file, "--", "python3", "-c", "import time\nx = bytearray(600 << 20)\ntime.sleep(20)")
	if status != 125 {
		t.Errorf("a memory hog: status %d: %s", status, errs)
	}
	// What comes by exec counts too.
	cmd := s.command("run", "--policy", file, "--name", "hog", "--", "sh", "-c", "echo ready; sleep 86395")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 8)); n == 0 {
		t.Fatal(err)
	}
	if status, text, errs := s.run("exec", "hog", "--", "python3", "-c", "import time\nx = bytearray(600 << 20)\ntime.sleep(20)\nprint('held')"); status == 0 {
		t.Errorf("a memory hog by exec: %s%s", text, errs)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 125 {
		t.Errorf("the session with a memory hog by exec: status %d", code)
	}
}

func TestExecAndRecords(t *testing.T) {
	s := newSite(t)
	cmd := s.command("run", "--name", "one", "--", "sh", "-c", "echo ready; sleep 86396")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 8)); n == 0 {
		t.Fatal(err)
	}
	status, text, errs := s.run("exec", "one", "--", "sh", "-c", "cat .env; grep -c NoNewPrivs:.1 /proc/self/status; exit 9")
	if status != 9 || !strings.Contains(errs, "Permission denied") || text != "1\n" {
		t.Errorf("exec: %d %q %s", status, text, errs)
	}
	if _, text, _ := s.run("ps", "--json"); !json.Valid([]byte(text)) || !strings.Contains(text, `"one"`) {
		t.Errorf("ps: %s", text)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	_, text, _ = s.run("logs", "--json", "one")
	if !strings.Contains(text, `"kind":"denied"`) || !strings.Contains(text, `"kind":"entered"`) {
		t.Errorf("logs: %s", text)
	}
	for line := range strings.Lines(text) {
		if !json.Valid([]byte(line)) {
			t.Errorf("logs: not JSON: %q", line)
		}
	}
	gone(t, "86396")
}

// The daily work with git, inside; the host sees commits and nothing of ours.
func TestDailyGit(t *testing.T) {
	s := newSite(t)
	script := `set -e
git status --short; echo more >> main.txt; echo new > new.txt
git add -A; git commit -qm second; git checkout -qb topic; echo t > t.txt; git add -A; git commit -qm third
git checkout -q -; git merge -q topic; echo s >> main.txt; git stash -q; git stash pop -q; git checkout -q main.txt
git worktree add -q wt -b other; echo w > wt/w; git -C wt add -A; git -C wt commit -qm fourth; git worktree remove wt
git init -q nested; git -C nested add -A; rm -rf nested; git gc -q; git log --oneline | wc -l`
	status, out, errs := s.run("run", "--env", "GIT_AUTHOR_NAME=A", "--", "sh", "-c", script)
	if status != 0 || strings.TrimSpace(out) != "3" || strings.Contains(errs, "set aside") {
		t.Fatalf("status %d: %s%s", status, out, errs)
	}
	s.clean()
	s.host("git", "fsck", "--strict")
}

// Without user namespaces, or with a foreign /proc, nothing runs.
func TestFailsClosed(t *testing.T) {
	s := newSite(t)
	for name, script := range map[string]string{
		"no user namespaces": `echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"`,
		"no fresh /proc":     `mount -t tmpfs none /proc/sys/kernel && exec "$@"`,
	} {
		marker := filepath.Join(s.ws, "ran")
		cmd := exec.Command("unshare", append([]string{"--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"},
			s.program, "run", "--allow-root", "--", "touch", marker)...)
		cmd.Dir, cmd.Env = s.ws, s.env()
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != 69 || !strings.Contains(string(out), "hint: ") {
			t.Errorf("%s: status %d: %s", name, code, out)
		}
		if _, err := os.Stat(marker); err == nil {
			t.Errorf("%s: the command ran", name)
		}
	}
}
