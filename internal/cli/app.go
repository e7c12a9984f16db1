// Package cli is the command line: flags become flow.Options, errors become
// words and exit codes. It does no work itself: that comes in as an App.
package cli

import (
	"context"
	"os"

	"cofferdam/internal/flow"
	"cofferdam/internal/host"
	"cofferdam/internal/policy"
	"cofferdam/internal/session"
)

// App is what the commands need from the rest of the program. main fills it
// in, tests put in fakes. Errors are those of flow/errors.go, *boundary.ExecError
// and those of session; anything else is reported as a mistake of ours.
type App struct {
	Version string

	// Run carries out a run, or prints its plan with DryRun. It prints events
	// and summary, but not the error that it returns. The status is the
	// command's own and counts only without an error.
	Run func(ctx context.Context, o flow.Options, c flow.Caller) (int, error)
	// Exec runs command in a live session. env holds NAME or NAME=VALUE.
	Exec     func(ctx context.Context, session string, command []string, env []string, c flow.Caller) (int, error)
	Sessions func(c flow.Caller) ([]session.Info, error)
	// Events opens the log of the session that the word means; "" is the newest.
	Events func(session string, c flow.Caller) (*os.File, session.Info, error)

	Policy func(o flow.Options, c flow.Caller) (*policy.Effective, error)
	// Explain: kind is "read", "write", "env" or "connect".
	Explain func(o flow.Options, c flow.Caller, kind, subject string) (flow.Explanation, error)
	Check   func(file string, c flow.Caller) error
	Schema  func() []byte
	// Trust accepts the present content of the project's policy, or takes that
	// back, and says in words what it did.
	Trust  func(o flow.Options, c flow.Caller, revoke bool) (string, error)
	Import func(file string, c flow.Caller) (document []byte, findings []flow.Finding, err error)
	// Doctor may return facts and an error (*flow.RefusedError): both are shown.
	Doctor func(ctx context.Context, c flow.Caller) (*host.Facts, error)
}
