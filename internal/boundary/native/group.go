package native

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"cofferdam/internal/boundary"
	"cofferdam/internal/linux/cgroup"
	"cofferdam/internal/plan"
)

// group is the control group of one boundary, if the plan has limits that only a
// group can hold. A nil group is none.
type group struct {
	cgroup.Door
	owned *cgroup.Group // nil for a command that entered: it is not the one who ends it
}

// groups numbers the groups of this process.
var groups atomic.Int64

func newGroup(p *plan.Plan) (*group, error) {
	kind, spec, err := groupSpec(p)
	if kind == "" || err != nil {
		return nil, err
	}
	_, _ = cgroup.Sweep() // what killed supervisors have left
	g, err := cgroup.Create(kind, fmt.Sprintf("%d-%d", os.Getpid(), groups.Add(1)), spec)
	if err != nil {
		return nil, err
	}
	return &group{g.Door(), g}, nil
}

// joinedGroup is the group of the boundary that a command enters; dirs are what
// its owner handed out. If the plan has ceilings that a group holds, there must
// be one.
func joinedGroup(p *plan.Plan, dirs []*os.File) (*group, error) {
	kind, _, err := groupSpec(p)
	if err != nil {
		return nil, err
	}
	if kind == "" && len(dirs) == 0 {
		return nil, nil
	}
	door, err := cgroup.Through(kind, dirs)
	if err != nil {
		return nil, err
	}
	return &group{Door: door}, nil
}

// groupSpec is what a group has to hold; the kind is empty if nothing.
func groupSpec(p *plan.Plan) (cgroup.Kind, cgroup.Spec, error) {
	var kind cgroup.Kind
	var spec cgroup.Spec
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
	if g == nil || g.Dir() == nil {
		return -1
	}
	return int(g.Dir().Fd())
}

// attach moves the first child and the command, which waits, into the group, if
// they were not born in it (cgroup v1).
func (g *group) attach(pid int) error {
	if g == nil || g.Dir() != nil {
		return nil
	}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return fmt.Errorf("find the command to limit: %w", err)
	}
	for _, text := range append(strings.Fields(string(children)), strconv.Itoa(pid)) {
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("find the command to limit: %w", err)
		}
		if err := g.Attach(n); err != nil {
			return err
		}
	}
	return nil
}

// handOut is the way into the group for another process; none without a group.
func (g *group) handOut() ([]*os.File, error) {
	if g == nil {
		return nil, nil
	}
	return g.owned.Copy()
}

// tell reports the ceilings that the kernel has held, which nobody saw otherwise.
func (g *group) tell(p *plan.Plan, denied func(boundary.Denial)) {
	if g == nil || g.owned == nil {
		return
	}
	u, err := g.owned.Usage()
	if err != nil {
		return
	}
	for _, c := range []struct {
		limit, what string
		count       int64
	}{{"memory", "processes ended by the kernel: %d", u.OOMKills}, {"processes", "new processes refused: %d", u.Refused}} {
		if l, ok := p.Limit(c.limit); ok && c.count > 0 {
			denied(boundary.Denial{Limit: c.limit, Reason: plan.Amount(l.Value, l.Unit) + ": " + fmt.Sprintf(c.what, c.count)})
		}
	}
}

// remove ends what is left in the group, and the group, if it is ours.
func (g *group) remove() {
	if g == nil || g.owned == nil {
		return
	}
	_ = g.owned.Kill()
	_ = g.owned.Remove()
}
