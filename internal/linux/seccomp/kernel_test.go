//go:build linux

package seccomp

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cofferdam/internal/testenv"
)

func needFilter(t testing.TB) {
	t.Helper()
	s := Available()
	if !s.Filter.Yes {
		testenv.Skip(t, testenv.Seccomp, s.Filter.String())
	}
}

func needNotify(t testing.TB) {
	t.Helper()
	s := Available()
	if !s.Notify.Yes {
		testenv.Skip(t, testenv.SeccompNotify, s.Notify.String())
	}
}

func TestAvailable(t *testing.T) {
	s := Available()
	t.Logf("%v", s)
	actions, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail")
	if err != nil {
		testenv.Skip(t, testenv.Seccomp, err.Error())
	}
	words := strings.Fields(string(actions))
	has := func(w string) bool {
		for _, have := range words {
			if have == w {
				return true
			}
		}
		return false
	}
	for word, got := range map[string]Answer{"errno": s.Errno, "kill_process": s.KillProcess, "user_notif": s.Notify} {
		if got.Known && got.Yes != has(word) {
			t.Errorf("%s: %v, and the kernel lists %s", word, got, words)
		}
	}
	if a := flagsKnown(1 << 30); !a.Known || a.Yes {
		t.Errorf("a flag that does not exist: %v", a)
	}
	if a := actionKnown(0x12340000); !a.Known && a.Errno != unix.ENOSYS || a.Yes {
		t.Errorf("an action that does not exist: %v", a)
	}
	if (Answer{}).Known || (Answer{}).Yes {
		t.Error("the zero answer is not unknown")
	}
}

func TestRefused(t *testing.T) {
	needFilter(t)
	cmd, _ := child(t, "acts", "errno")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range results(t, string(out)) {
		if e != unix.EPERM {
			t.Errorf("%s: %v, must be EPERM", name, e)
		}
	}
	covered := map[string]bool{}
	for _, a := range acts() {
		var args [6]uint64
		for i, v := range a.args {
			args[i] = uint64(v)
		}
		r, ok := Lookup(Native, int(a.nr), args)
		if !ok {
			t.Errorf("no rule for %s", a.name)
		}
		covered[r.Call+r.Reason] = true
	}
	for _, r := range rules {
		if r.Number[Native] != none && !covered[r.Call+r.Reason] {
			t.Errorf("no act for the rule that %s %s", r.Call, r.Reason)
		}
	}
}

// Negative control: EPERM is the filter's doing. The same acts get as far as
// the kernel's own checks without it, which as root are of the arguments.
func TestRefusedControl(t *testing.T) {
	if os.Geteuid() != 0 {
		testenv.Skip(t, testenv.Root, "the kernel itself answers EPERM to others")
	}
	var cmd *exec.Cmd
	cmd, _ = child(t, "control", "none")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		name, number, _ := strings.Cut(line, " ")
		if n, err := strconv.Atoi(number); err != nil || unix.Errno(n) == unix.EPERM {
			t.Errorf("%s without a filter: %q: the test does not tell who refuses", name, number)
		}
		tried++
	}
	if want := len(acts()) - len(dangerous); tried != want {
		t.Errorf("%d acts tried, not %d", tried, want)
	}
}

func init() {
	// Apart from acts, so that a dangerous one is never run by mistake.
	children["control"] = func([]string) {
		for _, a := range acts() {
			if !dangerous[a.call()] {
				fmt.Println(a.name, int(a.try()))
			}
		}
	}
}

func TestForeignConventions(t *testing.T) {
	needFilter(t)
	if Native != AMD64 {
		testenv.Skip(t, testenv.AMD64, "the calls of another architecture have no such conventions")
	}
	// Control first: without the filter the process lives.
	control := map[string]string{}
	for _, name := range []string{"int80", "x32", "numbers"} {
		cmd, _ := child(t, name, "none")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s without filter: %v", name, err)
		}
		control[name] = strings.TrimSpace(string(out))
		if name == "int80" && control[name] != "0 false" && control[name] != fmt.Sprint(cmd.Process.Pid, true) {
			t.Errorf("int80 without filter: %s, must be the pid %d or a fault", control[name], cmd.Process.Pid)
		}
	}
	killed := func(name, mode string) {
		t.Helper()
		cmd, _ := child(t, name, mode)
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGSYS {
			t.Errorf("%s, %s: %v, must be killed by SIGSYS", name, mode, err)
		}
	}
	killed("x32", "errno")
	killed("numbers", "foreign")
	if control["int80"] == "0 false" {
		testenv.Skip(t, testenv.IA32, "this kernel has no 32-bit calls that could be killed")
	}
	killed("int80", "errno")
}

