package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cofferdam/internal/report"
	"cofferdam/internal/session"
)

func cmdPs(c *call) *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use: "ps [flags]",
		Long: `
Lists the sessions that run, the oldest first; with --all those that have ended
too. A session is "interrupted" when its supervisor was killed.`,
		Example: examples(
			"cofferdam ps", "what runs now",
			"cofferdam ps --all --json", "everything that is kept, for a program",
		),
		Args:              words(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			list, err := c.app.Sessions(c.caller())
			if err != nil {
				return err
			}
			shown := []session.Info{} // "[]" in JSON, not "null"
			for _, i := range list {
				if all || i.Status == session.Live {
					shown = append(shown, i)
				}
			}
			if asJSON {
				return c.printJSON(shown)
			}
			return c.print(sessionTable(shown))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&all, "all", "a", false, "also sessions that have ended")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func sessionTable(list []session.Info) string {
	if len(list) == 0 {
		return ""
	}
	var b strings.Builder
	name := len("NAME")
	for _, i := range list {
		name = max(name, len([]rune(report.Plain(i.State.Name))))
	}
	fmt.Fprintf(&b, "%-20s  %-*s  %-11s  %-6s  %s\n", "SESSION", name, "NAME", "STATUS", "EXIT", "COMMAND")
	for _, i := range list {
		command := make([]string, len(i.State.Command))
		for n, w := range i.State.Command {
			command[n] = report.Quote(w)
		}
		text := cut(strings.Join(command, " "))
		if i.Problem != "" {
			text = report.Plain(i.Problem)
		}
		exit := "-"
		if i.State.Exit != nil {
			exit = fmt.Sprint(i.State.Exit.Status)
		}
		fmt.Fprintf(&b, "%-20s  %-*s  %-11s  %-6s  %s\n", i.ID, name, report.Plain(i.State.Name), i.Status, exit, text)
	}
	return b.String()
}
