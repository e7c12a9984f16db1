package cli

import (
	"fmt"
	"slices"
	"strings"

	"cofferdam/internal/plan"
	"cofferdam/internal/report"
)

// planText is a plan for a person: what the inside has, then what becomes of
// each rule. Programs take --json.
func planText(p *plan.Plan) string {
	var b strings.Builder
	row := func(key, format string, a ...any) { fmt.Fprintf(&b, "%-12s %s\n", key, fmt.Sprintf(format, a...)) }
	words := make([]string, len(p.Command))
	for i, w := range p.Command {
		words[i] = report.Quote(w)
	}
	row("command", "%s", strings.Join(words, " "))
	row("program", "%s", report.Quote(p.Program))
	row("boundary", "%s", report.Plain(p.Boundary))
	workspace := report.Quote(p.Workspace)
	if p.Copy != "" {
		workspace += ", a copy of it (" + report.Plain(p.Copy) + "): nothing reaches the project by itself"
	}
	row("workspace", "%s", workspace)
	network := p.Network.Mode
	if p.Network.Mechanism != "" {
		network += " by " + p.Network.Mechanism + ": what no rule allows is denied"
		if slices.ContainsFunc(p.Network.Rules, func(n plan.NetRule) bool { return n.Ask && n.Name == "*" }) {
			network = p.Network.Mode + " by " + p.Network.Mechanism + ": what no rule allows or denies is asked about"
		}
	}
	row("network", "%s", report.Plain(network))
	if u := p.Network.Upstream; u != nil {
		row("upstream", "%s, which finds where names lead: nobody judges that here", report.Plain(strings.Join(slices.Compact([]string{u.HTTPS, u.HTTP}), ", ")))
	}
	row("identity", "%s (uid %d, gid %d), home %s", report.Plain(p.Identity.User), p.Identity.UID, p.Identity.GID, report.Quote(p.Identity.Home))
	if len(p.Profiles) > 0 {
		row("profiles", "%s", report.Plain(strings.Join(p.Profiles, ", ")))
	}
	for _, l := range p.Limits {
		row("limit", "%s %s: %s by %s%s", report.Plain(l.Name), report.Plain(plan.Amount(l.Value, l.Unit)), l.Status, report.Plain(l.Mechanism), note(l.Note))
	}
	b.WriteString("\nfiles:\n")
	for _, m := range p.Mounts {
		access := "read"
		switch {
		case m.Kind == plan.Mask:
			access = "none"
		case m.Write:
			access = "write"
		}
		text := report.Quote(m.Target)
		if m.Source != "" && m.Source != m.Target {
			text += " from " + report.Quote(m.Source)
		}
		fmt.Fprintf(&b, "  %-6s %-8s %s\n", access, m.Kind, text)
	}
	// Names only: a value may be private though it is no secret.
	b.WriteString("\nenvironment:\n ")
	for _, e := range p.Environment {
		b.WriteString(" " + report.Plain(e.Name))
	}
	if len(p.Credentials) > 0 {
		b.WriteString("\n\ncredentials:")
	}
	for _, m := range p.Credentials {
		from := "your " + report.Plain(m.Variable)
		switch {
		case m.File != "":
			from = report.Quote(m.File)
		case len(m.Command) > 0:
			words := make([]string, len(m.Command))
			for i, w := range m.Command {
				words[i] = report.Quote(w)
			}
			from = "what " + strings.Join(words, " ") + " prints"
		}
		fmt.Fprintf(&b, "\n  %s: a placeholder inside; the real value, %s, for %s", report.Quote(m.Name), from, report.Plain(strings.Join(m.Hosts, ", ")))
	}
	b.WriteString("\n\nrules:\n")
	for _, r := range p.Rules {
		fmt.Fprintf(&b, "  %-10s %s by %s%s\n", r.Status, origin(r.Text, r.Origin), report.Plain(r.Mechanism), note(r.Note))
	}
	if len(p.Gaps) > 0 {
		b.WriteString("\ngaps:\n")
	}
	for _, g := range p.Gaps {
		kind := "optional"
		if g.Required {
			kind = "required"
		}
		fmt.Fprintf(&b, "  %-10s %s: %s\n", kind, report.Plain(g.Missing), report.Plain(g.Because))
		if g.Remedy != "" {
			fmt.Fprintf(&b, "  %-10s %s\n", "", report.Plain(g.Remedy))
		}
	}
	return b.String()
}

func note(s string) string {
	if s == "" {
		return ""
	}
	return " - " + report.Plain(s)
}