func TestUnjudgedNumbers(t *testing.T) {
	needFilter(t)
	cmd, _ := child(t, "numbers", "errno")
	out, err := cmd.Output()
	if got := strings.Fields(string(out)); err != nil || fmt.Sprint(got) != "[38 38 38 38]" {
		t.Errorf("%v (%v), must be ENOSYS each", got, err)
	}
}

func TestNotify(t *testing.T) {
	needNotify(t)
	cmd, ours := child(t, "acts", "notify")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n, err := NewNotifier(listener(t, ours))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var seen []Notification
	ended := make(chan error, 1)
	go func() {
		ended <- n.Serve(func(call Notification) {
			if !n.Waiting(call) {
				t.Errorf("%s does not wait", call.Rule.Call)
			}
			// The pid is that of a thread.
			if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", cmd.Process.Pid, call.PID)); err != nil {
				t.Errorf("%s by %d: %v", call.Rule.Call, call.PID, err)
			}
			seen = append(seen, call)
		})
	}()
	ours.Write([]byte{1})
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve after the last task: %v", err)
	}
	for name, e := range results(t, out.String()) {
		if e != unix.EPERM {
			t.Errorf("%s: %v", name, e)
		}
	}
	want := acts()
	if len(seen) != len(want) {
		t.Fatalf("%d notifications for %d acts", len(seen), len(want))
	}
	for i, a := range want {
		got := seen[i]
		if got.Rule.Call != a.call() || got.Rule.Reason == "" || got.Nr != int(a.nr) || got.Args[0] != uint64(a.args[0]) {
			t.Errorf("%s: reported as %+v", a.name, got)
		}
		if n.Waiting(got) {
			t.Errorf("%s still waits", a.name)
		}
	}
}

// A supervisor that has gone makes the calls fail; none goes through.
func TestSupervisorGone(t *testing.T) {
	needNotify(t)
	cmd, ours := child(t, "acts", "notify")
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n, err := NewNotifier(listener(t, ours))
	if err != nil {
		t.Fatal(err)
	}
	n.Close()
	ours.Write([]byte{1})
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for name, e := range results(t, out.String()) {
		if e != unix.ENOSYS {
			t.Errorf("%s: %v, must be ENOSYS", name, e)
		}
	}
}

// With the supervisor gone, the inside must not become its own supervisor.
// The control shows that it could, were there no rule about listeners.
func TestListenerTakeover(t *testing.T) {
	needNotify(t)
	for mode, want := range map[string]string{
		"notify": fmt.Sprint(unix.ENOSYS, unix.ENOSYS),
		"open":   fmt.Sprint(unix.Errno(0), unix.EINVAL), // the kernel's own answer
	} {
		cmd, ours := child(t, "takeover", mode)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		unix.Close(listener(t, ours))
		ours.Write([]byte{1})
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(out.String()); got != want {
			t.Errorf("%s: second filter and call: %q, must be %q", mode, got, want)
		}
	}
}

