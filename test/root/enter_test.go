// Package root tests what only root has: ceilings that control groups of version 1
// hold. It skips where it is not root.
package root

import (
	"os"
	"strings"
	"testing"

	"cofferdam/internal/boundary"
	"cofferdam/internal/boundary/boundarytest"
	"cofferdam/internal/boundary/native"
	"cofferdam/internal/linux/cgroup"
	"cofferdam/internal/plan"
	"cofferdam/internal/testenv"
)

// inside is a command in a boundary, or one that enters it.
type inside struct {
	boundary.Running
	in  *os.File // its input
	out string   // a file
}

// status is how it has ended, and what it has said.
func (x *inside) status(t *testing.T) (boundary.Exit, string) {
	t.Helper()
	x.in.Close()
	exit, err := x.Wait()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(x.out)
	if err != nil {
		t.Fatal(err)
	}
	return exit, string(text)
}

// begin starts a command with streams of its own.
func begin(t *testing.T, p *plan.Plan, command []string, start func(*plan.Plan, boundary.Streams) (boundary.Running, error)) *inside {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	q := *p
	q.Command, q.Program = command, command[0]
	running, err := start(&q, boundary.Streams{In: r, Out: out, Err: out})
	if err != nil {
		w.Close()
		t.Fatal(err)
	}
	return &inside{Running: running, in: w, out: out.Name()}
}

// needGroups skips the test where control groups of version 1 can't be had.
func needGroups(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		testenv.Skip(t, testenv.Root, "this is another user")
	}
	g, err := cgroup.Create(cgroup.V1, "root-test", cgroup.Spec{Processes: 20, Memory: 64 << 20})
	if err != nil {
		testenv.Skip(t, testenv.CgroupV1, err.Error())
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
}

// A command that enters a boundary is bound by its ceilings, not by none.
func TestEnterTheGroup(t *testing.T) {
	needGroups(t)
	const kind = cgroup.V1
	p := boundarytest.New(t).Plan("/bin/cat")
	p.Limits = []plan.Limit{
		{Name: "processes", Value: 20, Unit: "count", Mechanism: string(kind)},
		{Name: "memory", Value: 64 << 20, Unit: "bytes", Mechanism: string(kind)},
	}
	session := begin(t, p, []string{"/bin/cat"}, func(p *plan.Plan, s boundary.Streams) (boundary.Running, error) {
		return native.Boundary{}.Start(t.Context(), p, s, nil)
	})
	enter := func(t *testing.T, p *plan.Plan, command ...string) (boundary.Exit, string) {
		t.Helper()
		files, err := session.Enter()
		if err != nil {
			t.Fatal(err)
		}
		x := begin(t, p, command, func(p *plan.Plan, s boundary.Streams) (boundary.Running, error) {
			return native.Boundary{}.Enter(t.Context(), p, files, s, nil)
		})
		for _, f := range files {
			f.Close()
		}
		return x.status(t)
	}
	t.Run("memory", func(t *testing.T) {
		// 160 MiB: dd has a buffer of one block, and touches it all.
		if exit, text := enter(t, p, "/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=160M", "count=1"); exit.Status() != 137 {
			t.Errorf("160 MiB under a ceiling of 64: %+v, %q", exit, text)
		}
		// The control: what fits goes through.
		if exit, text := enter(t, p, "/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=1M", "count=1"); exit.Status() != 0 {
			t.Errorf("1 MiB: %+v, %q", exit, text)
		}
	})
	t.Run("no way in", func(t *testing.T) {
		files, err := session.Enter()
		if err != nil {
			t.Fatal(err)
		}
		s := boundary.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}
		var in []*os.File
		for _, f := range files {
			if strings.HasPrefix(f.Name(), "namespace") {
				in = append(in, f)
			}
		}
		if r, err := (native.Boundary{}).Enter(t.Context(), p, in, s, nil); err == nil {
			_ = r.Kill()
			t.Error("entered without the group")
		}
		for _, f := range files {
			f.Close()
		}
	})
	t.Run("processes", func(t *testing.T) {
		// Bounded also without the ceiling. The shell gives up at its first fork
		// that fails, and leaves the group full.
		exit, text := enter(t, p, "/bin/sh", "-c", "i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i+1)); done; echo all")
		if strings.Contains(text, "all") || !strings.Contains(text, "ork") {
			t.Errorf("40 processes under a ceiling of 20: %+v, %q", exit, text)
		}
	})
	if exit, text := session.status(t); exit.Status() != 0 {
		t.Errorf("the session: %+v, %q", exit, text)
	}
}
