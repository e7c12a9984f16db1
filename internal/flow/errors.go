package flow

import (
	"fmt"
	"strings"
	"time"

	"cofferdam/internal/plan"
)

// The errors that a caller of this package acts on: each has its exit code
// and its words in cli. A boundary adds boundary.SetupError and
// boundary.ExecError, a session the errors of its package. Anything else is a
// mistake of ours.

// UsageError: what was asked makes no sense, whatever the policy says.
type UsageError struct {
	Text string // "--timeout 5 has no unit"
	Hint string // "write 5s, 5m or 5h"
}

func (e *UsageError) Error() string { return e.Text }

// Problem is one thing that is wrong with a policy.
type Problem struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"` // 0: the file as a whole
	Col  int    `json:"col,omitempty"`
	Key  string `json:"key,omitempty"`
	Text string `json:"text"`
	Hint string `json:"hint,omitempty"`
}

// Place is "file:line:col", as far as it is known.
func (p Problem) Place() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.Col == 0:
		return fmt.Sprintf("%s:%d", p.File, p.Line)
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col)
}

// PolicyError: the policy can't be read as one.
type PolicyError struct{ Problems []Problem }

func (e *PolicyError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.Place() + ": " + p.Text
	}
	return strings.Join(lines, "\n")
}

// RefusedError: the policy asks for guarantees that the boundary can't give
// here. Nothing has started.
type RefusedError struct {
	Boundary string
	Gaps     []plan.Gap        // the required ones
	Rules    []plan.RuleStatus // those that the gaps name
}

func (e *RefusedError) Error() string {
	missing := make([]string, len(e.Gaps))
	for i, g := range e.Gaps {
		missing[i] = g.Missing
	}
	return fmt.Sprintf("the %s boundary can't hold here: missing %s", e.Boundary, strings.Join(missing, ", "))
}

// ForbiddenError: the policy, its trust or a fixed rule forbids the run.
type ForbiddenError struct {
	Text   string // "the workspace is your home directory"
	Rule   string // text of the rule, "" for a fixed one
	Origin plan.Origin
	Hint   string
}

func (e *ForbiddenError) Error() string { return e.Text }

// NoQuestionError: no question, or more than one, is open that could be meant.
type NoQuestionError struct{ Text, Hint string }

func (e *NoQuestionError) Error() string { return e.Text }

// LogError: the event log can't be written, so the run was stopped.
type LogError struct{ Err error }

func (e *LogError) Error() string { return e.Err.Error() }
func (e *LogError) Unwrap() error { return e.Err }

// TimeoutError: the run reached its time limit and was ended.
type TimeoutError struct {
	Limit  time.Duration
	Origin plan.Origin
}

func (e *TimeoutError) Error() string {
	return "the time limit of " + plan.Amount(e.Limit.Milliseconds(), "ms") + " is reached"
}

// LimitError: a run was ended by a ceiling other than time.
type LimitError struct {
	Limit  plan.Limit
	Seen   int64 // what was measured, in the limit's unit
	Origin plan.Origin
}

func (e *LimitError) Error() string {
	return "the limit of " + e.Limit.Name + " is reached: " + plan.Amount(e.Limit.Value, e.Limit.Unit)
}

// UnsweptError: names that programs on the host obey have appeared in the
// workspace, and could not be set aside. The next start tries again.
type UnsweptError struct{ Left []string }

func (e *UnsweptError) Error() string {
	return "left in the workspace, to be looked at before anything there is used: " + strings.Join(e.Left, "; ")
}
