package cli

import (
	"fmt"
	"strings"

	"cofferdam/internal/flow"
	"cofferdam/internal/plan"
	"cofferdam/internal/report"
)

func cmdDoctor() *command {
	var asJSON bool
	return &command{
		long: "Each mechanism is tried, not looked up. Ends with 69 if a default run would be refused.",
		examples: [][2]string{
			{"cofferdam doctor", "what works here, and what to do about the rest"},
			{"cofferdam doctor --json", "for a bug report or a program"},
		},
		exits: []int{exitPolicy, exitRefused},
		flags: func(f *flags) { f.flag(&asJSON, "json", 0, "as JSON") },
		run: func(c *call, _ []string) (int, error) {
			if c.app.Doctor == nil {
				return 0, notYet("doctor")
			}
			d, err := c.app.Doctor(c.ctx, c.caller())
			if err != nil {
				return 0, err
			}
			if asJSON {
				err = c.printJSON(d)
			} else {
				err = c.print(doctorText(d))
			}
			if err != nil {
				return 0, err
			}
			var required []plan.Gap
			for _, g := range d.Gaps {
				if g.Required {
					required = append(required, g)
				}
			}
			if len(required) > 0 {
				return 0, &flow.RefusedError{Boundary: "native", Gaps: required}
			}
			return 0, nil
		},
	}
}

func doctorText(d *flow.Diagnosis) string {
	var b strings.Builder
	f := d.Facts
	where := ""
	if f.Container != "" {
		where = ", inside " + f.Container
	}
	fmt.Fprintf(&b, "%s\n", report.Plain(fmt.Sprintf("%s %s, kernel %s, uid %d%s", f.OS, f.Arch, f.Kernel, f.UID, where)))
	for _, m := range f.Mechanisms {
		answer := string(m.Answer)
		if m.Level > 0 {
			answer += fmt.Sprintf(" (%d)", m.Level)
		}
		fmt.Fprintf(&b, "  %-16s %-8s %s\n", report.Plain(m.Name), report.Plain(answer), report.Plain(m.Detail))
		if m.Remedy != "" {
			fmt.Fprintf(&b, "  %-16s %-8s to get it: %s\n", "", "", report.Plain(m.Remedy))
		}
	}
	return b.String()
}
