package supervise

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"cofferdam/internal/boundary"
	"cofferdam/internal/plan"
)

// The test binary is also the programs that the tests need inside.
func TestMain(m *testing.M) {
	switch os.Getenv("SUPERVISE_TEST") {
	case "":
		os.Exit(m.Run())
	case "blast":
		blast()
	case "hog":
		hog()
	case "shell":
		shell()
	case "cofferdam":
		cofferdam()
	}
}

func program(name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "SUPERVISE_TEST="+name)
	return cmd
}

const blastSize = 64 << 20

// blast writes blastSize pseudo-random bytes to a raw terminal and ends.
func blast() {
	if _, err := term.MakeRaw(1); err != nil {
		os.Exit(3)
	}
	_, err := io.Copy(os.Stdout, io.LimitReader(rand.NewChaCha8([32]byte{1}), blastSize))
	if err != nil {
		os.Exit(4)
	}
	os.Exit(0)
}

// hog takes memory without end.
func hog() {
	var all [][]byte
	for {
		b := make([]byte, 8<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
		time.Sleep(10 * time.Millisecond) // pace, so that the test machine survives a broken watch
		if len(all) > 100 {
			select {}
		}
	}
}

// shell is a session leader that runs cofferdam in a foreground job of its
// own, as an interactive shell does, and tells its pid on descriptor 3.
func shell() {
	cmd := program("cofferdam", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if os.Getenv("BACKGROUND") == "" {
		cmd.SysProcAttr.Foreground, cmd.SysProcAttr.Ctty = true, 0
	}
	if err := cmd.Start(); err != nil {
		os.Exit(99)
	}
	fmt.Fprintln(os.NewFile(3, "tell"), cmd.Process.Pid)
	err := cmd.Wait()
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		os.Exit(ee.ExitCode())
	}
	os.Exit(0)
}

// cofferdam supervises a command on its own standard streams.
func cofferdam() {
	f, err := start(exec.Command(os.Args[1], os.Args[2:]...), true)
	if err != nil {
		os.Exit(98)
	}
	res, err := Run(context.Background(), f, &plan.Plan{}, boundary.Streams{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Terminal: true,
	}, Options{Grace: 200 * time.Millisecond})
	if err != nil {
		os.Exit(97)
	}
	status, _ := res.Status()
	os.Exit(status)
}

// fakeBoundary is a plain session on a plain pty: no sandbox at all.
type fakeBoundary struct {
	cmd    *exec.Cmd
	master *os.File
}

func start(cmd *exec.Cmd, terminal bool) (*fakeBoundary, error) {
	f := &fakeBoundary{cmd: cmd}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if terminal {
		master, slave, err := openPty()
		if err != nil {
			return nil, err
		}
		defer slave.Close()
		f.master = master
		cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
		cmd.SysProcAttr.Setctty = true
	}
	return f, cmd.Start()
}

func (f *fakeBoundary) PID() int                      { return f.cmd.Process.Pid }
func (f *fakeBoundary) Terminal() *os.File            { return f.master }
func (f *fakeBoundary) Enter() ([]*os.File, error)    { return nil, nil }
func (f *fakeBoundary) Adopt(*os.File) error          { return nil }
func (f *fakeBoundary) Signal(s syscall.Signal) error { return f.cmd.Process.Signal(s) }
func (f *fakeBoundary) Kill() error                   { return syscall.Kill(-f.cmd.Process.Pid, syscall.SIGKILL) }
func (f *fakeBoundary) Wait() (e boundary.Exit, _ error) {
	_ = f.cmd.Wait()
	_ = f.Kill() // the rest of the group, as a pid namespace would
	ws := f.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return boundary.Exit{Signal: ws.Signal()}, nil
	}
	return boundary.Exit{Code: ws.ExitStatus()}, nil
}

func openPty() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(int(n)), os.O_RDWR|unix.O_NOCTTY, 0)
	return master, slave, err
}

