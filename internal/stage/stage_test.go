package stage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cofferdam/internal/linux/call"
)

// harness starts programs with the two pipes that every program has.
type harness struct {
	status *os.File
	pid    int
}

func startProgram(t *testing.T, p *Program, flags uintptr) *harness {
	t.Helper()
	return startProgramFor(t.Context(), t, p, flags)
}

func startProgramFor(ctx context.Context, t *testing.T, p *Program, flags uintptr) *harness {
	t.Helper()
	er, ew, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	sr, sw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	pass := []call.Call{
		call.New("test", "pass", unix.SYS_DUP3, int(ew.Fd()), call.Errors, unix.O_CLOEXEC),
		call.New("test", "pass", unix.SYS_DUP3, int(sw.Fd()), call.Status, unix.O_CLOEXEC),
		call.New("test", "keep", unix.SYS_FCNTL, call.Status, unix.F_SETFD, 0),
		call.New("test", "close", unix.SYS_CLOSE_RANGE, 3, call.First-1, 0),
	}
	p.First = append(pass, p.First...)
	h := &harness{status: sr}
	h.pid, err = Start(ctx, p, flags, -1, er)
	ew.Close()
	sw.Close()
	if h.pid == 0 {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(h.pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(h.pid, nil, 0, nil)
		sr.Close()
	})
	return h
}

func fork() call.Call {
	return call.New("test", "fork", unix.SYS_CLONE, int(unix.SIGCHLD), 0, 0, 0, 0).Forking()
}

