package native

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cofferdam/internal/boundary"
	"cofferdam/internal/boundary/boundarytest"
	"cofferdam/internal/plan"
	"cofferdam/internal/testenv"
)

func TestMain(m *testing.M) {
	if done, code := boundarytest.Main(); done {
		os.Exit(code)
	}
	if what := os.Getenv(variableLook); what != "" {
		os.Exit(look(what))
	}
	os.Exit(testenv.Main(m))
}

func fuse() bool {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

func TestSuite(t *testing.T) {
	t.Run("plain", func(t *testing.T) { boundarytest.Run(t, Boundary{}, func(*plan.Plan) {}) })
	t.Run("seen", func(t *testing.T) {
		if !fuse() {
			testenv.Skip(t, testenv.Fuse, "/dev/fuse can't be opened")
		}
		boundarytest.Run(t, Boundary{}, func(p *plan.Plan) { p.FuseMasks, p.SeccompNotify = true, true })
	})
	for _, how := range []string{plan.CopyOverlay, plan.CopyOverlayPaths} {
		t.Run(how, func(t *testing.T) {
			if how == plan.CopyOverlay && !layersByDescriptor() {
				testenv.Skip(t, testenv.OverlayFD, "Linux before 6.13")
			}
			boundarytest.Run(t, Boundary{}, func(p *plan.Plan) { copied(t, p, how) })
		})
	}
	t.Run("gateway", func(t *testing.T) {
		nftables(t)
		boundarytest.Run(t, boundarytest.WithGateway(Boundary{}), func(*plan.Plan) {})
	})
}

// copied lets the inside of a plan work in a copy of the workspace.
func copied(t *testing.T, p *plan.Plan, how string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p.Copy = how
	for i := range p.Mounts {
		if m := &p.Mounts[i]; m.Kind == plan.Bind && m.Target == p.Workspace {
			m.Kind, m.Upper, m.Work = plan.Copy, dir+"/upper", dir+"/work"
			if err := errors.Join(os.Mkdir(m.Upper, 0o755), os.Mkdir(m.Work, 0o700)); err != nil {
				t.Fatal(err)
			}
			// Its work directory is closed to its owner.
			t.Cleanup(func() { _ = os.Chmod(dir+"/work/work", 0o700) })
			return
		}
	}
	t.Fatal("the plan does not mount the workspace")
}

// layersByDescriptor: fsconfig takes them since Linux 6.13.
func layersByDescriptor() bool {
	var u syscall.Utsname
	if syscall.Uname(&u) != nil {
		return false
	}
	var release []byte
	for _, c := range u.Release {
		release = append(release, byte(c))
	}
	var major, minor int
	_, _ = fmt.Sscanf(string(release), "%d.%d", &major, &minor)
	return major > 6 || major == 6 && minor >= 13
}

// No string of a plan makes a panic, or is cut short.
func TestNULIsRefused(t *testing.T) {
	w := boundarytest.New(t)
	for name, spoil := range map[string]func(*plan.Plan){
		"program":     func(p *plan.Plan) { p.Program += "\x00" },
		"argument":    func(p *plan.Plan) { p.Command = append(p.Command, "a\x00b") },
		"directory":   func(p *plan.Plan) { p.Dir += "\x00" },
		"host name":   func(p *plan.Plan) { p.Identity.Hostname = "\x00" },
		"environment": func(p *plan.Plan) { p.Environment = append(p.Environment, plan.EnvVar{Name: "A", Value: "\x00"}) },
		"source":      func(p *plan.Plan) { p.Mounts[0].Source += "\x00" },
		"target":      func(p *plan.Plan) { p.Mounts[0].Target += "\x00" },
	} {
		p := w.Plan("/bin/true")
		spoil(p)
		if _, err := program(p, boundary.Streams{}, descriptors{}, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// What entered is dead when Wait of the boundary returns, also if its end takes
// the kernel a while, and nobody enters any more.
func TestNothingEnteredIsLeft(t *testing.T) {
	p := boundarytest.New(t).Plan("/bin/cat")
	start := func(q plan.Plan, begin func(*plan.Plan, boundary.Streams) (boundary.Running, error), command ...string) (boundary.Running, *os.File, *bufio.Reader) {
		t.Helper()
		in, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		q.Command, q.Program = command, command[0]
		running, err := begin(&q, boundary.Streams{In: in, Out: out, Err: os.Stderr})
		in.Close()
		out.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.Close(); r.Close() })
		return running, w, bufio.NewReader(r)
	}
	session, end, _ := start(*p, func(p *plan.Plan, s boundary.Streams) (boundary.Running, error) {
		return Boundary{}.Start(t.Context(), p, s, nil)
	}, "/bin/cat")
	files, err := session.Enter()
	if err != nil {
		t.Fatal(err)
	}
	// Enter leaves its process undumpable (entry), so nothing could be started any more.
	t.Cleanup(func() { _, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 1, 0) })
	// dd has touched all of its buffer, which takes time to give back, when the
	// first byte comes; nobody reads on.
	guest, _, said := start(*p, func(p *plan.Plan, s boundary.Streams) (boundary.Running, error) {
		return Boundary{}.Enter(t.Context(), p, files, s, nil)
	}, "/bin/dd", "if=/dev/zero", "bs=300M", "count=1", "status=none")
	for _, f := range files {
		f.Close()
	}
	if _, err := said.ReadByte(); err != nil {
		t.Fatal(err)
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", guest.PID()))
	if err != nil {
		t.Fatal(err)
	}
	process := "/proc/" + strings.TrimSpace(string(children))
	if _, err := os.Stat(process + "/stat"); err != nil {
		t.Fatalf("control: %v", err)
	}
	end.Close()
	if exit, err := session.Wait(); err != nil || exit.Status() != 0 {
		t.Errorf("%+v, %v", exit, err)
	}
	if text, err := os.ReadFile(process + "/stat"); err == nil {
		t.Errorf("what entered is still there: %s", text)
	}
	if files, err := session.Enter(); err == nil {
		t.Errorf("%d files to enter what has ended", len(files))
	}
	if exit, err := guest.Wait(); err != nil || exit.Status() != 137 {
		t.Errorf("what entered: %+v, %v", exit, err)
	}
}

// BenchmarkStart is the whole of a boundary around /bin/true, by what it reports.
func BenchmarkStart(b *testing.B) {
	for _, kind := range []string{"plain", "notify", "fuse", "both", "gateway"} {
		b.Run(kind, func(b *testing.B) {
			w := boundarytest.New(b)
			p := w.Plan("/bin/true")
			p.SeccompNotify = kind == "notify" || kind == "both"
			p.FuseMasks = kind == "fuse" || kind == "both"
			s := boundary.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
			if kind == "gateway" {
				p.Network = plan.Network{Mode: "gateway", Mechanism: "nft-redirect"}
				s.Gateway = drop
			}
			for b.Loop() {
				r, err := Boundary{}.Start(b.Context(), p, s, nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := r.Wait(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
