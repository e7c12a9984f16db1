package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cofferdam/internal/flow"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
	"cofferdam/internal/report"
)

func cmdPolicy(c *call) *cobra.Command {
	return group(&cobra.Command{
		Use: "policy",
		Long: `
A policy is made of layers, each stronger than the one before: built-in rules,
profiles, your own file, the project's file, flags, and the managed file of the
machine, which nothing can widen.`,
		Example: examples(
			"cofferdam policy show", "every rule and where it stands",
			"cofferdam policy explain read ~/.ssh/id_ed25519", "which rule decides, and what would change it",
		),
	}, policyShow(c), policyCheck(c), policyExplain(c), policySchema(c), policyTrust(c), policyImport(c))
}

func policyShow(c *call) *cobra.Command {
	var o flow.Options
	cmd := &cobra.Command{
		Use:               "show [flags]",
		Short:             "print the effective policy, each rule with its origin",
		Example:           examples("cofferdam policy show", "what holds here", "cofferdam policy show --profile claude --json", "what would hold with a profile"),
		Args:              words(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			p, err := c.app.Policy(o, c.caller())
			if err != nil {
				return err
			}
			if o.JSON {
				return c.printJSON(p)
			}
			for _, w := range p.Warnings {
				m := message{Text: "warning: " + w.Text, Rule: place(w.Origin)}
				m.hint(w.Hint)
				m.write(c.err, report.StyleOf(c.err, c.env))
			}
			return c.print(policyText(p))
		},
	}
	policyFlags(cmd, &o)
	cmd.Flags().BoolVar(&o.JSON, "json", false, "print JSON")
	return cmd
}

