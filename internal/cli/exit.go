package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"cofferdam/internal/boundary"
	"cofferdam/internal/event"
	"cofferdam/internal/flow"
	"cofferdam/internal/session"
)

// Exit codes of our own. The status of the command passes through unchanged,
// so ours are numbers that commands seldom use: those of sysexits.h and, where
// there is a custom, the shell's and timeout(1)'s.
const (
	exitOK        = 0
	exitUsage     = 64
	exitPolicy    = 65
	exitNoInput   = 66
	exitRefused   = 69
	exitInternal  = 70
	exitState     = 73
	exitIO        = 74
	exitLeft      = 75
	exitForbidden = 77
	exitTimeout   = 124
	exitLimit     = 125
	exitNoExec    = 126
	exitNotFound  = 127
	exitInterrupt = 130
)

type exitCode struct {
	code    int
	name    string // in JSON errors
	meaning string
}

// exitCodes is the one table. Help texts and docs/exit-codes.md come from it.
func exitCodes() []exitCode {
	return []exitCode{
		{exitOK, "ok", "done; for run and exec: the command ended with 0"},
		{exitUsage, "usage", "the command line is wrong"},
		{exitPolicy, "policy", "the policy, or a file given as one, is wrong"},
		{exitNoInput, "no-such", "a session or question that is named does not exist, or several fit"},
		{exitRefused, "refused", "the boundary can't hold here, so nothing was started"},
		{exitInternal, "internal", "a mistake in cofferdam; please report it"},
		{exitState, "state", "the state directory or a session's folder can't be used"},
		{exitIO, "io", "reading or writing failed; the event log could not be written or was changed"},
		{exitLeft, "left", "some of what was asked for was left as it is: it was edited meanwhile, or could not be changed"},
		{exitForbidden, "forbidden", "the policy forbids it, or a policy file is not trusted"},
		{exitTimeout, "time-limit", "the time limit was reached; everything inside was ended"},
		{exitLimit, "limit", "another ceiling of the policy was reached (memory, processes); everything inside was ended"},
		{exitNoExec, "cannot-execute", "the command was found and can't be executed, as with a shell"},
		{exitNotFound, "not-found", "the command was not found: not installed, or not there inside"},
		{exitInterrupt, "interrupted", "interrupted before the command ran"},
	}
}

const exitSignal = "128+n: the command, or cofferdam, was ended by signal n (137 SIGKILL, 143 SIGTERM)"

func exitNamed(code int) exitCode {
	for _, e := range exitCodes() {
		if e.code == code {
			return e
		}
	}
	return exitCode{code, "unknown", ""}
}

// exitTable is the table as text, one code per line.
func exitTable(indent string, only []int) string {
	var b strings.Builder
	for _, e := range exitCodes() {
		use := only == nil
		for _, c := range only {
			use = use || c == e.code
		}
		if use {
			fmt.Fprintf(&b, "%s%3d  %s\n", indent, e.code, e.meaning)
		}
	}
	return b.String()
}

// exitDoc is docs/exit-codes.md.
func exitDoc() string {
	var b strings.Builder
	b.WriteString("<!-- Generated from internal/cli/exit.go: go test ./internal/cli -update -->\n\n# Exit codes\n\n" +
		"`cofferdam run` and `cofferdam exec` end with the status of the command. The codes below are our own;\n" +
		"what went wrong is also on standard error, and with `--json` as an object whose `name` is the name given here.\n\n" +
		"| code | name | meaning |\n|---:|---|---|\n")
	for _, e := range exitCodes() {
		fmt.Fprintf(&b, "| %d | `%s` | %s |\n", e.code, e.name, e.meaning)
	}
	signal, meaning, _ := strings.Cut(exitSignal, ": ")
	fmt.Fprintf(&b, "| %s | - | %s |\n", signal, meaning)
	b.WriteString("\nA command may use the same numbers for itself. To tell them apart, look for the line that starts with\n" +
		"`cofferdam: ` on standard error, or for the event `exit` in `cofferdam logs`: it is there only if the command ended by itself.\n")
	return b.String()
}

// exitOf maps an error to its code.
func exitOf(err error) int {
	var (
		usage     *flow.UsageError
		policy    *flow.PolicyError
		refused   *flow.RefusedError
		forbidden *flow.ForbiddenError
		log       *flow.LogError
		unswept   *flow.UnsweptError
		timeout   *flow.TimeoutError
		limit     *flow.LimitError
		setup     *boundary.SetupError
		exec      *boundary.ExecError
		state     *session.Error
		name      *session.NameError
		missing   *session.NotFoundError
		ambiguous *session.AmbiguousError
		control   *session.ControlError
		question  *flow.NoQuestionError
		noCopy    *flow.NoCopyError
		unchanged *flow.NoChangesError
		chain     *event.ChainError
		output    *outputError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage), errors.As(err, &name):
		return exitUsage
	case errors.As(err, &policy):
		return exitPolicy
	case errors.As(err, &missing), errors.As(err, &ambiguous), errors.As(err, &question), errors.As(err, &noCopy), errors.As(err, &unchanged):
		return exitNoInput
	case errors.As(err, &refused), errors.As(err, &setup), errors.Is(err, boundary.ErrNotHere):
		return exitRefused
	case errors.As(err, &forbidden):
		return exitForbidden
	case errors.As(err, &log), errors.As(err, &unswept), errors.As(err, &chain), errors.As(err, &output):
		return exitIO
	case errors.As(err, &timeout):
		return exitTimeout
	case errors.As(err, &limit):
		return exitLimit
	case errors.As(err, &exec):
		if exec.Errno == syscall.ENOENT {
			return exitNotFound
		}
		return exitNoExec
	case errors.As(err, &state), errors.As(err, &control):
		return exitState
	case errors.Is(err, context.Canceled):
		return exitInterrupt
	}
	return exitInternal
}
