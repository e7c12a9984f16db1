package native

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cofferdam/internal/boundary"
	"cofferdam/internal/boundary/boundarytest"
	"cofferdam/internal/linux/call"
	"cofferdam/internal/plan"
)

// Several layers refuse the same act, so the suite's acts stay refused when one
// of them is gone. Here each is looked at by itself.

// variableLook names what the test binary does inside, see look.
const variableLook = "NATIVE_LOOK"

// look is the test binary as the command inside: it prints what it sees there.
func look(what string) int {
	switch what {
	case "posture":
		show := func(name string, v any) { fmt.Printf("%s: %v\n", name, v) }
		status, err := os.ReadFile("/proc/self/status")
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			if strings.HasPrefix(name, "Cap") || strings.HasPrefix(name, "Seccomp") || name == "NoNewPrivs" {
				show(name, strings.TrimSpace(value))
			}
		}
		bits, err2 := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
		show("securebits", fmt.Sprintf("%#x", bits))
		for _, ns := range namespaceNames {
			link, err := os.Readlink("/proc/self/ns/" + ns)
			show(ns, fmt.Sprint(link, err))
		}
		knob, err3 := os.ReadFile("/proc/sys/user/max_user_namespaces")
		show("user namespaces", strings.TrimSpace(string(knob)))
		var cpus unix.CPUSet
		err4 := unix.SchedGetaffinity(0, &cpus)
		show("cpus", cpus.Count())
		for name, resource := range map[string]int{"core": unix.RLIMIT_CORE, "open files": unix.RLIMIT_NOFILE, "processes": unix.RLIMIT_NPROC} {
			var l unix.Rlimit
			if err := unix.Getrlimit(resource, &l); err != nil {
				show(name, err)
			}
			show(name, fmt.Sprint(l.Cur, l.Max))
		}
		show("errors", fmt.Sprint(err, err2, err3, err4))
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		fmt.Printf("mounts: %v\n%s", err, mounts)
	case "descriptors":
		for fd := 3; fd < 1024; fd++ {
			// The runtime's own are close-on-exec and anonymous.
			if to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && !strings.HasPrefix(to, "anon_inode:") {
				fmt.Println(fd, to)
			}
		}
	case "pid 1":
		for _, name := range []string{"environ", "maps", "auxv", "fd"} {
			f, err := os.Open("/proc/1/" + name)
			if err == nil && name == "fd" {
				_, err = f.ReadDir(-1)
			} else if err == nil {
				_, err = f.Read(make([]byte, 1))
			}
			if err == nil {
				fmt.Println(name)
			}
		}
	case "node":
		// 0:0 is no device: anybody may make it, but for Landlock (mknod(2), 5.8).
		if err := syscall.Mknod("/tmp/node", syscall.S_IFCHR|0o600, 0); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}

var namespaceNames = []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"}

// sees runs look inside and returns what it printed, and its status.
func sees(t *testing.T, what string, change func(*boundarytest.World, *plan.Plan), entered bool) (string, int) {
	t.Helper()
	w := boundarytest.New(t)
	p := w.Plan(w.Bin + "/probe")
	p.Environment = append(p.Environment, plan.EnvVar{Name: variableLook, Value: what})
	if change != nil {
		change(w, p)
	}
	return carry(t, p, entered)
}

// carry runs a plan, or with entered as one more command in a boundary of it.
func carry(t *testing.T, p *plan.Plan, entered bool) (string, int) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	r, w, err := os.Pipe()
	must(err)
	defer r.Close()
	null, err := os.Open(os.DevNull)
	must(err)
	defer null.Close()
	s := boundary.Streams{In: null, Out: w, Err: w}
	var run boundary.Running
	if entered {
		wait := *p
		wait.Program, wait.Command = "/bin/sleep", []string{"sleep", "600"}
		out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		must(err)
		defer out.Close()
		first, err := Boundary{}.Start(t.Context(), &wait, boundary.Streams{In: null, Out: out, Err: out}, nil)
		must(err)
		defer func() { _ = first.Kill(); _, _ = first.Wait() }()
		namespaces, err := first.Enter()
		must(err)
		run, err = Boundary{}.Enter(t.Context(), p, namespaces, s, nil)
		for _, f := range namespaces {
			f.Close()
		}
		must(err)
		// The child has made the memory undumpable that it shared with us.
		must(unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0))
	} else {
		run, err = Boundary{}.Start(t.Context(), p, s, nil)
		must(err)
	}
	w.Close()
	var out bytes.Buffer
	_, err = out.ReadFrom(r)
	must(err)
	exit, err := run.Wait()
	must(err)
	return out.String(), exit.Status()
}

// ways are the two ways to come inside; they have lists of their own.
var ways = map[string]bool{"started": false, "entered": true}

