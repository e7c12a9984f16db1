//go:build linux

package cgroup

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cofferdam/internal/testenv"
)

// The test binary is also the programs that the tests put into a group; each
// starts when it has been attached, which it learns by a line on its input.
func TestMain(m *testing.M) {
	role := os.Getenv("CGROUP_TEST")
	if role == "" {
		os.Exit(m.Run())
	}
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	switch role {
	case "bomb":
		// Bounded also without the ceiling: the machine has to survive a
		// broken test.
		forked := 0
		for range 60 {
			cmd := exec.Command("/bin/sleep", "100")
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if cmd.Start() == nil {
				forked++
			}
		}
		fmt.Println(forked)
		_ = os.Stdout.Close()
		select {}
	case "hog":
		var all [][]byte
		for range 40 {
			b := make([]byte, 8<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			all = append(all, b)
		}
		os.Exit(len(all) - 40)
	}
	os.Exit(99)
}

func session(t *testing.T) string {
	return fmt.Sprintf("test-%d-%d", os.Getpid(), time.Now().UnixNano())
}

// group makes a group, or skips where this machine clearly can't.
func group(t *testing.T, k Kind, s Spec) *Group {
	t.Helper()
	g, err := Create(k, session(t), s)
	if err != nil {
		if Refused(err) {
			testenv.Skip(t, testenv.Need(k), fmt.Sprintf("no %s: %v", k, err))
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		paths := g.Paths()
		if err := g.Kill(); err != nil {
			t.Error(err)
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
		for _, p := range paths {
			if _, err := os.Stat(p); err == nil {
				t.Errorf("%s is left", p)
			}
		}
	})
	return g
}

// inside starts a role of the test binary in the group.
func inside(t *testing.T, g Door, role string) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CGROUP_TEST="+role, "GOMAXPROCS=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Attach(cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		t.Fatal(err)
	}
	fmt.Fprintln(in, "go")
	return cmd, out
}

// letIn is the door of another process than the owner.
func letIn(t *testing.T, g *Group) Door {
	t.Helper()
	dirs, err := g.Copy()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, d := range dirs {
			d.Close()
		}
	})
	door, err := Through(g.Kind, dirs)
	if err != nil {
		t.Fatal(err)
	}
	return door
}

