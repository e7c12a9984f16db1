package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cofferdam/internal/flow"
	"cofferdam/internal/report"
)

const program = "cofferdam"

// commands is the one table, in the order of the help. A start builds only the
// command that is named; see tree.
var commands = []struct {
	name, short string
	build       func(*call) *cobra.Command
}{
	{"run", "run a command inside a boundary", cmdRun},
	{"exec", "run one more command in a running session", cmdExec},
	{"ps", "list sessions", cmdPs},
	{"logs", "show what happened in a session", cmdLogs},
	{"policy", "show, check and explain what is permitted", cmdPolicy},
	{"doctor", "find out what this machine can do, by trying it", cmdDoctor},
	{"completion", "print a completion script for a shell", cmdCompletion},
	{"version", "print the version", cmdVersion},
}

func commandNames() []string {
	names := make([]string, len(commands))
	for i, c := range commands {
		names[i] = c.name
	}
	return names
}

// call is one invocation.
type call struct {
	app          App
	env          []string
	in, out, err *os.File
	debug        bool
	status       int // of the command that was run, if nothing failed
}

func (c *call) caller() flow.Caller {
	dir, err := os.Getwd()
	if err != nil {
		dir = "" // removed meanwhile: flow says what that means
	}
	return flow.Caller{Environ: c.env, Dir: dir, In: c.in, Out: c.out, Err: c.err}
}

// Main carries out one command line (args without the program's name) and
// returns the exit code. It never exits itself.
func Main(ctx context.Context, app App, args, env []string, in, out, errOut *os.File) (code int) {
	c := &call{app: app, env: env, in: in, out: out, err: errOut}
	defer func() {
		if r := recover(); r != nil {
			code = c.fail(&panicError{r}, args)
			if c.debug {
				fmt.Fprintf(errOut, "%s\n", debug.Stack())
			}
		}
	}()
	if err := c.execute(ctx, args); err != nil {
		return c.fail(err, args)
	}
	return c.status
}

// fail tells an error and returns its code.
func (c *call) fail(err error, args []string) int {
	m := describe(err)
	if wantsJSON(args) {
		m.writeJSON(c.err)
	} else {
		m.write(c.err, report.StyleOf(c.err, c.env))
	}
	return m.Code
}

// wantsJSON looks for --json without parsing, so that an error of parsing is
// told the right way too.
func wantsJSON(args []string) bool {
	stops := len(args) > 0 && (args[0] == "run" || args[0] == "exec")
	for i, a := range args {
		switch {
		case a == "--json" || a == "--json=true":
			return true
		case a == "--":
			return false
		case stops && i > 0 && !strings.HasPrefix(a, "-") && !takesValue(args[i-1]):
			return false // the command's own words begin
		}
	}
	return false
}

// takesValue says whether the next word may be this flag's value.
func takesValue(word string) bool {
	switch word {
	case "--unattended", "--dry-run", "--allow-root", "--debug":
		return false
	}
	return strings.HasPrefix(word, "--") && !strings.Contains(word, "=")
}

func (c *call) execute(ctx context.Context, args []string) error {
	switch {
	case len(args) == 0:
		_, err := c.err.WriteString(c.overview())
		if err == nil {
			c.status = exitUsage
		}
		return err
	case args[0] == "--help" || args[0] == "-h":
		return c.help(nil)
	case args[0] == "--version":
		args = []string{"version"}
	case !strings.HasPrefix(args[0], "-") && !strings.HasPrefix(args[0], "__complete") && args[0] != "help" && !slices.Contains(commandNames(), args[0]):
		return c.unknown(args) // before its flags are taken for ours
	}
	root := c.tree(args[0])
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// tree builds the root with the command that word names; with all of them when
// it names none: for completion and for help.
func (c *call) tree(word string) *cobra.Command {
	root := &cobra.Command{
		Use:               program,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.ArbitraryArgs,
		RunE:              func(_ *cobra.Command, args []string) error { return c.unknown(args) },
	}
	root.PersistentFlags().BoolVar(&c.debug, "debug", false, "print the stack of an internal error")
	_ = root.PersistentFlags().MarkHidden("debug")
	root.SetHelpCommand(&cobra.Command{
		Use:               "help [COMMAND...]",
		Short:             "show the help of a command, or of exit-codes",
		ValidArgsFunction: cobra.FixedCompletions(append(commandNames(), "exit-codes"), cobra.ShellCompDirectiveNoFileComp),
		RunE:              func(_ *cobra.Command, args []string) error { return c.help(args) },
	})
	root.SetHelpFunc(func(cmd *cobra.Command, _ []string) { c.printHelp(cmd) })
	root.SetFlagErrorFunc(flagError)
	root.SetOut(c.out)
	root.SetErr(c.err)
	for _, e := range commands {
		if e.name == word {
			root.AddCommand(finish(e.build(c), e.short))
			return root
		}
	}
	for _, e := range commands {
		root.AddCommand(finish(e.build(c), e.short))
	}
	return root
}

// finish gives a command what all have in common.
func finish(cmd *cobra.Command, short string) *cobra.Command {
	cmd.Short = short
	cmd.DisableFlagsInUseLine = true
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if err := checkValues(cmd.Flags()); err != nil {
				return err
			}
			return run(cmd, args)
		}
	}
	return cmd
}