func TestFlood(t *testing.T) {
	needNotify(t)
	const each = 2500
	cmd, ours := child(t, "flood", "notify-all", strconv.Itoa(each))
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n, err := NewNotifier(listener(t, ours))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var count int
	ended := make(chan error, 1)
	go func() { ended <- n.Serve(func(Notification) { count++ }) }()
	ours.Write([]byte{1})
	if err := cmd.Wait(); err != nil || out.String() != "done\n" {
		t.Fatalf("%q %v", out.String(), err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	// Without WAIT_KILLABLE_RECV a signal can make a call ask twice.
	if count < 4*each || Available().WaitKillable.Yes && count != 4*each {
		t.Errorf("%d notifications for %d calls", count, 4*each)
	}
}

// Tasks that are killed while they wait are no reason to stop.
func TestKilledWhileWaiting(t *testing.T) {
	needNotify(t)
	cmd, ours := child(t, "flood", "notify-all", "1000000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n, err := NewNotifier(listener(t, ours))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	var count int
	ended := make(chan error, 1)
	go func() {
		ended <- n.Serve(func(call Notification) {
			if count++; count == 1000 { // all threads die now, this one while it waits
				cmd.Process.Kill()
				cmd.Wait()
				if n.Waiting(call) {
					t.Error("a dead task waits")
				}
			}
		})
	}()
	ours.Write([]byte{1})
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if count != 1000 {
		t.Errorf("%d calls reported, the last 1000 by nobody", count)
	}
}

func TestCloseEndsServe(t *testing.T) {
	needNotify(t)
	for _, busy := range []bool{false, true} {
		cmd, ours := child(t, "flood", "notify-all", "1000000")
		cmd.Stderr = nil // the flood says that it gets ENOSYS
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		n, err := NewNotifier(listener(t, ours))
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		var count atomic.Int64
		some := make(chan bool)
		go func() {
			ended <- n.Serve(func(Notification) {
				if count.Add(1) == 100 {
					close(some)
				}
			})
		}()
		if busy {
			ours.Write([]byte{1})
			<-some
		}
		n.Close()
		n.Close()
		select {
		case err := <-ended:
			if err != os.ErrClosed {
				t.Errorf("busy %v: %v", busy, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Serve does not end")
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
}

func TestNewNotifierTakesOver(t *testing.T) {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := NewNotifier(fd); err == nil {
		n.Close()
		t.Error("a file that is no listener is accepted")
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("the refused file is still open: %v", err)
	}
}

// The programs of a working day must not notice.
func TestOrdinaryPrograms(t *testing.T) {
	needFilter(t)
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module hello\n\ngo 1.21\n")
	write("hello.go", "package main\n\nfunc main() { println(\"hello\") }\n")
	write("Hello.java", "class Hello { public static void main(String[] a) throws Exception { "+
		"java.net.InetAddress.getLoopbackAddress(); new Thread(() -> System.out.println(\"hello\")).start(); } }\n")
	for _, line := range []struct{ program, want, args string }{
		{"bash", "hello", "-c\x00(sleep 0; echo hello) | cat"},
		{"git", "hello", "-c\x00alias.x=!git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m hello && git log --format=%s\x00x"},
		{"python3", "hello", "-c\x00import socket, subprocess, threading, multiprocessing as m\nsocket.socketpair(); socket.socket(); socket.if_nameindex()\nm.Process(target=print, args=('hello',)).start()"},
		{"node", "hello", "-e\x00const o = require('os'); o.networkInterfaces(); require('child_process').execFileSync('true'); require('net').createServer().listen(0, '127.0.0.1', function () { this.close(); console.log('hello') })"},
		{"go", "hello", "run\x00./hello.go"},
		{"java", "hello", "Hello.java"},
		{"strace", "hello", "-f\x00-qq\x00-o\x00/dev/null\x00echo\x00hello"},
		{"gdb", "exited normally", "-nx\x00-batch\x00-ex\x00run\x00--args\x00/bin/true"},
		{"setarch", "hello", "-R\x00echo\x00hello"},
	} {
		t.Run(line.program, func(t *testing.T) {
			path, err := exec.LookPath(line.program)
			if err != nil {
				testenv.Skip(t, testenv.Toolchains, err.Error())
			}
			args := strings.Split(line.args, "\x00")
			cmd, _ := child(t, "exec", append([]string{"errno", path}, args...)...)
			cmd.Dir = dir
			cmd.Stderr = nil
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Run(); err != nil || !strings.Contains(out.String(), line.want) {
				t.Errorf("%v, output without %q:\n%s", err, line.want, out.String())
			}
			if strings.Contains(out.String(), "not permitted") {
				t.Errorf("it noticed:\n%s", out.String())
			}
		})
	}
}

// BenchmarkSyscall is the cost of a call: getppid, which the kernel's cache
// lets through; ioctl, whose argument is looked at; and a refused one.
func BenchmarkSyscall(b *testing.B) {
	for _, mode := range []string{"none", "errno", "notify"} {
		b.Run(mode, func(b *testing.B) {
			n := max(b.N, 1)
			cmd, ours := child(b, "time", mode, strconv.Itoa(n))
			var out bytes.Buffer
			cmd.Stdout = &out
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			if mode == "notify" {
				notifier, err := NewNotifier(listener(b, ours))
				if err != nil {
					b.Fatal(err)
				}
				defer notifier.Close()
				go notifier.Serve(func(Notification) {})
				ours.Write([]byte{1})
			}
			if err := cmd.Wait(); err != nil {
				b.Fatal(err)
			}
			for i, unit := range []string{"ns/getppid", "ns/ioctl", "ns/refused"} {
				v, err := strconv.ParseFloat(strings.Fields(out.String())[i], 64)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(v, unit)
			}
			b.ReportMetric(0, "ns/op") // the child's start is in it
		})
	}
}
