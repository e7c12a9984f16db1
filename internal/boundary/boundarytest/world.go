// Package boundarytest is the suite that every boundary passes: the same list of
// allowed and forbidden acts, each done by the same code inside and outside. A
// forbidden act must fail inside and, as its negative control, succeed outside: a
// probe that can't succeed proves nothing.
package boundarytest

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cofferdam/internal/plan"
)

// World is what stands on the host around one test: things to reach, each of them
// reachable without a boundary.
type World struct {
	Home      string // hidden: a private one is there inside
	Workspace string // writable, below Home
	Outside   string // a directory that no rule names
	ReadOnly  string // readable, not writable
	Private   string // the host directory of the private home
	Bin       string // directory with the test binary, readable

	TCP      string // address of a listener on the host's loopback
	UDP      string // the same for UDP; it answers each packet
	Own      string // address of a listener on an address of the host itself
	Abstract string // name of an abstract unix socket of the host
	Socket   string // path of a unix socket in ReadOnly
	Fifo     string // path of a fifo in ReadOnly, with a reader
	Mark     string // path of a file in the host's /tmp
	PID      int    // a process of the same user
	Shm      int    // id of a System V segment
	Secret   string // content of everything that must not be read
}

// variable carries the World to the acts.
const (
	variableWorld = "BOUNDARYTEST_WORLD"
	variableAct   = "BOUNDARYTEST_ACT"
)

// Main is for TestMain, before anything else: it does one act if this process
// was started for it, and says so.
func Main() (done bool, code int) {
	if text := os.Getenv(variableAsk); text != "" {
		return true, askAll(text)
	}
	name := os.Getenv(variableAct)
	if name == "" {
		return false, 0
	}
	var w World
	if err := json.Unmarshal([]byte(os.Getenv(variableWorld)), &w); err != nil {
		fmt.Fprintln(os.Stderr, "boundarytest:", err)
		return true, 2
	}
	for _, a := range acts {
		if a.name != name {
			continue
		}
		if err := a.do(&w); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return true, 1
		}
		return true, 0
	}
	fmt.Fprintln(os.Stderr, "boundarytest: no act", name)
	return true, 2
}

// New builds a world in a temporary directory.
func New(t testing.TB) *World {
	t.Helper()
	base, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	w := &World{
		Home: base + "/home", Workspace: base + "/home/project", Outside: base + "/outside",
		ReadOnly: base + "/readonly", Private: base + "/private", Bin: base + "/bin",
		Secret: "canary-" + filepath.Base(base) + strings.Repeat("x", 8),
	}
	for _, dir := range []string{w.Workspace + "/.git/hooks", w.Workspace + "/a/b/.git/hooks", w.Home + "/.ssh", w.Outside, w.ReadOnly + "/sub", w.Private, w.Bin} {
		check(t, os.MkdirAll(dir, 0o755))
	}
	for name, content := range map[string]string{
		w.Home + "/.ssh/id_ed25519": w.Secret, w.Home + "/notes": w.Secret, w.Outside + "/file": w.Secret,
		w.Workspace + "/.env": w.Secret, w.Workspace + "/plain": "plain", w.ReadOnly + "/file": "readable",
		w.Workspace + "/.git/config": "[core]\n", w.Workspace + "/a/b/.git/config": "[core]\n",
	} {
		check(t, os.WriteFile(name, []byte(content), 0o644))
	}
	self, err := os.Open("/proc/self/exe")
	check(t, err)
	defer self.Close()
	probe, err := os.OpenFile(w.Bin+"/probe", os.O_CREATE|os.O_WRONLY, 0o755)
	check(t, err)
	_, err = io.Copy(probe, self)
	check(t, err)
	check(t, probe.Close())

	w.listen(t)
	sleeper := exec.Command("sleep", "600")
	sleeper.Env = []string{"CANARY=" + w.Secret}
	check(t, sleeper.Start())
	t.Cleanup(func() { _ = sleeper.Process.Kill(); _ = sleeper.Wait() })
	w.PID = sleeper.Process.Pid
	return w
}

