package system

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/testenv"
)

// patience is how long anything may take that takes milliseconds on an idle
// machine.
const patience = 10 * time.Second

// site is a person's place on a machine: a home, a project in it, a directory
// for temporary files, and nothing else in the environment.
type site struct {
	home, workspace, tmp, state string
	env                         []string
	mounts                      string   // of the host, at the beginning
	loose                       []string // in directories that all share
	killed                      bool     // runs were killed in the making
}

// stateDir is the program's, below a home.
const stateDir = ".local/state/cofferdam"

func siteEnv(home string) []string {
	return []string{"HOME=" + home, "PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "TERM=xterm", "USER=" + testenv.User,
		// So that git on the host, which only looks, changes nothing.
		"GIT_OPTIONAL_LOCKS=0"}
}

// newSite also checks, when the test is over, that nothing is left.
func newSite(t testing.TB) *site {
	t.Helper()
	// Not t.TempDir: its name is long, and holds the test's name.
	root, err := os.MkdirTemp("", "s")
	if err == nil { // TMPDIR may lead through a link; the program says where it ends
		root, err = filepath.EvalSymlinks(root)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &site{home: filepath.Join(root, "home"), tmp: filepath.Join(root, "tmp")}
	s.workspace = filepath.Join(s.home, "project")
	s.state = filepath.Join(s.home, stateDir)
	for _, dir := range []string{s.workspace, s.tmp} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must(t, os.MkdirAll(s.state, 0o700))
	must(t, os.WriteFile(s.state+"/registries.json", remembered(), 0o600))
	s.env = append(siteEnv(s.home), "TMPDIR="+s.tmp)
	s.mounts, s.loose = hostMounts(t), looseFiles()
	t.Cleanup(func() {
		s.clean(t)
		if err := removeAll(root); err != nil {
			t.Errorf("remove the site: %v", err)
		}
	})
	return s
}

// removeAll also removes what a test made unreadable.
func removeAll(root string) error {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(root)
}

// repository makes the project a git repository with one commit.
func (s *site) repository(t testing.TB) {
	t.Helper()
	s.write(t, "README.md", "readme\n")
	s.write(t, "src/main.c", "int main(void) { return 0; }\n")
	for _, line := range []string{"init -q -b main", "config user.name Tester", "config user.email tester@example.org", "add -A", "commit -q -m first"} {
		s.git(t, strings.Fields(line)...)
	}
}

// git runs git on the host and returns what it printed.
func (s *site) git(t testing.TB, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		testenv.Skip(t, testenv.Git, err.Error())
	}
	cmd := exec.Command("git", args...)
	cmd.Dir, cmd.Env = s.workspace, s.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (s *site) write(t testing.TB, name, content string) {
	t.Helper()
	if !filepath.IsAbs(name) {
		name = filepath.Join(s.workspace, name)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (s *site) exists(name string) bool {
	_, err := os.Lstat(filepath.Join(s.workspace, name))
	return err == nil
}

// command is a call of the program, from the project.
func (s *site) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Dir, cmd.Env = s.workspace, slices.Clone(s.env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = patience // who holds the output longer is left over
	return cmd
}

// result is how a call ended. status is the shell's: 128+n for a signal.
type result struct {
	status   int
	out, err string
}

func (s *site) run(t testing.TB, args ...string) result {
	t.Helper()
	return finish(t, s.command(args...))
}

// sh runs a shell line inside.
func (s *site) sh(t testing.TB, line string, flags ...string) result {
	t.Helper()
	return s.run(t, slices.Concat([]string{"run"}, flags, []string{"--", "sh", "-c", line})...)
}

// finish runs a call to its end, which must come.
func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errOut bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &errOut
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	status := ended(t, cmd)
	return result{status, out.String(), errOut.String()}
}

// ended waits for the end of a started call.
func ended(t testing.TB, cmd *exec.Cmd) int {
	t.Helper()
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	err := cmd.Wait()
	if !late.Stop() {
		t.Errorf("%q did not end", cmd.Args)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Errorf("%q: %v", cmd.Args, err)
	}
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return cmd.ProcessState.ExitCode()
}

// background is a call that is going on.
type background struct {
	*exec.Cmd
	out    *os.File
	errOut bytes.Buffer
	in     io.WriteCloser
	ended  bool
}

// start starts a call and waits until it has printed ready; "" waits for nothing.
func (s *site) start(t testing.TB, ready string, args ...string) *background {
	t.Helper()
	b := &background{Cmd: s.command(args...)}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b.out = r
	b.Stdout, b.Stderr = w, &b.errOut
	if b.in, err = b.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		if !b.ended {
			b.Process.Kill()
			b.Wait()
		}
		r.Close()
	})
	b.await(t, ready)
	return b
}

