package cli

import (
	"fmt"
	"slices"
	"strings"

	"cofferdam/internal/flow"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
	"cofferdam/internal/report"
)

func cmdPolicy() *command {
	return &command{
		subs: func() []entry {
			return []entry{
				{"show", "print the effective policy, each line with its origin", cmdPolicyShow},
				{"check", "check a policy file", cmdPolicyCheck},
				{"explain", "tell which rule decides about one thing", cmdPolicyExplain},
				{"schema", "print the JSON Schema of policy files", cmdPolicySchema},
				{"trust", "trust a project's policy file as it is now", cmdPolicyTrust},
				{"import", "make a policy of another tool's settings", cmdPolicyImport},
			}
		},
		examples: [][2]string{
			{"cofferdam policy show -- claude", "everything that claude would be permitted here"},
			{"cofferdam policy explain read ~/.ssh/config", "may it be read, and which rule says so?"},
		},
		exits: []int{exitPolicy, exitForbidden},
	}
}

func cmdPolicyShow() *command {
	var o flow.Options
	return &command{
		args: "[--] [COMMAND [ARG...]]",
		long: "The command picks the agent's profile, as with run; it is not executed.",
		examples: [][2]string{
			{"cofferdam policy show", "the policy without any profile"},
			{"cofferdam policy show --profile node -- claude", "with what claude and node need"},
		},
		exits: []int{exitPolicy, exitForbidden},
		max:   -1, stopAtWord: true,
		flags: func(f *flags) {
			policyFlags(f, &o)
			f.flag(&o.JSON, "json", 0, "as JSON")
		},
		run: func(c *call, words []string) (int, error) {
			if c.app.Policy == nil {
				return 0, notYet("policy show")
			}
			o.Command = words
			e, err := c.app.Policy(c.ctx, o, c.caller())
			if err != nil {
				return 0, err
			}
			if o.JSON {
				return 0, c.printJSON(e)
			}
			warn(c.err, report.StyleOf(c.err, c.env), e.Warnings)
			return 0, c.print(policyText(e))
		},
	}
}

// policyText is an effective policy, one rule per line, the origin last.
func policyText(e *policy.Effective) string {
	var b strings.Builder
	row := func(key, value, from string) { fmt.Fprintf(&b, "%-14s %-50s # %s\n", key, value, from) }
	row("boundary", report.Quote(e.Boundary.Value), origin("", e.Boundary.Origin))
	row("workspace", report.Quote(e.WorkspaceMode.Value), origin("", e.WorkspaceMode.Origin))
	row("home", report.Quote(e.Home.Value), origin("", e.Home.Origin))
	if e.AllowRoot.Value {
		row("allowRoot", "true", origin("", e.AllowRoot.Origin))
	}
	if e.AllowGitConfig.Value {
		row("allowGitConfig", "true", origin("", e.AllowGitConfig.Origin))
	}
	for _, r := range e.Paths {
		if r.Access == policy.Mask {
			continue
		}
		row(string(r.Access), report.Quote(r.Text), origin("", r.Origin)+note(r.Reason))
	}
	for _, r := range e.Guards {
		row("guard", report.Quote(r.Pattern), origin("", r.Origin)+note(r.Reason))
	}
	for _, m := range e.Masks {
		name := m.Name
		if name == "" {
			name = m.Text
		}
		row("mask", report.Quote(name), origin("", m.Origin)+note("a placeholder inside; the real value for "+strings.Join(m.Hosts, ", ")))
	}
	for _, r := range e.Env {
		if r.Action == policy.EnvMask {
			continue
		}
		// Not the value: what a person sets for a program may be a token.
		row("env "+string(r.Action), report.Quote(r.Name), origin("", r.Origin))
	}
	if e.Unlisted.Value != "" {
		row("unlisted", report.Quote(e.Unlisted.Value), origin("", e.Unlisted.Origin))
	}
	for _, r := range e.Net {
		key, value, _ := strings.Cut(r.Text(), " ")
		row(report.Plain(key), report.Quote(value), origin("", r.Origin)+note(r.Reason))
	}
	if e.UpstreamProxy.Value != "" {
		row("upstreamProxy", report.Quote(e.UpstreamProxy.Value), origin("", e.UpstreamProxy.Origin))
	}
	for _, r := range e.ExtraRoots {
		row("extraRoots", report.Quote(r.Text), origin("", r.Origin))
	}
	for _, s := range e.NoProxy {
		row("noProxy", report.Quote(s.Value), origin("", s.Origin))
	}
	for _, r := range e.Budgets {
		key, value, _ := strings.Cut(r.Text(), " ")
		row(report.Plain(strings.TrimSuffix(key, ":")), report.Quote(value), origin("", r.Origin))
	}
	for _, r := range e.Asked {
		row("registries", "those of "+report.Quote(r.Tool), origin("", r.Origin))
	}
	if from := e.Registries.Origin; !e.Registries.Value && from.Layer != "" {
		row("registries", "none", origin("", from))
	}
	for _, r := range e.Limits {
		row("limit", report.Plain(r.Name+" "+plan.Amount(r.Value, r.Unit)), origin("", r.Origin))
	}
	return b.String()
}

