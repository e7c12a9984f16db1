// Package cli is the command line: flags become flow.Options, errors become
// words and exit codes. It does nothing itself: the work comes in as App.
//
// It parses its own flags. A library costs every start, since a package's
// initialisation runs whether or not it is used; see docs/design/cli.md for
// the numbers.
package cli

import (
	"context"

	"cofferdam/internal/flow"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// App is what the commands need from the rest of the program. main fills it
// in, tests put in fakes. A function that is nil makes its command say that it
// is not there yet. Errors are those of flow/errors.go, boundary and session.
type App struct {
	Version string

	// Run carries out a run to its end and returns the exit status for the
	// caller. It prints the events and the summary itself, not its error.
	Run func(context.Context, flow.Options, flow.Caller) (int, error)
	// Plan makes the plan and starts nothing. Gaps are in the plan.
	Plan func(context.Context, flow.Options, flow.Caller) (*plan.Plan, error)
	// Exec runs one more command in a live session, named as Store.Find does.
	Exec func(ctx context.Context, session string, command []string, c flow.Caller) (int, error)

	// Questions lists what live sessions ask, "" all of them.
	Questions func(ctx context.Context, session string, c flow.Caller) ([]flow.Waiting, error)
	// Answer answers a question; see flow.Answer.
	Answer func(ctx context.Context, session string, id int, answer string, c flow.Caller) (*flow.Answered, error)

	// Discard throws the copy of a session away; "" is the latest one here.
	Discard func(ctx context.Context, session string, c flow.Caller) (*flow.Discarded, error)
	// Changes are those of a session that are not in the project; "" is the latest
	// of this project that has some. Apply carries them over.
	Changes func(ctx context.Context, session string, paths []string, c flow.Caller) (*flow.Changes, error)
	Apply   func(context.Context, flow.ApplyOptions, flow.Caller) (*flow.Applied, error)

	Policy  func(context.Context, flow.Options, flow.Caller) (*policy.Effective, error)
	Check   func(ctx context.Context, file string, c flow.Caller) error
	Explain func(ctx context.Context, o flow.Options, c flow.Caller, access, subject string) (*flow.Explanation, error)
	Schema  func() ([]byte, error)
	// Trust accepts (or with revoke, no longer accepts) exactly the present
	// content of the project's policy file.
	Trust func(ctx context.Context, file string, revoke bool, c flow.Caller) (*flow.Trusted, error)
	// Import reads settings of another tool; format "" means: find out.
	Import func(ctx context.Context, format, file string, c flow.Caller) (*flow.Imported, error)

	Doctor func(context.Context, flow.Caller) (*flow.Diagnosis, error)
}
