package compile

import (
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
)

// extraRoots are the files whose certificates the gateway and programs inside trust
// besides. What the inside could write it could trust itself with, and have the gateway
// do the same, so such a file stops the run.
func (c *compiler) extraRoots() {
	for _, r := range c.in.Policy.ExtraRoots {
		id := c.rule("extraRoots "+r.Text, r.Origin, plan.Enforced, "gateway", "")
		st := &c.p.Rules[id-1]
		if c.p.Network.Mode != "gateway" {
			st.Mechanism, st.Note = "net-namespace", "nothing outside can be reached"
			continue
		}
		fact := c.in.Facts.Paths[r.Pattern]
		why := ""
		switch {
		case fact.RealKind == "" || fact.RealKind == host.KindAbsent:
			why = "nothing is there"
		case fact.RealKind != host.KindFile:
			why = "it is a " + fact.RealKind + ", and has to be a file"
		default:
			for _, p := range append([]string{r.Pattern, fact.Real}, fact.Links...) {
				c.match(p)
				if c.decide(p).write {
					why = "the inside may write " + p + ", so it could put a certificate of its own there"
					break
				}
			}
		}
		if why == "" && fact.Real != r.Pattern && c.plantable(r.Pattern, fact.Real) {
			why = "it is a symlink that the inside may have made, and leads to " + fact.Real
		}
		if why != "" {
			st.Status, st.Note = plan.Impossible, why
			c.p.Gaps = append(c.p.Gaps, plan.Gap{Required: true, Missing: "the certificates of " + r.Text, Because: why,
				Remedy: "name a PEM file that the inside can't write", Rule: id})
			continue
		}
		c.p.Network.ExtraRoots = append(c.p.Network.ExtraRoots, fact.Real)
	}
}

// trusting says whether programs inside are to trust something that this machine does not.
func (c *compiler) trusting() bool {
	return c.p.Network.Inspect || len(c.p.Network.ExtraRoots) > 0
}
