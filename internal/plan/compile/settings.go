package compile

import (
	"maps"
	"slices"
	"sort"
	"strings"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// environment builds the variables of the inside from nothing: what a rule lets
// in, what a rule sets, and what the boundary itself must say. A deny wins over
// every allow and every set, whether the variable is there outside or not.
func (c *compiler) environment() {
	outside := map[string]string{}
	for _, kv := range c.in.Environ {
		if name, value, ok := strings.Cut(kv, "="); ok && name != "" {
			outside[name] = value
		}
	}
	type variable struct {
		value string
		rule  int
		mask  int // plan.Credential.ID
	}
	vars := map[string]variable{}
	var denied []string
	fixed := map[string]string{
		"HOME": c.in.Facts.Home, "USER": c.in.Facts.User, "LOGNAME": c.in.Facts.User,
		"PWD": c.in.Dir, "TMPDIR": "/tmp", "COFFERDAM": "1",
	}
	for _, r := range c.in.Policy.Env {
		if r.Action == policy.EnvMask {
			continue // of the credentials
		}
		text := string(r.Action) + " environment " + r.Name
		id := c.rule(text, r.Origin, plan.Enforced, "environment", "")
		for name, value := range outside {
			if !matchName(r.Name, name) {
				continue
			}
			if r.Action == policy.EnvAllow {
				vars[name] = variable{value: value, rule: id}
			}
		}
		for _, name := range slices.Sorted(maps.Keys(fixed)) {
			switch st := &c.p.Rules[id-1]; {
			case r.Action == policy.EnvSet && r.Name == name:
				st.Status, st.Note = plan.Impossible, "the inside always has one of its own"
			case r.Action == policy.EnvDeny && matchName(r.Name, name), r.Action == policy.EnvAllow && r.Name == name:
				st.Status, st.Note = plan.Coarse, "the inside always has a "+name+" of its own; yours does not come in"
			}
		}
		if r.Action == policy.EnvDeny {
			denied = append(denied, r.Name)
		}
		if r.Action == policy.EnvSet {
			vars[r.Name] = variable{value: c.expand(r.Value), rule: id}
		}
	}
	if c.p.Network.Mode == "gateway" {
		for name, value := range proxyVariables() {
			// A rule that gives one spelling speaks for both.
			if _, upper := vars[name]; upper {
				continue
			}
			if _, lower := vars[strings.ToLower(name)]; !lower {
				vars[name], vars[strings.ToLower(name)] = variable{value: value}, variable{value: value}
			}
		}
	}
	for name, value := range c.toolSettings() {
		if _, said := vars[name]; !said {
			vars[name] = variable{value: value}
		}
	}
	// A masked variable comes in as nothing else, whatever lets or sets it.
	for _, r := range c.in.Policy.Env {
		if r.Action == policy.EnvMask {
			delete(vars, r.Name)
		}
	}
	for _, m := range c.p.Credentials {
		if m.Kind == "env" {
			vars[m.Name] = variable{rule: m.Rule, mask: m.ID}
		}
	}
	if c.trusting() {
		for _, name := range slices.Sorted(maps.Keys(trustVariables())) {
			v, given := vars[name]
			if given && v.value != "" {
				c.p.Network.Roots = append(c.p.Network.Roots, v.value)
			}
			if st, ok := c.p.Rule(v.rule); given && ok && st.Status == plan.Enforced {
				c.p.Rules[v.rule-1].Status = plan.Coarse
				c.p.Rules[v.rule-1].Note = name + " inside names a file with the certificates of yours and of the session, by which TLS is opened"
			}
			vars[name] = variable{value: trustVariables()[name], rule: v.rule}
		}
	}
	for name := range vars {
		if slices.ContainsFunc(denied, func(pattern string) bool { return matchName(pattern, name) }) {
			delete(vars, name)
		}
	}
	for name, value := range fixed {
		vars[name] = variable{value: value}
	}
	for name, v := range vars {
		c.p.Environment = append(c.p.Environment, plan.EnvVar{Name: name, Value: v.value, Credential: v.mask, Rule: v.rule})
	}
	sort.Slice(c.p.Environment, func(i, j int) bool { return c.p.Environment[i].Name < c.p.Environment[j].Name })
}

// toolSettings are variables that lead the tools inside to the registries that the
// person's tools have named: their own configuration is not here, since it may have
// passwords in it.
func (c *compiler) toolSettings() map[string]string {
	out := map[string]string{}
	if c.p.Network.Mode != "gateway" {
		return out
	}
	for _, a := range c.in.Policy.Asked {
		for _, f := range c.in.Facts.Asked {
			if f.Tool != a.Tool {
				continue
			}
			for _, s := range f.Settings {
				if out[s.Name] = s.Value; s.File {
					file := ownDir + "/" + f.Tool
					c.p.Mounts = append(c.p.Mounts, plan.Mount{Kind: plan.File, Target: file, Content: s.Value, Create: true})
					out[s.Name] = file
				}
			}
		}
	}
	return out
}

// ownDir has files that only the inside has. It lies in the root, which is ours whatever
// the policy opens.
const ownDir = "/.cofferdam"

// expand replaces a leading "~" of a set value by the home inside.
func (c *compiler) expand(value string) string {
	if value == "~" || strings.HasPrefix(value, "~/") {
		return c.in.Facts.Home + value[1:]
	}
	return value
}

func matchName(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

// limits chooses how each ceiling is held.
func (c *compiler) limits() {
	f := c.in.Facts
	yes := func(name string) bool { return f.Mechanism(name).Answer == host.Yes }
	group := ""
	switch {
	case yes(host.CgroupV2):
		group = "cgroup-v2"
	case yes(host.CgroupV1):
		group = "cgroup-v1"
	}
	last := map[string]policy.LimitRule{}
	var names []string
	for _, l := range c.in.Policy.Limits {
		if _, ok := last[l.Name]; !ok {
			names = append(names, l.Name)
		}
		last[l.Name] = l
	}
	for _, name := range names {
		r := last[name]
		l := plan.Limit{Name: r.Name, Value: r.Value, Unit: r.Unit, Status: plan.Enforced}
		switch name {
		case "time":
			l.Mechanism = "supervisor"
		case "open-files":
			l.Mechanism, l.Note = "rlimit", "per process"
		case "temp-size":
			l.Mechanism, l.Note = "tmpfs", "/tmp, /var/tmp and /dev/shm together"
		case "processes":
			switch {
			case group != "":
				l.Mechanism = group
			case f.UID != 0:
				l.Mechanism = "rlimit"
			case yes(host.PidMax) && r.Value >= 301:
				l.Mechanism = "pid_max"
			default:
				l.Mechanism, l.Status, l.Note = "watch", plan.Coarse, "root is exempt from the limit of setrlimit(2); the supervisor counts"
			}
		case "memory":
			if l.Mechanism = group; group == "" {
				l.Mechanism, l.Status, l.Note = "watch", plan.Coarse, "the supervisor adds up the memory of all processes several times a second and ends the run when it is too much"
			}
		case "cpus":
			if l.Mechanism = group; group == "" {
				l.Mechanism, l.Status, l.Note = "affinity", plan.Coarse, "whole processors, by affinity"
			}
		default:
			l.Status, l.Note = plan.Impossible, "unknown limit"
			c.p.Gaps = append(c.p.Gaps, plan.Gap{Required: true, Missing: "the limit " + name, Because: "nothing here can hold it", Remedy: "remove it from the policy"})
		}
		l.Rule = c.rule("limit "+l.Name+" "+plan.Amount(l.Value, l.Unit), r.Origin, l.Status, l.Mechanism, l.Note)
		c.p.Limits = append(c.p.Limits, l)
	}
}
