package boundarytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/boundary"
	"cofferdam/internal/plan"
)

// Run is the suite. adapt may change each plan for the boundary at hand.
func Run(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan)) {
	t.Run("acts", func(t *testing.T) { runActs(t, b, adapt) })
	t.Run("status", func(t *testing.T) { runStatus(t, b, adapt) })
	t.Run("daemons die", func(t *testing.T) { runDaemons(t, b, adapt) })
	t.Run("streams", func(t *testing.T) { runStreams(t, b, adapt) })
	t.Run("directory as stream", func(t *testing.T) { runDirectoryStream(t, b, adapt) })
	t.Run("terminal", func(t *testing.T) { runTerminal(t, b, adapt) })
	t.Run("enoent", func(t *testing.T) { runNoProgram(t, b, adapt) })
}

func runActs(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan)) {
	w := New(t)
	// A descriptor that leads outside, without close-on-exec.
	fd, err := syscall.Open(w.Outside, syscall.O_RDONLY, 0)
	check(t, err)
	defer syscall.Close(fd)
	for _, a := range acts {
		t.Run(strings.ReplaceAll(a.name, " ", "-"), func(t *testing.T) {
			p := w.probe(a.name)
			adapt(p)
			out, exit := inside(t, b, p)
			switch {
			case a.works && exit.Status() != 0:
				t.Errorf("%s does not work inside: %s", a.name, out)
			case !a.works && exit.Status() == 0:
				t.Errorf("%s works inside", a.name)
			case !a.works && exit.Status() != 1:
				t.Errorf("%s could not be tried: %s", a.name, out)
			}
			if a.noControl != "" {
				return
			}
			if out, err := outsideAct(w, a.name); err != nil {
				t.Errorf("control: %s does not work outside either, so the act proves nothing: %v: %s", a.name, err, out)
			}
		})
	}
}

// outsideAct does the act without a boundary.
func outsideAct(w *World, name string) ([]byte, error) {
	p := w.probe(name)
	cmd := exec.Command(p.Program)
	cmd.Dir = p.Dir
	for _, v := range p.Environment {
		cmd.Env = append(cmd.Env, v.Name+"="+v.Value)
	}
	dir, err := os.Open(w.Outside)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	cmd.ExtraFiles = []*os.File{dir}
	return cmd.CombinedOutput()
}

// inside runs the plan and returns what it printed.
func inside(t testing.TB, b boundary.Boundary, p *plan.Plan) (string, boundary.Exit) {
	t.Helper()
	r, w, err := os.Pipe()
	check(t, err)
	null, err := os.Open(os.DevNull)
	check(t, err)
	defer null.Close()
	run, err := b.Start(context.Background(), p, boundary.Streams{In: null, Out: w, Err: w}, nil)
	w.Close()
	if err != nil {
		r.Close()
		t.Fatalf("start: %v", err)
	}
	var out bytes.Buffer
	done := make(chan struct{})
	go func() { _, _ = out.ReadFrom(r); r.Close(); close(done) }()
	exit, err := run.Wait()
	check(t, err)
	<-done
	return out.String(), exit
}

func shell(w *World, script string) *plan.Plan { return w.Plan("/bin/sh", "-c", script) }

func runStatus(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan)) {
	w := New(t)
	for script, want := range map[string]int{
		"exit 0": 0, "exit 42": 42, "exit 255": 255, "kill -TERM $$": 143, "kill -KILL $$": 137, "no-such-program-here": 127,
	} {
		p := shell(w, script)
		adapt(p)
		if out, exit := inside(t, b, p); exit.Status() != want {
			t.Errorf("%s: status %d, want %d: %s", script, exit.Status(), want, out)
		}
	}
}

func runNoProgram(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan)) {
	w := New(t)
	for program, want := range map[string]syscall.Errno{
		"/usr/bin/not-there": syscall.ENOENT, w.ReadOnly + "/file": syscall.EACCES,
	} {
		p := w.Plan(program)
		adapt(p)
		_, err := b.Start(context.Background(), p, boundary.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, nil)
		var e *boundary.ExecError
		if !errors.As(err, &e) || e.Errno != want {
			t.Errorf("%s: %v, want an ExecError with %v", program, err, want)
		}
	}
}

