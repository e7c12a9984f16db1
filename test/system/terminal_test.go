package system

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is a person's terminal, from the side of the screen and the keys. A
// shell is the session's leader, as it is for a person: if we were, our end
// would reset the terminal whatever we left.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	screen string // all that was shown
	seen   int    // how much of it a type has asked about
}

// terminal runs a shell line in a new terminal of 33 lines and 99 columns.
// $COFFERDAM is the program.
func (s *site) terminal(t *testing.T, line string) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, master: os.NewFile(uintptr(fd), "master")}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 99})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	x.cmd = s.command()
	x.cmd.Path, x.cmd.Args = "/bin/bash", []string{"bash", "-c", line}
	x.cmd.Env = append(x.cmd.Env, "COFFERDAM="+binary)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if x.cmd.ProcessState == nil {
			x.cmd.Process.Kill()
			x.cmd.Wait()
		}
		x.master.Close()
	})
	return x
}

// await reads until text has been shown since the last await, and returns what
// was shown since then.
func (x *terminal) await(text string) string {
	x.t.Helper()
	if err := x.master.SetReadDeadline(time.Now().Add(patience)); err != nil {
		x.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		if i := strings.Index(x.screen[x.seen:], text); i >= 0 {
			shown := x.screen[x.seen : x.seen+i+len(text)]
			x.seen += i + len(text)
			return shown
		}
		n, err := x.master.Read(buf)
		x.screen += string(buf[:n])
		if err != nil && !strings.Contains(x.screen[x.seen:], text) {
			x.t.Fatalf("waiting for %q: %v; on the screen: %q", text, err, clip(x.screen[x.seen:]))
		}
	}
}

func (x *terminal) typed(keys string) {
	x.t.Helper()
	if _, err := x.master.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

// raw tells how the terminal is set: a master shows the settings of its slave.
func (x *terminal) raw() bool {
	x.t.Helper()
	s, err := unix.IoctlGetTermios(int(x.master.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	return s.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0
}

// end reads to the end of the shell and returns its status.
func (x *terminal) end() int {
	x.t.Helper()
	if err := x.master.SetReadDeadline(time.Now().Add(patience)); err != nil {
		x.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := x.master.Read(buf)
		x.screen += string(buf[:n])
		if err != nil {
			break
		}
	}
	return ended(x.t, x.cmd)
}

// framed is a shell line that shows the terminal's settings before and after a
// call, and how the call ended.
func framed(call string) string {
	return `before=$(stty -g); ` + call + `; status=$?; after=$(stty -g); [ "$before" = "$after" ] && echo "settings same" || echo "settings $before $after"; echo "status $status"`
}

func TestTerminalIsOne(t *testing.T) {
	s := newSite(t)
	x := s.terminal(t, framed(`"$COFFERDAM" run -- sh -c 'tty; stty size; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo three; exec 3</dev/tty && echo controlling; exit 6'`))
	shown := x.await("settings same\r\nstatus 6\r\n")
	for _, want := range []string{"/dev/pts/", "33 99\r\n", "three\r\n", "controlling\r\n"} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q in %q", want, shown)
		}
	}
	x.end()
}

func TestTerminalIsNotTheHosts(t *testing.T) {
	s := newSite(t)
	x := s.terminal(t, `stat -c "outside %d:%i" -L /dev/stdin; "$COFFERDAM" run -- stat -c "inside %d:%i" -L /dev/stdin; "$COFFERDAM" run -- ls /dev/pts; echo over`)
	x.await("over\r\n")
	var outside, inside string
	for line := range strings.Lines(x.screen) {
		if rest, ok := strings.CutPrefix(line, "outside "); ok {
			outside = rest
		}
		if rest, ok := strings.CutPrefix(line, "inside "); ok {
			inside = rest
		}
	}
	if outside == "" || inside == "" || outside == inside {
		t.Errorf("outside %q, inside %q", outside, inside)
	}
	x.end()
}

func TestTerminalResize(t *testing.T) {
	s := newSite(t)
	x := s.terminal(t, `"$COFFERDAM" run -- sh -c 'trap "stty size; exit 0" WINCH; echo ready; while :; do sleep 1000 & wait; done'`)
	x.await("ready\r\n")
	if err := unix.IoctlSetWinsize(int(x.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 44, Col: 111}); err != nil {
		t.Fatal(err)
	}
	x.await("44 111\r\n")
	x.end()
}

func TestTerminalKeys(t *testing.T) {
	for _, c := range []struct{ name, line, keys, want string }{
		{"Ctrl-C", `trap "echo heard; exit 9" INT; echo ready; sleep 1000 & wait`, "\x03", "heard\r\nsettings same\r\nstatus 9\r\n"},
		{"Ctrl-C ends", `echo ready; exec sleep 1000`, "\x03", "settings same\r\nstatus 130\r\n"},
		{"Ctrl-backslash", `trap "echo heard; exit 9" QUIT; echo ready; sleep 1000 & wait`, "\x1c", "heard\r\nsettings same\r\nstatus 9\r\n"},
		{"Ctrl-D", `echo ready; cat; echo ended`, "text\r\x04", "text\r\nended\r\nsettings same\r\nstatus 0\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			x := s.terminal(t, framed(`"$COFFERDAM" run -- sh -c '`+c.line+`'`))
			x.await("ready\r\n")
			if !x.raw() {
				t.Error("the person's terminal is not raw: a key may reach the wrong process")
			}
			x.typed(c.keys)
			x.await(c.want)
			x.end()
		})
	}
}

