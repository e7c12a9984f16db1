package flow

import (
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/plan/compile"
	"cofferdam/internal/policy"
)

// Explanation answers "may the inside do this, and which rule decides?".
type Explanation struct {
	Access  string `json:"access"` // "read", "write", "env", "connect", "request"
	Subject string `json:"subject"`
	Allowed bool   `json:"allowed"`
	Ask     bool   `json:"ask,omitempty"` // not allowed, but a person is asked
	// Rule is the text of the deciding rule; empty: the default, which denies.
	Rule   string      `json:"rule,omitempty"`
	Origin plan.Origin `json:"origin"`
	// Because says why this rule and no other: "the most specific of 3".
	Because string `json:"because,omitempty"`
	// Change is what would turn the answer round.
	Change string `json:"change,omitempty"`
	// Budgets count what is allowed.
	Budgets []compile.Budget `json:"budgets,omitempty"`
	// Lost are rules that fit too and were less specific or weaker.
	Lost []policy.PathRule `json:"lost,omitempty"`
}

// Answered is what came of an answer to a question.
type Answered struct {
	Session string `json:"session"`
	ID      int    `json:"id"`
	Subject string `json:"subject"` // hostile text
	Answer  string `json:"answer"`
	Note    string `json:"note,omitempty"`
}

// Trusted is the answer to a decision on a project's own policy file.
type Trusted struct {
	File    string `json:"file"`
	SHA256  string `json:"sha256"`
	Trusted bool   `json:"trusted"`
	Changed bool   `json:"changed"` // it was otherwise before
}

// Imported is another tool's settings as a policy file.
type Imported struct {
	Format   string           `json:"format"` // "claude", "srt"
	Policy   []byte           `json:"-"`      // JSONC
	Warnings []policy.Warning `json:"warnings"`
}

// Diagnosis is what this machine can do, and what a default run would miss.
type Diagnosis struct {
	Facts *host.Facts `json:"facts"`
	Gaps  []plan.Gap  `json:"gaps"`
}
