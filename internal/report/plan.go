package report

import (
	"fmt"
	"io"
	"strings"

	"cofferdam/internal/plan"
)

// Plan prints a plan for a person: what the command is, what its files, variables
// and limits will be, and for each rule whether it holds.
func Plan(w io.Writer, p *plan.Plan) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("command    %s", Quote(strings.Join(p.Command, " ")))
	line("program    %s", Quote(p.Program))
	line("directory  %s", Quote(p.Dir))
	line("boundary   %s, network: %s, Landlock ABI %d", p.Boundary, p.Network.Mode, p.Landlock)
	line("profiles   %s", strings.Join(p.Profiles, ", "))
	if p.PrivateHome != "" {
		line("home       %s is %s", Quote(p.Identity.Home), Quote(p.PrivateHome))
	}
	line("")
	line("files, in the order in which they are put up:")
	for _, m := range p.Mounts {
		access := "read"
		if m.Write {
			access = "read, write"
		}
		switch m.Kind {
		case plan.Mask:
			access = "nothing"
		case plan.Pin:
			if m.Write {
				access = "name is fixed"
			} else {
				access = "read, protected"
			}
		case plan.Symlink:
			access = "link to " + Quote(m.Source)
		}
		line("  %-8s %s: %s", m.Kind, Quote(m.Target), access)
	}
	line("")
	line("environment:")
	for _, v := range p.Environment {
		line("  %s", Quote(v.Name))
	}
	line("")
	line("limits:")
	for _, l := range p.Limits {
		line("  %s %d %s: %s by %s%s", l.Name, l.Value, l.Unit, l.Status, l.Mechanism, note(l.Note))
	}
	line("")
	line("rules that do not hold in full:")
	for _, r := range p.Rules {
		if r.Status != plan.Enforced && r.Origin.Layer != "built-in" && r.Origin.Layer != "built-in exceptions" {
			line("  %s: %s%s", Quote(r.Text), r.Status, note(r.Note))
		}
	}
	line("  names protected in the workspace: coarse (what exists is read-only; what appears is set aside before the run ends)")
	for _, g := range p.Gaps {
		need := "wanted"
		if g.Required {
			need = "required"
		}
		line("")
		line("missing, %s: %s", need, g.Missing)
		line("  because: %s", Quote(g.Because))
		line("  hint: %s", Quote(g.Remedy))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func note(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