// person is the terminal window of a person: what it shows, and keys.
type person struct {
	t           *testing.T
	master, tty *os.File
	before      unix.Termios

	mu    sync.Mutex
	shown []byte
	total int
	sum   interface {
		io.Writer
		Sum([]byte) []byte
	}
	readerEnded chan struct{}
}

func newPerson(t *testing.T) *person {
	t.Helper()
	m, s, err := openPty()
	if err != nil {
		t.Fatalf("no pty: %v", err) // every Linux has them
	}
	p := &person{t: t, master: m, tty: s, sum: sha256.New(), readerEnded: make(chan struct{})}
	p.resize(24, 80)
	p.before = p.mode()
	go func() {
		defer close(p.readerEnded)
		b := make([]byte, 64<<10)
		for {
			n, err := m.Read(b)
			p.mu.Lock()
			p.total += n
			_, _ = p.sum.Write(b[:n])
			if len(p.shown) < 1<<20 {
				p.shown = append(p.shown, b[:n]...)
			}
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		s.Close()
		<-p.readerEnded // EIO: nobody else holds the terminal
		m.Close()
	})
	return p
}

func (p *person) streams() boundary.Streams {
	return boundary.Streams{In: p.tty, Out: p.tty, Err: p.tty, Terminal: true}
}

func (p *person) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.shown)
}

func (p *person) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

func (p *person) mode() unix.Termios {
	m, err := unix.IoctlGetTermios(int(p.tty.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatal(err)
	}
	return *m
}

func (p *person) raw() bool { m := p.mode(); return m.Lflag&unix.ICANON == 0 }

func (p *person) resize(rows, cols uint16) {
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *person) keys(s string) {
	if _, err := p.master.WriteString(s); err != nil {
		p.t.Error(err)
	}
}

func (p *person) restored() {
	p.t.Helper()
	if now := p.mode(); now != p.before {
		p.t.Errorf("terminal mode is not as it was:\n%+v\n%+v", p.before, now)
	}
}

// until polls, which is not a way to order things but to find out that they
// have happened.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not seen in time: %s", what)
		}
	}
}

type outcome struct {
	res Result
	err error
}

// begin runs a command in a fake boundary on the person's terminal.
func (p *person) begin(o Options, s boundary.Streams, cmd *exec.Cmd) (*fakeBoundary, <-chan outcome) {
	p.t.Helper()
	f, err := start(cmd, true)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { f.master.Close() })
	ch := make(chan outcome, 1)
	if o.Signals == nil {
		o.Signals = make(chan os.Signal)
	}
	go func() {
		res, err := Run(context.Background(), f, &plan.Plan{}, s, o)
		ch <- outcome{res, err}
	}()
	return f, ch
}

func (p *person) end(ch <-chan outcome) Result {
	p.t.Helper()
	select {
	case o := <-ch:
		if o.err != nil {
			p.t.Fatal(o.err)
		}
		return o.res
	case <-time.After(30 * time.Second):
		p.t.Fatalf("Run did not return; shown: %q", p.screen())
		panic("unreachable")
	}
}

func sh(script string) *exec.Cmd { return exec.Command("/bin/sh", "-c", script) }

func TestTerminal(t *testing.T) {
	p := newPerson(t)
	_, ch := p.begin(Options{}, p.streams(), sh(`test -t 0 && test -t 1 && echo ready; read x; echo "got $x"; exit 42`))
	until(t, "ready", func() bool { return strings.Contains(p.screen(), "ready") })
	if !p.raw() {
		t.Error("the person's terminal is not raw")
	}
	p.keys("word\r")
	res := p.end(ch)
	if s, ok := res.Status(); s != 42 || !ok || res.Reason != Exited {
		t.Errorf("%+v", res)
	}
	until(t, "the last output", func() bool { return strings.Contains(p.screen(), "got word\r\n") })
	p.restored()
}

