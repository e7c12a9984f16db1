package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cofferdam/internal/host"
	"cofferdam/internal/report"
)

func cmdDoctor(c *call) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "doctor [flags]",
		Long: `
Tries each mechanism that a boundary is built of, and says what to do about
what is missing. It changes nothing. The answer "unknown" is taken for "no"
by everything else. Exit code 69: a default run would be refused here.`,
		Example: examples(
			"cofferdam doctor", "can this machine hold a boundary?",
			"cofferdam doctor --json", "for a bug report",
		),
		Args:              words(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			facts, err := c.app.Doctor(cmd.Context(), c.caller())
			if facts == nil {
				return err
			}
			print := func() error { return c.print(factsText(facts, report.StyleOf(c.out, c.env))) }
			if asJSON {
				print = func() error { return c.printJSON(facts) }
			}
			if e := print(); e != nil {
				return e
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func factsText(f *host.Facts, s report.Style) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s, kernel %s, user %s (uid %d)", f.OS, f.Arch, report.Plain(f.Kernel), report.Plain(f.User), f.UID)
	if f.Container != "" {
		fmt.Fprintf(&b, ", inside %s", report.Plain(f.Container))
	}
	fmt.Fprintf(&b, "\n%d processors, %d MiB of memory\n\n", f.CPUs, f.MemoryBytes>>20)
	for _, m := range f.Mechanisms {
		name := m.Name
		if m.Level > 0 {
			name += fmt.Sprintf(" %d", m.Level)
		}
		line := fmt.Sprintf("%-8s %-18s", m.Answer, report.Plain(name))
		if m.Detail != "" {
			line += "  " + report.Plain(m.Detail)
		}
		b.WriteString(s.Fold(strings.TrimRight(line, " "), 29) + "\n")
		if m.Remedy != "" {
			// Several lines of a remedy stay lines: they are commands.
			for r := range strings.SplitSeq(m.Remedy, "\n") {
				b.WriteString(s.Fold("         "+report.Plain(r), 11) + "\n")
			}
		}
	}
	return b.String()
}
