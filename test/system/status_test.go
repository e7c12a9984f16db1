package system

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStatusPassesThrough(t *testing.T) {
	s := newSite(t)
	s.write(t, "plain.txt", "no program\n")
	s.write(t, "bad-interpreter", "#!/no/such/interpreter\n")
	if err := os.Chmod(s.workspace+"/bad-interpreter", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		command []string
		status  int
	}{
		{"true", []string{"true"}, 0},
		{"42", []string{"sh", "-c", "exit 42"}, 42},
		{"255", []string{"sh", "-c", "exit 255"}, 255},
		{"SIGTERM to itself", []string{"sh", "-c", "kill -TERM $$"}, 143},
		{"SIGKILL to itself", []string{"sh", "-c", "kill -KILL $$"}, 137},
		{"SIGSEGV to itself", []string{"sh", "-c", "kill -SEGV $$"}, 139},
		{"not executable", []string{"./plain.txt"}, 126},
		{"a directory", []string{"/usr"}, 126},
		{"not found on PATH", []string{"no-such-program"}, 127},
		{"not found by name", []string{"./no-such-program"}, 127},
		{"not found outside of what can be read", []string{"/nonexistent/program"}, 127},
		{"no interpreter", []string{"./bad-interpreter"}, 127},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := s.run(t, append([]string{"run", "--"}, c.command...)...)
			if c.status == 126 || c.status == 127 {
				r.complains(t, c.status)
				return
			}
			r.wants(t, c.status)
			if r.err != "" {
				t.Errorf("errors %q", r.err)
			}
		})
	}
}

// Inside of a boundary there is no second one, and that is what is said.
func TestNested(t *testing.T) {
	s := newSite(t)
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "cofferdam", string(program))
	if err := os.Chmod(s.workspace+"/cofferdam", 0o755); err != nil {
		t.Fatal(err)
	}
	s.run(t, "run", "--", "./cofferdam", "run", "--", "true").complains(t, 69, "already inside a boundary of cofferdam", "hint: run the command without cofferdam")
}

// A daemon that forks twice ends with the command, and does not hold it up.
func TestDaemonEndsWithTheCommand(t *testing.T) {
	s := newSite(t)
	r := s.sh(t, "(setsid sh -c 'sleep 1000 & sleep 1000 & exec sleep 1000' &) ; echo started")
	r.wants(t, 0)
	if r.out != "started\n" {
		t.Errorf("printed %q", r.out)
	}
	s.clean(t)
}

func TestSignalsToUs(t *testing.T) {
	for _, c := range []struct {
		name   string
		line   string
		signal syscall.Signal
		status int
	}{
		{"SIGTERM", "echo ready; sleep 1000", syscall.SIGTERM, 143},
		{"SIGTERM, the command says 3", "trap 'exit 3' TERM; echo ready; sleep 1000 & wait", syscall.SIGTERM, 143},
		{"SIGHUP", "echo ready; sleep 1000", syscall.SIGHUP, 129},
		{"SIGINT ends the command", "echo ready; exec sleep 1000", syscall.SIGINT, 130},
		// Programs such as an agent take a single SIGINT as "stop that".
		{"SIGINT is handled", "trap 'exit 9' INT; echo ready; sleep 1000 & wait", syscall.SIGINT, 9},
		{"SIGUSR1 is handled", "trap 'exit 10' USR1; echo ready; sleep 1000 & wait", syscall.SIGUSR1, 10},
		{"SIGQUIT", "echo ready; exec sleep 1000", syscall.SIGQUIT, 131},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			b := s.start(t, "ready\n", "run", "--", "sh", "-c", c.line)
			if err := b.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			if status := b.end(t); status != c.status {
				t.Errorf("status %d, want %d; errors %q", status, c.status, b.errOut.String())
			}
		})
	}
}

