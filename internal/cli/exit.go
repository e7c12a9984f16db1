package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"syscall"

	"cofferdam/internal/boundary"
	"cofferdam/internal/event"
	"cofferdam/internal/flow"
	"cofferdam/internal/plan/compile"
	"cofferdam/internal/policy"
	"cofferdam/internal/session"
)

// Codes of our own. The numbers are a promise to scripts: 64 to 74 are those
// of sysexits.h, 124 to 127 those of timeout(1), env(1) and the shell.
const (
	exitOK        = 0
	exitUsage     = 64
	exitPolicy    = 65
	exitBoundary  = 69
	exitInternal  = 70
	exitSession   = 73
	exitIO        = 74
	exitTimeLimit = 124
	exitLimit     = 125
	exitCantExec  = 126
	exitNotFound  = 127
	exitSignal    = 128
)

// exitCode is a row of the one table of exit codes.
type exitCode struct {
	code    int
	name    string // in JSON errors
	meaning string
	// runs: only commands that run a command end so.
	runs bool
}

// exitCodes in the order of the help and of docs/exit-codes.md.
var exitCodes = []exitCode{
	{exitOK, "ok", "done; of run and exec: the command succeeded", false},
	{exitUsage, "usage", "the command line makes no sense; nothing was started", false},
	{exitPolicy, "policy", "the policy has a mistake; nothing was started", false},
	{exitBoundary, "boundary", "the boundary can't be put up as the policy asks; the command was not started", false},
	{exitInternal, "internal", "a mistake of cofferdam itself", false},
	{exitSession, "session", "no such session, or its record can't be kept or read", false},
	{exitIO, "io", "a file can't be read or the answer can't be written", false},
	{exitTimeLimit, "time-limit", "the time limit was reached and the run was ended", true},
	{exitLimit, "limit", "another limit was reached and the run was ended", true},
	{exitCantExec, "not-executable", "the command was found and can't be executed inside", true},
	{exitNotFound, "not-found", "the command can't be found inside", true},
	{exitSignal, "signal", "signal N ended the command, or cofferdam (143: SIGTERM)", true},
}

// exitText is the table as lines, for help.
func exitText(runs bool) string {
	var b strings.Builder
	for _, e := range exitCodes {
		if runs || !e.runs {
			fmt.Fprintf(&b, "  %5s  %s\n", e.number(), e.meaning)
		}
	}
	if runs {
		b.WriteString("  Any other status is the command's own. It may use these numbers too; with\n  --json an error of cofferdam's own is one JSON object on standard error.\n")
	}
	return b.String()
}

func (e exitCode) number() string {
	if e.code == exitSignal {
		return "128+N"
	}
	return strconv.Itoa(e.code)
}

func exitName(code int) string {
	if code > exitSignal {
		code = exitSignal
	}
	for _, e := range exitCodes {
		if e.code == code {
			return e.name
		}
	}
	return "command"
}

// exitOf maps an error to its code; it is the only place that does.
func exitOf(err error) int {
	var limit *flow.LimitError
	var exec *boundary.ExecError
	var file *fs.PathError
	switch {
	case err == nil:
		return exitOK
	case is[*panicError](err):
		return exitInternal
	case is[*flow.UsageError](err), is[*session.NameError](err):
		return exitUsage
	case errors.As(err, &limit):
		if limit.Limit.Name == "time" {
			return exitTimeLimit
		}
		return exitLimit
	case errors.As(err, &exec):
		if exec.Errno == syscall.ENOENT {
			return exitNotFound
		}
		return exitCantExec
	case is[*flow.RefusedError](err), is[*flow.StartError](err), is[*boundary.SetupError](err), errors.Is(err, boundary.ErrNotHere):
		return exitBoundary
	case is[*flow.PolicyError](err), is[policy.Problems](err), is[policy.Problem](err), is[*compile.Error](err):
		return exitPolicy
	case is[*flow.SessionError](err), is[*session.Error](err), is[*session.NotFoundError](err),
		is[*session.AmbiguousError](err), is[*session.ControlError](err), is[*event.ChainError](err):
		return exitSession
	case errors.Is(err, context.Canceled):
		return exitSignal + int(syscall.SIGINT)
	case is[*outputError](err), errors.As(err, &file):
		return exitIO
	}
	return exitInternal
}

func is[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// outputError: our own answer could not be written.
type outputError struct{ err error }

func (e *outputError) Error() string { return "write the answer: " + e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }

// panicError is a panic that was caught in Main.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprint(e.value) }
