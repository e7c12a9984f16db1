package native

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cofferdam/internal/boundary"
	"cofferdam/internal/boundary/boundarytest"
	"cofferdam/internal/plan"
)

// entering is a boundary whose commands enter one that is already there.
type entering struct{ Boundary }

func (b entering) Start(ctx context.Context, p *plan.Plan, s boundary.Streams, denied func(boundary.Denial)) (boundary.Running, error) {
	host, files, err := session(ctx, *p, denied)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	r, err := b.Enter(ctx, p.Entry(), files, s, host.Adopt) // as exec has it
	dumpable()
	if err != nil {
		_ = host.Kill()
		_, _ = host.Wait()
		return nil, err
	}
	return entered{r, host}, nil
}

// dumpable undoes what an entry does to this process, which is to start more.
func dumpable() { _, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_DUMPABLE, 1, 0) }

// session is a boundary around a command that waits, and what it hands out.
func session(ctx context.Context, p plan.Plan, denied func(boundary.Denial)) (boundary.Running, []*os.File, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	p.Command, p.Program = []string{"sleep", "600"}, "/bin/sleep"
	host, err := Boundary{}.Start(ctx, &p, boundary.Streams{In: null, Out: null, Err: null}, denied)
	if err != nil {
		return nil, nil, err
	}
	files, err := host.Enter()
	return host, files, err
}

// entered ends its boundary when it has ended itself.
type entered struct {
	boundary.Running
	host boundary.Running
}

func (e entered) Wait() (boundary.Exit, error) {
	exit, err := e.Running.Wait()
	_ = e.host.Kill()
	_, herr := e.host.Wait()
	return exit, errors.Join(err, herr)
}

// A command that enters passes the suite too.
func TestSuiteOfEntry(t *testing.T) {
	boundarytest.Run(t, entering{}, func(p *plan.Plan) { p.FuseMasks, p.SeccompNotify = fuse(), true })
}

// looks are what a process can see of what it is under.
var looks = []struct{ name, script string }{
	{"identity, capabilities, locks, signals, processors", `grep -vE '^(Name|Pid|Tgid|PPid|NStgid|NSpid|NSpgid|NSsid|Vm|Rss|Hugetlb|THP|Core|.*ctxt_switches|State|SigQ|Threads)' /proc/self/status`},
	{"limits", `cat /proc/self/limits`},
	{"descriptors", `cd /proc/self/fd; for f in *; do [ -e $f ] && echo $f; done`},
	{"namespaces", `for n in user mnt pid net ipc uts cgroup time; do readlink /proc/self/ns/$n; done`},
	{"environment", `env`},
	{"working directory", `readlink /proc/self/cwd; pwd -P`},
	{"root", `readlink /proc/self/root`},
	{"mounts", `cut -d' ' -f1-6 /proc/self/mountinfo`},
	{"umask", `umask`},
	{"personality", `cat /proc/self/personality`},
	{"score for the want of memory", `cat /proc/self/oom_score_adj`},
	{"control groups", `cat /proc/self/cgroup`},
	{"terminal, nice, policy", `cut -d' ' -f7,19,41 /proc/self/stat`},
	{"its own session", `[ $(cut -d' ' -f6 /proc/$$/stat) = $$ ] && echo leader`},
	{"keyrings", `cat /proc/keys /proc/key-users 2>&1`},
	{"depth of filters and locks", `grep -E '^(NoNewPrivs|Seccomp|Seccomp_filters|CapBnd|CapAmb|CapEff)' /proc/self/status`},
	{"writing outside of what is writable", `for f in /usr/x /etc/x /x /run/x /dev/x; do : >$f; done 2>&1`},
}

