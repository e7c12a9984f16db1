package native

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"cofferdam/internal/linux/cgroup"
	"cofferdam/internal/plan"
)

// group is the control group of one boundary, if the plan has limits that only a
// group can hold. A nil group is none.
type group struct {
	own  *cgroup.Group // nil for a command that entered: the boundary's group is not its own
	kind cgroup.Kind
	dirs []*os.File
}

// groups numbers the groups of this process.
var groups atomic.Int64

func newGroup(p *plan.Plan) (*group, error) {
	kind, spec, err := groupSpec(p)
	if kind == "" || err != nil {
		return nil, err
	}
	g, err := cgroup.Create(kind, fmt.Sprintf("%d-%d", os.Getpid(), groups.Add(1)), spec)
	if err != nil {
		return nil, err
	}
	return &group{own: g, kind: kind, dirs: g.Dirs()}, nil
}

// enteredGroup is the group of a boundary for one more command: dirs are what its
// owner handed out. Without them the limits would not hold, so there is no entry.
func enteredGroup(p *plan.Plan, dirs []*os.File) (*group, error) {
	kind, _, err := groupSpec(p)
	switch {
	case err != nil:
		return nil, err
	case kind == "" && len(dirs) == 0:
		return nil, nil
	case kind == "" || len(dirs) == 0:
		return nil, fmt.Errorf("enter: %d control groups for limits of kind %q", len(dirs), kind)
	}
	return &group{kind: kind, dirs: dirs}, nil
}

// groupSpec is what of the plan a control group has to hold; no kind is nothing.
func groupSpec(p *plan.Plan) (kind cgroup.Kind, spec cgroup.Spec, err error) {
	for _, l := range p.Limits {
		if l.Mechanism != string(cgroup.V2) && l.Mechanism != string(cgroup.V1) {
			continue
		}
		kind = cgroup.Kind(l.Mechanism)
		switch l.Name {
		case "memory":
			spec.Memory = l.Value
		case "processes":
			spec.Processes = l.Value
		case "cpus":
			spec.MilliCPU = l.Value
		default:
			return "", spec, fmt.Errorf("limit %s: no control group holds it", l.Name)
		}
	}
	return kind, spec, nil
}

// directory is what to be born in (cgroup v2), -1 for none.
func (g *group) directory() int {
	if g == nil || g.kind != cgroup.V2 {
		return -1
	}
	return int(g.dirs[0].Fd())
}

// attach moves the first child and the command, which waits, into the group, if
// they were not born in it (cgroup v1).
func (g *group) attach(pid int) error {
	if g == nil || g.kind == cgroup.V2 {
		return nil
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return fmt.Errorf("find the command to limit: %w", err)
	}
	command := strings.Fields(string(children))
	if len(command) == 0 {
		return fmt.Errorf("find the command to limit: process %d has no child", pid)
	}
	for _, n := range append(command, strconv.Itoa(pid)) {
		for _, d := range g.dirs {
			if err := move(n, d); err != nil {
				return fmt.Errorf("limit process %s: %s: %w", n, d.Name(), err)
			}
		}
	}
	return nil
}

// move puts a process into the control group of a directory.
func move(pid string, dir *os.File) error {
	fd, err := syscall.Openat(int(dir.Fd()), "cgroup.procs", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	_, err = syscall.Write(fd, []byte(pid))
	return err
}

// remove ends what is left in the group, and the group.
func (g *group) remove() {
	if g == nil || g.own == nil {
		return
	}
	_ = g.own.Kill()
	_ = g.own.Remove()
}
