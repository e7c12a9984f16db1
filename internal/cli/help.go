package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cofferdam/internal/flow"
)

// runs marks a command that runs a command: its help lists all exit codes.
var runs = map[string]string{"runs": "yes"}

// help answers `help [COMMAND...]`.
func (c *call) help(args []string) error {
	switch {
	case len(args) == 0:
		return c.print(c.overview())
	case args[0] == "exit-codes":
		return c.print("Exit codes:\n" + exitText(true))
	}
	root := c.tree(args[0])
	cmd := root
	for _, word := range args {
		var next *cobra.Command
		for _, sub := range cmd.Commands() {
			if sub.Name() == word {
				next = sub
			}
		}
		switch {
		case next != nil:
			cmd = next
		case cmd == root:
			return c.unknown(args)
		case !cmd.HasSubCommands():
			return &flow.UsageError{Text: cmd.CommandPath() + " has no commands of its own", Hint: cmd.CommandPath() + " --help"}
		default:
			return cmd.RunE(cmd, []string{word}) // a group's RunE tells
		}
	}
	return c.print(helpText(cmd))
}

func (c *call) printHelp(cmd *cobra.Command) {
	text := c.overview()
	if cmd.HasParent() {
		text = helpText(cmd)
	}
	if err := c.print(text); err != nil {
		c.status = c.fail(err, nil) // cobra's help has no way to return it
	}
}

func (c *call) overview() string {
	var b strings.Builder
	b.WriteString("cofferdam runs an AI coding agent, or any command, inside a boundary: the project\n" +
		"is writable; secrets and the rest of the machine are out of reach.\n\n" +
		"Usage:\n  cofferdam COMMAND [flags]\n\nCommands:\n")
	for _, e := range commands {
		fmt.Fprintf(&b, "  %-11s %s\n", e.name, e.short)
	}
	b.WriteString("\nExamples:\n" + examples(
		"cofferdam run claude", "an agent in the project you are in",
		"cofferdam run --dry-run -- npm test", "what it could reach, without starting it",
		"cofferdam doctor", "can this machine do it?",
	) + "\n`cofferdam COMMAND --help` tells more, `cofferdam help exit-codes` lists the exit codes.\n")
	return b.String()
}

// examples prints pairs of a line and what it does.
func examples(pairs ...string) string {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		fmt.Fprintf(&b, "  # %s\n  %s\n", pairs[i+1], pairs[i])
	}
	return b.String()
}

// helpText is the help of one command. Not by cobra's template: package
// text/template costs more than a start may.
func helpText(cmd *cobra.Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\nUsage:\n", cmd.CommandPath(), cmd.Short)
	if cmd.HasSubCommands() {
		fmt.Fprintf(&b, "  %s COMMAND [flags]\n\nCommands:\n", cmd.CommandPath())
		for _, sub := range cmd.Commands() {
			fmt.Fprintf(&b, "  %-11s %s\n", sub.Name(), sub.Short)
		}
	} else {
		fmt.Fprintf(&b, "  %s\n", cmd.UseLine())
	}
	if cmd.Long != "" {
		b.WriteString("\n" + strings.TrimSpace(cmd.Long) + "\n")
	}
	cmd.InitDefaultHelpFlag()
	b.WriteString("\nFlags:\n" + cmd.LocalFlags().FlagUsages())
	b.WriteString("\nExamples:\n" + cmd.Example)
	b.WriteString("\nExit codes:\n" + exitText(cmd.Annotations["runs"] != ""))
	return b.String()
}