// checkValues refuses what is nearly always a slip of a script: an empty value
// (an unset variable would silently widen or narrow the policy) and a flag as
// the value of a flag.
func checkValues(flags *pflag.FlagSet) (err error) {
	flags.Visit(func(f *pflag.Flag) {
		values := []string{f.Value.String()}
		if s, ok := f.Value.(pflag.SliceValue); ok {
			values = s.GetSlice()
		}
		for _, v := range values {
			switch {
			case err != nil:
			case v == "":
				err = &flow.UsageError{Text: "--" + f.Name + " has an empty value", Hint: "leave the flag out, or give it a value; is a shell variable unset?"}
			case strings.HasPrefix(v, "--"):
				err = &flow.UsageError{Text: fmt.Sprintf("--%s has the value %s, which looks like a flag", f.Name, cut(v)), Hint: "if it is a file, write ./" + cut(v)}
			}
		}
	})
	return err
}

// flagError gives an error of parsing its hint.
func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	e := &flow.UsageError{Text: err.Error(), Hint: cmd.CommandPath() + " --help lists the flags"}
	var missing *pflag.NotExistError
	if errors.As(err, &missing) {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, f.Name)
			}
		})
		name := missing.GetSpecifiedName()
		if missing.GetSpecifiedShortnames() != "" { // -json
			name = missing.GetSpecifiedShortnames()
			e.Text = "unknown flag: -" + name
		}
		if near := nearest(name, names); near != "" {
			e.Hint = "did you mean --" + near + "?"
		}
	}
	return e
}

func (c *call) unknown(args []string) error {
	if len(args) == 0 { // flags alone
		return &flow.UsageError{Text: "no command", Hint: program + " --help lists the commands"}
	}
	word := cut(args[0])
	e := &flow.UsageError{Text: "unknown command " + report.Quote(word)}
	if near := nearest(word, commandNames()); near != "" {
		e.Hint = "did you mean " + program + " " + near + "?"
	} else { // the commonest slip: the agent's name right after ours
		e.Hint = "to run it inside a boundary: " + program + " run -- " + report.Shell(word)
	}
	return e
}

// group makes a command that only has commands below it.
func group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	var names []string
	for _, s := range subs {
		names = append(names, s.Name())
		cmd.AddCommand(finish(s, s.Short))
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path := cmd.CommandPath()
		list := "one of: " + strings.Join(names, ", ")
		if len(args) == 0 {
			return &flow.UsageError{Text: path + " needs a command", Hint: list}
		}
		if near := nearest(args[0], names); near != "" {
			list = "did you mean " + path + " " + near + "? " + list
		}
		return &flow.UsageError{Text: "unknown command " + report.Quote(path+" "+cut(args[0])), Hint: list}
	}
	return cmd
}

// words checks how many words a command got.
func words(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		usage := "usage: " + cmd.UseLine()
		switch {
		case len(args) < least:
			return &flow.UsageError{Text: "not enough arguments", Hint: usage}
		case most >= 0 && len(args) > most:
			return &flow.UsageError{Text: "unexpected argument " + report.Quote(cut(args[most])), Hint: usage}
		}
		return nil
	}
}

// print writes an answer to standard output.
func (c *call) print(s string) error {
	if _, err := c.out.WriteString(s); err != nil {
		return &outputError{err}
	}
	return nil
}

// printJSON writes an answer for a program.
func (c *call) printJSON(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	return c.print(b.String())
}

// getenv finds the value of a variable of the caller; the last one counts.
func (c *call) getenv(name string) string {
	for _, kv := range slices.Backward(c.env) {
		if k, v, ok := strings.Cut(kv, "="); ok && k == name {
			return v
		}
	}
	return ""
}
