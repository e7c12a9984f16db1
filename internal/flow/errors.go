package flow

import (
	"errors"
	"fmt"
	"strings"

	"cofferdam/internal/boundary"
	"cofferdam/internal/plan"
	"cofferdam/internal/plan/compile"
	"cofferdam/internal/policy"
)

// The errors that a caller of this package acts on; cli gives each its exit
// code and its words. An error of none of these kinds is a mistake of ours.
// *boundary.ExecError passes through as it is.

// UsageError: what was asked makes no sense, whatever the policy says.
type UsageError struct {
	Text string // "--timeout 5 has no unit"
	Hint string // "write 5s, 5m or 5h"
}

func (e *UsageError) Error() string { return e.Text }

// PolicyError: the policy can't be read, or can't be carried out as written.
// Err is or wraps policy.Problems or a *compile.Error.
type PolicyError struct{ Err error }

func (e *PolicyError) Error() string { return e.Err.Error() }
func (e *PolicyError) Unwrap() error { return e.Err }

// Problems is what is wrong, in one form for both origins. A problem of a rule
// that stands in no file has the layer as its File.
func (e *PolicyError) Problems() []policy.Problem {
	var list policy.Problems
	if errors.As(e.Err, &list) {
		return list
	}
	var one policy.Problem
	if errors.As(e.Err, &one) {
		return []policy.Problem{one}
	}
	var c *compile.Error
	if errors.As(e.Err, &c) {
		p := policy.Problem{File: c.Origin.File, Line: c.Origin.Line, Key: c.Origin.Key, Text: c.Text, Hint: c.Hint}
		if p.File == "" {
			p.File = c.Origin.Layer
		}
		return []policy.Problem{p}
	}
	return []policy.Problem{{Text: e.Err.Error()}}
}

// RefusedError: guarantees that the policy asks for can't be given here.
// Nothing has started.
type RefusedError struct {
	Gaps []plan.Gap // the required ones
}

func (e *RefusedError) Error() string {
	missing := make([]string, len(e.Gaps))
	for i, g := range e.Gaps {
		missing[i] = g.Missing
	}
	return "the boundary can't hold here, missing: " + strings.Join(missing, ", ")
}

// StartError: the plan was sound and a layer of the boundary could not be put
// up all the same. Nothing has run.
type StartError struct{ Err *boundary.SetupError }

func (e *StartError) Error() string { return "start the boundary: " + e.Err.Error() }
func (e *StartError) Unwrap() error { return e.Err }

// SessionError: the session could not be made, recorded or joined. Err is an
// error of package session, or of writing the event log.
type SessionError struct{ Err error }

func (e *SessionError) Error() string { return e.Err.Error() }
func (e *SessionError) Unwrap() error { return e.Err }

// LimitError: a ceiling was reached and the run was ended for it. A limit that
// only refused something is an event and no error.
type LimitError struct {
	Reason string // "the run took longer than 30m"
	Limit  plan.Limit
	Seen   int64 // in the unit of Limit
}

func (e *LimitError) Error() string {
	if e.Reason != "" {
		return e.Reason
	}
	return fmt.Sprintf("the limit %q is reached: %d of %d %s", e.Limit.Name, e.Seen, e.Limit.Value, e.Limit.Unit)
}