func block() call.Call {
	all := ^uint64(0)
	return call.New("test", "block signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, call.Ptr(&all), 0, 8)
}

func unblock() call.Call {
	return call.New("test", "unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, call.Ptr(new(uint64)), 0, 8)
}

func execute(argv ...string) call.Call {
	vector := func(list []string) []*byte {
		out := make([]*byte, len(list)+1)
		for i, s := range list {
			out[i] = call.Bytes(s)
		}
		return out
	}
	return call.New("exec", "execute", unix.SYS_EXECVE, argv[0], call.Ptr(&vector(argv)[0]), call.Ptr(&vector(nil)[0])).On(argv[0])
}

func (h *harness) wait(t *testing.T) syscall.WaitStatus {
	t.Helper()
	buf := make([]byte, 4)
	if _, err := io.ReadFull(h.status, buf); err != nil {
		t.Fatal(err)
	}
	return syscall.WaitStatus(binary.NativeEndian.Uint32(buf))
}

func TestCommandRunsAndItsStatusComesBack(t *testing.T) {
	p := &Program{First: []call.Call{block(), fork()}, Second: []call.Call{unblock(), execute("/bin/sh", "-c", "exit 7")}}
	h := startProgram(t, p, 0)
	if err := p.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ws := h.wait(t); ws.ExitStatus() != 7 {
		t.Errorf("status %v", ws)
	}
}

func TestFailureNamesTheCall(t *testing.T) {
	bad := call.New("mounts", "open", unix.SYS_OPENAT, unix.AT_FDCWD, "/no/such/file", 0, 0).On("/no/such/file")
	for name, p := range map[string]*Program{
		"first":  {First: []call.Call{bad, fork()}},
		"second": {First: []call.Call{block(), fork()}, Second: []call.Call{bad, execute("/bin/true")}},
	} {
		startProgram(t, p, 0)
		var f *Failure
		if err := p.Result(t.Context()); !errors.As(err, &f) {
			t.Fatalf("%s: %v", name, err)
		}
		if f.Errno != syscall.ENOENT || f.Second != (name == "second") || f.Error() != "mounts: open /no/such/file: no such file or directory" {
			t.Errorf("%s: %+v: %v", name, f, f)
		}
	}
}

func TestUnwantedResultIsAFailure(t *testing.T) {
	p := &Program{First: []call.Call{call.New("test", "getuid", unix.SYS_GETUID).Wanting(123456), fork()}}
	startProgram(t, p, 0)
	var f *Failure
	if err := p.Result(t.Context()); !errors.As(err, &f) || f.Errno != 0 {
		t.Fatalf("%v", err)
	}
}

// An empty pipe is no success, nor is half a word: whoever got through has said so.
func TestDeathWithoutAWordIsNotSuccess(t *testing.T) {
	die := call.New("test", "die", unix.SYS_EXIT_GROUP, 0)
	half := call.New("test", "say half a word", unix.SYS_WRITE, call.Errors, "abc", 3)
	for name, p := range map[string]*Program{
		"at once":        {First: []call.Call{die, fork()}},
		"half a word":    {First: []call.Call{half, die, fork()}},
		"after the fork": {First: []call.Call{block(), fork(), die}, Second: []call.Call{unblock(), execute("/bin/true")}},
		"the second":     {First: []call.Call{block(), fork()}, Second: []call.Call{die, execute("/bin/true")}},
	} {
		startProgram(t, p, 0)
		if begun := p.Begun(); begun != (name == "the second") {
			t.Errorf("%s: begun is %v", name, begun)
		}
		err := p.Result(t.Context())
		if !errors.Is(err, ErrDied) || !strings.HasPrefix(err.Error(), "test: die: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A call that does not return is ended with its process, and named.
func TestHangIsEnded(t *testing.T) {
	hang := call.New("mounts", "bind", unix.SYS_PPOLL, 0, 0, 0, 0, 0).On("/dead")
	begin := time.Now()
	for name, program := range map[string]func() *Program{
		"first": func() *Program { return &Program{First: []call.Call{block(), hang, fork()}} },
		"second": func() *Program {
			return &Program{First: []call.Call{block(), fork()}, Second: []call.Call{call.New("test", "die with the parent", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL)), hang, execute("/bin/true")}}
		},
	} {
		t.Run(name+" late", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			p := program()
			startProgramFor(ctx, t, p, 0)
			var f *Failure
			if err := p.Result(ctx); !errors.As(err, &f) || f.Errno != syscall.ETIMEDOUT || f.Call.String() != "mounts: bind /dead" {
				t.Errorf("%v", err)
			}
		})
		t.Run(name+" cancelled", func(t *testing.T) {
			why := errors.New("somebody wants to go")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
			p := program()
			startProgramFor(ctx, t, p, 0)
			if err := p.Result(ctx); err != why {
				t.Errorf("%v", err)
			}
		})
	}
	if d := time.Since(begin); d > grace {
		t.Errorf("it took %v: nobody was killed at once", d)
	}
}

// A second list that ends without execve must not look like a running command.
func TestListWithoutExecveFails(t *testing.T) {
	p := &Program{First: []call.Call{block(), fork()}, Second: []call.Call{unblock()}}
	startProgram(t, p, 0)
	if err := p.Result(t.Context()); err == nil {
		t.Fatal("no error")
	}
}

func TestOptionalCallsAreSkippedAndRepeatedOnesCount(t *testing.T) {
	dir := t.TempDir()
	absent := call.New("test", "open", unix.SYS_OPENAT, unix.AT_FDCWD, dir+"/absent", 0, 0)
	mkdir := func(name string) call.Call {
		return call.New("test", "mkdir", unix.SYS_MKDIRAT, unix.AT_FDCWD, dir+"/"+name, 0o700)
	}
	p := &Program{First: []call.Call{
		absent.OrSkip(2), mkdir("skipped"), mkdir("skipped too"), mkdir("made"),
		call.New("test", "open", unix.SYS_OPENAT, unix.AT_FDCWD, dir+"/count", unix.O_CREAT|unix.O_WRONLY, 0o600).Into(call.Socket),
		// pwrite64 of "x" at 0 has the buffer as its second argument, so
		// ftruncate, whose second argument is the length, counts instead.
		call.New("test", "count", unix.SYS_FTRUNCATE, call.Socket, 10).Repeat(5),
		block(), fork(),
	}, Second: []call.Call{unblock(), execute("/bin/true")}}
	startProgram(t, p, 0)
	if err := p.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 || entries[1].Name() != "made" {
		t.Errorf("%v %v", entries, err)
	}
	if st, err := os.Stat(dir + "/count"); err != nil || st.Size() != 14 {
		t.Errorf("%v %v", st.Size(), err)
	}
}

// What may be missing must still not fail for another reason.
func TestSkippedForOneReason(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("loop", dir+"/loop"); err != nil {
		t.Fatal(err)
	}
	for name, good := range map[string]bool{"absent": true, "loop": false} {
		open := call.New("test", "open", unix.SYS_OPENAT, unix.AT_FDCWD, dir+"/"+name, 0, 0)
		p := &Program{
			First:  []call.Call{open.OrSkipIf(unix.ENOENT, 0), block(), fork()},
			Second: []call.Call{unblock(), execute("/bin/true")},
		}
		startProgram(t, p, 0)
		err := p.Result(t.Context())
		var f *Failure
		if good && err != nil || !good && (!errors.As(err, &f) || f.Errno != unix.ELOOP) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSlots(t *testing.T) {
	dir := t.TempDir()
	p := &Program{First: []call.Call{
		call.New("test", "open", unix.SYS_OPENAT, unix.AT_FDCWD, dir+"/f", unix.O_CREAT|unix.O_WRONLY, 0o600).Into(call.Socket),
		call.New("test", "write", unix.SYS_WRITE, call.Socket, "hello", 5).Wanting(5),
		block(), fork(),
	}, Second: []call.Call{unblock(), execute("/bin/true")}}
	startProgram(t, p, 0)
	if err := p.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(dir + "/f"); string(b) != "hello" {
		t.Errorf("%q", b)
	}
}

// What stays of the first child has nothing of the launcher's memory.
func TestFirstChildHoldsNothing(t *testing.T) {
	const canary = "stage-canary-"
	secret := []byte(canary + strconv.Itoa(os.Getpid()) + strings.Repeat("!", 4096))
	p := &Program{First: []call.Call{block(), fork()}, Second: []call.Call{unblock(),
		call.New("test", "die with the parent", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL)), execute("/bin/sleep", "60")}}
	h := startProgram(t, p, 0)
	if err := p.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + strconv.Itoa(h.pid)
	// execve lets the launcher go on before it has put the arguments in place.
	deadline := time.Now().Add(10 * time.Second)
	for b, err := os.ReadFile(proc + "/cmdline"); !strings.HasPrefix(string(b), "cofferdam\x00"); b, err = os.ReadFile(proc + "/cmdline") {
		if err != nil || len(b) > 0 || time.Now().After(deadline) {
			t.Fatalf("cmdline: %q %v", b, err)
		}
	}
	if os.Getuid() != 0 {
		// Not even its own user may look.
		for _, name := range []string{"environ", "mem", "maps", "auxv"} {
			if _, err := os.ReadFile(proc + "/" + name); !errors.Is(err, os.ErrPermission) {
				t.Errorf("%s: %v, want permission denied", name, err)
			}
		}
		return
	}
	needle := string(secret[:len(canary)+5])
	if !holds(t, os.Getpid(), needle) {
		t.Fatal("control: the secret is not found in the launcher's own memory")
	}
	if holds(t, h.pid, needle) {
		t.Fatal("the secret is in the child's memory")
	}
	if b, err := os.ReadFile(proc + "/environ"); err != nil || len(b) != 0 {
		t.Errorf("environ: %q %v", b, err)
	}
	runtime.KeepAlive(secret)
}

// The init ends within what is copied of it, and the slot that it writes to is
// the one of package call.
func TestInitIsComplete(t *testing.T) {
	elf := initELF()
	if !bytes.Contains(elf, []byte("cfffderm")) {
		t.Errorf("the end of the code is not within %d bytes", initSize)
	}
	if call.Status != 201 {
		t.Errorf("call.Status is %d; init_*.s writes to 201", call.Status)
	}
}

// holds reports whether needle stands in the private memory of a process.
func holds(t *testing.T, pid int, needle string) bool {
	t.Helper()
	proc := "/proc/" + strconv.Itoa(pid)
	maps, err := os.ReadFile(proc + "/maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(proc + "/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	buf := make([]byte, 1<<20)
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if f[1] != "rw-p" || f[4] != "0" {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		a, _ := strconv.ParseInt(from, 16, 64)
		b, _ := strconv.ParseInt(to, 16, 64)
		if b-a > 1<<30 {
			continue // shadow memory of the race detector
		}
		for ; a < b; a += int64(len(buf)) - int64(len(needle)) {
			n, _ := mem.ReadAt(buf[:min(int64(len(buf)), b-a)], a)
			if bytes.Contains(buf[:n], []byte(needle)) {
				return true
			}
			if n < len(buf) {
				break
			}
		}
	}
	return false
}

func TestSignalsArePassedOn(t *testing.T) {
	out := t.TempDir() + "/out"
	p := &Program{First: []call.Call{
		call.New("test", "output", unix.SYS_OPENAT, unix.AT_FDCWD, out, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600).Into(call.Out),
		block(), fork(),
	}, Second: []call.Call{
		call.New("test", "output", unix.SYS_DUP3, call.Out, 1, 0), unblock(),
		execute("/bin/sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done"),
	}}
	h := startProgram(t, p, 0)
	if err := p.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if b, _ := os.ReadFile(out); string(b) == "ready\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the command does not say that it is ready")
		}
	}
	if err := syscall.Kill(h.pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if ws := h.wait(t); ws.ExitStatus() != 9 {
		t.Errorf("status %#x", uint32(ws))
	}
}

// As pid 1 of a namespace the first child takes everything with it.
func TestInitKillsTheRest(t *testing.T) {
	p := &Program{Init: true, First: []call.Call{block(), fork()}, Second: []call.Call{unblock(),
		execute("/bin/sh", "-c", "setsid sleep 7531 & setsid sleep 7531 & exit 3")}}
	h := startProgram(t, p, unix.CLONE_NEWUSER|unix.CLONE_NEWPID)
	if err := p.Result(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ws := h.wait(t); ws.ExitStatus() != 3 {
		t.Errorf("status %#x", uint32(ws))
	}
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		if b, _ := os.ReadFile("/proc/" + d.Name() + "/cmdline"); string(b) == "sleep\x007531\x00" {
			t.Errorf("process %s is left", d.Name())
		}
	}
}

// The garbage collector may mark while a child works in the same memory: a
// pointer stored there would call on a scheduler that the child does not have.
func TestStartsWhileCollecting(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
			}
		}
	}()
	for n := range 100 {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			p := &Program{First: []call.Call{block(), fork()}, Second: []call.Call{unblock(), execute("/bin/true")}}
			h := startProgram(t, p, 0)
			if err := p.Result(t.Context()); err != nil {
				t.Fatal(err)
			}
			if ws := h.wait(t); ws.ExitStatus() != 0 || ws.Signaled() {
				t.Fatalf("status %#x", uint32(ws))
			}
		})
	}
}