// listen puts up the servers of the host.
func (w *World) listen(t testing.TB) {
	serve := func(network, address string) net.Listener {
		l, err := net.Listen(network, address)
		check(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte(w.Secret))
				c.Close()
			}
		}()
		return l
	}
	w.TCP = serve("tcp", "127.0.0.1:0").Addr().String()
	w.Own = serve("tcp", net.JoinHostPort(ownAddress(), "0")).Addr().String()
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	check(t, err)
	t.Cleanup(func() { u.Close() })
	w.UDP = u.LocalAddr().String()
	go func() {
		for {
			_, from, err := u.ReadFrom(make([]byte, 1))
			if err != nil {
				return
			}
			_, _ = u.WriteTo([]byte(w.Secret), from)
		}
	}()
	// A test may have several worlds, and the name must be short.
	h := fnv.New64a()
	_, _ = h.Write([]byte(w.Home))
	w.Abstract = fmt.Sprintf("@boundarytest-%x-%d", h.Sum64(), os.Getpid())
	serve("unix", w.Abstract)
	w.Socket = w.ReadOnly + "/s"
	serve("unix", w.Socket)
	w.hostThings(t)
}

// ownAddress is one of the host that others can send to; without any, one that is not
// the usual one of loopback.
func ownAddress() string {
	list, _ := net.InterfaceAddrs()
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return "127.0.0.2"
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Plan is the plan of this world, by hand: what a typical policy compiles to.
func (w *World) Plan(command ...string) *plan.Plan {
	bind := func(dir string, write bool) plan.Mount {
		return plan.Mount{Kind: plan.Bind, Source: dir, Target: dir, Directory: true, Create: true, Write: write}
	}
	const temp = 64 << 20
	p := &plan.Plan{
		Version: 1, Boundary: "native", Command: command, Program: command[0],
		Dir: w.Workspace, Workspace: w.Workspace, PrivateHome: w.Private,
		Identity: plan.Identity{UID: os.Getuid(), GID: os.Getgid(), Home: w.Home, Hostname: "cofferdam"},
		Network:  plan.Network{Mode: "loopback"},
		Landlock: min(landlockABI(), 6),
		Rules:    []plan.RuleStatus{{ID: 1, Text: "denyRead .env"}},
		Environment: []plan.EnvVar{
			{Name: "PATH", Value: "/usr/bin:/bin"}, {Name: "HOME", Value: w.Home},
		},
	}
	for _, dir := range []string{"/usr", "/etc", "/bin", "/lib", "/lib64", "/sbin"} {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			if real != dir {
				p.Mounts = append(p.Mounts, plan.Mount{Kind: plan.Symlink, Source: real, Target: dir})
			} else {
				p.Mounts = append(p.Mounts, bind(dir, false))
			}
		}
	}
	p.Mounts = append(p.Mounts,
		plan.Mount{Kind: plan.Proc, Target: "/proc", Create: true, Directory: true},
		plan.Mount{Kind: plan.Dev, Target: "/dev", Create: true, Directory: true},
		plan.Mount{Kind: plan.Tmpfs, Target: "/dev/shm", Write: true, Size: temp, Directory: true},
		plan.Mount{Kind: plan.Tmpfs, Target: "/tmp", Write: true, Size: temp, Create: true, Directory: true},
		plan.Mount{Kind: plan.Dir, Target: "/run"},
		bind(w.Bin, false), bind(w.ReadOnly, false),
		plan.Mount{Kind: plan.Home, Target: w.Home, Source: w.Private, Write: true, Directory: true, Create: true},
		plan.Mount{Kind: plan.Mask, Target: w.Home + "/.ssh", Directory: true, Create: true, Rule: 1},
		bind(w.Workspace, true),
		plan.Mount{Kind: plan.Mask, Target: w.Workspace + "/.env", Rule: 1},
		plan.Mount{Kind: plan.Pin, Target: w.Workspace + "/.git", Write: true, Directory: true},
		plan.Mount{Kind: plan.Pin, Target: w.Workspace + "/.git/config"},
		plan.Mount{Kind: plan.Pin, Target: w.Workspace + "/.git/hooks", Directory: true},
		plan.Mount{Kind: plan.Pin, Target: w.Workspace + "/a", Write: true, Directory: true},
		plan.Mount{Kind: plan.Pin, Target: w.Workspace + "/a/b", Write: true, Directory: true},
		plan.Mount{Kind: plan.Pin, Target: w.Workspace + "/a/b/.git", Write: true, Directory: true},
		plan.Mount{Kind: plan.Pin, Target: w.Workspace + "/a/b/.git/hooks", Directory: true},
	)
	return p
}

// probe is the plan of one act.
func (w *World) probe(act string) *plan.Plan {
	p := w.Plan(w.Bin + "/probe")
	text, err := json.Marshal(w)
	if err != nil {
		panic(err)
	}
	p.Environment = append(p.Environment, plan.EnvVar{Name: variableAct, Value: act}, plan.EnvVar{Name: variableWorld, Value: string(text)})
	return p
}
