package cli

import (
	"fmt"
	"strings"

	"cofferdam/internal/flow"
)

// help answers `help [COMMAND...]`.
func (c *call) help(args []string) (int, error) {
	if len(args) == 0 {
		return 0, c.print(overview())
	}
	if args[0] == "exit-codes" {
		return 0, c.print(exitTable("", nil) + exitSignal + "\n")
	}
	path, table := program, commands()
	for {
		var cmd *command
		for _, e := range table {
			if e.name == args[0] {
				cmd = e.build()
				cmd.short = e.short
			}
		}
		if cmd == nil {
			return 0, c.unknown(path, table, args)
		}
		path += " " + args[0]
		args = args[1:]
		if len(args) == 0 {
			return 0, c.print(helpText(path, cmd))
		}
		if cmd.subs == nil {
			return 0, &flow.UsageError{Text: path + " has no commands of its own", Hint: path + " --help"}
		}
		table = cmd.subs()
	}
}

func overview() string {
	var b strings.Builder
	b.WriteString("cofferdam runs AI coding agents, or any command, inside a boundary: the project is\nwritable, secrets and the rest of the machine are out of reach.\n\n" +
		"Usage:\n  cofferdam COMMAND [flags]\n\nCommands:\n")
	table(&b, commands())
	b.WriteString("\nExamples:\n" +
		"  cofferdam run -- claude          # an agent in the project you are in\n" +
		"  cofferdam run --dry-run -- bash  # what it could reach, without starting it\n" +
		"  cofferdam doctor                 # can this machine do it?\n\n" +
		"cofferdam COMMAND --help tells more, cofferdam help exit-codes lists the exit codes.\n")
	return b.String()
}

func table(b *strings.Builder, list []entry) {
	for _, e := range list {
		fmt.Fprintf(b, "  %-11s %s\n", e.name, e.short)
	}
}

// helpText is the help of one command.
func helpText(path string, cmd *command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\nUsage:\n", path, cmd.short)
	if cmd.subs != nil {
		fmt.Fprintf(&b, "  %s COMMAND [flags]\n\nCommands:\n", path)
		table(&b, cmd.subs())
	} else {
		fmt.Fprintf(&b, "  %s\n", strings.TrimSpace(path+" [flags] "+cmd.args))
	}
	if cmd.long != "" {
		b.WriteString("\n" + strings.TrimSpace(cmd.long) + "\n")
	}
	var f flags
	if cmd.flags != nil {
		cmd.flags(&f)
	}
	f.flag(&f.help, "help", 'h', "this text")
	width := 0
	for _, x := range f.list {
		width = max(width, len(x.spelled()))
	}
	b.WriteString("\nFlags:\n")
	for _, x := range f.list {
		fmt.Fprintf(&b, "  %-*s  %s\n", width, x.spelled(), x.usage)
	}
	if len(cmd.examples) > 0 {
		b.WriteString("\nExamples:\n")
		for _, e := range cmd.examples {
			fmt.Fprintf(&b, "  # %s\n  %s\n", e[1], e[0])
		}
	}
	b.WriteString("\nExit codes:\n" + exitTable("  ", append([]int{exitOK, exitUsage, exitInternal, exitIO}, cmd.exits...)))
	if cmd.stopAtWord {
		b.WriteString("  otherwise the status of the command;\n  " + exitSignal + "\n")
	}
	return b.String()
}

func (x *flag) spelled() string {
	s := "    --" + x.name
	if x.letter != 0 {
		s = "-" + string(x.letter) + ", --" + x.name
	}
	if x.value != "" {
		s += " " + x.value
	}
	return s
}
