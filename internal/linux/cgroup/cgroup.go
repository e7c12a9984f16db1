//go:build linux

// Package cgroup makes one control group for one session, puts ceilings on
// it, kills what is in it and removes it: in a delegated subtree of cgroup v2
// or, as root, in the v1 hierarchies. It never raises a limit of the group we
// are in: a new group is always below one that also holds us or our siblings.
//
// What is possible is found by doing it (Probe). Groups are named
// cofferdam-SESSION. Their owner holds a lock on the directory, so that
// Sweep can tell what a killed supervisor has left from what another one has
// just made.
package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Prefix of every group's name.
const Prefix = "cofferdam-"

// Kind is a version of the mechanism, by its name in a plan.
type Kind string

const (
	V2 Kind = "cgroup-v2"
	V1 Kind = "cgroup-v1"
)

// Spec is the ceilings; 0 is none.
type Spec struct {
	Memory    int64 // bytes, swap included
	Processes int64 // tasks
	MilliCPU  int64 // thousandths of one CPU
}

// controllers that Spec can ask for.
var controllers = []string{"memory", "pids", "cpu"}

func (s Spec) needs() []string {
	var out []string
	for i, v := range []int64{s.Memory, s.Processes, s.MilliCPU} {
		if v > 0 {
			out = append(out, controllers[i])
		}
	}
	return out
}

// Layout is where this process is in the hierarchies that are mounted.
type Layout struct {
	// V1 has our own group's directory per controller.
	V1 map[string]string
	// Root and Own are the v2 mount and our own group's directory in it.
	Root, Own string
}

// ParseLayout reads /proc/self/mountinfo and /proc/self/cgroup. A mount of a
// part of a hierarchy (root field not "/") is used if we are below that part.
func ParseLayout(mountinfo, self []byte) Layout {
	l := Layout{V1: map[string]string{}}
	type mount struct{ root, point, options string }
	var v2 mount
	v1 := map[string]mount{}
	for line := range bytes.Lines(mountinfo) {
		left, right, ok := strings.Cut(strings.TrimSpace(string(line)), " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 6 || len(g) < 3 {
			continue
		}
		m := mount{root: f[3], point: f[4], options: g[2]}
		switch g[0] {
		case "cgroup2":
			v2 = m
		case "cgroup":
			for _, o := range strings.Split(m.options, ",") {
				v1[o] = m
			}
		}
	}
	at := func(m mount, path string) string {
		rel, err := filepath.Rel(m.root, path)
		if m.point == "" || err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			return ""
		}
		return filepath.Join(m.point, rel)
	}
	for line := range bytes.Lines(self) {
		f := strings.SplitN(strings.TrimSpace(string(line)), ":", 3)
		if len(f) != 3 {
			continue
		}
		if f[0] == "0" && f[1] == "" {
			if l.Own = at(v2, f[2]); l.Own != "" {
				l.Root = v2.point
			}
			continue
		}
		for _, c := range strings.Split(f[1], ",") {
			if !slices.Contains(controllers, c) {
				continue
			}
			if dir := at(v1[c], f[2]); dir != "" {
				l.V1[c] = dir
			}
		}
	}
	return l
}

// Here is the Layout of this process.
func Here() (Layout, error) {
	m, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Layout{}, err
	}
	c, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return Layout{}, err
	}
	return ParseLayout(m, c), nil
}

// ErrAbsent: the hierarchy or a controller that the Spec needs is not there.
var ErrAbsent = errors.New("not available")

// Refused says that an error is a clear no, and not a machine in trouble.
func Refused(err error) bool {
	return errors.Is(err, ErrAbsent) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) ||
		errors.Is(err, unix.EROFS) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOENT)
}

// Group is one session's group; it is owned by the process that created it.
type Group struct {
	Kind Kind
	dirs map[string]string // controller -> directory; v2 has "" only
	held []*os.File        // directories, locked
}

// Create makes the group for a session in the place of this process.
func Create(k Kind, session string, s Spec) (*Group, error) {
	l, err := Here()
	if err != nil {
		return nil, err
	}
	return l.Create(k, session, s)
}

// Create makes the group with its ceilings set; on error nothing is left.
func (l Layout) Create(k Kind, session string, s Spec) (_ *Group, err error) {
	if session == "" || strings.ContainsAny(session, "/\x00\n") {
		return nil, fmt.Errorf("control group: %q is no name of a session", session)
	}
	g := &Group{Kind: k, dirs: map[string]string{}}
	defer func() {
		if err != nil {
			_ = g.Remove()
		}
	}()
	switch k {
	case V2:
		err = l.createV2(g, Prefix+session, s)
	case V1:
		err = l.createV1(g, Prefix+session, s)
	default:
		err = fmt.Errorf("control group: no kind %q", k)
	}
	if err != nil {
		return nil, err
	}
	return g, nil
}

