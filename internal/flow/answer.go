package flow

import "cofferdam/internal/plan"

// Explanation answers "may the inside do this, and which rule decides?".
type Explanation struct {
	Allowed bool   `json:"allowed"`
	Text    string `json:"text"` // why: "the most specific of 3 rules"
	// Rule is the deciding rule; empty means the default.
	Rule   string      `json:"rule,omitempty"`
	Origin plan.Origin `json:"origin"`
	// Change is what would turn the answer round; empty: nothing can.
	Change string `json:"change,omitempty"`
}

// Finding is one key of another tool's settings that does not come across
// unchanged.
type Finding struct {
	Key    string      `json:"key"`
	Origin plan.Origin `json:"origin"`
	// Effect is "lost", "weaker", "stricter", "changed".
	Effect string `json:"effect"`
	Text   string `json:"text"`
}
