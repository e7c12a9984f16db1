package cli

import (
	"github.com/spf13/cobra"

	"cofferdam/internal/flow"
	"cofferdam/internal/session"
)

func cmdExec(c *call) *cobra.Command {
	var env []string
	var jsonErrors bool
	cmd := &cobra.Command{
		Use: "exec [flags] SESSION [--] COMMAND [ARG...]",
		Long: `
Runs one more COMMAND inside the boundary of a running session, with the
session's environment, limits and rules. SESSION is an id, a name, or the
beginning of one; cofferdam ps lists them.`,
		Example: examples(
			"cofferdam exec review -- git status", "by the session's name",
			"cofferdam exec 20260301-120000-k3f9 bash", "a shell beside the agent",
		),
		Annotations: runs,
		Args:        cobra.ArbitraryArgs,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return c.completeSession(true), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || cmd.ArgsLenAtDash() == 0 {
				return &flow.UsageError{Text: "no session named", Hint: "usage: " + cmd.UseLine() + "; cofferdam ps lists the sessions"}
			}
			name, command := args[0], args[1:]
			// Flags end at SESSION, so a "--" after it is still here.
			if len(command) > 0 && command[0] == "--" {
				command = command[1:]
			}
			if len(command) == 0 {
				return &flow.UsageError{Text: "no command to run", Hint: "usage: " + cmd.UseLine()}
			}
			status, err := c.app.Exec(cmd.Context(), name, command, env, c.caller())
			c.status = status
			return err
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.SortFlags = false
	f.StringArrayVar(&env, "env", nil, "pass on or set a variable: `NAME[=VALUE]`; repeatable")
	f.BoolVar(&jsonErrors, "json", false, "print errors as JSON")
	_ = cmd.RegisterFlagCompletionFunc("env", cobra.NoFileCompletions)
	return cmd
}

// completeSession lists names and ids.
func (c *call) completeSession(live bool) []string {
	list, err := c.app.Sessions(c.caller())
	if err != nil {
		return nil
	}
	var out []string
	for _, i := range list {
		if live && i.Status != session.Live {
			continue
		}
		if i.State.Name != "" {
			out = append(out, i.State.Name)
		}
		out = append(out, i.ID)
	}
	return out
}