// await reads the output until it holds text, and returns it.
func (b *background) await(t testing.TB, text string) string {
	t.Helper()
	got, err := readUntil(b.out, text)
	if err != nil {
		b.Process.Kill()
		t.Fatalf("waiting for %q: %v; printed %q; errors %q", text, err, got, b.errOut.String())
	}
	return got
}

func readUntil(f *os.File, text string) (string, error) {
	if err := f.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	var got []byte
	buf := make([]byte, 4096)
	for !bytes.Contains(got, []byte(text)) {
		n, err := f.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			return string(got), err
		}
	}
	return string(got), nil
}

// end waits for the end and returns the status.
func (b *background) end(t testing.TB) int {
	t.Helper()
	b.in.Close()
	b.ended = true
	return ended(t, b.Cmd)
}

// wants compares a status; the errors explain a surprise.
func (r result) wants(t testing.TB, status int) {
	t.Helper()
	if r.status != status {
		t.Errorf("status %d, want %d; out %q, errors %q", r.status, status, clip(r.out), clip(r.err))
	}
}

func clip(s string) string {
	if len(s) > 2000 {
		return s[:2000] + "..."
	}
	return s
}

// complains checks an error of our own: a code, one line that says text, and
// a hint.
func (r result) complains(t testing.TB, code int, texts ...string) {
	t.Helper()
	r.wants(t, code)
	lines := strings.Split(strings.TrimSuffix(r.err, "\n"), "\n")
	first, hints := 0, 0
	for _, l := range lines {
		if strings.HasPrefix(l, "cofferdam: ") {
			first++
		}
		if strings.HasPrefix(l, "  hint: ") {
			hints++
		}
	}
	if first == 0 {
		t.Errorf("no line that begins with \"cofferdam: \": %q", clip(r.err))
	}
	if hints == 0 {
		t.Errorf("no hint in %q", clip(r.err))
	}
	if len(r.err) > 1500 {
		t.Errorf("the message has %d bytes: %q", len(r.err), clip(r.err))
	}
	for _, text := range texts {
		if !strings.Contains(r.err, text) {
			t.Errorf("the message does not say %q: %q", text, clip(r.err))
		}
	}
	for _, r := range r.err {
		if r < ' ' && r != '\n' {
			t.Errorf("a control character %q in a message", r)
		}
	}
}

// clean checks that nothing is left of what was started: no process, no mount,
// no file outside of the sessions' folders.
func (s *site) clean(t testing.TB) {
	t.Helper()
	if left := descendants(patience); len(left) > 0 {
		t.Errorf("processes are left:\n%s", strings.Join(left, "\n"))
	}
	if now := hostMounts(t); now != s.mounts {
		t.Errorf("the mounts of the host have changed:\n%s", difference(s.mounts, now))
	}
	if now := looseFiles(); !slices.Equal(now, s.loose) {
		t.Errorf("files in shared directories have changed:\n%s", difference(strings.Join(s.loose, "\n"), strings.Join(now, "\n")))
	}
	for _, name := range names(t, s.tmp) {
		t.Errorf("a temporary file is left: %s", name)
	}
	for _, name := range s.strayState(t) {
		t.Errorf("left in the state directory: %s", name)
	}
}