// policyText has one rule a line: key, value, origin in a column of its own.
func policyText(p *policy.Effective) string {
	type row struct{ rule, place, reason string }
	var rows []row
	add := func(key, value string, o plan.Origin, reason string) {
		rows = append(rows, row{report.Plain(join(" ", key, value)), report.Plain(place(o)), report.Plain(reason)})
	}
	if len(p.Profiles) > 0 {
		rows = append(rows, row{rule: "profiles " + report.Plain(strings.Join(p.Profiles, " "))})
	}
	add("boundary", p.Boundary.Value, p.Boundary.Origin, "")
	add("workspace", p.WorkspaceMode.Value, p.WorkspaceMode.Origin, "")
	add("home", p.Home.Value, p.Home.Origin, "")
	add("allowRoot", fmt.Sprint(p.AllowRoot.Value), p.AllowRoot.Origin, "")
	add("allowGitConfig", fmt.Sprint(p.AllowGitConfig.Value), p.AllowGitConfig.Origin, "")
	for _, r := range p.Paths {
		add(string(r.Access), r.Text, r.Origin, r.Reason)
	}
	for _, r := range p.Guards {
		add("protect", r.Pattern, r.Origin, r.Reason)
	}
	for _, r := range p.Env {
		// The value is left out: a terminal is no place for it.
		add("env "+string(r.Action), r.Name, r.Origin, "")
	}
	for _, r := range p.Net {
		add(r.Key, r.Value, r.Origin, "")
	}
	for _, r := range p.Limits {
		add("limit "+r.Name, fmt.Sprintf("%d %s", r.Value, r.Unit), r.Origin, "")
	}
	width := 0
	for _, r := range rows {
		width = max(width, min(48, len([]rune(r.rule))))
	}
	var b strings.Builder
	for _, r := range rows {
		line := fmt.Sprintf("%-*s  %s", width, r.rule, r.place)
		if r.reason != "" {
			line += "  - " + r.reason
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	return b.String()
}

func policyCheck(c *call) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "check [flags] FILE",
		Short:   "look for mistakes in a policy file",
		Long:    "Reads FILE as a policy and tells everything that is wrong with it, with line and\ncolumn. Exit code 65: there is something.",
		Example: examples("cofferdam policy check cofferdam.jsonc", "for people", "cofferdam policy check --json cofferdam.jsonc", "for an editor or CI"),
		Args:    words(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := c.app.Check(args[0], c.caller()); err != nil {
				return err
			}
			if asJSON {
				return c.printJSON(map[string]any{"file": args[0], "problems": []policy.Problem{}})
			}
			return c.print(report.Quote(args[0]) + ": nothing wrong\n")
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func policyExplain(c *call) *cobra.Command {
	var o flow.Options
	kinds := []string{"read", "write", "env", "connect"}
	cmd := &cobra.Command{
		Use:   "explain [flags] read|write|env|connect SUBJECT",
		Short: "tell which rule decides, and what would change it",
		Example: examples(
			"cofferdam policy explain read ~/.aws/credentials", "a path",
			"cofferdam policy explain env GITHUB_TOKEN", "a variable",
			"cofferdam policy explain connect example.org:443", "a host",
		),
		Args: words(2, 2),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			switch {
			case len(args) == 0:
				return kinds, cobra.ShellCompDirectiveNoFileComp
			case len(args) == 1 && (args[0] == "read" || args[0] == "write"):
				return nil, cobra.ShellCompDirectiveDefault
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			kind, subject := args[0], args[1]
			known := false
			for _, k := range kinds {
				known = known || k == kind
			}
			if !known {
				hint := "one of: " + strings.Join(kinds, ", ")
				if near := nearest(kind, kinds); near != "" {
					hint = "did you mean " + near + "?"
				}
				return &flow.UsageError{Text: "can't explain " + report.Quote(cut(kind)), Hint: hint}
			}
			e, err := c.app.Explain(o, c.caller(), kind, subject)
			if err != nil {
				return err
			}
			if o.JSON {
				return c.printJSON(struct {
					Kind    string `json:"kind"`
					Subject string `json:"subject"`
					flow.Explanation
				}{kind, subject, e})
			}
			answer := "denied"
			if e.Allowed {
				answer = "allowed"
			}
			text := answer + ": " + kind + " " + report.Quote(subject) + "\n"
			for _, part := range [][2]string{
				{"rule", join(", ", e.Rule, place(e.Origin))}, {"why", e.Text}, {"to change it", e.Change},
			} {
				if part[1] != "" {
					text += report.StyleOf(c.out, c.env).Fold("  "+part[0]+": "+report.Plain(part[1]), 4) + "\n"
				}
			}
			return c.print(text)
		},
	}
	policyFlags(cmd, &o)
	cmd.Flags().BoolVar(&o.JSON, "json", false, "print JSON")
	return cmd
}

func policySchema(c *call) *cobra.Command {
	return &cobra.Command{
		Use:               "schema",
		Short:             "print the JSON Schema of policy files",
		Example:           examples("cofferdam policy schema > policy.schema.json", "for an editor"),
		Args:              words(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(*cobra.Command, []string) error { return c.print(string(c.app.Schema())) },
	}
}

func policyTrust(c *call) *cobra.Command {
	var o flow.Options
	var revoke bool
	cmd := &cobra.Command{
		Use:   "trust [flags]",
		Short: "accept the project's policy file as it is now",
		Long: `
A project's policy can only narrow what you permit until you have accepted it.
Accepting means exactly its present content: after any change it has to be
accepted again. Read it first.`,
		Example:           examples("cofferdam policy trust", "the project in the current directory", "cofferdam policy trust --revoke", "take it back"),
		Args:              words(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			text, err := c.app.Trust(o, c.caller(), revoke)
			if err != nil {
				return err
			}
			if o.JSON {
				return c.printJSON(map[string]any{"text": text, "trusted": !revoke})
			}
			return c.print(report.Plain(text) + "\n")
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Workspace, "workspace", "", "the project in `DIR` (default: the current directory)")
	f.BoolVar(&revoke, "revoke", false, "no longer accept it")
	f.BoolVar(&o.JSON, "json", false, "print JSON")
	_ = cmd.MarkFlagDirname("workspace")
	return cmd
}

func policyImport(c *call) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "import [flags] FILE",
		Short: "turn another tool's settings into a policy",
		Long: `
Reads settings of Claude Code or of srt and prints a policy. Each key that does
not come across unchanged is told on standard error; none is dropped silently.`,
		Example: examples(
			"cofferdam policy import .claude/settings.json > cofferdam.jsonc", "from Claude Code",
			"cofferdam policy import --json ~/.srt-settings.json", "policy and findings, for a program",
		),
		Args: words(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			document, findings, err := c.app.Import(args[0], c.caller())
			if err != nil {
				return err
			}
			if asJSON {
				if findings == nil {
					findings = []flow.Finding{}
				}
				return c.printJSON(map[string]any{"policy": string(document), "findings": findings})
			}
			for _, f := range findings {
				message{Text: join(": ", place(f.Origin), f.Key, f.Effect, f.Text)}.write(c.err, report.StyleOf(c.err, c.env))
			}
			return c.print(string(document))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
