// Package flow is one run, as a list of steps: load the policy, look at the
// machine, make the plan, start the boundary, supervise, report. It holds the
// explicit list of boundaries.
package flow

import "os"

// Options is what the person asked for on the command line, undigested.
type Options struct {
	PolicyFile string   // --policy
	Profiles   []string // --profile, repeatable
	Workspace  string   // --workspace; "" is the working directory
	Mode       string   // --mode: "live", "copy"; "" is the policy's
	Boundary   string   // --boundary; "" is the policy's

	AllowRead, AllowWrite, DenyRead, DenyWrite []string
	Env                                        []string // NAME or NAME=VALUE
	AllowDomains                               []string // NAME[:PORT]
	TunnelDomains                              []string // NAME[:PORT]
	Ask                                        bool     // about what no rule allows or denies
	AllowCIDRs                                 []string // CIDR[:PORT]
	Mask                                       []string // NAME or NAME=HOST[:PORT],...
	AllowRoot                                  bool

	Unattended bool
	DryRun     bool
	JSON       bool
	Name       string
	Timeout    string // "30m"; "" is the policy's

	Command []string
}

// Caller is the process that asked: its environment and streams.
type Caller struct {
	Environ      []string
	Dir          string
	In, Out, Err *os.File
}