// strayState lists what is in the state directory besides sessions, as they
// are when they have ended, and private homes.
func (s *site) strayState(t testing.TB) []string {
	t.Helper()
	var stray []string
	for _, name := range names(t, s.state) {
		if !slices.Contains([]string{"sessions", "homes", "trust.json", "tried-nftables", "tried-overlay", "registries.json", "asked"}, name) {
			stray = append(stray, name)
		}
	}
	for _, name := range names(t, filepath.Join(s.state, "sessions")) {
		path := filepath.Join("sessions", name)
		switch {
		case name == ".lock", name == ".recovery", strings.HasPrefix(name, ".apply-"): // locks
		case s.killed && strings.HasPrefix(name, ".new-"): // goes after an hour, see session.Prune
		case name == "open":
			for _, mark := range names(t, filepath.Join(s.state, path)) {
				stray = append(stray, filepath.Join(path, mark))
			}
		case len(name) == len("20060102-150405-abcd"):
			for _, file := range names(t, filepath.Join(s.state, path)) {
				if !slices.Contains([]string{"plan.json", "entry.json", "baseline.json", "state.json", "events.jsonl", "lock", "placeholders.json", "copy.json", "copy", "applied"}, file) {
					stray = append(stray, filepath.Join(path, file))
				}
			}
		default:
			stray = append(stray, path)
		}
	}
	return stray
}

// sessions counts the session folders.
func (s *site) sessions(t testing.TB) (n int) {
	t.Helper()
	for _, name := range names(t, filepath.Join(s.state, "sessions")) {
		if strings.HasPrefix(name, "2") {
			n++
		}
	}
	return n
}

// names lists a directory; one that is not there is empty.
func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// hash is a hash of all that a directory holds: names, kinds, modes, contents
// and the times of files (a directory's time may change with a name that comes
// and goes).
func hash(t testing.TB, root string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %v\n", path, info.Mode())
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(h, "%v %x\n", info.ModTime(), sha256.Sum256(data))
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(h, "%q\n", to)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// hostMounts is the list of mounts, without what numbers and orders them.
func hostMounts(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// looseFiles lists what has our name in the directories that all users share.
// What has another name is looked for by TestSharedDirectories, where nobody
// else is at work.
func looseFiles() []string {
	var out []string
	for _, dir := range []string{"/tmp", "/var/tmp", "/dev/shm"} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			test := strings.HasPrefix(e.Name(), "cofferdam-test-") || strings.HasPrefix(e.Name(), "cofferdam-e2e-") || strings.HasPrefix(e.Name(), "cofferdam-system-")
			if strings.Contains(e.Name(), "cofferdam") && !test {
				out = append(out, filepath.Join(dir, e.Name()))
			}
		}
	}
	return out
}

// difference lists the lines that only one of the two has.
func difference(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	var out []string
	for _, l := range a {
		if !slices.Contains(b, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range b {
		if !slices.Contains(a, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}

// descendants lists the processes that descend from this one, and gives them
// some time to go. It must not be called while a call is going on whose end
// somebody waits for: it reaps.
func descendants(wait time.Duration) []string {
	deadline := time.Now().Add(wait)
	for {
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err != nil || pid <= 0 {
				break
			}
		}
		left := tree(os.Getpid())
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		// A process that is dying can't be waited for: it is not our child
		// until its parent is gone.
		time.Sleep(time.Millisecond)
	}
}

// reapOrphans waits for the dead that have become our children, as the init of
// a machine does, but not for those whose end somebody else awaits. A dead
// process that nobody waits for keeps its pid namespace from ending.
func reapOrphans(but ...int) {
	self := os.Getpid()
	for _, line := range tree(self) {
		var pid, parent int
		var state string
		if n, _ := fmt.Sscanf(line, "%d (parent %d, %1s)", &pid, &parent, &state); n == 3 && parent == self && state == "Z" && !slices.Contains(but, pid) {
			_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
	}
}

// tree describes all descendants of a process.
func tree(root int) []string {
	children := map[int][]int{}
	lines := map[int]string{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(f) < 2 {
			continue
		}
		parent, _ := strconv.Atoi(f[1])
		children[parent] = append(children[parent], pid)
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		lines[pid] = fmt.Sprintf("%d (parent %d, %s) %q", pid, parent, f[0], clip(string(cmdline)))
	}
	var out []string
	todo := children[root]
	for len(todo) > 0 {
		pid := todo[0]
		todo = append(todo[1:], children[pid]...)
		out = append(out, lines[pid])
	}
	return out
}
