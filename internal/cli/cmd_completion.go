package cli

import (
	"bytes"

	"github.com/spf13/cobra"
)

func cmdCompletion(c *call) *cobra.Command {
	shell := func(name, install, also string, write func(root *cobra.Command, b *bytes.Buffer) error) *cobra.Command {
		return &cobra.Command{
			Use:               name,
			Short:             "print the script for " + name,
			Example:           examples(install, "for all new shells", also, "for this shell"),
			Args:              words(0, 0),
			ValidArgsFunction: cobra.NoFileCompletions,
			RunE: func(cmd *cobra.Command, _ []string) error {
				var b bytes.Buffer
				if err := write(cmd.Root(), &b); err != nil {
					return err
				}
				return c.print(b.String())
			},
		}
	}
	return group(&cobra.Command{
		Use:     "completion",
		Long:    "Prints a script that completes commands, flags, sessions and programs.",
		Example: examples("source <(cofferdam completion bash)", "for this shell"),
	},
		shell("bash", "cofferdam completion bash > ~/.local/share/bash-completion/completions/cofferdam", "source <(cofferdam completion bash)",
			func(root *cobra.Command, b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) }),
		shell("zsh", `cofferdam completion zsh > "${fpath[1]}/_cofferdam"`, "source <(cofferdam completion zsh)",
			func(root *cobra.Command, b *bytes.Buffer) error { return root.GenZshCompletion(b) }),
		shell("fish", "cofferdam completion fish > ~/.config/fish/completions/cofferdam.fish", "cofferdam completion fish | source",
			func(root *cobra.Command, b *bytes.Buffer) error { return root.GenFishCompletion(b, true) }))
}
