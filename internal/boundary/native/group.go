package native

import "cofferdam/internal/plan"

// group is the control group of one boundary, if the plan has limits that only a
// group can hold. A nil group is none.
type group struct{}

func newGroup(p *plan.Plan) (*group, error) { return nil, nil }

// directory is what to be born in (cgroup v2), -1 for none.
func (g *group) directory() int { return -1 }

// attachesLate: the child has to wait until it has been moved (cgroup v1).
func (g *group) attachesLate() bool { return false }

func (g *group) attach(pid int) error { return nil }

func (g *group) remove() {}
