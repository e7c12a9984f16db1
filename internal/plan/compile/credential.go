package compile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// byCredential is the mechanism of rules that mask.
const byCredential = "credential"

// credentials lists what is masked. Of several entries for one variable, or for one file
// and the same part of it, the strongest layer's counts. What is denied stays denied, and
// what is not there is left out: nothing can be put in for it.
func (c *compiler) credentials() {
	for i, m := range c.in.Policy.Masks {
		id, ok := c.maskRule(m)
		if !ok {
			continue
		}
		st := &c.p.Rules[id-1]
		st.Mechanism = byCredential
		same := func(o policy.MaskRule) bool { return o.Name == m.Name && o.Path == m.Path && o.Extract == m.Extract }
		if slices.ContainsFunc(c.in.Policy.Masks[i+1:], same) {
			st.Note = "a stronger rule masks it for other hosts"
			continue
		}
		one := plan.Credential{ID: len(c.p.Credentials) + 1, Kind: "env", Name: m.Name, Command: c.argv(m.Command),
			TTL: m.TTL, Hosts: m.Hosts, Bodies: m.Bodies, Rule: id}
		why := ""
		switch {
		case m.Path != "":
			one.Kind, one.Name, one.Extract = "file", m.Text, m.Extract
			one.File, why = c.maskedFile(m)
		case c.envDenied(m.Name):
			why = "a rule denies it, which is stronger"
		case len(m.Command) == 0 && !c.isSet(m.Name):
			why = "it is not set on your side, so there is nothing to stand for"
		case len(m.Command) == 0:
			one.Variable = m.Name
		}
		if why != "" {
			st.Note = why
			if st.Status == plan.Impossible {
				c.p.Gaps = append(c.p.Gaps, plan.Gap{Required: true, Rule: id, Missing: st.Text, Because: why, Remedy: "name the file itself"})
			}
			continue
		}
		c.p.Credentials = append(c.p.Credentials, one)
	}
}

// maskRule finds the plan's rule for a mask. Those of variables are made here, those of
// files with the other rules for paths.
func (c *compiler) maskRule(m policy.MaskRule) (int, bool) {
	if m.Path == "" {
		return c.rule("mask environment "+m.Name, m.Origin, plan.Enforced, byCredential, ""), true
	}
	for i, r := range c.in.Policy.Paths {
		if r.Access == policy.Mask && r.Pattern == m.Path && r.Origin == m.Origin {
			return i + 1, i < len(c.p.Rules)
		}
	}
	return 0, false
}

// argv is a command with its "~" replaced.
func (c *compiler) argv(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	out := slices.Clone(argv)
	out[0] = c.expand(out[0])
	return out
}

func (c *compiler) envDenied(name string) bool {
	return slices.ContainsFunc(c.in.Policy.Env, func(r policy.EnvRule) bool { return r.Action == policy.EnvDeny && matchName(r.Name, name) })
}

func (c *compiler) isSet(name string) bool {
	return slices.ContainsFunc(c.in.Environ, func(kv string) bool { return strings.HasPrefix(kv, name+"=") && len(kv) > len(name)+1 })
}

// maskedFile is the file that a mask is about, or why it can't be masked.
func (c *compiler) maskedFile(m policy.MaskRule) (string, string) {
	fact := c.in.Facts.Paths[m.Path]
	switch {
	case fact.Real != "" && fact.Real != m.Path && c.plantable(m.Path, fact.Real):
		// Nobody is shown the way there, and nobody hides what is there.
		id, _ := c.maskRule(m)
		c.p.Rules[id-1].Status = plan.Impossible
		return "", "it is a symlink that the inside may have made, and leads to " + fact.Real
	case fact.RealKind == "" || fact.RealKind == host.KindAbsent:
		return "", "nothing is there"
	case fact.RealKind != host.KindFile:
		return "", "it is a " + fact.RealKind + ", and only a file can be masked"
	case !c.decide(fact.Real).read:
		return "", "a rule denies it, which is stronger"
	}
	return fact.Real, ""
}

// masked says whether a rule masks the file at p. Then it is never shown as it is.
func (c *compiler) masked(p string) bool {
	return slices.ContainsFunc(c.paths, func(r pathRule) bool { return r.Access == policy.Mask && r.Pattern == p })
}