func TestNoWayIn(t *testing.T) {
	f := os.Stdin
	for _, c := range []struct {
		kind Kind
		dirs []*os.File
	}{{V1, nil}, {V2, nil}, {V2, []*os.File{f, f}}, {"", []*os.File{f}}, {"v3", []*os.File{f}}} {
		if _, err := Through(c.kind, c.dirs); err == nil {
			t.Errorf("%q with %d directories is accepted", c.kind, len(c.dirs))
		}
	}
	if err := (Door{}).Attach(os.Getpid()); err == nil {
		t.Error("attached to nothing")
	}
	if _, err := (&Group{Kind: V1}).Copy(); err == nil {
		t.Error("a group that is removed lets in")
	}
	// A directory that is no control group is not written to.
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	door, err := Through(V1, []*os.File{dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := door.Attach(os.Getpid()); err == nil {
		t.Error("attached to a plain directory")
	}
	if names, _ := dir.Readdirnames(-1); len(names) != 0 {
		t.Errorf("made %q", names)
	}
}

func TestV1ForkBomb(t *testing.T) {
	g := group(t, V1, Spec{Processes: 30})
	cmd, out := inside(t, g.Door(), "bomb")
	var forked int
	if _, err := fmt.Fscan(out, &forked); err != nil {
		t.Fatal(err)
	}
	if forked < 1 || forked >= 30 {
		t.Errorf("%d forks under a ceiling of 30 tasks", forked)
	}
	if u, err := g.Usage(); err != nil || u.Refused == 0 {
		t.Errorf("%+v, %v", u, err)
	}
	pids, err := g.Processes()
	// The bomb itself may be gone: the Go runtime gives up without a thread.
	if err != nil || len(pids) != forked+1 && len(pids) != forked {
		t.Errorf("%d processes, %v; want %d", len(pids), err, forked+1)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, pid := range pids {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)); err == nil && strings.Contains(string(b), filepath.Base(g.Paths()[0])) {
			t.Errorf("process %d is left", pid)
		}
	}
}

func TestV1Memory(t *testing.T) {
	g := group(t, V1, Spec{Memory: 64 << 20})
	cmd, _ := inside(t, g.Door(), "hog")
	_ = cmd.Wait()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGKILL {
		t.Errorf("%v", cmd.ProcessState)
	}
	if u, err := g.Usage(); err != nil || u.OOMKills != 1 {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestV1CPU(t *testing.T) {
	g := group(t, V1, Spec{MilliCPU: 500})
	b, err := os.ReadFile(filepath.Join(g.dirs["cpu"], "cpu.cfs_quota_us"))
	if err != nil || string(b) != "50000\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// Without controllers, v2 still gives a place to be cloned into and a kill.
func TestV2CloneInto(t *testing.T) {
	g := group(t, V2, Spec{})
	cmd := exec.Command("/bin/sh", "-c", "sleep 100 & sleep 100 & wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(letIn(t, g).Dir().Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Processes(); err != nil || !slices.Contains(pids, cmd.Process.Pid) {
		t.Errorf("%v, %v", pids, err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGKILL {
		t.Errorf("%v", cmd.ProcessState)
	}
}

func TestSweep(t *testing.T) {
	g := group(t, V1, Spec{Processes: 10})
	parent := filepath.Dir(g.dirs["pids"])
	l := Layout{V1: map[string]string{"pids": parent}}
	if swept := l.Sweep(); slices.Contains(swept, g.dirs["pids"]) {
		t.Fatal("swept a group whose owner lives")
	}
	// As if the owner had been killed: the lock is gone, the group is not. Who
	// had been let in does not hold the lock.
	door := letIn(t, g)
	for _, f := range g.held {
		f.Close()
	}
	cmd, out := inside(t, door, "bomb")
	var n int
	_, _ = fmt.Fscan(out, &n)
	if swept := l.Sweep(); slices.Contains(swept, g.dirs["pids"]) {
		t.Fatal("swept a group with processes in it")
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if slices.Contains(l.Sweep(), g.dirs["pids"]) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("an empty group without owner is not swept")
		}
	}
}

func TestCreateErrors(t *testing.T) {
	for _, name := range []string{"", "a/b", "a\nb"} {
		if g, err := (Layout{}).Create(V1, name, Spec{}); err == nil {
			t.Errorf("%q: %v", name, g)
		}
	}
	if _, err := (Layout{}).Create("v3", "x", Spec{}); err == nil {
		t.Error("no error for an unknown kind")
	}
}

func TestParseLayout(t *testing.T) {
	for _, c := range []struct {
		name, mounts, self string
		want               Layout
	}{
		{
			"systemd, v2 only",
			"35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
			"0::/user.slice/user-1000.slice/user@1000.service/app.slice/term.scope\n",
			Layout{V1: map[string]string{}, Root: "/sys/fs/cgroup", Own: "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/app.slice/term.scope"},
		},
		{
			"hybrid",
			"31 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
				"34 30 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"40 30 0:37 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			"8:pids:/\n4:memory:/a/b\n2:cpu,cpuacct:/c\n9:name=systemd:/\n0::/\n",
			Layout{V1: map[string]string{"memory": "/sys/fs/cgroup/memory/a/b", "cpu": "/sys/fs/cgroup/cpu,cpuacct/c"}, Root: "/sys/fs/cgroup/unified", Own: "/sys/fs/cgroup/unified"},
		},
		{
			"v1 in a container: a part is mounted",
			"34 30 0:31 /docker/f00 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n" +
				"35 30 0:32 /docker/other /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n",
			"8:pids:/docker/f00\n4:memory:/docker/f00\n",
			Layout{V1: map[string]string{"memory": "/sys/fs/cgroup/memory"}},
		},
		{"nothing", "garbage\n", "garbage\n", Layout{V1: map[string]string{}}},
	} {
		got := ParseLayout([]byte(c.mounts), []byte(c.self))
		if got.Own != c.want.Own || got.Root != c.want.Root || !maps.Equal(got.V1, c.want.V1) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestSettings(t *testing.T) {
	s := Spec{Memory: 1 << 30, Processes: 300, MilliCPU: 1500}
	want := map[Kind]string{
		V2: "memory.max=1073741824 memory.swap.max=0 pids.max=300 cpu.max=150000 100000",
		V1: "memory.limit_in_bytes=1073741824 memory.memsw.limit_in_bytes=1073741824 pids.max=300 cpu.cfs_period_us=100000 cpu.cfs_quota_us=150000",
	}
	for k, w := range want {
		var got []string
		for _, x := range settings(k, s) {
			got = append(got, x.file+"="+x.value)
		}
		if strings.Join(got, " ") != w {
			t.Errorf("%s: %v", k, got)
		}
	}
}