// The command of a start and one that enters are under the same locks.
func TestEntryIsUnderTheSameLocks(t *testing.T) {
	w := boundarytest.New(t)
	var script strings.Builder
	for i, l := range looks {
		fmt.Fprintf(&script, "echo '=%d'; (%s)\n", i, l.script)
	}
	limits := []plan.Limit{
		{Name: "open-files", Value: 99, Unit: "count", Mechanism: "rlimit"},
		{Name: "file-size", Value: 1 << 20, Unit: "bytes", Mechanism: "rlimit"},
		{Name: "cpus", Value: 1000, Unit: "millicpu", Mechanism: "affinity"},
	}
	// What must not come in from here.
	t.Setenv("CANARY", "canary")
	fd, err := syscall.Open(w.Outside, syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)

	// The one that was started looks when it is told to, and stays.
	p := w.Plan("/bin/sh", "-c", script.String()+"exec >/dev/null 2>&1; read line")
	p.Limits = limits
	in, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	first, out := startOut(t, func(s boundary.Streams) (boundary.Running, error) {
		s.In = in
		return Boundary{}.Start(t.Context(), p, s, nil)
	})
	in.Close()
	started := sections(t, out)
	files, err := first.Enter()
	if err != nil {
		t.Fatal(err)
	}
	second := *p
	second.Command = []string{"/bin/sh", "-c", script.String() + "true"}
	guest, out := startOut(t, func(s boundary.Streams) (boundary.Running, error) {
		defer dumpable()
		return Boundary{}.Enter(t.Context(), &second, files, s, nil)
	})
	asked := sections(t, out)
	if exit, err := guest.Wait(); err != nil || exit.Status() != 0 {
		t.Errorf("%v %v", exit, err)
	}
	hold.Close()
	if exit, err := first.Wait(); err != nil {
		t.Errorf("%v %v", exit, err)
	}
	for i, l := range looks {
		if len(started[i]) == 0 {
			t.Errorf("%s: nothing is seen", l.name)
		}
		if started[i] != asked[i] {
			t.Errorf("%s:\nstarted: %s\nentered: %s", l.name, started[i], asked[i])
		}
	}
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "CapEff:\t0000000000000000"} {
		if !strings.Contains(asked[0], want) {
			t.Errorf("entered: no %q in %s", want, asked[0])
		}
	}
}

// startOut starts something whose output can be read.
func startOut(t *testing.T, start func(boundary.Streams) (boundary.Running, error)) (boundary.Running, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	running, err := start(boundary.Streams{In: null, Out: w, Err: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = running.Kill() })
	return running, r
}

// sections are what the looks print, in their order.
func sections(t *testing.T, out io.Reader) []string {
	t.Helper()
	b, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	list := make([]string, len(looks))
	for i := range looks {
		_, rest, ok := bytes.Cut(b, []byte(fmt.Sprintf("=%d\n", i)))
		if !ok {
			t.Fatalf("no part %d in %q", i, b)
		}
		text, _, _ := bytes.Cut(rest, []byte(fmt.Sprintf("=%d\n", i+1)))
		list[i] = string(text)
	}
	return list
}

// Who enters is outside of the Landlock domain of the command that was started, and
// in one of its own: with the scope of signals it can't reach the other.
func TestEntryHasItsOwnLandlock(t *testing.T) {
	w := boundarytest.New(t)
	for level, want := range map[int]int{0: 0, 6: 1} {
		p := w.Plan("/bin/sh", "-c", "kill -0 2")
		p.Landlock = level
		_, exit := runOut(t, entering{}, p)
		if exit.Status() != want {
			t.Errorf("Landlock %d: status %d, want %d", level, exit.Status(), want)
		}
	}
}

func runOut(t *testing.T, b boundary.Boundary, p *plan.Plan) (string, boundary.Exit) {
	t.Helper()
	r, out := startOut(t, func(s boundary.Streams) (boundary.Running, error) { return b.Start(t.Context(), p, s, nil) })
	text, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := r.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return string(text), exit
}

// Who is inside can move a directory of the private home that leads to a writable
// mount, and put a link to the root in its place. A lock made by that path would lock
// nothing.
func TestEntryFollowsNoLinkOfTheInside(t *testing.T) {
	w := boundarytest.New(t)
	p := w.Plan("/bin/sh", "-c", `mkdir real && mv "$HOME/project" "$HOME/p2"; rm -rf "$HOME/cache"; mv "$HOME/work" "$HOME/away" && ln -s / "$HOME/work" && echo done; exec >/dev/null 2>&1; read line`)
	p.Mounts = append(p.Mounts, plan.Mount{Kind: plan.Bind, Source: w.Outside, Target: w.Home + "/work/usr", Directory: true, Create: true, Write: true})
	in, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	first, out := startOut(t, func(s boundary.Streams) (boundary.Running, error) {
		s.In = in
		return Boundary{}.Start(t.Context(), p, s, nil)
	})
	in.Close()
	if b, err := io.ReadAll(out); err != nil || !strings.Contains(string(b), "done") {
		t.Fatalf("control: %q %v", b, err)
	}
	files, err := first.Enter()
	if err != nil {
		t.Fatal(err)
	}
	p.Command = []string{"/bin/true"}
	p.Program = "/bin/true"
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	guest, err := Boundary{}.Enter(t.Context(), p, files, boundary.Streams{In: null, Out: null, Err: null}, nil)
	dumpable()
	var e *boundary.SetupError
	if !errors.As(err, &e) || e.Stage != "landlock" || e.Errno != syscall.ELOOP {
		t.Errorf("%v", err)
	}
	if err == nil {
		_, _ = guest.Wait()
	}
	hold.Close()
	_, _ = first.Wait()
}