// maskFile puts a copy with placeholders in the place of the file at p, or nothing that
// can be read where that can't be made.
func (c *compiler) maskFile(p string, dir bool, base *plan.Mount, has access, rule int) {
	if has.read {
		c.replaceable(p, rule)
	}
	if has.write {
		// The file is read again when it changes: with a directory above it moved away,
		// the inside could make the name lead to any other secret, for this host to get.
		c.pinAbove(p, rule)
	}
	m := plan.Mount{Kind: plan.Mask, Target: p, Directory: dir, Create: ours(base), Rule: rule}
	if slices.ContainsFunc(c.p.Credentials, func(m plan.Credential) bool { return m.File == p }) {
		m.Kind, m.Masked, m.Mode = plan.File, true, 0o400
	}
	c.mount(m)
}

// openFor has TLS opened for the hosts of credentials: nothing can be put into what is
// carried closed. What an agent's profile would keep closed is opened; a tunnel that a
// person asked for is a contradiction. It returns the rules that may be had.
func (c *compiler) openFor(rules []plan.NetRule) []plan.NetRule {
	out := slices.Clone(rules)
	for i := range out {
		n := &out[i]
		if !n.Allow || !n.Tunnel {
			continue
		}
		for _, m := range c.p.Credentials {
			if !slices.ContainsFunc(m.Hosts, func(h string) bool { return meets(h, *n) }) {
				continue
			}
			tunnel, _ := c.p.Rule(n.Rule)
			if strings.HasPrefix(tunnel.Origin.Layer, "profile:") {
				n.Tunnel = false
				c.p.Rules[n.Rule-1].Note = "its TLS is opened, to put " + m.Name + " in"
				break
			}
			mask, _ := c.p.Rule(m.Rule)
			c.p.Gaps = append(c.p.Gaps, plan.Gap{Required: true, Rule: m.Rule, Missing: "a way to put " + m.Name + " into requests",
				Because: fmt.Sprintf("%s (%s) keeps TLS closed for a host of %s (%s)", tunnel.Text, place(tunnel.Origin), mask.Text, place(mask.Origin)),
				Remedy:  "take one of the two out"})
		}
	}
	return out
}

// meets says whether a rule for names speaks of a credential's host.
func meets(host string, n plan.NetRule) bool {
	name, port := portOf(host)
	if n.Name == "" || n.Port != 0 && n.Port != port {
		return false
	}
	a, aBelow := strings.CutPrefix(name, "*.")
	b, bBelow := strings.CutPrefix(n.Name, "*.")
	switch {
	case a == b:
		return aBelow == bBelow
	case strings.HasSuffix(a, "."+b):
		return bBelow
	case strings.HasSuffix(b, "."+a):
		return aBelow
	}
	return false
}

func portOf(host string) (string, int) {
	name, text, _ := strings.Cut(host, ":")
	port, _ := strconv.Atoi(text)
	return name, port
}

// reachable notes where a credential can't get to. To mask allows no host: that is for
// rules of the network to say.
func (c *compiler) reachable(rules []plan.NetRule) {
	judge, err := decide.Compile(rules)
	for _, m := range c.p.Credentials {
		st := &c.p.Rules[m.Rule-1]
		var no []string
		for _, h := range m.Hosts {
			name, port := portOf(h)
			open := false
			switch {
			case c.p.Network.Mode != "gateway" || err != nil:
			case strings.HasPrefix(name, "*."):
				open = slices.ContainsFunc(rules, func(n plan.NetRule) bool { return (n.Allow || n.Ask) && meets(h, n) })
			default:
				v := judge.Connect(name, uint16(port))
				open = v.Allow || v.Ask
			}
			if !open {
				no = append(no, h)
			}
		}
		note := "a placeholder inside; the real value for " + strings.Join(m.Hosts, ", ")
		if len(no) > 0 {
			st.Status = plan.Coarse
			note += "; no rule allows " + strings.Join(no, ", ") + ", so nothing gets there"
			c.p.Gaps = append(c.p.Gaps, plan.Gap{Missing: "way for " + m.Name + " to " + strings.Join(no, ", "), Because: "no rule allows it",
				Remedy: "--allow-domain " + no[0], Rule: m.Rule})
		}
		if st.Note != "" {
			note += "; " + st.Note
		}
		st.Note = note
	}
}

// explainMask answers for a variable that is masked, and says whether it is.
func (c *compiler) explainMask(e *Explanation) bool {
	for _, m := range slices.Backward(c.in.Policy.Masks) {
		if m.Name == e.Subject {
			e.Allowed = true
			e.by("mask "+m.Name, "", m.Origin)
			e.Text = e.Subject + " is a placeholder inside; the real value is put into requests to " + strings.Join(m.Hosts, ", ")
			e.Change = fmt.Sprintf(`"credentials": {"envVars": [{"name": %q}]} in a policy, to deny it`, e.Subject)
			return true
		}
	}
	return false
}
