package cli

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cofferdam/internal/flow"
)

func cmdRun(c *call) *cobra.Command {
	var o flow.Options
	cmd := &cobra.Command{
		Use: "run [flags] [--] COMMAND [ARG...]",
		Long: `
Runs COMMAND and everything that it starts inside a boundary. It can work in
the workspace; the rest of your home directory, secrets in the workspace (.env,
private keys) and the network are out of reach unless the policy opens them.
Flags end at the first word: what follows is COMMAND's own.

A policy comes from your own policy file, the project's (once you trust it: see
policy trust), profiles and these flags, the last the strongest. What was
blocked is told at the end, with the flag that would allow it.`,
		Example: examples(
			"cofferdam run claude", "an agent in the current directory",
			"cofferdam run -- npm test", "any command",
			"cofferdam run --dry-run codex", "show the plan and start nothing",
			"cofferdam run --allow-read ~/notes --env CI=1 -- bash", "open one thing for one run",
			"cofferdam run --timeout 30m --unattended --json -- claude -p 'fix the tests' 2>events.jsonl", "in a script",
		),
		Annotations:       runs,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: c.completeProgram,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &flow.UsageError{Text: "no command to run", Hint: "for example: cofferdam run -- bash"}
			}
			o.Command = args
			status, err := c.app.Run(cmd.Context(), o, c.caller())
			c.status = status
			return err
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	policyFlags(cmd, &o)
	f.BoolVar(&o.DryRun, "dry-run", false, "print the plan and start nothing")
	f.BoolVar(&o.Unattended, "unattended", false, "nobody answers: never ask, give no terminal")
	f.StringVar(&o.Name, "name", "", "call the session `NAME`, for exec and logs")
	f.StringVar(&o.Timeout, "timeout", "", "end the run after `DURATION`: 90s, 30m, 2h")
	f.BoolVar(&o.JSON, "json", false, "print plan, events and errors as JSON")
	return cmd
}

// policyFlags are the flags that say what is permitted.
func policyFlags(cmd *cobra.Command, o *flow.Options) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.PolicyFile, "policy", "", "use this policy `FILE` too")
	f.StringArrayVar(&o.Profiles, "profile", nil, "add the profile `NAME` (claude, go, ...); repeatable")
	f.StringVar(&o.Workspace, "workspace", "", "work in `DIR` (default: the current directory)")
	f.StringVar(&o.Boundary, "boundary", "", "the `KIND` of boundary: native")
	f.StringArrayVar(&o.AllowRead, "allow-read", nil, "let `PATH` be read; repeatable")
	f.StringArrayVar(&o.AllowWrite, "allow-write", nil, "let `PATH` be read and written; repeatable")
	f.StringArrayVar(&o.DenyRead, "deny-read", nil, "let `PATH` be neither read nor written; repeatable")
	f.StringArrayVar(&o.DenyWrite, "deny-write", nil, "let `PATH` not be written; repeatable")
	f.StringArrayVar(&o.Env, "env", nil, "pass on or set a variable: `NAME[=VALUE]`; repeatable")
	f.StringArrayVar(&o.AllowDomains, "allow-domain", nil, "let `NAME[:PORT]` be reached; repeatable")
	f.StringArrayVar(&o.AllowCIDRs, "allow-cidr", nil, "let the addresses `CIDR:PORT` be reached; repeatable")
	f.BoolVar(&o.AllowRoot, "allow-root", false, "start as root, with fewer guarantees")
	_ = cmd.MarkFlagFilename("policy", "json", "jsonc")
	_ = cmd.MarkFlagDirname("workspace")
	_ = cmd.RegisterFlagCompletionFunc("boundary", cobra.FixedCompletions([]string{"native"}, cobra.ShellCompDirectiveNoFileComp))
	for _, name := range []string{"profile", "env", "allow-domain", "allow-cidr"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
}

// completeProgram completes the first word with programs on PATH, the rest
// with files.
func (c *call) completeProgram(_ *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || strings.Contains(word, "/") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var out []string
	for _, dir := range filepath.SplitList(c.getenv("PATH")) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), word) && !e.IsDir() {
				out = append(out, e.Name())
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