func TestPosture(t *testing.T) {
	for name, entered := range ways {
		t.Run(name, func(t *testing.T) {
			out, _ := sees(t, "posture", func(_ *boundarytest.World, p *plan.Plan) {
				p.Limits = []plan.Limit{
					{Name: "open-files", Value: 64, Unit: "count", Mechanism: "rlimit"},
					{Name: "cpus", Value: 1000, Unit: "millicpu", Mechanism: "affinity"},
				}
			}, entered)
			head, mounts, ok := strings.Cut(out, "mounts: <nil>\n")
			if !ok {
				t.Fatalf("printed %q", out)
			}
			got := map[string]string{}
			for line := range strings.Lines(head) {
				k, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
				got[k] = v
			}
			none := "0000000000000000"
			for k, want := range map[string]string{
				"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
				"NoNewPrivs": "1", "Seccomp": "2",
				// NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, and all four locked.
				"securebits":      "0xef",
				"user namespaces": "0", "cpus": "1", "core": "1 1", "open files": "64 64",
				"errors": "<nil> <nil> <nil> <nil>",
			} {
				if got[k] != want {
					t.Errorf("%s: %q, want %q", k, got[k], want)
				}
			}
			for _, ns := range namespaceNames {
				outside, err := os.Readlink("/proc/self/ns/" + ns)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(got[ns], ns+":") || strings.HasPrefix(got[ns], outside) {
					t.Errorf("namespace %s: %q inside, %q outside", ns, got[ns], outside)
				}
			}
			checkMounts(t, mounts)
		})
	}
}

// checkMounts looks at what every mount inside forbids, whoever else does too.
func checkMounts(t *testing.T, mountinfo string) {
	t.Helper()
	devices := []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}
	// Where something is to be written. The plan says it of the rest.
	writable := append(slices.Clone(devices), "/dev/pts", "/dev/shm", "/tmp", "/proc")
	seen := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		f := strings.Fields(line)
		if len(f) < 6 {
			t.Fatalf("mountinfo: %q", line)
		}
		target, attr := f[4], strings.Split(f[5], ",")
		seen[target] = true
		if !slices.Contains(attr, "nosuid") {
			t.Errorf("set-user-id programs work on %s: %v", target, attr)
		}
		if !slices.Contains(attr, "nodev") && target != "/dev" && target != "/dev/pts" && !slices.Contains(devices, target) {
			t.Errorf("devices work on %s: %v", target, attr)
		}
		home := strings.Contains(target, "/home") && !strings.HasSuffix(target, "/.git/config") && !strings.HasSuffix(target, "/hooks") &&
			!strings.HasSuffix(target, "/.env") && !strings.HasSuffix(target, "/.ssh")
		if !slices.Contains(attr, "ro") && !home && !slices.Contains(writable, target) {
			t.Errorf("%s is writable: %v", target, attr)
		}
		// Nothing that is mounted outside later may come in, and the reverse.
		if i := slices.Index(f, "-"); i > 6 {
			t.Errorf("%s takes part in propagation: %v", target, f[6:i])
		}
	}
	for _, target := range []string{"/", "/dev", "/proc", "/dev/pts", "/tmp"} {
		if !seen[target] {
			t.Errorf("no mount on %s in %s", target, mountinfo)
		}
	}
	for _, name := range []string{"sys", "bus", "fs", "irq", "sysrq-trigger", "kcore", "keys", "timer_list", "key-users", "kpageflags"} {
		target := path.Join("/proc", name)
		if _, err := os.Lstat(target); err == nil && !seen[target] {
			t.Errorf("nothing is over %s", target)
		}
	}
}

// Only the three streams come in, whatever the launcher has open and however
// carelessly.
func TestDescriptors(t *testing.T) {
	var careless [2]int
	if err := syscall.Pipe(careless[:]); err != nil { // without close-on-exec
		t.Fatal(err)
	}
	defer syscall.Close(careless[0])
	defer syscall.Close(careless[1])
	for name, entered := range ways {
		t.Run(name, func(t *testing.T) {
			if out, status := sees(t, "descriptors", nil, entered); out != "" || status != 0 {
				t.Errorf("status %d, more than the three: %q", status, out)
			}
		})
	}
}