// Limits that a control group holds hold for who enters, or nobody enters.
func TestEntryIsInTheControlGroup(t *testing.T) {
	w := boundarytest.New(t)
	host, files, err := session(t.Context(), *w.Plan("/bin/true"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = host.Kill(); _, _ = host.Wait() }()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	s := boundary.Streams{In: null, Out: null, Err: null}
	p := w.Plan("/bin/true")
	for _, mechanism := range []string{"cgroup-v1", "cgroup-v2"} {
		p.Limits = []plan.Limit{{Name: "memory", Value: 64 << 20, Unit: "bytes", Mechanism: mechanism}}
		if r, err := (Boundary{}).Enter(t.Context(), p, files, s, nil); err == nil {
			_, _ = r.Wait()
			t.Errorf("%s: entered without the group", mechanism)
		}
	}
	// A directory in the place of one of cgroup v1 shows who is moved in.
	p.Limits[0].Mechanism = "cgroup-v1"
	fake := t.TempDir()
	if err := os.WriteFile(fake+"/cgroup.procs", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(fake)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	r, err := Boundary{}.Enter(t.Context(), p, append(slices.Clip(files), dir), s, nil)
	dumpable()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(fake + "/cgroup.procs"); err != nil || string(b) != strconv.Itoa(r.PID()) {
		t.Errorf("%q %v, want %d", b, err, r.PID())
	}
	_, _ = r.Wait()
}

// What is left out of the plan for a command that enters changes nothing of what it does.
func TestEntryIsEnough(t *testing.T) {
	p := &plan.Plan{
		Program: "/bin/true", Command: []string{"true"}, Dir: "/w", Workspace: "/w", Landlock: 6, SeccompNotify: true,
		Identity:    plan.Identity{UID: 1, GID: 1, Home: "/h", Hostname: "cofferdam"},
		Environment: []plan.EnvVar{{Name: "A", Value: "b", Rule: 1}},
		Limits: []plan.Limit{
			{Name: "open-files", Value: 100, Unit: "count", Mechanism: "rlimit"},
			{Name: "cpus", Value: 1000, Unit: "millicpu", Mechanism: "affinity"},
		},
		Rules: []plan.RuleStatus{{ID: 1, Text: "x"}}, Guards: []plan.Guard{{Pattern: "x"}}, Gaps: []plan.Gap{{Missing: "x"}},
		Network: plan.Network{Mode: "gateway", Rules: []plan.NetRule{{Name: "x"}}},
	}
	for _, kind := range []plan.MountKind{plan.Bind, plan.Copy, plan.Tmpfs, plan.Mask, plan.Proc, plan.Dev, plan.Dir, plan.Symlink, plan.File, plan.Pin, plan.Home} {
		for i, write := range []bool{false, true} {
			p.Mounts = append(p.Mounts, plan.Mount{Kind: kind, Target: fmt.Sprintf("/%s%d", kind, i), Write: write, Content: "x"})
		}
	}
	var lists [2]string
	for i, p := range []*plan.Plan{p, p.Entry()} {
		prog, err := entry(p, boundary.Streams{}, descriptors{gate: -1, in: -1, out: -1, err: -1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range slices.Concat(prog.First, prog.Second) {
			for a := range c.Args {
				if c.Args[a] > 1<<32 {
					c.Args[a] = 0 // an address
				}
			}
			lists[i] += fmt.Sprintln(c, c.NR, c.Args, c.Slot, c.Flags)
		}
	}
	if lists[0] != lists[1] {
		t.Errorf("with the whole plan:\n%s\nwith what is left of it:\n%s", lists[0], lists[1])
	}
	if !strings.Contains(lists[1], "/home1") || !strings.Contains(lists[1], "/tmpfs1") {
		t.Errorf("nothing is granted:\n%s", lists[1])
	}
}
