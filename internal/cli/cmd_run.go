package cli

import (
	"time"

	"cofferdam/internal/flow"
	"cofferdam/internal/report"
)

func cmdRun() *command {
	var o flow.Options
	return &command{
		args: "[--] COMMAND [ARG...]",
		long: `The command and everything it starts works inside: the workspace is writable, the
rest of the home directory, the environment and the network are out of reach but for
what the policy allows. If a layer that the policy requires is missing, nothing starts.

Flags end at the command's name: what follows belongs to the command.`,
		examples: [][2]string{
			{"cofferdam run -- claude", "an agent in the project you are in"},
			{"cofferdam run claude -p 'fix the tests'", "the same; the flags are the agent's"},
			{"cofferdam run --allow-read ~/notes --env EDITOR -- bash", "let it read one more directory and see one variable"},
			{"cofferdam run --mode copy -- claude", "nothing reaches the project by itself"},
			{"cofferdam run --unattended --timeout 30m --json -- npm test", "in CI"},
			{"cofferdam run --dry-run -- codex", "print the plan and start nothing"},
		},
		exits:      []int{exitPolicy, exitRefused, exitState, exitForbidden, exitTimeout, exitNoExec, exitNotFound, exitInterrupt},
		stopAtWord: true,
		min:        0, max: -1,
		flags: func(f *flags) {
			policyFlags(f, &o)
			f.flag(&o.AllowRoot, "allow-root", 0, "run although you are root; fewer guarantees hold")
			f.flag(&o.Unattended, "unattended", 0, "nobody is there to ask: what would be asked is refused")
			f.text(&o.Timeout, "timeout", "TIME", "end the run after this long, e.g. 30m")
			f.text(&o.Name, "name", "NAME", "name of the session, for exec and logs")
			f.flag(&o.DryRun, "dry-run", 0, "print the plan, start nothing")
			f.flag(&o.JSON, "json", 0, "the plan and errors as JSON, and no summary; logs --json has the events")
		},
		run: func(c *call, words []string) (int, error) {
			c.json = o.JSON
			o.Command = words
			if len(words) == 0 {
				return 0, &flow.UsageError{Text: "no command to run", Hint: "for example: cofferdam run -- claude"}
			}
			if err := checkTimeout(o.Timeout); err != nil {
				return 0, err
			}
			if o.DryRun {
				return dryRun(c, o)
			}
			if c.app.Run == nil {
				return 0, notYet("run")
			}
			return c.app.Run(c.ctx, o, c.caller())
		},
	}
}

// policyFlags are the flags that change what is permitted; every command that
// speaks of a policy has them, so that its answer is for the same run.
func policyFlags(f *flags, o *flow.Options) {
	f.text(&o.PolicyFile, "policy", "FILE", "policy file, in place of your own and the project's", "file")
	f.each(&o.Profiles, "profile", "NAME", "add a profile", "claude", "codex", "gemini", "opencode", "go", "node", "python", "rust", "java", "ruby")
	f.text(&o.Workspace, "workspace", "DIR", "the project that is writable (default: here)", "dir")
	f.text(&o.Mode, "mode", "MODE", "work in the project (live), or in a copy of it", "live", "copy")
	f.text(&o.Boundary, "boundary", "NAME", "how it is kept in: native", "native")
	f.each(&o.AllowRead, "allow-read", "PATH", "may be read", "file")
	f.each(&o.AllowWrite, "allow-write", "PATH", "may be read and written", "file")
	f.each(&o.DenyRead, "deny-read", "PATH", "can't be read", "file")
	f.each(&o.DenyWrite, "deny-write", "PATH", "can't be written", "file")
	f.each(&o.Env, "env", "NAME[=VALUE]", "pass or set a variable")
	f.each(&o.Mask, "mask", "NAME[=HOST,...]", "a placeholder inside, the value for these hosts")
	f.each(&o.AllowDomains, "allow-domain", "NAME[:PORT]", "may be connected to, at its public addresses")
	f.each(&o.TunnelDomains, "tunnel-domain", "NAME[:PORT]", "the same, and its TLS is never opened")
	f.each(&o.AllowCIDRs, "allow-cidr", "CIDR[:PORT]", "addresses that may be connected to")
	f.flag(&o.Ask, "ask", 0, "ask about what no rule allows or denies")
}

func checkTimeout(s string) error {
	if s == "" {
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return &flow.UsageError{Text: "--timeout " + report.Quote(cut(s)) + " is no length of time", Hint: "write for example 90s, 30m or 2h"}
	}
	return nil
}

func dryRun(c *call, o flow.Options) (int, error) {
	if c.app.Plan == nil {
		return 0, notYet("run --dry-run")
	}
	p, err := c.app.Plan(c.ctx, o, c.caller())
	if err != nil {
		return 0, err
	}
	if o.JSON {
		err = c.printJSON(p)
	} else {
		err = c.print(planText(p))
	}
	if err != nil {
		return 0, err
	}
	// The plan is printed also when it could not be carried out: that is
	// what one wants to look at. The code still says so.
	if gaps := p.RequiredGaps(); len(gaps) > 0 {
		return 0, &flow.RefusedError{Boundary: p.Boundary, Gaps: gaps, Rules: p.Rules}
	}
	return 0, nil
}