// Ctrl-C of a raw terminal is a byte that the inner terminal makes a signal
// of: it hits the foreground program inside, not us.
func TestControlC(t *testing.T) {
	p := newPerson(t)
	_, ch := p.begin(Options{}, p.streams(), sh(`echo ready; exec sleep 100`))
	until(t, "ready", func() bool { return strings.Contains(p.screen(), "ready") })
	p.keys("\x03")
	if res := p.end(ch); res.Exit.Signal != syscall.SIGINT || res.Reason != Exited {
		t.Errorf("%+v", res)
	}
	p.restored()
}

func TestResize(t *testing.T) {
	p := newPerson(t)
	p.resize(33, 77)
	signals := make(chan os.Signal)
	_, ch := p.begin(Options{Signals: signals}, p.streams(), sh(`stty -echo; echo ready; while read x; do stty size; done`))
	until(t, "ready", func() bool { return strings.Contains(p.screen(), "ready") })
	p.keys("\n")
	until(t, "the first size", func() bool { return strings.Contains(p.screen(), "33 77") })
	p.resize(44, 99)
	signals <- syscall.SIGWINCH
	until(t, "the new size", func() bool { p.keys("\n"); return strings.Contains(p.screen(), "44 99") })
	p.keys("\x04")
	p.end(ch)
}