func cmdPolicyCheck() *command {
	var asJSON bool
	return &command{
		args: "FILE",
		long: "Reports everything that is wrong, each with its line. Silent if nothing is.",
		examples: [][2]string{
			{"cofferdam policy check .cofferdam/policy.jsonc", "before a commit, or in CI"},
		},
		exits: []int{exitPolicy},
		min:   1, max: 1,
		flags: func(f *flags) { f.flag(&asJSON, "json", 0, "errors as JSON") },
		complete: func(*call, []string) []string {
			return []string{":file"}
		},
		run: func(c *call, words []string) (int, error) {
			if c.app.Check == nil {
				return 0, notYet("policy check")
			}
			return 0, c.app.Check(c.ctx, words[0], c.caller())
		},
	}
}

func accesses() []string { return []string{"read", "write", "env", "connect", "request"} }

func cmdPolicyExplain() *command {
	var o flow.Options
	return &command{
		args: "read|write|env|connect|request SUBJECT [--] [COMMAND [ARG...]]",
		long: `SUBJECT is a path, the name of a variable, NAME[:PORT], or METHOD URL. Tells the
deciding rule, where it stands, and what would change the answer. The exit code is 0
for both answers.`,
		examples: [][2]string{
			{"cofferdam policy explain read ~/.aws/credentials", "why can't it be read?"},
			{"cofferdam policy explain env GITHUB_TOKEN claude", "would claude see this variable?"},
			{"cofferdam policy explain request PUT https://registry.test/lib", "could it publish there?"},
		},
		exits: []int{exitPolicy, exitForbidden},
		min:   2, max: -1, stopAtWord: true,
		flags: func(f *flags) {
			policyFlags(f, &o)
			f.flag(&o.JSON, "json", 0, "as JSON")
		},
		complete: func(_ *call, words []string) []string {
			switch len(words) {
			case 0:
				return accesses()
			case 1:
				return []string{":file"}
			}
			return nil
		},
		run: func(c *call, words []string) (int, error) {
			access, subject := words[0], words[1]
			if !slices.Contains(accesses(), access) {
				e := &flow.UsageError{Text: report.Quote(cut(access)) + " is no kind of access", Hint: "one of: " + strings.Join(accesses(), ", ")}
				if near := nearest(access, accesses()); near != "" {
					e.Hint = "did you mean " + near + "?"
				}
				return 0, e
			}
			words = words[2:]
			if access == "request" {
				if len(words) == 0 {
					return 0, &flow.UsageError{Text: "a request is a method and an address", Hint: "for example: cofferdam policy explain request GET https://example.org/"}
				}
				subject, words = subject+" "+words[0], words[1:]
			}
			if c.app.Explain == nil {
				return 0, notYet("policy explain")
			}
			var err error
			if o.Command, err = commandAfter(words); err != nil {
				return 0, err
			}
			x, err := c.app.Explain(c.ctx, o, c.caller(), access, subject)
			if err != nil {
				return 0, err
			}
			if o.JSON {
				return 0, c.printJSON(x)
			}
			return 0, c.print(explainText(x))
		},
	}
}