// A command that does not want to end is ended: at once if asked twice.
func TestStubbornCommand(t *testing.T) {
	s := newSite(t)
	b := s.start(t, "ready\n", "run", "--", "bash", "-c", "trap 'echo heard' TERM INT HUP; echo ready; while :; do sleep 1000 & wait; done")
	begin := time.Now()
	if err := b.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	b.await(t, "heard\n")
	if err := b.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if status := b.end(t); status != 130 {
		t.Errorf("status %d, want 130; errors %q", status, b.errOut.String())
	}
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestStreams(t *testing.T) {
	s := newSite(t)
	data := make([]byte, 1<<20)
	rand.Read(data)
	t.Run("1 MiB through cat", func(t *testing.T) {
		cmd := s.command("run", "--", "cat")
		cmd.Stdin = bytes.NewReader(data)
		r := finish(t, cmd)
		r.wants(t, 0)
		if r.out != string(data) {
			t.Errorf("%d bytes came back, and not the same", len(r.out))
		}
	})
	t.Run("out and err apart", func(t *testing.T) {
		r := s.sh(t, "echo out; echo err >&2")
		if r.out != "out\n" || r.err != "err\n" {
			t.Errorf("out %q, errors %q", r.out, r.err)
		}
	})
	t.Run("pipes are pipes", func(t *testing.T) {
		cmd := s.command("run", "--", "sh", "-c", "for n in 0 1 2; do [ -p /dev/fd/$n ] && echo pipe; [ -t $n ] && echo terminal; done; tty; true")
		cmd.Stdin = strings.NewReader("")
		r := finish(t, cmd)
		if r.out != "pipe\npipe\npipe\nnot a tty\n" {
			t.Errorf("printed %q, errors %q", r.out, r.err)
		}
	})
	t.Run("closed stdin", func(t *testing.T) {
		cmd := s.command()
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `exec "$@" <&-`, "sh", binary, "run", "--", "sh", "-c", "cat; echo $?; ls /proc/self/fd | wc -l"}
		r := finish(t, cmd)
		r.wants(t, 0)
		// Nothing to read, and still three descriptors; ls opens one more.
		if r.out != "0\n4\n" {
			t.Errorf("printed %q, errors %q", r.out, r.err)
		}
	})
	t.Run("everything closed", func(t *testing.T) {
		cmd := s.command()
		cmd.Path, cmd.Args = "/bin/sh", []string{"sh", "-c", `exec "$@" <&- >&- 2>&-`, "sh", binary, "run", "--", "sh", "-c", "echo x > made; exit 7"}
		finish(t, cmd).wants(t, 7)
		if !s.exists("made") {
			t.Error("the command did not run")
		}
	})
	t.Run("reader goes away", func(t *testing.T) {
		b := s.start(t, "y\n", "run", "--", "yes")
		b.out.Close()
		if status := b.end(t); status != 141 {
			t.Errorf("status %d, want 141 (SIGPIPE)", status)
		}
	})
	t.Run("only the three descriptors", func(t *testing.T) {
		other, err := os.Open("/etc/hostname")
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		cmd := s.command("run", "--", "sh", "-c", "cd /proc/self/fd; echo *")
		cmd.ExtraFiles = []*os.File{other, other}
		r := finish(t, cmd)
		// The shell opens the directory itself to expand the star.
		if got := strings.Fields(r.out); len(got) > 4 || len(got) < 3 {
			t.Errorf("descriptors inside: %v", got)
		}
	})
	t.Run("end of file comes at the end", func(t *testing.T) {
		b := s.start(t, "out\n", "run", "--", "sh", "-c", "echo out; cat > /dev/null")
		b.in.Close()
		rest, err := io.ReadAll(b.out)
		if err != nil || len(rest) > 0 {
			t.Errorf("read %q, %v", rest, err)
		}
		if status := b.end(t); status != 0 {
			t.Errorf("status %d", status)
		}
	})
}

func TestTimeLimit(t *testing.T) {
	s := newSite(t)
	b := s.start(t, "ready\n", "run", "--timeout", "1500ms", "--", "sh", "-c", "echo ready; (setsid sleep 1000 &); sleep 1000")
	if status := b.end(t); status != 124 {
		t.Errorf("status %d, want 124", status)
	}
	result{124, "", b.errOut.String()}.complains(t, 124, "time limit of 1.5s")
	if log := s.run(t, "logs", "--json"); !strings.Contains(log.out, `"limit`) {
		t.Errorf("no event: %s", log.out)
	}
}