func TestBulk(t *testing.T) {
	p := newPerson(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	_, ch := p.begin(Options{}, p.streams(), program("blast"))
	res := p.end(ch)
	took := time.Since(begin)
	runtime.ReadMemStats(&after)
	if res.Exit.Code != 0 {
		t.Fatalf("%+v", res)
	}
	until(t, "all bytes", func() bool { return p.count() >= blastSize })
	want := sha256.New()
	_, _ = io.Copy(want, io.LimitReader(rand.NewChaCha8([32]byte{1}), blastSize))
	p.mu.Lock()
	if p.total != blastSize || !bytes.Equal(p.sum.Sum(nil), want.Sum(nil)) {
		t.Errorf("%d bytes of %d, or other bytes", p.total, blastSize)
	}
	p.mu.Unlock()
	// 64 MiB are at least 2048 turns of the loop.
	mallocs := after.Mallocs - before.Mallocs
	t.Logf("%.0f MB/s, %d allocations in all", blastSize/1e6/took.Seconds(), mallocs)
	if mallocs > 1500 {
		t.Errorf("%d allocations: the loop allocates", mallocs)
	}
}

// A command that ends while its output is still in the pty loses none of it.
func TestLastOutput(t *testing.T) {
	for i := range 60 {
		p := newPerson(t)
		_, ch := p.begin(Options{}, p.streams(), sh(`printf '%03000d' 7; printf end; exit 3`))
		if res := p.end(ch); res.Exit.Code != 3 {
			t.Fatalf("%+v", res)
		}
		// All has been written before Run returned: only the kernel is
		// between the two ends of the person's terminal.
		until(t, fmt.Sprintf("output of run %d", i), func() bool { return p.count() == 3003 })
	}
}

// When a descendant keeps the pty open past the end, the end is still found.
func TestHeldPty(t *testing.T) {
	p := newPerson(t)
	f, err := start(sh("echo here"), true)
	if err != nil {
		t.Fatal(err)
	}
	defer f.master.Close()
	n, err := unix.IoctlGetUint32(int(f.master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	held, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if _, err := Run(context.Background(), f, &plan.Plan{}, p.streams(), Options{}); err != nil {
		t.Fatal(err)
	}
	until(t, "output", func() bool { return strings.Contains(p.screen(), "here") })
}

func TestModeRestored(t *testing.T) {
	t.Run("killed", func(t *testing.T) {
		p := newPerson(t)
		f, ch := p.begin(Options{}, p.streams(), sh("exec sleep 100"))
		until(t, "raw", p.raw)
		_ = f.Kill()
		if res := p.end(ch); res.Exit.Status() != 137 {
			t.Errorf("%+v", res)
		}
		p.restored()
	})
	t.Run("TERM not heard", func(t *testing.T) {
		p := newPerson(t)
		signals := make(chan os.Signal)
		_, ch := p.begin(Options{Signals: signals, Grace: 50 * time.Millisecond}, p.streams(), sh(`trap "" TERM; echo ready; while :; do sleep 1; done`))
		until(t, "ready", func() bool { return strings.Contains(p.screen(), "ready") })
		signals <- syscall.SIGTERM
		res := p.end(ch)
		if s, _ := res.Status(); s != 143 || res.Exit.Signal != syscall.SIGKILL {
			t.Errorf("%+v", res)
		}
		p.restored()
	})
	t.Run("panic in the callback", func(t *testing.T) {
		p := newPerson(t)
		f, err := start(sh("exec sleep 100"), true)
		if err != nil {
			t.Fatal(err)
		}
		defer f.master.Close()
		wasRaw := false
		func() {
			defer func() { _ = recover() }()
			_, _ = Run(context.Background(), f, withLimit("time", "ms", "watch", 50), p.streams(), Options{
				LimitHit: func(Hit) { wasRaw = p.raw(); panic("broken") },
			})
			t.Error("no panic")
		}()
		if !wasRaw {
			t.Error("was not raw when it panicked")
		}
		p.restored()
	})
}

func TestClosedStdin(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		p := newPerson(t)
		s := p.streams()
		s.In = nil
		_, ch := p.begin(Options{}, s, sh(`cat; echo over`))
		p.end(ch)
		until(t, "over", func() bool { return strings.Contains(p.screen(), "over") })
	})
	t.Run("pipe", func(t *testing.T) {
		p := newPerson(t)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		s := p.streams()
		s.In = r
		_, ch := p.begin(Options{}, s, sh(`stty -echo; cat; echo over`))
		_, _ = w.WriteString("line\n")
		until(t, "line", func() bool { return strings.Contains(p.screen(), "line") })
		w.Close()
		p.end(ch)
		r.Close()
		until(t, "over", func() bool { return strings.Contains(p.screen(), "over") })
	})
}

func TestTerminalLost(t *testing.T) {
	m, s, err := openPty()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p := &person{t: t, master: m, tty: s}
	// It talks all the time: a lost terminal must not block it either.
	_, ch := p.begin(Options{Grace: 100 * time.Millisecond}, p.streams(), sh(`trap "" HUP; while :; do echo talk; done`))
	b := make([]byte, 64)
	if _, err := m.Read(b); err != nil {
		t.Fatal(err)
	}
	m.Close()
	res := p.end(ch)
	if st, _ := res.Status(); st != 129 || res.Reason != TerminalLost {
		t.Errorf("%+v", res)
	}
}

// A person's terminal that takes no more output stops neither signals nor
// the end.
func TestFrozenScreen(t *testing.T) {
	m, s, err := openPty()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	defer m.Close()
	p := &person{t: t, master: m, tty: s} // nobody reads
	signals := make(chan os.Signal)
	_, ch := p.begin(Options{Signals: signals, Grace: 50 * time.Millisecond}, p.streams(), sh(`trap "" TERM; while :; do echo talk; done`))
	until(t, "a full terminal", func() bool {
		n, err := unix.IoctlGetInt(int(m.Fd()), unix.TIOCINQ)
		return err == nil && n > 2000 // of at most 4095; the rest follows
	})
	signals <- syscall.SIGTERM
	for over := false; !over; {
		select {
		case signals <- syscall.SIGTERM: // the next ones: don't wait for the screen
		case o := <-ch:
			over = true
			if st, _ := o.res.Status(); st != 143 || o.err != nil {
				t.Errorf("%+v", o)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("Run hangs on a frozen screen")
		}
	}
}

// inShell runs cofferdam in a job of a shell on the person's terminal; it
// returns cofferdam's pid and a function that waits for its exit status.
func (p *person) inShell(background bool, script string) (int, func() int) {
	p.t.Helper()
	cmd := program("shell", "/bin/sh", "-c", script)
	r, w, err := os.Pipe()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{w}
	if background {
		cmd.Env = append(cmd.Env, "BACKGROUND=1")
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.tty, p.tty, p.tty
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	w.Close()
	defer r.Close()
	var pid int
	if _, err := fmt.Fscan(r, &pid); err != nil {
		p.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	p.t.Cleanup(func() {
		_ = syscall.Kill(pid, syscall.SIGCONT)
		_ = syscall.Kill(pid, syscall.SIGTERM)
		<-done
	})
	return pid, func() int {
		p.t.Helper()
		select {
		case <-done:
			return cmd.ProcessState.ExitCode()
		case <-time.After(20 * time.Second):
			p.t.Fatalf("still running; shown: %q", p.screen())
			return -1
		}
	}
}

func stateOf(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if i := bytes.LastIndexByte(b, ')'); i >= 0 && i+2 < len(b) {
		return string(b[i+2])
	}
	return ""
}

func TestRealSignals(t *testing.T) {
	for _, c := range []struct {
		sig    syscall.Signal
		times  int
		script string
		status int
	}{
		{syscall.SIGTERM, 1, `trap "exit 0" TERM; echo ready; while :; do sleep 0.05; done`, 143},
		{syscall.SIGTERM, 1, `trap "" TERM; echo ready; while :; do sleep 0.05; done`, 143},
		{syscall.SIGHUP, 1, `trap "" HUP; echo ready; while :; do sleep 0.05; done`, 129},
		{syscall.SIGINT, 2, `trap "echo again" INT; echo ready; while :; do sleep 0.05; done`, 130},
		{syscall.SIGUSR1, 1, `trap "exit 9" USR1; echo ready; while :; do sleep 0.05; done`, 9},
	} {
		t.Run(c.sig.String(), func(t *testing.T) {
			p := newPerson(t)
			pid, wait := p.inShell(false, c.script)
			until(t, "ready", func() bool { return strings.Contains(p.screen(), "ready") })
			until(t, "raw", p.raw)
			_ = syscall.Kill(pid, c.sig)
			if c.times == 2 {
				until(t, "the first one handled", func() bool { return strings.Contains(p.screen(), "again") })
				_ = syscall.Kill(pid, c.sig)
			}
			if status := wait(); status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			p.restored()
		})
	}
}

func TestStopAndContinue(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGSTOP} {
		t.Run(sig.String(), func(t *testing.T) {
			p := newPerson(t)
			pid, wait := p.inShell(false, `stty -echo; echo ready; while read x; do stty size; done; exit 5`)
			until(t, "ready", func() bool { return strings.Contains(p.screen(), "ready") })
			until(t, "raw", p.raw)
			_ = syscall.Kill(pid, sig)
			until(t, "stopped", func() bool { return stateOf(pid) == "T" })
			if sig == syscall.SIGTSTP {
				p.restored()
			} else if err := unix.IoctlSetTermios(int(p.tty.Fd()), unix.TCSETS, &p.before); err != nil {
				t.Fatal(err) // as a shell does for its prompt
			}
			p.resize(50, 101)
			_ = syscall.Kill(pid, syscall.SIGCONT)
			until(t, "raw again", p.raw)
			until(t, "the new size", func() bool { p.keys("\r"); return strings.Contains(p.screen(), "50 101") })
			p.keys("\x04")
			if status := wait(); status != 5 {
				t.Errorf("status %d", status)
			}
			p.restored()
		})
	}
}

// In the background, the run goes on, its output is shown, and the terminal's
// mode stays the foreground's.
func TestBackground(t *testing.T) {
	p := newPerson(t)
	pid, wait := p.inShell(true, `echo ready; sleep 0.5; echo later; exit 6`)
	until(t, "later", func() bool {
		if s := stateOf(pid); s == "T" {
			t.Fatal("stopped in the background")
		}
		if p.raw() {
			t.Fatal("raw from the background")
		}
		return strings.Contains(p.screen(), "later")
	})
	if status := wait(); status != 6 {
		t.Errorf("status %d", status)
	}
	p.restored()
}

func TestMemoryWatch(t *testing.T) {
	for _, nested := range []bool{false, true} {
		t.Run(fmt.Sprintf("nested=%v", nested), func(t *testing.T) {
			cmd := program("hog")
			if nested {
				exe, err := os.Executable()
				if err != nil {
					t.Fatal(err)
				}
				cmd = sh(`SUPERVISE_TEST=hog "$EXE" & wait`)
				cmd.Env = append(os.Environ(), "EXE="+exe)
			}
			f, err := start(cmd, false)
			if err != nil {
				t.Fatal(err)
			}
			var hits []Hit
			res, err := Run(context.Background(), f, withLimit("memory", "bytes", "watch", 100<<20), boundary.Streams{}, Options{
				LimitHit: func(h Hit) { hits = append(hits, h) },
			})
			if err != nil || res.Reason != MemoryLimit || len(hits) != 1 || hits[0] != res.Hit {
				t.Fatalf("%+v, %v, hits %v", res, err, hits)
			}
			if res.Hit.Seen <= 100<<20 || res.Hit.Seen > 400<<20 {
				t.Errorf("seen %d MiB", res.Hit.Seen>>20)
			}
		})
	}
}

func TestProcessWatch(t *testing.T) {
	f, err := start(sh(`for i in 1 2 3 4 5 6 7 8 9 10; do sleep 100 & done; wait`), false)
	if err != nil {
		t.Fatal(err)
	}
	res, err := Run(context.Background(), f, withLimit("processes", "count", "watch", 5), boundary.Streams{}, Options{})
	if err != nil || res.Reason != ProcessLimit || res.Hit.Seen < 6 {
		t.Fatalf("%+v, %v", res, err)
	}
}

func TestWatchOtherMechanism(t *testing.T) {
	w, err := newWatch(os.Getpid(), withLimit("memory", "bytes", "cgroup-v1", 1))
	if w != nil || err != nil {
		t.Errorf("%v, %v", w, err)
	}
}

func TestRollup(t *testing.T) {
	for _, c := range []struct {
		text string
		sum  int64
		ok   bool
	}{
		{"5-7 ---p 0 0:0 0 [rollup]\nRss: 9 kB\nPss: 8 kB\nPss_Dirty: 1 kB\nPss_Anon: 3 kB\nPss_File: 4 kB\nPss_Shmem: 1 kB\nSwapPss: 2 kB\n", 6 << 10, true},
		{"5-7 ---p 0 0:0 0 [rollup]\nRss: 9 kB\nPss: 8 kB\nSwapPss: 2 kB\n", 10 << 10, true},
		{"", 0, false},
	} {
		if sum, ok := rollup([]byte(c.text)); sum != c.sum || ok != c.ok {
			t.Errorf("%q: %d, %v", c.text, sum, ok)
		}
	}
}

// tree starts n idle processes below one and returns its pid.
func tree(b *testing.B, n int) int {
	f, err := start(sh(fmt.Sprintf(`for i in $(seq %d); do sleep 1000 & done; wait`, n-1)), false)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Kill(); _, _ = f.Wait() })
	for {
		w, err := newWatch(f.PID(), withLimit("memory", "bytes", "watch", 1<<40))
		if err != nil {
			b.Fatal(err)
		}
		if w.find(); len(w.set) == n {
			return f.PID()
		}
	}
}

func BenchmarkSample(b *testing.B) {
	pid := tree(b, 12)
	for _, walk := range []bool{false, true} {
		b.Run(fmt.Sprintf("walk=%v", walk), func(b *testing.B) {
			w, err := newWatch(pid, withLimit("memory", "bytes", "watch", 1<<40))
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if walk {
					w.last = ""
				}
				w.Sample()
			}
		})
	}
}
