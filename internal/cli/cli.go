package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"cofferdam/internal/event"
	"cofferdam/internal/flow"
	"cofferdam/internal/report"
)

// entry is a row of the table of commands. build is called only for the
// command that is meant (and for help), so a start pays for one command.
type entry struct {
	name, short string
	build       func() *command
}

// commands is the one table, in the order of the help.
func commands() []entry {
	return []entry{
		{"run", "run a command inside a boundary", cmdRun},
		{"exec", "run one more command in a running session", cmdExec},
		{"approvals", "see and answer what sessions ask", cmdApprovals},
		{"approve", "answer one question", cmdApprove},
		{"diff", "show what a session has changed", cmdDiff},
		{"review", "the same by risk, with reasons", cmdReview},
		{"apply", "carry a session's changes over into the project", cmdApply},
		{"discard", "throw the copy of a session away", cmdDiscard},
		{"ps", "list sessions", cmdPs},
		{"logs", "show what happened in a session", cmdLogs},
		{"policy", "show, check and explain what is permitted", cmdPolicy},
		{"doctor", "find out what this machine can do, by trying it", cmdDoctor},
		{"completion", "print a completion script for a shell", cmdCompletion},
		{"version", "print the version", cmdVersion},
	}
}

// command is one command. Either run or subs is set.
type command struct {
	short string
	args  string // "COMMAND [ARG...]"
	long  string
	// examples are pairs: a line, what it does.
	examples [][2]string
	// exits are the codes of its own; nil with own=false means the common.
	exits []int
	// stopAtWord: flags end at the first word, the rest is a command line.
	stopAtWord bool
	flags      func(*flags)
	min, max   int // number of words; max -1 is any
	run        func(*call, []string) (int, error)
	subs       func() []entry
	// complete lists candidates for the next word after these.
	complete func(c *call, words []string) []string
}

// call is one invocation.
type call struct {
	ctx          context.Context
	app          *App
	env          []string
	in, out, err *os.File
	json         bool
	dashes       int  // words before "--"; -1 without
	debug        bool // --debug before the command: the stack of an internal error
}

func (c *call) caller() flow.Caller {
	dir, err := os.Getwd()
	if err != nil {
		dir = "" // removed meanwhile; flow has to say what that means
	}
	return flow.Caller{Environ: c.env, Dir: dir, In: c.in, Out: c.out, Err: c.err}
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
	return c.print(string(event.VisibleJSON(b.Bytes())))
}

// Main carries out one command line (args without the program's name) and
// returns the exit code. It never exits itself.
func Main(ctx context.Context, app *App, args, env []string, in, out, errOut *os.File) (code int) {
	c := &call{ctx: ctx, app: app, env: env, in: in, out: out, err: errOut}
	defer func() {
		if r := recover(); r != nil {
			code = exitInternal
			c.fail(fmt.Errorf("%v", r))
			if c.debug {
				fmt.Fprintf(errOut, "%s\n", debug.Stack())
			}
		}
	}()
	if len(args) > 0 && args[0] == "--debug" {
		c.debug, args = true, args[1:]
	}
	code, err := c.dispatch(args)
	if err != nil {
		code = c.fail(err)
	}
	return code
}

// fail tells an error and returns its code.
func (c *call) fail(err error) int {
	m := describe(err)
	if c.json {
		m.writeJSON(c.err)
	} else {
		m.write(c.err, report.StyleOf(c.err, c.env))
	}
	return m.Code
}

const program = "cofferdam"

func (c *call) dispatch(args []string) (int, error) {
	if len(args) == 0 {
		if _, err := c.err.WriteString(overview()); err != nil {
			return exitIO, nil
		}
		return exitUsage, nil
	}
	switch args[0] {
	case "help", "--help", "-h":
		return c.help(args[1:])
	case "--version":
		args = append([]string{"version"}, args[1:]...)
	case "__complete":
		return c.completeWords(args[1:])
	}
	return c.sub(program, commands(), args)
}

// sub finds the command that args[0] names, in a table, and runs it.
func (c *call) sub(path string, table []entry, args []string) (int, error) {
	word := args[0]
	i := slices.IndexFunc(table, func(e entry) bool { return e.name == word })
	if i < 0 {
		return 0, c.unknown(path, table, args)
	}
	path += " " + word
	cmd := table[i].build()
	cmd.short = table[i].short
	args = args[1:]
	if cmd.subs != nil {
		switch {
		case len(args) == 0:
			return 0, &flow.UsageError{Text: path + " needs a command", Hint: "one of: " + strings.Join(names(cmd.subs()), ", ")}
		case args[0] == "--help" || args[0] == "-h" || args[0] == "help":
			return 0, c.print(helpText(path, cmd))
		}
		return c.sub(path, cmd.subs(), args)
	}
	var f flags
	if cmd.flags != nil {
		cmd.flags(&f)
	}
	// Also errors of parsing are JSON for who asked for JSON.
	if x := f.find("json"); x != nil {
		defer func(on *bool) { c.json = c.json || *on }(x.on)
		c.json = wantsJSON(args, cmd.stopAtWord)
	}
	words, err := f.parse(args, cmd.stopAtWord)
	c.dashes = f.dashes
	if err != nil {
		return 0, withUsage(err, path)
	}
	if f.help {
		return 0, c.print(helpText(path, cmd))
	}
	if len(words) < cmd.min || cmd.max >= 0 && len(words) > cmd.max {
		text := "not enough arguments"
		if len(words) > cmd.min {
			text = "unexpected argument " + report.Quote(cut(words[cmd.max]))
		}
		return 0, &flow.UsageError{Text: text, Hint: strings.TrimSpace("usage: " + path + " [flags] " + cmd.args)}
	}
	return cmd.run(c, words)
}

func wantsJSON(args []string, stopAtWord bool) bool {
	for _, a := range args {
		if a == "--json" {
			return true
		}
		if a == "--" || stopAtWord && !strings.HasPrefix(a, "-") {
			return false
		}
	}
	return false
}

func withUsage(err error, path string) error {
	if u, ok := err.(*flow.UsageError); ok && u.Hint == "" {
		u.Hint = path + " --help lists the flags"
	}
	return err
}

func (c *call) unknown(path string, table []entry, args []string) error {
	word := args[0]
	if strings.HasPrefix(word, "-") {
		return &flow.UsageError{Text: "unknown flag " + cut(word), Hint: "flags come after the command: " + path + " COMMAND [flags]"}
	}
	e := &flow.UsageError{Text: "unknown command " + report.Quote(cut(word)), Hint: path + " --help lists the commands"}
	if near := nearest(word, names(table)); near != "" {
		e.Hint = "did you mean " + path + " " + near + "?"
	} else if path == program {
		// The commonest slip: the agent's name right after ours.
		e.Hint = "to run it inside a boundary: cofferdam run -- " + report.Shell(cut(word)) + "; cofferdam --help lists the commands"
	}
	return e
}

func names(table []entry) []string {
	var out []string
	for _, e := range table {
		out = append(out, e.name)
	}
	return out
}

// notYet is the answer of a command whose part is not built in.
func notYet(what string) error {
	return &flow.UsageError{Text: what + " is not part of this build", Hint: "cofferdam version tells which build this is"}
}