// createV2 looks upwards from our own group for one that gives its children
// the controllers. Our own can't, as it holds us ("no internal processes"),
// unless it is the real root. The parent can when systemd has delegated it to
// the user, as user@.service and what is below it. No group's
// subtree_control is changed: those above us belong to systemd.
func (l Layout) createV2(g *Group, name string, s Spec) error {
	if l.Own == "" {
		return fmt.Errorf("cgroup v2: no hierarchy is mounted: %w", ErrAbsent)
	}
	var firstErr error
	for dir := l.Own; ; dir = filepath.Dir(dir) {
		have, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		if err == nil {
			err = lacks(dir, strings.Fields(string(have)), s.needs())
		}
		if err == nil {
			err = g.make("", filepath.Join(dir, name))
		}
		if err == nil {
			return g.set(s)
		}
		if firstErr == nil || errors.Is(firstErr, ErrAbsent) && !errors.Is(err, ErrAbsent) {
			firstErr = err // a refusal tells more than an absence
		}
		if dir == l.Root || len(dir) <= len(l.Root) {
			return firstErr
		}
	}
}

func lacks(dir string, have, needs []string) error {
	for _, c := range needs {
		if !slices.Contains(have, c) {
			return fmt.Errorf("cgroup v2: %s gives its children no %s controller: %w", dir, c, ErrAbsent)
		}
	}
	return nil
}

// createV1 makes a child of our own group in the hierarchy of each controller
// needed, and of pids in any case if it is there: Kill stops forks with it.
func (l Layout) createV1(g *Group, name string, s Spec) error {
	need := s.needs()
	for _, c := range need {
		if l.V1[c] == "" {
			return fmt.Errorf("cgroup v1: no %s hierarchy is mounted: %w", c, ErrAbsent)
		}
	}
	if l.V1["pids"] != "" && !slices.Contains(need, "pids") {
		need = append(need, "pids")
	}
	if len(need) == 0 {
		return fmt.Errorf("cgroup v1: no hierarchy is mounted: %w", ErrAbsent)
	}
	for i, c := range need {
		if j := slices.IndexFunc(need[:i], func(o string) bool { return l.V1[o] == l.V1[c] }); j >= 0 {
			g.dirs[c] = g.dirs[need[j]] // mounted together
			continue
		}
		if err := g.make(c, filepath.Join(l.V1[c], name)); err != nil {
			return err
		}
	}
	return g.set(s)
}

// make creates and locks one directory. Between mkdir and flock a Sweep may
// take it away again: then once more.
func (g *Group) make(controller, dir string) error {
	for range 10 {
		if err := unix.Mkdir(dir, 0o755); err != nil {
			return &os.PathError{Op: "make control group", Path: dir, Err: err}
		}
		f, err := os.Open(dir)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			_ = unix.Rmdir(dir)
			return err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			var a, b unix.Stat_t
			if unix.Fstat(int(f.Fd()), &a) == nil && unix.Stat(dir, &b) == nil && a.Ino == b.Ino {
				g.dirs[controller] = dir
				g.held = append(g.held, f)
				return nil
			}
		}
		f.Close()
	}
	return &os.PathError{Op: "make control group", Path: dir, Err: unix.EAGAIN}
}

// setting is one file to write.
type setting struct {
	controller, file, value string
	// swap: a kernel without swap accounting has no such file. That is good
	// only where there is no swap: what is over the ceiling would go there.
	swap bool
}

// settings is the Spec as files, in order.
func settings(k Kind, s Spec) []setting {
	var out []setting
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	const period = 100_000 // µs, the kernel's default
	quota := s.MilliCPU * period / 1000
	if quota > 0 && quota < 1000 {
		quota = 1000 // the kernel's least
	}
	if k == V2 {
		if s.Memory > 0 {
			out = append(out, setting{"", "memory.max", n(s.Memory), false}, setting{"", "memory.swap.max", "0", true})
		}
		if s.Processes > 0 {
			out = append(out, setting{"", "pids.max", n(s.Processes), false})
		}
		if quota > 0 {
			out = append(out, setting{"", "cpu.max", n(quota) + " " + n(period), false})
		}
		return out
	}
	if s.Memory > 0 {
		// In this order: memsw may not be below limit.
		out = append(out, setting{"memory", "memory.limit_in_bytes", n(s.Memory), false},
			setting{"memory", "memory.memsw.limit_in_bytes", n(s.Memory), true})
	}
	if s.Processes > 0 {
		out = append(out, setting{"pids", "pids.max", n(s.Processes), false})
	}
	if quota > 0 {
		out = append(out, setting{"cpu", "cpu.cfs_period_us", n(period), false}, setting{"cpu", "cpu.cfs_quota_us", n(quota), false})
	}
	return out
}

