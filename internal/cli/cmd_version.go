package cli

import (
	"runtime"

	"github.com/spf13/cobra"
)

func cmdVersion(c *call) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "version [flags]",
		Example:           examples("cofferdam version", "for a bug report", "cofferdam version --json", "for a program"),
		Args:              words(0, 0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			if asJSON {
				return c.printJSON(map[string]string{"version": c.app.Version, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			}
			return c.print(program + " " + c.app.Version + " (" + runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH + ")\n")
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
