// Package policy says what the person permits: the file format, the layers and
// their trust, and the imports from other tools. It weighs no rule against another:
// plan/compile does. Nothing here looks at the machine but for policy files, or
// starts anything.
package policy

import "cofferdam/internal/plan"

// Access is what a path rule speaks of.
type Access string

const (
	AllowRead  Access = "allowRead"
	DenyRead   Access = "denyRead"
	AllowWrite Access = "allowWrite" // implies allowRead
	DenyWrite  Access = "denyWrite"
	// Mask is allowRead, and what is read has a placeholder where the secret is
	// (MaskRule). Whatever allows the same path, it stays masked.
	Mask Access = "mask"
)

// PathRule is one path rule, resolved: Pattern is absolute, "~" and "."
// expanded, clean, without a trailing slash.
type PathRule struct {
	Access  Access `json:"access"`
	Pattern string `json:"pattern"`
	// Glob: Pattern holds *, ? or [; "**" crosses directories.
	Glob bool   `json:"glob,omitempty"`
	Text string `json:"text"` // as written
	// Reason is for people: "git runs it at the next commit".
	Reason string `json:"reason,omitempty"`
	// Optional: no complaint when nothing is there (built-in and profile rules).
	Optional bool        `json:"optional,omitempty"`
	Origin   plan.Origin `json:"origin"`
	// Strength is the place of the rule's source in the order of sources; at a
	// tie the higher one wins. A file is stronger than what it extends, so the
	// layer in Origin is not enough.
	Strength int `json:"-"`
}

// EnvAction is what happens to an environment variable of the caller.
type EnvAction string

const (
	EnvAllow EnvAction = "allow" // passed through if set outside
	EnvDeny  EnvAction = "deny"  // never passed, whatever allows it
	EnvSet   EnvAction = "set"   // set to Value
	// EnvMask: set to a placeholder (MaskRule), whatever allows or sets it.
	EnvMask EnvAction = "mask"
)

// EnvRule is one rule for environment variables. Name may end in "*".
type EnvRule struct {
	Action EnvAction   `json:"action"`
	Name   string      `json:"name"`
	Value  string      `json:"value,omitempty"`
	Origin plan.Origin `json:"origin"`
}

// NetRule is one network rule as written. The gateway gives it meaning.
type NetRule struct {
	Key   string `json:"key"`   // "allowedDomains", "deniedDomains", "allowedCIDRs", "tunnelDomains", "rules"
	Value string `json:"value"` // the host or range
	// Of "rules" alone.
	Effect string         `json:"effect,omitempty"` // "allow", "deny", "ask"
	Only   *plan.Requests `json:"only,omitempty"`   // nil: every request
	TLS    string         `json:"tls,omitempty"`    // "inspect", "tunnel"; "": as the rule needs it
	Reason string         `json:"reason,omitempty"`

	Origin plan.Origin `json:"origin"`
}

// AskedTool is a program of the person's that says from where its packages come; these
// registries may be reached.
type AskedTool struct {
	Tool   string      `json:"tool"`
	Origin plan.Origin `json:"origin"`
}

// BudgetRule is one budget: plan.Budget says what it means.
type BudgetRule struct {
	Value  string         `json:"value,omitempty"` // the host; "": all together
	Only   *plan.Requests `json:"only,omitempty"`
	Of     string         `json:"of"`
	Amount int64          `json:"amount"`
	Per    int64          `json:"perMs,omitempty"`
	Origin plan.Origin    `json:"origin"`
}

// GuardRule protects names in the workspace that host programs obey; see
// plan.Guard for the pattern language.
type GuardRule struct {
	Pattern string      `json:"pattern"`
	Reason  string      `json:"reason"`
	Origin  plan.Origin `json:"origin"`
	// Strength is that of PathRule.
	Strength int `json:"-"`
}

// LimitRule is one ceiling; Value is in the unit of plan.Limit.
type LimitRule struct {
	Name   string      `json:"name"`
	Value  int64       `json:"value"`
	Unit   string      `json:"unit"`
	Origin plan.Origin `json:"origin"`
}

// Setting is a single-valued choice with its origin.
type Setting[T any] struct {
	Value  T           `json:"value"`
	Origin plan.Origin `json:"origin"`
}

// Effective is the policy after layers, profiles and imports: a flat list of
// rules, each with its origin, and nothing unresolved. In each list but that of
// limits, which has one entry for each name, a later one comes from a stronger
// layer.
type Effective struct {
	Paths []PathRule  `json:"paths"`
	Env   []EnvRule   `json:"env"`
	Net   []NetRule   `json:"net"`
	Asked []AskedTool `json:"asked,omitempty"` // none if Registries is no
	Masks []MaskRule  `json:"masks,omitempty"`
	// ExtraRoots are files of certificates; of these rules Pattern, Text and Origin count.
	ExtraRoots []PathRule `json:"extraRoots,omitempty"`
	// Budgets hold all together; none takes the place of another.
	Budgets []BudgetRule `json:"budgets,omitempty"`
	Guards  []GuardRule  `json:"guards"`
	Limits  []LimitRule  `json:"limits"`

	Boundary       Setting[string] `json:"boundary"`      // "native"
	WorkspaceMode  Setting[string] `json:"workspaceMode"` // "live", "copy"
	AllowRoot      Setting[bool]   `json:"allowRoot"`     // run as uid 0 with fewer guarantees
	AllowGitConfig Setting[bool]   `json:"allowGitConfig"`
	Registries     Setting[bool]   `json:"registries"`
	// UpstreamProxy is "", "none", "environment" or an address; NoProxy are the entries that
	// go with it, and of the same layer or a stronger one.
	UpstreamProxy Setting[string]   `json:"upstreamProxy"`
	NoProxy       []Setting[string] `json:"noProxy,omitempty"`
	Unlisted      Setting[string]   `json:"unlisted"` // "deny", "ask": what no rule allows or denies
	// Home is "private" (one per project, kept) or "ephemeral" (tmpfs).
	Home Setting[string] `json:"home"`

	Profiles []string `json:"profiles,omitempty"`
	// Seeds are copied into a new private home.
	Seeds []Seed `json:"seeds,omitempty"`
	// Warnings are told before the start: lossy imports, untrusted project
	// rules that were left out, and the like.
	Warnings []Warning `json:"warnings,omitempty"`

	sources int // added so far; the strength of the latest
}

// Warning is something the person should know before the start.
type Warning struct {
	Text   string      `json:"text"`
	Hint   string      `json:"hint,omitempty"`
	Origin plan.Origin `json:"origin"`
}
