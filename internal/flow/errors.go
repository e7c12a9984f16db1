package flow

import (
	"fmt"
	"strings"

	"cofferdam/internal/plan"
)

// The errors of a run, by what the person has to do about them. The command line
// maps each to an exit code and prints text, rule and hint.

// UsageError is a command line that can't be meant.
type UsageError struct{ Text, Hint string }

func (e *UsageError) Error() string { return e.Text }

// PolicyError is a run that the policy does not allow, with the rule.
type PolicyError struct {
	Text   string
	Origin plan.Origin
	Hint   string
}

func (e *PolicyError) Error() string { return e.Text }

// RefusedError is a boundary that can't hold what the policy asks for. Nothing
// has been started.
type RefusedError struct{ Gaps []plan.Gap }

func (e *RefusedError) Error() string {
	var missing []string
	for _, g := range e.Gaps {
		missing = append(missing, g.Missing)
	}
	return "refused to start without " + strings.Join(missing, ", ")
}

// LimitError is a run that a ceiling ended.
type LimitError struct {
	Reason string
	Limit  plan.Limit
	Seen   int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("the limit of %s is reached: %d %s", e.Limit.Name, e.Limit.Value, e.Limit.Unit)
}