// runDaemons: what a command leaves running, in sessions of its own, is dead when
// Wait returns, and so is everything when the boundary is killed.
func runDaemons(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan)) {
	w := New(t)
	// Nobody else on the machine sleeps for this long: another run of this test may
	// be under way.
	long := fmt.Sprint(1_000_000 + os.Getpid())
	script := strings.ReplaceAll(`for i in 1 2 3; do setsid sh -c 'setsid sleep LONG & setsid sleep LONG & exec sleep LONG' >/dev/null 2>&1 & done
		until [ "$(cat /proc/[0-9]*/cmdline | tr '\0' '\n' | grep -cx LONG)" = 9 ]; do :; done 2>/dev/null
		echo ready; `, "LONG", long)
	for name, end := range map[string]string{"exit": "exit 3", "killed": "kill -9 $$"} {
		p := shell(w, script+end)
		adapt(p)
		if out, exit := inside(t, b, p); out != "ready\n" || exit.Status() != map[string]int{"exit": 3, "killed": 137}[name] {
			t.Errorf("%s: status %d, %q", name, exit.Status(), out)
		}
		if n := sleeping(long); n != 0 {
			t.Errorf("%s: %d processes are left", name, n)
		}
	}
	p := shell(w, script+"sleep "+long)
	adapt(p)
	r, wr, err := os.Pipe()
	check(t, err)
	defer r.Close()
	run, err := b.Start(context.Background(), p, boundary.Streams{In: r, Out: wr, Err: wr}, nil)
	check(t, err)
	wr.Close()
	buf := make([]byte, 16)
	if n, err := r.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "ready") {
		t.Fatalf("%q %v", buf[:n], err)
	}
	if sleeping(long) == 0 {
		t.Error("control: no process was seen while the boundary was alive")
	}
	check(t, run.Kill())
	exit, err := run.Wait()
	if err != nil || exit.Signal != syscall.SIGKILL {
		t.Errorf("killed: %+v %v", exit, err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for sleeping(long) != 0 {
		if time.Now().After(deadline) {
			t.Fatalf("killed: %d processes are left", sleeping(long))
		}
	}
	check(t, run.Kill()) // a second time is no error
}

// sleeping counts the processes of "sleep ARG" on the host.
func sleeping(arg string) int {
	n := 0
	dirs, _ := os.ReadDir("/proc")
	for _, d := range dirs {
		if b, err := os.ReadFile("/proc/" + d.Name() + "/cmdline"); err == nil && string(b) == "sleep\x00"+arg+"\x00" {
			n++
		}
	}
	return n
}

// runStreams: without a terminal the command has the very files it was given.
func runStreams(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan)) {
	w := New(t)
	p := shell(w, `cat; echo err >&2; tty; for f in /proc/self/fd/*; do echo "$f"; done`)
	adapt(p)
	in, inw, err := os.Pipe()
	check(t, err)
	out, outw, err := os.Pipe()
	check(t, err)
	errs, errw, err := os.Pipe()
	check(t, err)
	run, err := b.Start(context.Background(), p, boundary.Streams{In: in, Out: outw, Err: errw}, nil)
	check(t, err)
	in.Close()
	outw.Close()
	errw.Close()
	_, _ = inw.WriteString("through\n")
	inw.Close()
	var o, e bytes.Buffer
	done := make(chan struct{})
	go func() { _, _ = e.ReadFrom(errs); close(done) }()
	_, _ = o.ReadFrom(out)
	<-done
	_, err = run.Wait()
	check(t, err)
	if got := o.String(); !strings.HasPrefix(got, "through\nnot a tty\n") || strings.Contains(got, "/fd/4") {
		t.Errorf("output %q", got)
	}
	if e.String() != "err\n" {
		t.Errorf("error output %q", e.String())
	}
}

// runDirectoryStream: a directory is no stream. Through one the inside would open
// whatever lies around it on the host, which the control shows.
func runDirectoryStream(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan)) {
	w := New(t)
	const script = "cat /proc/self/fd/0/file"
	dir, err := os.Open(w.Outside)
	check(t, err)
	defer dir.Close()
	control := exec.Command("sh", "-c", script)
	control.Stdin = dir
	if out, err := control.Output(); err != nil || string(out) != w.Secret {
		t.Errorf("control: %q %v", out, err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	check(t, err)
	defer null.Close()
	for i := range 3 {
		s := boundary.Streams{In: null, Out: null, Err: null}
		*[]**os.File{&s.In, &s.Out, &s.Err}[i] = dir
		p := shell(w, script)
		adapt(p)
		run, err := b.Start(context.Background(), p, s, nil)
		if err == nil {
			_, _ = run.Wait()
		}
		var e *boundary.SetupError
		if !errors.As(err, &e) {
			t.Errorf("stream %d: %v", i, err)
		}
	}
}

// runTerminal: the command has a terminal of the inside, with a size.
func runTerminal(t *testing.T, b boundary.Boundary, adapt func(*plan.Plan)) {
	w := New(t)
	p := shell(w, `tty; stty size; stty -echo; read line; echo "got $line"; : </dev/tty && echo control`)
	adapt(p)
	run, err := b.Start(context.Background(), p, boundary.Streams{Terminal: true, Rows: 33, Cols: 77}, nil)
	check(t, err)
	defer run.Terminal().Close()
	_, _ = run.Terminal().WriteString("typed\n")
	var out bytes.Buffer
	_, _ = out.ReadFrom(run.Terminal()) // ends with EIO
	_, err = run.Wait()
	check(t, err)
	for _, want := range []string{"/dev/pts/0\r\n", "33 77\r\n", "got typed\r\n", "control\r\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("terminal output lacks %q: %q", want, out.String())
		}
	}
}