func (g *Group) set(s Spec) error {
	for _, w := range settings(g.Kind, s) {
		err := write(filepath.Join(g.dirs[w.controller], w.file), w.value)
		if w.swap && errors.Is(err, os.ErrNotExist) {
			if err = noSwap(); err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// noSwap is an error if this machine has swap, or if that can't be told.
func noSwap() error {
	text, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return err
	}
	if bytes.Count(text, []byte("\n")) > 1 { // the first line is the heading
		return fmt.Errorf("control group: this kernel does not count swap, and there is some: %w", ErrAbsent)
	}
	return nil
}

// write never creates a file: in a control group that makes no sense, and a
// mistaken path outside of one must not be written.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", value, err)
	}
	return nil
}

// Paths are the group's directories, sorted.
func (g *Group) Paths() []string {
	var out []string
	for _, d := range g.dirs {
		out = append(out, d)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Door is the way into a group, for its owner and for a process that he gives
// the directories to.
type Door struct {
	kind Kind
	dirs []*os.File
}

// Door is the owner's own; its files are closed by Remove.
func (g *Group) Door() Door { return Door{g.Kind, g.held} }

// Copy opens the directories once more, for another process; the caller closes
// them. They are no duplicates: these would share the lock, and keep it when the
// owner is dead.
func (g *Group) Copy() ([]*os.File, error) {
	if len(g.held) == 0 {
		return nil, os.ErrClosed
	}
	var out []*os.File
	for _, f := range g.held {
		fd, err := unix.Openat(int(f.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			for _, o := range out {
				o.Close()
			}
			return nil, &os.PathError{Op: "open control group", Path: f.Name(), Err: err}
		}
		out = append(out, os.NewFile(uintptr(fd), f.Name()))
	}
	return out, nil
}

// Through makes a Door of directories that came from Copy. Without any there is
// no way in, which is an error and not a group without ceilings.
func Through(k Kind, dirs []*os.File) (Door, error) {
	if len(dirs) == 0 || k == V2 && len(dirs) != 1 || k != V2 && k != V1 {
		return Door{}, fmt.Errorf("control group: %d directories of kind %q", len(dirs), k)
	}
	return Door{k, dirs}, nil
}

// Dir is the directory for CLONE_INTO_CGROUP (SysProcAttr.CgroupFD); nil for v1.
func (d Door) Dir() *os.File {
	if d.kind != V2 || len(d.dirs) == 0 {
		return nil
	}
	return d.dirs[0]
}

// Dirs are the group's directories, one per hierarchy, owned by the group and
// closed by Remove.
func (g *Group) Dirs() []*os.File { return g.held }

// Attach moves a process in. With v1 it costs 5 to 12 ms a hierarchy. What
// the process has forked before stays outside: attach before it runs.
func (d Door) Attach(pid int) error {
	if len(d.dirs) == 0 {
		return os.ErrClosed
	}
	for _, dir := range d.dirs {
		if err := attach(dir, pid); err != nil {
			return fmt.Errorf("attach process %d to %s: %w", pid, dir.Name(), err)
		}
	}
	return nil
}

func attach(dir *os.File, pid int) error {
	fd, err := unix.Openat(int(dir.Fd()), "cgroup.procs", unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, strconv.AppendInt(nil, int64(pid), 10))
	return err
}

// Processes are the pids of every process in the group, as we see them.
func (g *Group) Processes() ([]int, error) {
	var all []int
	for _, d := range g.Paths() {
		b, err := os.ReadFile(filepath.Join(d, "cgroup.procs"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue // removed
		}
		if err != nil {
			return nil, err
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && !slices.Contains(all, pid) {
				all = append(all, pid)
			}
		}
	}
	return all, nil
}

// killTime: how long Kill and Remove wait for processes to be gone.
const killTime = 5 * time.Second

// Kill ends every process in the group and waits until it is empty. v2 does
// it at once (cgroup.kill, Linux 5.14); else forks are stopped by pids.max
// and each process is killed, until there is none.
func (g *Group) Kill() error {
	if len(g.dirs) == 0 {
		return nil
	}
	if g.Kind == V2 {
		if err := write(filepath.Join(g.dirs[""], "cgroup.kill"), "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if d, ok := g.dirs["pids"]; ok {
		if err := write(filepath.Join(d, "pids.max"), "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	} else if g.Kind == V2 {
		_ = write(filepath.Join(g.dirs[""], "pids.max"), "0") // if it has the controller
	}
	end := time.Now().Add(killTime)
	for {
		pids, err := g.Processes()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			g.killOne(pid)
		}
		if time.Now().After(end) {
			return fmt.Errorf("kill control group %s: %d processes are still there", g.Paths()[0], len(pids))
		}
		time.Sleep(time.Millisecond)
	}
}

// killOne kills a process if it still is in the group: the number may be
// another's by now, so hold it first, then look, then kill.
func (g *Group) killOne(pid int) {
	if pid <= 0 || pid == os.Getpid() {
		return // 0: a process of another pid namespace
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return
	}
	name := "/" + filepath.Base(g.Paths()[0])
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		if strings.HasSuffix(s.Text(), name) || strings.Contains(s.Text(), name+"/") {
			_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			return
		}
	}
}

// Usage is what the kernel has counted; a field is 0 if it can't tell.
type Usage struct {
	Memory   int64 // bytes in use
	OOMKills int64 // processes killed for the memory ceiling
	Refused  int64 // forks refused for the processes ceiling
}

// Usage reads the counters.
func (g *Group) Usage() (Usage, error) {
	var u Usage
	if len(g.dirs) == 0 {
		return u, os.ErrClosed
	}
	if g.Kind == V2 {
		d := g.dirs[""]
		u.Memory = number(d, "memory.current", "")
		u.OOMKills = number(d, "memory.events", "oom_kill")
		u.Refused = number(d, "pids.events", "max")
		return u, nil
	}
	if d, ok := g.dirs["memory"]; ok {
		u.Memory = number(d, "memory.usage_in_bytes", "")
		u.OOMKills = number(d, "memory.oom_control", "oom_kill")
	}
	if d, ok := g.dirs["pids"]; ok {
		u.Refused = number(d, "pids.events", "max")
	}
	return u, nil
}

func number(dir, file, key string) int64 {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if key == "" && len(f) == 1 || len(f) == 2 && f[0] == key {
			n, _ := strconv.ParseInt(f[len(f)-1], 10, 64)
			return n
		}
	}
	return 0
}

// Remove removes the group, which must be empty (Kill). Ended processes may
// hold it for some moments more. May be called twice.
func (g *Group) Remove() error {
	end := time.Now().Add(killTime)
	var first error
	for c, d := range g.dirs {
		for {
			err := unix.Rmdir(d)
			if err == nil || err == unix.ENOENT {
				delete(g.dirs, c)
				break
			}
			if err != unix.EBUSY || time.Now().After(end) {
				if first == nil {
					first = &os.PathError{Op: "remove control group", Path: d, Err: err}
				}
				break
			}
			if pids, e := g.Processes(); e == nil && len(pids) > 0 {
				first = &os.PathError{Op: "remove control group", Path: d, Err: err}
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	if first != nil {
		return first
	}
	for _, f := range g.held {
		f.Close()
	}
	g.held = nil
	return nil
}

// Sweep removes the groups of supervisors that are no more and that are
// empty, wherever Create would have made them, and returns their paths. What
// can't be removed is left without an error: it may be in use.
func Sweep() ([]string, error) {
	l, err := Here()
	if err != nil {
		return nil, err
	}
	return l.Sweep(), nil
}

func (l Layout) Sweep() []string {
	var parents, swept []string
	for _, d := range l.V1 {
		parents = append(parents, d)
	}
	if l.Own != "" {
		for d := l.Own; len(d) >= len(l.Root); d = filepath.Dir(d) {
			parents = append(parents, d)
			if d == l.Root {
				break
			}
		}
	}
	slices.Sort(parents)
	for _, p := range slices.Compact(parents) {
		found, _ := os.ReadDir(p) // no Glob: systemd's names have backslashes
		for _, e := range found {
			d := filepath.Join(p, e.Name())
			if e.IsDir() && strings.HasPrefix(e.Name(), Prefix) && sweep(d) {
				swept = append(swept, d)
			}
		}
	}
	return swept
}

func sweep(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false // its owner lives
	}
	// rmdir of a control group with processes or children in it is EBUSY.
	return unix.Rmdir(dir) == nil
}