func TestTerminalIsRestored(t *testing.T) {
	for _, c := range []struct {
		name   string
		signal syscall.Signal
		flags  string
		status int
	}{
		{"SIGTERM", syscall.SIGTERM, "", 143},
		{"SIGHUP", syscall.SIGHUP, "", 129},
		{"time limit", 0, "--timeout 1s ", 124},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			x := s.terminal(t, framed(`"$COFFERDAM" run `+c.flags+`-- sh -c 'echo ready; sleep 1000'`))
			x.await("ready\r\n")
			if c.signal != 0 {
				if err := syscall.Kill(supervisorBelow(t, x.cmd.Process.Pid), c.signal); err != nil {
					t.Fatal(err)
				}
			}
			x.await(fmt.Sprintf("settings same\r\nstatus %d\r\n", c.status))
			x.end()
		})
	}
}

// supervisorBelow is the process of the program that a shell has started.
func supervisorBelow(t *testing.T, shell int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", shell, shell))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatalf("children %q: %v", data, err)
	}
	return pid
}

// The screen goes away: everything inside ends, and so do we.
func TestTerminalGoesAway(t *testing.T) {
	s := newSite(t)
	x := s.terminal(t, `exec "$COFFERDAM" run -- sh -c 'echo ready; sleep 1000'`)
	x.await("ready\r\n")
	x.master.Close()
	if status := ended(t, x.cmd); status != 129 {
		t.Errorf("status %d, want 129", status)
	}
}

func TestJobControl(t *testing.T) {
	s := newSite(t)
	x := s.terminal(t, framed(`"$COFFERDAM" run -- env PS1='$ ' bash --norc --noprofile -i`))
	x.await("$ ")
	x.typed("sleep 1000 &\r")
	x.await("[1] ")
	x.typed("jobs\r")
	x.await("Running")
	// What reads in the background is stopped by the terminal.
	x.typed("cat &\r")
	x.await("[2] ")
	x.typed("until jobs -s | grep -q cat; do :; done; jobs\r")
	x.await("Stopped                 cat\r\n")
	x.await("$ ")
	// In the foreground it reads. Once it has answered, the terminal is its own.
	x.typed("fg %2\r")
	x.await("\rcat\r\n")
	x.typed("line\r")
	x.await("line\r\nline\r\n")
	x.typed("\x1a")
	x.await("Stopped")
	x.await("$ ")
	x.typed("kill %1 %2; fg %2; wait; exit 5\r")
	x.await("settings same\r\nstatus 5\r\n")
	x.end()
	if strings.Contains(x.screen, "no job control") {
		t.Errorf("no job control: %q", x.screen)
	}
}

// Output that is not a terminal's gets no terminal, and nothing is added to it.
func TestTerminalHalf(t *testing.T) {
	s := newSite(t)
	x := s.terminal(t, framed(`"$COFFERDAM" run -- sh -c 'printf "a\n"; [ -t 1 ] || echo file' > result`))
	x.await("settings same\r\nstatus 0\r\n")
	x.end()
	if data, _ := os.ReadFile(s.workspace + "/result"); string(data) != "a\nfile\n" {
		t.Errorf("the file holds %q", data)
	}
}