func explainText(x *flow.Explanation) string {
	var b strings.Builder
	answer := "denied"
	switch {
	case x.Allowed:
		answer = "allowed"
	case x.Ask:
		answer = "asked"
	}
	fmt.Fprintf(&b, "%s: %s %s\n", answer, report.Plain(x.Access), report.Quote(x.Subject))
	if x.Rule == "" {
		b.WriteString("  rule: none fits; what no rule allows is denied\n")
	} else {
		fmt.Fprintf(&b, "  rule: %s\n", origin(x.Rule, x.Origin))
	}
	if x.Because != "" {
		fmt.Fprintf(&b, "  because: %s\n", report.Plain(x.Because))
	}
	for _, n := range x.Budgets {
		fmt.Fprintf(&b, "  counted: %s\n", origin(n.Text, n.Origin))
	}
	for _, r := range x.Lost {
		fmt.Fprintf(&b, "  also fits: %s\n", origin(string(r.Access)+" "+r.Text, r.Origin))
	}
	if x.Change != "" {
		fmt.Fprintf(&b, "  to change it: %s\n", report.Plain(x.Change))
	}
	return b.String()
}

func cmdPolicySchema() *command {
	return &command{
		examples: [][2]string{{"cofferdam policy schema > policy.schema.json", "for an editor"}},
		run: func(c *call, _ []string) (int, error) {
			if c.app.Schema == nil {
				return 0, notYet("policy schema")
			}
			s, err := c.app.Schema()
			if err != nil {
				return 0, err
			}
			return 0, c.print(string(s))
		},
	}
}

func cmdPolicyTrust() *command {
	var revoke, asJSON bool
	return &command{
		args: "[FILE]",
		long: `A policy file in a project comes with the project: until you trust it, it may only
narrow. Trust holds for exactly the content that the file has now; read it first.`,
		examples: [][2]string{
			{"cofferdam policy trust", "trust the policy file of this project"},
			{"cofferdam policy trust --revoke", "and no longer"},
		},
		exits: []int{exitPolicy, exitState, exitForbidden},
		max:   1,
		flags: func(f *flags) {
			f.flag(&revoke, "revoke", 0, "trust it no longer")
			f.flag(&asJSON, "json", 0, "as JSON")
		},
		complete: func(*call, []string) []string { return []string{":file"} },
		run: func(c *call, words []string) (int, error) {
			if c.app.Trust == nil {
				return 0, notYet("policy trust")
			}
			file := ""
			if len(words) > 0 {
				file = words[0]
			}
			t, err := c.app.Trust(c.ctx, file, revoke, c.caller())
			if err != nil {
				return 0, err
			}
			if asJSON {
				return 0, c.printJSON(t)
			}
			state := "not trusted"
			if t.Trusted {
				state = "trusted"
			}
			if !t.Changed {
				state += " already"
			}
			text := report.Quote(t.File) + ": " + state
			if t.SHA256 != "" { // revoking looks at no content
				text += " (sha256 " + report.Plain(t.SHA256) + ")"
			}
			return 0, c.print(text + "\n")
		},
	}
}

func cmdPolicyImport() *command {
	var format string
	return &command{
		args: "FILE",
		long: `Prints a policy with the same meaning. Every key that has none here, or that would
weaken the policy, is reported; none is dropped silently.`,
		examples: [][2]string{
			{"cofferdam policy import .claude/settings.json > policy.jsonc", "the sandbox block and path permissions of Claude Code"},
			{"cofferdam policy import --format srt ~/.srt-settings.json", "settings of srt"},
		},
		exits: []int{exitPolicy},
		min:   1, max: 1,
		flags: func(f *flags) {
			f.text(&format, "format", "NAME", "claude or srt (default: find out)", "claude", "srt")
		},
		complete: func(*call, []string) []string { return []string{":file"} },
		run: func(c *call, words []string) (int, error) {
			if format != "" && format != "claude" && format != "srt" {
				return 0, &flow.UsageError{Text: "unknown format " + report.Quote(cut(format)), Hint: "one of: claude, srt"}
			}
			if c.app.Import == nil {
				return 0, notYet("policy import")
			}
			i, err := c.app.Import(c.ctx, format, words[0], c.caller())
			if err != nil {
				return 0, err
			}
			warn(c.err, report.StyleOf(c.err, c.env), i.Warnings)
			return 0, c.print(string(i.Policy))
		},
	}
}