// Nor does what stays behind the command hold any: who waits for the end of a pipe
// would wait for the end of the boundary.
func TestPidOneHoldsNothing(t *testing.T) {
	w := boundarytest.New(t)
	p := w.Plan("/bin/sleep", "600")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	s := boundary.Streams{In: null, Out: null, Err: null}
	var namespaces []*os.File
	for _, name := range []string{"started", "entered"} {
		var careless [2]int
		if err := syscall.Pipe(careless[:]); err != nil {
			t.Fatal(err)
		}
		var run boundary.Running
		if name == "started" {
			run, err = Boundary{}.Start(t.Context(), p, s, nil)
		} else {
			run, err = Boundary{}.Enter(t.Context(), p, namespaces, s, nil)
		}
		if err != nil {
			t.Fatal(name, err)
		}
		defer func() { _ = run.Kill(); _, _ = run.Wait() }()
		if name == "started" {
			if namespaces, err = run.Enter(); err != nil {
				t.Fatal(err)
			}
		}
		syscall.Close(careless[1])
		end := []unix.PollFd{{Fd: int32(careless[0]), Events: unix.POLLIN}}
		if n, err := unix.Poll(end, 5000); n != 1 || end[0].Revents != unix.POLLHUP {
			t.Errorf("%s: the other end of the pipe is still held: %d %#x %v", name, n, end[0].Revents, err)
		}
		syscall.Close(careless[0])
	}
	for _, f := range namespaces {
		f.Close()
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil { // see carry
		t.Fatal(err)
	}
}

// execve would take the capabilities too, by the rules of uid 0 that are locked;
// they are gone before anything is forked all the same.
func TestCapabilitiesGoBeforeTheFork(t *testing.T) {
	w := boundarytest.New(t)
	fd := descriptors{gate: -1, in: -1, out: -1, err: -1}
	started, err := program(w.Plan("/bin/true"), boundary.Streams{}, fd, nil)
	if err != nil {
		t.Fatal(err)
	}
	entered, err := entry(w.Plan("/bin/true"), boundary.Streams{}, fd, slices.Repeat([]*os.File{os.Stdin}, len(namespaceNames)))
	if err != nil {
		t.Fatal(err)
	}
	for name, list := range map[string][]call.Call{"started": started.First, "entered": entered.First} {
		drop := slices.IndexFunc(list, func(c call.Call) bool { return c.NR == unix.SYS_CAPSET })
		fork := slices.IndexFunc(list, func(c call.Call) bool { return c.Flags&call.Fork != 0 })
		if drop < 0 || fork < 0 || drop > fork {
			t.Errorf("%s: capabilities dropped at %d, fork at %d", name, drop, fork)
		}
	}
}

// Landlock refuses what no mount does.
func TestLandlockAlone(t *testing.T) {
	for name, entered := range ways {
		t.Run(name, func(t *testing.T) {
			if out, status := sees(t, "node", nil, entered); status != 1 || !strings.Contains(out, "permission denied") {
				t.Errorf("a device node was made: status %d, %q", status, out)
			}
			// The control: without Landlock it is made.
			if out, status := sees(t, "node", func(_ *boundarytest.World, p *plan.Plan) { p.Landlock = 0 }, entered); status != 0 {
				t.Errorf("control: status %d, %q", status, out)
			}
		})
	}
}

// What enters is seen inside while it still shares our memory: nobody may look into
// that by then.
func TestEntersUndumpable(t *testing.T) {
	w := boundarytest.New(t)
	files := slices.Repeat([]*os.File{os.Stdin}, len(namespaceNames))
	prog, err := entry(w.Plan("/bin/true"), boundary.Streams{}, descriptors{gate: -1, in: -1, out: -1, err: -1}, files)
	if err != nil {
		t.Fatal(err)
	}
	closed := slices.IndexFunc(prog.First, func(c call.Call) bool { return c.NR == unix.SYS_PRCTL && c.Args[0] == unix.PR_SET_DUMPABLE })
	join := len(prog.First) - 1
	for join >= 0 && prog.First[join].NR != unix.SYS_SETNS {
		join--
	}
	// To join a user namespace gives capabilities, and that sets it anew.
	if join < 0 || closed < join || prog.First[closed].Args[1] != 0 {
		t.Errorf("not dumpable at %d, the last join at %d", closed, join)
	}
}

// Landlock keeps the command away from pid 1, and so does pid 1 itself.
func TestPidOneIsUndumpable(t *testing.T) {
	out, status := sees(t, "pid 1", func(_ *boundarytest.World, p *plan.Plan) { p.Landlock = 0 }, false)
	if out != "" || status != 0 {
		t.Errorf("status %d, open at pid 1: %q", status, out)
	}
}

// A ceiling of a control group is held by one, or nothing starts.
func TestGroupIsMade(t *testing.T) {
	w := boundarytest.New(t)
	p := w.Plan("/bin/true")
	p.Limits = []plan.Limit{{Name: "nothing that a group holds", Value: 1, Mechanism: "cgroup-v2"}}
	run, err := Boundary{}.Start(t.Context(), p, boundary.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, nil)
	if err == nil {
		_, _ = run.Wait()
		t.Error("started without its control group")
	}
}
